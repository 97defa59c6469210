"""Schema and migrations say the same, up and down, on both databases."""

import multiprocessing
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from db import schema
from db.connection import DatabaseOptions, open_database
from db.migrate import check, downgrade, expected_version, schema_version, upgrade
from engine.errors import DeploymentError, SchemaMismatch


def catalog(connection: sa.Connection) -> dict[str, str]:
    """Every index as the database itself words it, partial conditions included; on SQLite the tables too."""
    if connection.dialect.name == "sqlite":
        query = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name != 'alembic_version'"
    else:
        query = (
            "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename != 'alembic_version'"
        )
    rows = connection.exec_driver_sql(query).all()
    return {name: " ".join(sorted(part.strip(" ,") for part in text.splitlines())) for name, text in rows}


def test_migrations_make_what_the_schema_says(database):
    with database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []


def test_the_catalog_is_the_same_as_if_made_from_the_schema(database, bare):
    with database.read() as connection:
        migrated = catalog(connection)
    downgrade(bare, None)
    with bare.begin() as connection:
        schema.metadata.create_all(connection)
        assert catalog(connection) == migrated


def test_the_version_is_known_and_checked(bare):
    assert schema_version(bare) is None
    with pytest.raises(SchemaMismatch, match="version none"):
        check(bare)
    upgrade(bare)
    upgrade(bare)
    check(bare)
    assert schema_version(bare) == expected_version()


def test_down_and_up_again_with_rows_in_it(database):
    now = datetime.now(UTC)
    row = {"at": now, "subject": "study", "uid": "1.2", "change": schema.Change.RECEIVED, "detail": ""}
    with database.begin() as connection:
        connection.execute(sa.insert(schema.event), [row])
    downgrade(database, None)
    assert schema_version(database) is None
    with database.read() as connection:
        assert set(sa.inspect(connection).get_table_names()) <= {"alembic_version"}
    upgrade(database)
    with database.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(schema.event)) == 0


def test_a_newer_database_is_left_alone(database):
    with database.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    for act in (upgrade, check, lambda opened: downgrade(opened, None)):
        with pytest.raises(SchemaMismatch, match="9999"):
            act(database)
    with database.read() as connection:
        assert "result" in sa.inspect(connection).get_table_names()


def test_tables_of_another_program_are_left_alone(bare):
    with bare.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE series (title VARCHAR(10))")
    with pytest.raises(SchemaMismatch, match="not ours"):
        upgrade(bare)


def start(url: str, go: "multiprocessing.synchronize.Event", told: "multiprocessing.Queue[str]") -> None:
    go.wait()
    try:
        database = open_database(DatabaseOptions(url))
        upgrade(database)
        told.put(str(schema_version(database)))
        database.close()
    except DeploymentError as bad:
        told.put(repr(bad))


def test_processes_that_start_at_once_do_not_collide(url):
    spawn = multiprocessing.get_context("spawn")
    go, told = spawn.Event(), spawn.Queue()
    starting = [spawn.Process(target=start, args=(url, go, told)) for _ in range(3)]
    for process in starting:
        process.start()
    go.set()
    assert [told.get(timeout=60) for _ in starting] == [expected_version()] * 3
    for process in starting:
        process.join()
