"""An archive of rows brought into a database: some as a node does it, the rest by the driver's fastest way."""

import json
import time
from typing import Any

import sqlalchemy as sa

from bench.archive_rows import LEVELS, TABLES, Archive
from db import schema
from db.columns import MultiValue, UtcTime
from db.connection import Database
from db.population import summary
from db.statements import insert_into

BATCH = 100  # studies in one transaction
BULK = 5_000
ANALYSED_AFTER = 10  # batches; PostgreSQL's autovacuum gathers its first statistics within a minute


def fill(name: str, database: Database, archive: Archive, upserted: int) -> dict[str, Any]:
    """Bring all rows in."""
    with database.begin() as connection:
        for table, rows in archive.fixed().items():
            connection.execute(sa.insert(schema.metadata.tables[table]), rows)
    seconds, vertebrae = 0.0, 0
    for number, batch in enumerate(archive.batches(BATCH, 0, upserted)):  # making the rows is not what is timed
        if number == ANALYSED_AFTER:
            gather_statistics(database)
        began = time.perf_counter()
        with database.begin() as connection:
            for table in TABLES:
                _upsert(connection, schema.metadata.tables[table], batch[table])
            summary.refresh(connection, {row["patient_key"] for row in batch["study"]})
        seconds += time.perf_counter() - began
        vertebrae += len(batch["vertebra"])
    for batch in archive.batches(BULK, upserted):
        with database.begin() as connection:
            for table in TABLES:
                _bulk(connection, schema.metadata.tables[table], batch[table])
    began = time.perf_counter()
    with database.begin() as connection:
        summary.rebuild(connection)
    rebuilt = time.perf_counter() - began
    gather_statistics(database)
    found = {f"rebuild_s_{name}": rebuilt}
    if upserted:
        found[f"ingest_rows_per_s_{name}"] = vertebrae / seconds
        found[f"ingest_results_per_s_{name}"] = vertebrae / len(LEVELS) / seconds
    return found


def _upsert(connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]]) -> None:
    if rows:
        new = insert_into(connection, table)
        key = list(table.primary_key.columns)
        said = {column: new.excluded[column] for column in rows[0] if column not in table.primary_key.columns}
        connection.execute(new.on_conflict_do_update(index_elements=key, set_=said), rows)


def _bulk(connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]]) -> None:
    """By the driver's fastest way."""
    if not rows:
        return
    names = list(rows[0])
    cells = [[_raw(table.c[name].type, row[name], connection.dialect) for name in names] for row in rows]
    raw = connection.connection.driver_connection
    if connection.dialect.name == "sqlite":
        marks = ", ".join("?" * len(names))
        raw.executemany(f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({marks})", cells)
        return
    with raw.cursor() as cursor, cursor.copy(f"COPY {table.name} ({', '.join(names)}) FROM STDIN") as copy:
        for row in cells:
            copy.write_row(row)


def _raw(kind: Any, value: Any, dialect: sa.Dialect) -> Any:
    if isinstance(kind, sa.JSON):
        return json.dumps(value)
    if isinstance(kind, MultiValue):
        return kind.process_bind_param(value, dialect)
    if isinstance(kind, UtcTime) and dialect.name == "sqlite":
        return f"{value:%Y-%m-%d %H:%M:%S.%f}"
    return value


def gather_statistics(database: Database) -> None:
    """As autovacuum does by itself on PostgreSQL."""
    with database.begin() as connection:
        connection.exec_driver_sql("ANALYZE")
