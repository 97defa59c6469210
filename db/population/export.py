"""
All rows as Parquet files, one a table: for DuckDB, pandas, R, and whoever has no access to the database.

The same views stand on the files (`CREATE VIEW` of each over DuckDB), so an export answers what the database answers.
Arrow reads the database without a Python object for each value; ten million measurements take seconds.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import make_url

from db.connection import DatabaseOptions
from db.schema import metadata
from engine.errors import BadOption, DeploymentError, StorageFull

TABLES = (
    "study",
    "series",
    "scanner",
    "screening",
    "run",
    "policy",
    "model",
    "result",
    "result_model",
    "vertebra",
    "calibration",
    "extra_measurement",
    "quality_flag",
    "numbering",
    "population",
    "densitometry",
)
"""What is exported: everything that a view or a number rests on; no path, no job, no header."""

BATCH_ROWS = 65_536  # our choice: rows that are in memory at a time


def export_parquet(options: DatabaseOptions, folder: Path) -> dict[str, int]:
    """Write every table of `TABLES` to `folder`/TABLE.parquet; returns how many rows each has.

    Files are written aside and renamed, so that nobody reads half of one. On SQLite and PostgreSQL all tables are of
    one moment.

    Raises:
        DeploymentError: the packages that write Parquet are not installed, or the database can't be read.
        BadOption: the folder can't be made.
        StorageFull: the disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as bad:
        raise BadOption(f"the folder of the export can't be made: {bad.strerror}") from None
    if make_url(options.url).get_backend_name() == "sqlite":
        return _in_a_child(options, folder)
    return _export(options, folder)


def _export(options: DatabaseOptions, folder: Path) -> dict[str, int]:
    with _arrow(options) as cursor:
        return {name: _write(cursor, options, metadata.tables[name], folder) for name in TABLES}


def _in_a_child(options: DatabaseOptions, folder: Path) -> dict[str, int]:
    """Arrow's driver brings an SQLite of its own, and two of them in one process break each other's locks on a file.

    Source: https://www.sqlite.org/howtocorrupt.html, section 2.2.1.
    """
    code = "from db.population.export import _child; _child()"
    asked = json.dumps({"url": options.url, "folder": str(folder.absolute())})
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    child = subprocess.run(
        [sys.executable, "-c", code], input=asked, capture_output=True, text=True, check=False, env=environment
    )
    try:
        told = json.loads(child.stdout)
    except ValueError:
        raise DeploymentError(f"the export ended early (status {child.returncode})") from None
    if "rows" in told:
        return {name: int(told["rows"][name]) for name in TABLES}
    kinds = {kind.__name__: kind for kind in (BadOption, StorageFull)}
    raise kinds.get(told["kind"], DeploymentError)(told["message"])


def _child() -> None:
    asked = json.loads(sys.stdin.read())
    try:
        told: dict[str, Any] = {"rows": _export(DatabaseOptions(asked["url"]), Path(asked["folder"]))}
    except DeploymentError as refused:
        told = {"kind": type(refused).__name__, "message": str(refused)}
    sys.stdout.write(json.dumps(told))


@contextmanager
def _arrow(options: DatabaseOptions) -> Iterator[Any]:
    """A cursor that hands out Arrow, in one transaction that only reads."""
    url = make_url(options.url)
    try:
        if url.get_backend_name() == "sqlite":
            from adbc_driver_sqlite import dbapi

            connection = dbapi.connect(f"file:{url.database}?mode=ro", autocommit=True)
        else:
            from adbc_driver_postgresql import dbapi

            plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
            connection = dbapi.connect(plain, autocommit=True)
    except ImportError:
        raise DeploymentError("Parquet needs more packages: pip install '.[population]'") from None
    with closing(connection), closing(connection.cursor()) as cursor:
        cursor.execute("BEGIN" if url.get_backend_name() == "sqlite" else "BEGIN ISOLATION LEVEL REPEATABLE READ")
        cursor.adbc_statement.set_options(**{_BATCH_OPTION[url.get_backend_name()]: str(BATCH_ROWS)})
        yield cursor
        cursor.execute("ROLLBACK")


_BATCH_OPTION = {"sqlite": "adbc.sqlite.query.batch_rows", "postgresql": "adbc.postgresql.batch_size_hint_bytes"}


def _write(cursor: Any, options: DatabaseOptions, table: sa.Table, folder: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    is_sqlite = make_url(options.url).get_backend_name() == "sqlite"
    names = ", ".join(f'"{column.name}"' for column in table.c)
    query = f'SELECT {names} FROM "{table.name}"'
    if is_sqlite:  # which types a column has, SQLite's driver learns from the first row: so the first is of our making
        query = f"SELECT {', '.join(_typical(column) for column in table.c)} UNION ALL {query}"
    cursor.execute(query)
    reader = cursor.fetch_record_batch()
    aside = folder / f".{table.name}.parquet"
    rows, skip = 0, 1 if is_sqlite else 0
    try:
        with pq.ParquetWriter(aside, reader.schema, compression="zstd") as writer:
            for batch in reader:
                kept = batch.slice(skip)
                skip = 0
                writer.write_batch(kept)
                rows += kept.num_rows
        aside.replace(folder / f"{table.name}.parquet")
    except pa.ArrowException as bad:
        raise DeploymentError(f"table '{table.name}' can't be exported: {type(bad).__name__}") from None
    except OSError as bad:
        raise StorageFull(f"the export of table '{table.name}' can't be written: {bad.strerror}") from None
    finally:
        aside.unlink(missing_ok=True)
    return rows


def _typical(column: sa.Column[Any]) -> str:
    """A value of the column's type, as SQLite writes it."""
    kind = column.type.compile(sqlite.dialect())
    value = "0.0" if kind.startswith("DOUBLE") else "0" if kind in ("INTEGER", "BIGINT", "BOOLEAN") else "''"
    return f'{value} AS "{column.name}"'
