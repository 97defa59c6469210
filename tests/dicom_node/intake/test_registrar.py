"""What the spool holds becomes rows, whatever comes between."""

import logging
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom.uid import generate_uid

from db.connection import DatabaseOptions, open_database
from db.migrate import downgrade, upgrade
from db.registry import Arrival
from dicom_node.intake.file_format import dicom_file
from dicom_node.intake.inspection import read_content
from dicom_node.intake.registrar import Registrar, RegistrarOptions
from dicom_node.spool import Refusal
from engine.digest import digest_of
from engine.records import Reason

from ..patience import until

KEY = b"a key for tests"
QUICK = RegistrarOptions(gather_s=0.01, retry_s=0.05)


@pytest.fixture
def arrive(spool, make_ct, encode) -> Callable[..., Arrival]:
    """Stores an instance; what would be offered for it."""

    def arrive(**changed: object) -> Arrival:
        dataset = make_ct(**changed)
        uid = str(dataset.SOPInstanceUID)
        content = dicom_file(dataset.SOPClassUID, uid, "1.2.840.10008.1.2.1", encode(dataset))
        stored = spool.store(uid, content)
        _, header = read_content(content, KEY)
        return Arrival(header, str(stored.path), stored.size_bytes, stored.digest)

    return arrive


@pytest.fixture
def registrar(database, spool):
    with Registrar(database, spool, KEY, QUICK) as running:
        assert running.caught_up.wait(10)
        yield running


def rows(database, query: str) -> list[tuple]:
    with database.read() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(query)]


def paths(database) -> set[str]:
    return {path for (path,) in rows(database, "SELECT path FROM instance")}


def test_offers_become_rows(registrar, arrive, database):
    arrivals = [arrive() for _ in range(12)]
    for arrival in arrivals:
        registrar.offer(arrival)
    until(lambda: paths(database) == {arrival.path for arrival in arrivals})
    assert set(rows(database, "SELECT size_bytes, digest FROM instance")) == {
        (arrival.size_bytes, arrival.digest) for arrival in arrivals
    }


def test_instances_that_come_without_a_pause_gather_between_transactions(database, spool, arrive, caplog):
    caplog.set_level(logging.INFO, "dicom_node.intake.registrar")
    options = replace(QUICK, gather_s=0.1)
    with Registrar(database, spool, KEY, options) as running:
        assert running.caught_up.wait(10)
        began = time.monotonic()
        arrivals = [arrive() for _ in range(8)]
        for arrival in arrivals:
            running.offer(arrival)
        for _ in range(120):  # each comes while the one before is being registered, or soon after
            arrivals.append(arrive())
            running.offer(arrivals[-1])
        until(lambda: len(paths(database)) == len(arrivals))
        seconds = time.monotonic() - began
    transactions = sum("registered" in record.message for record in caplog.records)
    assert 1 <= transactions <= seconds / options.gather_s + 1


def test_what_was_stored_while_nobody_registered_is_found_at_the_start(database, spool, arrive):
    arrivals = [arrive() for _ in range(12)]
    with Registrar(database, spool, KEY, replace(QUICK, most_together=5)) as running:
        assert running.caught_up.wait(10)
        assert paths(database) == {arrival.path for arrival in arrivals}


def test_known_instances_are_not_read_again_at_a_start(database, spool, arrive):
    known = [arrive() for _ in range(8)]
    with Registrar(database, spool, KEY, QUICK) as running:
        assert running.caught_up.wait(10)
    new = arrive()
    opened: list[str] = []
    watching = True

    def audit(event: str, args: tuple[object, ...]) -> None:
        if watching and event == "open" and str(args[0]).endswith(".dcm"):
            opened.append(str(args[0]))

    sys.addaudithook(audit)
    with Registrar(database, spool, KEY, QUICK) as running:
        assert running.caught_up.wait(10)
    watching = False
    assert set(opened) == {new.path}
    assert paths(database) == {new.path, *(arrival.path for arrival in known)}


def test_instances_wait_while_the_database_is_away_and_become_rows_when_it_is_back(tmp_path, spool, arrive):
    folder = tmp_path / "memory"
    database = open_database(DatabaseOptions(f"sqlite:///{folder / 'trabecula.db'}", lock_timeout_s=0.1))
    upgrade(database)
    database.close()
    away = folder.rename(tmp_path / "away")
    arrivals = [arrive()]
    with Registrar(database, spool, KEY, replace(QUICK, most_waiting=3)) as running:
        arrivals += [arrive() for _ in range(10)]
        for arrival in arrivals[1:]:
            running.offer(arrival)
        time.sleep(0.3)
        assert not running.caught_up.is_set()
        away.rename(folder)
        until(lambda: paths(database) == {arrival.path for arrival in arrivals})
    database.close()


def test_a_registry_without_tables_puts_nothing_aside(database, spool, arrive):
    downgrade(database, None)
    arrivals = [arrive() for _ in range(3)]
    with Registrar(database, spool, KEY, QUICK) as running:
        for arrival in arrivals:
            running.offer(arrival)
        time.sleep(0.3)
        assert len(list(spool.incoming())) == 3
        upgrade(database)
        until(lambda: len(paths(database)) == 3)


def test_one_that_the_registry_does_not_take_holds_up_no_other_and_is_told(registrar, arrive, database):
    good = [arrive() for _ in range(6)]
    bad = arrive()
    bad = bad._replace(size_bytes=2**70)  # no database holds such a number
    for arrival in (*good[:3], bad, *good[3:]):
        registrar.offer(arrival)
    until(lambda: paths(database) == {arrival.path for arrival in good})
    until(lambda: rows(database, "SELECT 1 FROM refusal"))
    time.sleep(0.2)
    ((subject, reason, detail, times),) = rows(database, "SELECT subject, reason, detail, times FROM refusal")
    assert (subject, reason, times) == (bad.header.sop_instance_uid, "header_unreadable", 1)
    assert "the registry does not take it" in detail
    assert Path(bad.path).exists()


def test_a_file_that_went_bad_is_put_aside_with_a_reason_and_never_again(database, spool, arrive):
    good, bad = arrive(), arrive()
    Path(bad.path).chmod(0o600)
    Path(bad.path).write_bytes(b"a disk fault")
    for _ in range(2):
        with Registrar(database, spool, KEY, QUICK) as running:
            assert running.caught_up.wait(10)
    assert paths(database) == {good.path}
    ((subject, reason, times),) = rows(database, "SELECT subject, reason, times FROM refusal")
    assert (subject, reason, times) == (Path(bad.path).stem, "header_unreadable", 1)
    assert [path.read_bytes() for path in (spool.folder / "quarantine").iterdir()] == [b"a disk fault"]


def test_an_instance_that_contradicts_the_registry_is_put_aside_with_a_reason(registrar, arrive, database, spool):
    study = generate_uid()
    first = arrive(StudyInstanceUID=study)
    other = arrive(StudyInstanceUID=study, PatientID="SOMEBODY ELSE")
    for arrival in (first, other):
        registrar.offer(arrival)
    until(lambda: rows(database, "SELECT 1 FROM refusal"))
    until(lambda: not Path(other.path).exists())
    assert paths(database) == {first.path}
    ((reason, detail),) = rows(database, "SELECT reason, detail FROM refusal")
    assert (reason, detail) == ("instance_conflict", "its study belongs to another patient")
    (kept,) = (spool.folder / "quarantine").iterdir()
    assert digest_of(kept.read_bytes()) == other.digest


def test_refusals_become_rows_and_their_notes_go(registrar, database, spool):
    for n in range(3):
        spool.turn_away(None, Refusal("1.2.3", Reason.IDENTITY_MISSING, f"empty {n}", "SENDER"))
    registrar.look_at_refusals()
    until(lambda: rows(database, "SELECT 1 FROM refusal WHERE times = 3"))
    until(lambda: not list((spool.folder / "refusals").iterdir()))
    assert rows(database, "SELECT subject, reason, detail, peer FROM refusal") == [
        ("1.2.3", "identity_missing", "empty 2", "SENDER")
    ]


def test_a_stop_registers_what_waits(database, spool, arrive):
    arrivals = [arrive() for _ in range(20)]
    running = Registrar(database, spool, KEY, replace(QUICK, gather_s=5.0))
    running.start()
    assert running.caught_up.wait(10)
    for arrival in arrivals:
        running.offer(arrival)
    running.stop()
    assert len(paths(database)) == 20
    assert "registrar" not in {thread.name for thread in threading.enumerate()}


def test_a_stop_does_not_wait_for_a_database_that_is_away(tmp_path, spool, arrive):
    folder = tmp_path / "memory"
    database = open_database(DatabaseOptions(f"sqlite:///{folder / 'trabecula.db'}"))
    database.close()
    folder.rename(tmp_path / "away")
    running = Registrar(database, spool, KEY, replace(QUICK, retry_s=60.0))
    running.start()
    running.offer(arrive())
    time.sleep(0.1)
    began = time.monotonic()
    running.stop()
    assert time.monotonic() - began < 5
    assert not running._thread.is_alive()


def test_an_instance_that_cannot_be_opened_holds_up_no_other(database, spool, arrive):
    good, bad = arrive(), arrive()
    Path(bad.path).unlink()
    Path(bad.path).mkdir()
    with Registrar(database, spool, KEY, QUICK) as running:
        assert running.caught_up.wait(10)
    assert paths(database) == {good.path}


@pytest.mark.parametrize("wrong", [{"most_together": 0}, {"gather_s": -1.0}, {"retry_s": 0.0}])
def test_options_without_meaning_are_refused(wrong):
    with pytest.raises(ValueError, match=r"must be|negative"):
        RegistrarOptions(**wrong)
