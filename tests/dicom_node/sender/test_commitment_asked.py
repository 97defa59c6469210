"""What was sent counts as kept when the peer says so: asked of Orthanc, and of a node like ourselves."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from db import outbox
from dicom_node.intake.options import ReceiverOptions
from dicom_node.intake.receiver import Receiver
from dicom_node.intake.registrar import Registrar, RegistrarOptions
from dicom_node.peers.commitment import report_taker
from dicom_node.sender.lines import Sender
from dicom_node.sender.options import Destination, SenderOptions
from dicom_node.sender.store import echo
from dicom_node.spool import Spool, SpoolOptions
from engine.errors import PeerError

from ..foreign import Orthanc, free_port
from ..patience import until
from .peer import SOCKETS_LEFT, peer
from .reports import Reports

pytestmark = SOCKETS_LEFT
QUICK = SenderOptions(retry_after_s=0.1, longest_retry_s=0.3, poll_s=0.05, commitment_wait_s=0.1, ask_again_s=0.2)


@pytest.fixture(autouse=True)
def asked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicom_node.sender.lines.ASK_EVERY_S", 0.0)


@contextmanager
def our_door(reports: Reports, **options: object) -> Iterator[Receiver]:
    """Our front door, which is told what became of what we asked for."""
    key = bytes(32)
    with (
        Spool(SpoolOptions(str(reports.folder / "spool"), reserve_mib=0)) as spool,
        Registrar(reports.database, spool, key, RegistrarOptions()) as registrar,
        Receiver(
            ReceiverOptions(port=0, stop_grace_s=0.5, watermark_mib=0, **options),  # type: ignore[arg-type]
            spool,
            registrar,
            key,
            on_commitment_report=report_taker(reports.database, 20),
        ) as receiver,
    ):
        yield receiver


def to(orthanc: Orthanc, **more: object) -> SenderOptions:
    there = Destination("pacs", "ORTHANC", "127.0.0.1", orthanc.dicom_port, **more)  # type: ignore[arg-type]
    return replace(QUICK, destinations=(there,))


def stored_in(orthanc: Orthanc) -> int:
    return len(orthanc.rest("GET", "/instances"))


def test_orthanc_commits_over_an_association_of_its_own_to_our_front_door(reports: Reports, orthanc: Orthanc):
    reports.add("pacs")
    with our_door(reports) as door:
        orthanc.knows("TRABECULA", door.port)
        assert Sender(reports.database, to(orthanc, commitment=True)).run(until_idle=True) == 2
        until(lambda: reports.states("pacs") == ["committed"] * 2)
    assert stored_in(orthanc) == 2


def test_what_a_peer_stored_and_lost_is_sent_again(reports: Reports, orthanc: Orthanc):
    reports.add("pacs")
    assert Sender(reports.database, to(orthanc)).run(until_idle=True) == 2
    orthanc.clear()  # it answered success, and lost them
    with our_door(reports) as door:
        orthanc.knows("TRABECULA", door.port)
        asking = to(orthanc, commitment=True)

        def committed() -> bool:
            Sender(reports.database, asking).run(until_idle=True)
            return reports.states("pacs") == ["committed"] * 2

        until(committed)
    assert stored_in(orthanc) == 2


def test_without_commitment_sent_is_the_end(reports: Reports, orthanc: Orthanc):
    reports.add("pacs")
    Sender(reports.database, to(orthanc)).run(until_idle=True)
    assert reports.states("pacs") == ["sent"] * 2


def test_a_peer_that_offers_none_is_asked_again_and_sending_goes_on(reports: Reports):
    reports.add("pacs")
    with peer() as there:
        destination = Destination("pacs", "PACS", "127.0.0.1", there.port, commitment=True)
        options = replace(QUICK, destinations=(destination,))
        assert Sender(reports.database, options).run(until_idle=True) == 2
        reports.add("pacs")
        assert Sender(reports.database, options).run(until_idle=True) == 2
    assert reports.states("pacs") == ["sent"] * 4


@pytest.mark.parametrize("event_type", [1, 2, 3])
def test_only_what_was_asked_for_is_believed(reports: Reports, event_type: int):
    (sr, _) = reports.add("pacs")
    told = Dataset()
    told.TransactionUID = "2.25.1"
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sr.sop_class_uid, sr.sop_instance_uid
    told.ReferencedSOPSequence = [item]
    assert report_taker(reports.database, 20)("PACS", event_type, told) == (0x0113 if event_type == 3 else 0x0000)
    assert reports.states("pacs") == ["ready"] * 2
    assert report_taker(reports.database, 20)("PACS", 1, Dataset()) == 0x0000


def test_an_object_that_a_peer_loses_again_and_again_becomes_a_dead_letter(reports: Reports):
    (sr,) = reports.add("pacs", kinds=("sr",))
    for attempt in (1, 2):
        with reports.database.begin() as connection:
            (claimed,) = outbox.claim_objects(connection, "pacs", "test", 1, 60.0)
            assert outbox.sent(connection, claimed)
            assert outbox.to_commit(connection, "pacs", f"2.25.{attempt}", 10, 60.0)
            assert outbox.not_committed(connection, f"2.25.{attempt}", {sr.sop_instance_uid: 0x0112}, 2) == 1
    assert reports.states("pacs") == ["dead"]


def test_orthanc_takes_what_is_sent_by_dicomweb(reports: Reports, orthanc: Orthanc, caplog: pytest.LogCaptureFixture):
    reports.add("pacs")
    options = replace(QUICK, destinations=(Destination("pacs", url=orthanc.url),))
    echo(options.destinations[0], options)
    assert Sender(reports.database, options).run(until_idle=True) == 2
    assert reports.states("pacs") == ["sent"] * 2
    assert stored_in(orthanc) == 2
    assert [
        line for line in caplog.records if line.levelno >= logging.WARNING and line.name.startswith("dicom_node")
    ] == []


def test_a_dicomweb_server_that_refuses_an_object_is_told_from_one_that_is_away(reports: Reports, orthanc: Orthanc):
    (bad,) = reports.add("pacs", kinds=("sr",))
    Path(bad.path).write_bytes(b"rubbish")
    refusing = replace(QUICK, destinations=(Destination("pacs", url=orthanc.url),), max_refusals=1)
    Sender(reports.database, refusing).run(until_idle=True)
    assert reports.states("pacs") == ["dead"]
    reports.add("pacs", kinds=("sr",))
    away = replace(refusing, destinations=(Destination("pacs", url=f"http://127.0.0.1:{free_port()}/dicom-web"),))
    Sender(reports.database, away).run(until_idle=True)
    assert reports.states("pacs") == ["dead", "ready"]
    with pytest.raises(PeerError, match="can't be reached"):
        echo(away.destinations[0], away)
