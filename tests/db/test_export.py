"""Parquet holds what the database holds, and the same views stand on it."""

import duckdb
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from bench.archive_rows import Archive
from bench.filling import fill
from db import schema
from db.connection import DatabaseOptions
from db.population import views
from db.population.export import TABLES, export_parquet
from db.population.query import ask, grant_reader
from engine.errors import BadOption, DeploymentError


@pytest.fixture
def filled(database):
    fill(database.dialect, database, Archive(40), 60)
    return database


def test_every_table_goes_out_whole_and_answers_the_same(filled, url, tmp_path):
    counts = export_parquet(DatabaseOptions(url), tmp_path / "out")
    assert set(counts) == set(TABLES)
    with filled.read() as connection:
        for name in TABLES:
            rows = connection.execute(sa.select(sa.func.count()).select_from(schema.metadata.tables[name])).scalar_one()
            assert counts[name] == rows == pq.read_metadata(tmp_path / "out" / f"{name}.parquet").num_rows
    files = duckdb.connect()
    for name in TABLES:
        files.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet('{tmp_path / 'out' / name}.parquet')")
    for name, text in views.definitions().items():
        files.execute(text)
        answer = ask(filled, f"SELECT * FROM {name}")
        assert sorted(map(plain, files.execute(f"SELECT * FROM {name}").fetchall()), key=repr) == sorted(
            map(plain, answer.rows), key=repr
        ), name
    files.close()


def plain(row):
    """Without the last digits, and without how each database calls a truth or an instant."""
    return tuple(
        round(value, 6) if isinstance(value, float) else int(value) if isinstance(value, bool) else value
        for value in row
        if not hasattr(value, "year") and not (isinstance(value, str) and value.startswith("2026-03-01 "))
    )


def test_an_empty_database_goes_out_too(database, url, tmp_path):
    assert set(export_parquet(DatabaseOptions(url), tmp_path / "out").values()) == {0}


def test_a_folder_that_can_not_be_made_is_told(database, url, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadOption, match="can't be made"):
        export_parquet(DatabaseOptions(url), tmp_path / "file" / "out")


def test_a_role_reads_results_and_nothing_else(database):
    if database.dialect == "sqlite":
        with pytest.raises(DeploymentError, match="no roles"), database.begin() as connection:
            grant_reader(connection, "analyst")
        return
    for _ in range(2):  # once more changes nothing
        with database.begin() as connection:
            grant_reader(connection, "trabecula_analyst")
    with database.begin() as connection:
        connection.exec_driver_sql("SET ROLE trabecula_analyst")
        assert connection.exec_driver_sql("SELECT COUNT(*) FROM cohort").scalar_one() == 0
        connection.exec_driver_sql("RESET ROLE")

    def as_analyst(act):
        with database.begin() as connection:
            connection.exec_driver_sql("SET LOCAL ROLE trabecula_analyst")
            act(connection)

    for forbidden in ("SELECT path FROM instance", "SELECT * FROM job", "DELETE FROM population"):
        with pytest.raises(DeploymentError, match="42501"):  # insufficient privilege
            as_analyst(lambda connection, forbidden=forbidden: connection.exec_driver_sql(forbidden))
    with pytest.raises(DeploymentError, match="has no right to do this"):
        as_analyst(lambda connection: grant_reader(connection, "another_analyst"))
    with database.read() as connection:
        settings = connection.exec_driver_sql("SELECT rolconfig FROM pg_roles WHERE rolname = 'trabecula_analyst'")
        assert "default_transaction_read_only=on" in settings.scalar_one()
    with database.begin() as connection:
        connection.exec_driver_sql("DROP OWNED BY trabecula_analyst")
        connection.exec_driver_sql("DROP ROLE trabecula_analyst")
    with pytest.raises(BadOption, match="small letters"), database.begin() as connection:
        grant_reader(connection, "x; DROP TABLE study")
