"""What is wrong with a database is told in our words, loses nothing, and shows neither password nor patient."""

import socket
import threading
import traceback

import pytest
import sqlalchemy as sa

from db import schema
from db.connection import DatabaseOptions, StatementFailed, open_database
from db.migrate import upgrade
from engine.errors import BadOption, DatabaseUnavailable, DeploymentError, StorageFull


def full_trace(caught):
    return "".join(traceback.format_exception(caught.value)) + repr(caught.value)


@pytest.mark.parametrize(
    "bad", ["nonsense", "mysql://u:s3cret@h/d", "sqlite://", "sqlite:///:memory:", "sqlite:///a?x=1"]
)
def test_an_url_of_no_use_is_refused(bad):
    with pytest.raises(BadOption, match=r"database\.url") as caught:
        open_database(DatabaseOptions(bad))
    assert "s3cret" not in full_trace(caught)


def test_a_password_is_never_shown(url):
    secret = "postgresql+psycopg://node:s3cret@127.0.0.1:5432/x?options=s3cret"
    assert "s3cret" not in repr(DatabaseOptions(secret))
    opened = open_database(DatabaseOptions(url))
    assert opened.dialect in repr(opened)
    opened.close()


def test_a_server_that_is_not_there():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        options = DatabaseOptions(f"postgresql+psycopg://node:s3cret@127.0.0.1:{port}/trabecula")
        with pytest.raises(DatabaseUnavailable, match="can't be reached") as caught:
            open_database(options)
    assert "s3cret" not in full_trace(caught)


def test_a_database_that_does_not_exist(postgresql_url):
    with pytest.raises(DeploymentError, match='database "nothing" does not exist'):
        open_database(DatabaseOptions(sa.make_url(postgresql_url()).set(database="nothing").render_as_string(False)))


def test_a_file_that_is_no_database(tmp_path):
    file = tmp_path / "notes.db"
    file.write_text("not a database, but long enough to be looked at " * 50)
    with pytest.raises(DeploymentError, match="no SQLite database"):
        open_database(DatabaseOptions(f"sqlite:///{file}"))


def test_a_folder_that_can_not_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DeploymentError, match="folder"):
        open_database(DatabaseOptions(f"sqlite:///{tmp_path / 'file' / 'trabecula.db'}"))


def test_sqlite_keeps_what_it_acknowledged_through_a_power_cut(tmp_path):
    opened = open_database(DatabaseOptions(f"sqlite:///{tmp_path / 'trabecula.db'}"))
    with opened.begin() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")
        }
        pragmas["foreign_keys"] = connection.exec_driver_sql("PRAGMA foreign_keys").scalar()
    opened.close()
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_a_database_that_stays_locked_loses_nothing(url, database, phantoms):
    phantoms.arrive(database, *phantoms.series())
    impatient = open_database(DatabaseOptions(url, lock_timeout_s=0.2))
    with database.begin() as connection:
        connection.execute(sa.update(schema.study).values(closed_at=None))
        with pytest.raises(DatabaseUnavailable, match="locked"), impatient.begin() as other:
            other.execute(sa.update(schema.study).values(patient_key="x"))
    with impatient.begin() as other:
        assert other.execute(sa.select(schema.study.c.patient_key)).scalar_one() == f"{1:032x}"
    impatient.close()


def test_reading_waits_for_no_writer(url, database, phantoms):
    phantoms.arrive(database, *phantoms.series())
    impatient = open_database(DatabaseOptions(url, lock_timeout_s=0.2))
    with database.begin() as connection:
        connection.execute(sa.delete(schema.instance))
        with impatient.read() as other:
            assert other.execute(sa.select(sa.func.count(schema.instance.c.id))).scalar_one() == 3
        connection.rollback()
    impatient.close()


def test_threads_share_a_database(database, phantoms):
    threads = [
        threading.Thread(target=phantoms.arrive, args=(database, *phantoms.series(study))) for study in range(1, 9)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert phantoms.count(database, schema.instance) == 24


def test_a_full_disk_under_sqlite_loses_nothing_and_recovers(tmp_path, phantoms):
    opened = open_database(DatabaseOptions(f"sqlite:///{tmp_path / 'trabecula.db'}"))
    upgrade(opened)
    phantoms.arrive(opened, *phantoms.series())

    def limit(pages):
        with opened.begin() as connection:
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")

    with opened.read() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
    limit(pages + 2)
    with pytest.raises(StorageFull, match="make room"):
        phantoms.arrive(opened, *phantoms.series(study=2, instances=range(1, 500)))
    assert phantoms.count(opened, schema.instance) == 3
    assert phantoms.count(opened, schema.study) == 1
    limit(2**30)
    assert all(told.is_new for told in phantoms.arrive(opened, *phantoms.series(study=2)))
    with opened.read() as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
    opened.close()


@pytest.mark.parametrize(
    ("state", "error"),
    [
        ("53100", StorageFull),
        ("40P01", DatabaseUnavailable),
        ("57P01", DatabaseUnavailable),
        ("22012", StatementFailed),
    ],
)
def test_what_a_server_says_becomes_our_words(postgresql_url, state, error):
    opened = open_database(DatabaseOptions(postgresql_url()))
    raise_it = f"DO $$ BEGIN RAISE EXCEPTION 'DOE^JANE' USING ERRCODE = '{state}'; END $$"
    with pytest.raises(error) as caught, opened.begin() as connection:
        connection.exec_driver_sql(raise_it)
    assert type(caught.value) is error
    assert "DOE" not in full_trace(caught)
    opened.close()


def test_a_server_that_ends_the_connection_is_found_again(postgresql_url):
    opened = open_database(DatabaseOptions(postgresql_url()))
    with pytest.raises(DatabaseUnavailable), opened.begin() as connection:
        connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")
    with opened.begin() as connection:
        assert connection.execute(sa.select(1)).scalar_one() == 1
    opened.close()


def test_no_value_is_in_an_error(database, phantoms):
    path = "/archive/DOE^JANE/1.dcm"
    first, second = (phantoms.arrival(phantoms.header(instance=n))._replace(path=path) for n in (1, 2))
    phantoms.arrive(database, first)
    with pytest.raises(StatementFailed) as caught:
        phantoms.arrive(database, second)
    assert "DOE" not in full_trace(caught)
    with pytest.raises(StatementFailed) as caught, database.begin() as connection:
        connection.execute(sa.text("SELECT * FROM no_such_table WHERE name = :name"), {"name": "DOE^JANE"})
    assert "DOE" not in full_trace(caught)
    assert phantoms.count(database, schema.instance) == 1
