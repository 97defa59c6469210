"""Schema and migrations say the same, up and down, on both databases."""

import logging
import multiprocessing
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from db import schema
from db.connection import DatabaseOptions, open_database
from db.migrate import _config, check, downgrade, expected_version, schema_version, upgrade
from db.schema import SeriesState
from engine.errors import DeploymentError, SchemaMismatch
from engine.records import Reason


def catalog(connection: sa.Connection) -> dict[str, object]:
    """Every column and foreign key, and every index as the database itself words it, conditions included."""
    about = sa.inspect(connection)
    tables = [name for name in about.get_table_names() if name != "alembic_version"]
    found: dict[str, object] = {
        name: (
            sorted((c["name"], str(c["type"]), c["nullable"]) for c in about.get_columns(name)),
            about.get_pk_constraint(name)["constrained_columns"],
            sorted((*key["constrained_columns"], key["referred_table"]) for key in about.get_foreign_keys(name)),
        )
        for name in tables
    }
    if connection.dialect.name == "sqlite":
        query = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND type = 'index'"
        found["(without rowid)"] = sorted(
            connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE sql LIKE '%WITHOUT ROWID%'").scalars()
        )
    else:
        query = (
            "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename != 'alembic_version'"
        )
    return found | {name: " ".join(text.split()) for name, text in connection.exec_driver_sql(query)}


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


def test_an_upgrade_is_told_when_it_begins_and_when_it_is_done(database, caplog):
    with caplog.at_level(logging.INFO, "db"):
        downgrade(database, "0009")
        upgrade(database)
        upgrade(database)
    told = [record.getMessage() for record in caplog.records if record.name == "db.migrate"]
    now = expected_version()
    assert told == [f"the database goes from version 0009 to {now}", f"the database is of version {now}"]


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


def at_version_1(database) -> None:
    """Four series of one study as revision 0001 kept them: done, lost to a better one, without vertebra, receiving."""
    with database.begin() as connection:
        command.upgrade(_config(connection), "0001")
        now = {"now": datetime(2026, 3, 1, 12, 0, tzinfo=UTC).replace(tzinfo=None)}
        for statement in FIRST_ROWS:
            connection.execute(sa.text(statement), now if ":now" in statement else {})


FIRST_ROWS = (
    "INSERT INTO study (id, study_instance_uid, patient_key, state, revision, opened_at, last_received_at)"
    " VALUES (1, '1.2', 'p', 'closed', 1, :now, :now)",
    *(
        "INSERT INTO series (id, study_id, series_instance_uid, state, reason, detail, revision, instance_count,"
        f" study_date, manufacturer, convolution_kernel, kvp) VALUES ({n}, 1, '1.2.{n}', '{state}', {reason}, '', 1,"
        f" {count}, '20260301', 'Maker', 'B30f\\3', 120)"
        for n, state, reason, count in (
            (1, "done", "NULL", 3),
            (2, "set_aside", "'better_series'", 3),
            (3, "set_aside", "'no_vertebra'", 3),
            (4, "receiving", "NULL", "NULL"),
        )
    ),
    *(
        "INSERT INTO job (id, series_id, program, revision, state, priority, attempts, token, not_before, detail,"
        f" created_at) VALUES ({n}, {n}, 'vertebral', 1, 'done', 0, 1, 1, :now, '', :now)"
        for n in (1, 3)
    ),
    "INSERT INTO result (id, series_id, job_id, program, revision, is_current, volumetric_bmd, finding, policy,"
    " engine_version, analysed_at, recorded_at, stage_seconds)"
    " VALUES (1, 1, 1, 'vertebral', 1, true, 75.5, 'osteoporosis', 'acr@1', '0.1.0', :now, :now, '[]')",
    "INSERT INTO vertebra (result_id, level, volumetric_bmd, aggregated) VALUES (1, 'L1', 75.5, true)",
)


def test_rows_of_the_first_version_come_along_and_go_back(bare):
    at_version_1(bare)
    with bare.read() as connection:
        before = connection.exec_driver_sql("SELECT id, state, reason, detail FROM series ORDER BY id").all()
    upgrade(bare)
    with bare.read() as connection:
        place = schema.screening.c
        query = sa.select(place.series_id, place.state, place.selected, place.reason).order_by(place.series_id)
        assert [tuple(row) for row in connection.execute(query)] == [
            (1, SeriesState.DONE, True, None),
            (2, SeriesState.SET_ASIDE, False, Reason.BETTER_SERIES),
            (3, SeriesState.SET_ASIDE, True, Reason.NO_VERTEBRA),
        ]
        p = schema.population.c
        rows = connection.execute(
            sa.select(p.patient_key, p.study_day, p.volumetric_bmd, p.is_latest, schema.scanner.c.label).join_from(
                schema.population, schema.scanner
            )
        ).all()
        assert [tuple(row) for row in rows] == [("p", 20513, 75.5, True, "Maker | - | - | B30f\\3 | 120 kV")]
        assert connection.execute(sa.select(schema.policy.c.name)).scalars().all() == ["acr@1"]
    downgrade(bare, "0001")
    with bare.read() as connection:
        assert connection.exec_driver_sql("SELECT id, state, reason, detail FROM series ORDER BY id").all() == before
        assert connection.exec_driver_sql("SELECT level, volumetric_bmd FROM vertebra").all() == [("L1", 75.5)]
    upgrade(bare)
    check(bare)


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
