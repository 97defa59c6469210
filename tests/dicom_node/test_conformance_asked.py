"""The conformance statement says what we propose, ask for and how long we wait: held to real associations."""

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import UID, RLELossless
from pynetdicom import AE, evt

from db.outbox import ClaimedObject, SentObject
from dicom_node.backfill.answers import KEYS, SERIES_KEYS
from dicom_node.backfill.calling import archive_peer
from dicom_node.backfill.options import Archive, BackfillOptions, Retrieve
from dicom_node.backfill.order import Order, archive_source
from dicom_node.backfill.source import Part
from dicom_node.peers.association import EXPLICIT, IMPLICIT, MAX_PDU_BYTES, VERIFICATION
from dicom_node.peers.commitment import STORAGE_COMMITMENT, ask
from dicom_node.peers.query import FIND, GET, MOST_UIDS, MOVE
from dicom_node.peers.query import ask as look
from dicom_node.sender.options import Destination, SenderOptions
from dicom_node.sender.store import STORED, echo, peer_of, store
from engine.selection import READABLE_TRANSFER_SYNTAXES, SelectionOptions

from .conformance import PAGE, rows, uids

DAY = Order(date(2026, 3, 1), date(2026, 3, 1), None)
STUDY, SERIES, IMAGE = "1.2.3", "1.2.3.4", "1.2.3.4.5"
SENT = [uids(row[1])[0] for row in rows("objects sent")]
CT_CLASSES = [row[2] for row in rows("proposed by the backfill") if "Image Storage" in row[1]]


class Listener:
    """Accepts everything, and remembers what was proposed and by which keys was searched."""

    def __init__(self) -> None:
        self.proposed: list[list[tuple[str, tuple[str, ...]]]] = []
        self.as_provider: list[set[str]] = []  # abstract syntaxes of which the peer wants to be SCP
        self.largest: set[int] = set()
        self.keys: dict[str, set[str]] = {}
        ae = AE("ARCHIVE")
        for abstract in (VERIFICATION, STORAGE_COMMITMENT, FIND, MOVE, GET, *SENT):
            ae.add_supported_context(abstract, [EXPLICIT, IMPLICIT, str(RLELossless)])
        for abstract in CT_CLASSES:
            ae.add_supported_context(abstract, sorted(READABLE_TRANSFER_SYNTAXES), scu_role=True, scp_role=True)
        handlers: list[Any] = [
            (evt.EVT_REQUESTED, self._requested),
            (evt.EVT_C_STORE, lambda _: 0x0000),
            (evt.EVT_C_FIND, self._find),
            (evt.EVT_C_GET, lambda _: iter([0])),
            (evt.EVT_C_MOVE, lambda _: iter([("127.0.0.1", 9), 0])),
            (evt.EVT_N_ACTION, lambda _: (0x0000, None)),
        ]
        self._server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.port = int(self._server.server_address[1])

    def stop(self) -> None:
        self._server.shutdown()

    def _requested(self, event: Any) -> None:
        asked = event.assoc.requestor
        contexts = [(str(each.abstract_syntax), tuple(each.transfer_syntax)) for each in asked.requested_contexts]
        self.proposed.append(contexts)
        self.as_provider.append({str(uid) for uid, role in asked.role_selection.items() if role.scp_role})
        self.largest.add(asked.maximum_length)

    def _find(self, event: Any) -> Iterator[tuple[int, Dataset]]:
        keys = event.identifier
        self.keys.setdefault(keys.QueryRetrieveLevel, set()).update(element.keyword for element in keys)
        answer = Dataset()
        answer.StudyInstanceUID, answer.SeriesInstanceUID, answer.SOPInstanceUID = STUDY, SERIES, IMAGE
        answer.ModalitiesInStudy = answer.Modality = "CT"
        yield 0xFF00, answer


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.stop()


def source(listener: Listener, retrieve: Retrieve):  # type: ignore[no-untyped-def]
    archive = Archive("archive", "ARCHIVE", "127.0.0.1", listener.port, retrieve)
    return archive_source(archive, DAY, BackfillOptions(sample=False), b"key", SelectionOptions())


@pytest.mark.parametrize("retrieve", list(Retrieve))
def test_the_backfill_proposes_what_is_told(listener: Listener, retrieve: Retrieve):
    where = source(listener, retrieve)
    where.search(Part("StudyDate=20260301"))
    where.fetch(Part(""), STUDY, SERIES, [IMAGE], True, lambda _: True, lambda: True)
    told = rows("proposed by the backfill")
    for _, name, uid, _, _ in told:
        assert name == UID(uid).name
    of = {uid: tuple(uids(syntaxes)) for _, _, uid, syntaxes, _ in told}
    assert listener.proposed[0] == [(FIND, of[FIND])]
    read = [uid for _, uid in rows("read")]
    assert read == sorted(READABLE_TRANSFER_SYNTAXES)
    if retrieve is Retrieve.MOVE:
        assert listener.proposed[1] == [(MOVE, of[MOVE])]
        assert listener.as_provider[1] == set()
        return
    images = [(uid, (syntax,)) for uid in CT_CLASSES for syntax in read]
    assert len(CT_CLASSES) == 3
    assert sorted(listener.proposed[1]) == sorted([(GET, of[GET]), *images])
    assert listener.as_provider[1] == {uid for _, _, uid, _, role in told if role.startswith("SCP")}
    assert listener.largest == {MAX_PDU_BYTES}


@pytest.mark.parametrize("retrieve", [GET, MOVE])
def test_the_doctor_proposes_to_an_archive_what_is_told(listener: Listener, retrieve: str):
    archive, options = Archive("archive", "ARCHIVE", "127.0.0.1", listener.port), BackfillOptions()
    look(archive_peer(archive, options, options.answer_timeout_s), retrieve)
    of = {uid: tuple(uids(syntaxes)) for _, _, uid, syntaxes, _ in rows("proposed by the backfill")}
    assert listener.proposed == [[(uid, of[uid]) for uid in (VERIFICATION, FIND, retrieve)]]
    assert listener.keys == {"STUDY": {"QueryRetrieveLevel", "StudyInstanceUID"}}


def test_the_keys_of_searches_are_those_told(listener: Listener):
    for part in ("StudyDate=20260301", "AccessionNumber=7", "StudyInstanceUID=1.2.3"):
        source(listener, Retrieve.GET).search(Part(part))
    told = {
        level: set(f"{matched}, {asked}".replace(";", ",").replace(" or ", ", ").split(", "))
        for level, matched, asked in rows("keys")
    }
    assert {level: keys - {"QueryRetrieveLevel"} for level, keys in listener.keys.items()} == told
    assert set(KEYS) <= told["IMAGE"]
    assert set(SERIES_KEYS) <= told["SERIES"]
    assert not any("Patient" in key and key not in KEYS for keys in told.values() for key in keys)
    assert f"at most {MOST_UIDS} UIDs" in PAGE


def test_the_back_door_proposes_what_is_told(listener: Listener, tmp_path: Path):
    there, options = Destination("pacs", "ARCHIVE", "127.0.0.1", listener.port), SenderOptions()
    echo(there, options)
    ask(peer_of(there, options), "2.25.1", [SentObject(SENT[0], "2.25.2")], lambda *_: 0, 0.0)
    told = [(uids(abstract), tuple(uids(syntaxes))) for _, abstract, syntaxes, _ in rows("proposed by the back door")]
    (_, of_files), *rest = told
    assert [[(abstract, syntaxes)] for (abstract,), syntaxes in reversed(rest)] == listener.proposed
    items = [
        written(tmp_path, n, uid, uids(row[2])[0])
        for n, (uid, row) in enumerate(zip(SENT, rows("objects sent"), strict=True))
    ]
    assert all(answer.outcome == "stored" for answer in store(there, items, options))
    native, compressed = of_files[:2], of_files[2:]
    expected = {
        uid: compressed if uids(row[2]) == list(compressed) else native
        for uid, row in zip(SENT, rows("objects sent"), strict=True)
    }
    assert dict(listener.proposed[-1]) == expected
    assert listener.largest == {MAX_PDU_BYTES}


def written(folder: Path, number: int, sop_class: str, syntax: str) -> ClaimedObject:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, f"2.25.{number + 1}"
    dataset.ensure_file_meta()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    return ClaimedObject(number, 1, 1, "pacs", "sr", sop_class, dataset.SOPInstanceUID, str(folder / f"{number}.dcm"))


def test_policies_of_back_door_and_backfill_are_their_defaults():
    sender, backfill = SenderOptions(), BackfillOptions()
    for told in (
        f"| objects of an association | {sender.batch} | `sender.batch` |",
        f"| connection | {sender.connect_timeout_s:.0f} s | `sender.connect_timeout_s` |",
        f"| {sender.association_timeout_s:.0f} s | `sender.association_timeout_s` |",
        f"| answer to a C-STORE | {sender.store_timeout_s:.0f} s | `sender.store_timeout_s` |",
        f"| idle | {sender.idle_timeout_s:.0f} s | `sender.idle_timeout_s` |",
        f"fetched at a time, {backfill.associations}; ",
        f"| connection | {backfill.connect_timeout_s:.0f} s | `backfill.connect_timeout_s` |",
        f"| {backfill.association_timeout_s:.0f} s | `backfill.association_timeout_s` |",
        f"| next answer, image or byte | {backfill.answer_timeout_s:.0f} s | `backfill.answer_timeout_s` |",
    ):
        assert told in PAGE
    assert PAGE.count(f"| longest PDU | {MAX_PDU_BYTES} bytes | - |") == 2
    for status in STORED:
        assert f"{status:04X}" in PAGE
