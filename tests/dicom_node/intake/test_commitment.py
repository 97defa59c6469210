"""Storage commitment: what lies in the spool is committed to, and nothing else; the result reaches who asked."""

import json
import queue
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, MRImageStorage, generate_uid
from pynetdicom import AE, build_role, evt
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.sop_class import StorageCommitmentPushModel

from dicom_node.intake.options import CommitmentPeer, DataPath
from dicom_node.intake.services import STORAGE_COMMITMENT_INSTANCE

NO_SUCH_INSTANCE, CLASS_CONFLICT = 0x0112, 0x0119


class Modality:
    """Asks, and hears what became of it."""

    def __init__(self) -> None:
        self.heard: queue.Queue[tuple[int, Dataset]] = queue.Queue()
        self._unanswered: list[tuple[int, Dataset]] = []
        self.ae = AE(ae_title="CT1")
        self.ae.acse_timeout = self.ae.dimse_timeout = self.ae.network_timeout = 10
        self.ae.add_requested_context(StorageCommitmentPushModel)
        self.ae.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)

    def hear(self, event: evt.Event) -> tuple[int, None]:
        self._unanswered.append((event.request.EventTypeID, event.event_information))
        return 0, None

    def sent(self, event: evt.Event) -> None:
        """The answer is out: before that, pynetdicom's client must be asked for nothing."""
        if isinstance(event.pdu, P_DATA_TF) and self._unanswered:
            self.heard.put(self._unanswered.pop())

    @property
    def handlers(self) -> list[Any]:
        return [(evt.EVT_N_EVENT_REPORT, self.hear), (evt.EVT_PDU_SENT, self.sent)]

    @contextmanager
    def listening(self, port: int = 0) -> Iterator[int]:
        server = self.ae.start_server(("127.0.0.1", port), block=False, evt_handlers=self.handlers)
        yield int(server.server_address[1])
        server.shutdown()

    @contextmanager
    def asking(self, port: int) -> Iterator[Any]:
        peer = self.ae.associate("127.0.0.1", port, evt_handlers=self.handlers)
        assert peer.is_established
        yield peer
        peer.release()

    def ask(self, peer: Any, *references: tuple[str, str], action: int = 1, transaction: str = "1.2.3") -> int:
        asked = Dataset()
        asked.TransactionUID = transaction
        asked.ReferencedSOPSequence = []
        for sop_class, uid in references:
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
            asked.ReferencedSOPSequence.append(item)
        status, _ = peer.send_n_action(asked, action, StorageCommitmentPushModel, STORAGE_COMMITMENT_INSTANCE)
        return int(status.Status)


def uids(items: Any) -> list[str]:
    return [str(item.ReferencedSOPInstanceUID) for item in items]


@pytest.mark.parametrize("way", tuple(DataPath))
def test_who_is_not_known_by_address_is_told_over_its_own_association(open_door, make_ct, way):
    door, modality, images = open_door(data_path=way), Modality(), [make_ct(), make_ct()]
    door.send(*images)
    stored = [(CTImageStorage, str(image.SOPInstanceUID)) for image in images]
    missing = (CTImageStorage, str(generate_uid()))
    with modality.asking(door.port) as peer:
        assert modality.ask(peer, *stored) == 0
        event, told = modality.heard.get(timeout=10)
        assert event == 1
        assert told.TransactionUID == "1.2.3"
        assert uids(told.ReferencedSOPSequence) == [uid for _, uid in stored]
        assert modality.ask(peer, stored[0], missing, (MRImageStorage, stored[1][1]), (CTImageStorage, "../x")) == 0
        event, told = modality.heard.get(timeout=10)
        assert event == 2
        assert uids(told.ReferencedSOPSequence) == [stored[0][1]]
        reasons = [item.FailureReason for item in told.FailedSOPSequence]
        assert reasons == [NO_SUCH_INSTANCE, CLASS_CONFLICT, NO_SUCH_INSTANCE]


def test_who_is_known_by_address_is_told_when_it_listens_also_after_a_restart(open_door, make_ct, monkeypatch):
    import dicom_node.intake.commitment as room

    monkeypatch.setattr(room, "FIRST_RETRY_S", 0.1)
    modality, image = Modality(), make_ct()
    with modality.listening() as port:
        pass  # it has a port, and does not listen now
    known = (CommitmentPeer("CT1", "127.0.0.1", port),)
    door = open_door(commitment_peers=known)
    door.send(image)
    with modality.asking(door.port) as peer:
        assert modality.ask(peer, (CTImageStorage, str(image.SOPInstanceUID))) == 0
    notes = door.spool.folder / "commitments"
    (note,) = notes.glob("*.json")
    assert json.loads(note.read_text())["transaction_uid"] == "1.2.3"
    door.receiver.stop()
    assert list(notes.glob("*.json")) == [note]
    with modality.listening(port):
        open_door(commitment_peers=known)
        event, told = modality.heard.get(timeout=10)
    assert event == 1
    assert uids(told.ReferencedSOPSequence) == [image.SOPInstanceUID]
    until = time.monotonic() + 5
    while list(notes.glob("*.json")) and time.monotonic() < until:
        time.sleep(0.02)
    assert list(notes.glob("*.json")) == []


def test_a_request_that_makes_no_sense_is_refused_and_the_association_lives(door):
    modality = Modality()
    with modality.asking(door.port) as peer:
        assert modality.ask(peer, (CTImageStorage, "1.2.3"), action=2) == 0x0123
        assert modality.ask(peer) == 0x0115
        assert modality.ask(peer, (CTImageStorage, "1.2.3"), transaction="nonsense") == 0x0115
        assert modality.ask(peer, (CTImageStorage, "1.2.3")) == 0
        assert modality.heard.get(timeout=10)[0] == 2


def test_commitment_is_not_on_offer_where_it_is_switched_off(open_door):
    door = open_door(storage_commitment=False)
    with door.association((StorageCommitmentPushModel, ["1.2.840.10008.1.2"])) as peer:
        assert not peer.is_established


def test_what_a_peer_tells_of_our_own_requests_is_handed_on(open_door, door, make_ct):
    from dicom_node.intake.receiver import Receiver

    told: list[tuple[str, int, str]] = []

    def hear(ae_title: str, event_type: int, information: Dataset) -> int:
        told.append((ae_title, event_type, str(information.TransactionUID)))
        return 0

    receiver = Receiver(door.options, door.spool, door.registrar, b"key", on_commitment_report=hear)
    receiver.start()
    try:
        ae = AE(ae_title="PACS")
        ae.add_requested_context(StorageCommitmentPushModel)
        role = build_role(StorageCommitmentPushModel, scp_role=True)
        peer = ae.associate("127.0.0.1", receiver.port, ext_neg=[role])
        information = Dataset()
        information.TransactionUID, information.ReferencedSOPSequence = "1.2.9", []
        status, _ = peer.send_n_event_report(information, 1, StorageCommitmentPushModel, STORAGE_COMMITMENT_INSTANCE)
        assert status.Status == 0
        peer.release()
    finally:
        receiver.stop()
    assert told == [("PACS", 1, "1.2.9")]
