"""The front door answers success for what is safely in the spool, and a reason for everything else."""

import logging
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
    SecondaryCaptureImageStorage,
    generate_uid,
)
from pynetdicom import AE
from pynetdicom.pdu_primitives import AsynchronousOperationsWindowNegotiation

from dicom_node.intake import acceptance as room
from dicom_node.intake.acceptance import STATUSES
from dicom_node.intake.options import DataPath, ReceiverOptions
from dicom_node.intake.receiver import Receiver
from dicom_node.intake.services import SOP_CLASSES, TRANSFER_SYNTAXES
from dicom_node.logs import LogFormat, LogOptions, configure_logs
from engine.errors import DeploymentError
from engine.records import Reason

INSTANCES = "SELECT sop_instance_uid, path, size_bytes, digest FROM instance"
REFUSALS = "SELECT subject, reason, detail, peer, times FROM refusal"


def test_a_stored_instance_is_in_the_spool_byte_for_byte_and_in_the_registry(door, make_ct, encode):
    datasets = [make_ct() for _ in range(5)]
    assert [answer.Status for answer in door.send(*datasets)] == [0x0000] * 5
    rows = door.wait_for_rows(INSTANCES, 5)
    assert {row[0] for row in rows} == {dataset.SOPInstanceUID for dataset in datasets}
    for uid, path, size_bytes, _ in rows:
        (dataset,) = (dataset for dataset in datasets if uid == dataset.SOPInstanceUID)
        content = Path(path).read_bytes()
        assert len(content) == size_bytes
        assert content.endswith(encode(dataset))
        meta = pydicom.dcmread(path).file_meta
        assert meta.MediaStorageSOPInstanceUID == uid
        assert meta.MediaStorageSOPClassUID == CTImageStorage
        assert meta.TransferSyntaxUID == ExplicitVRLittleEndian


def test_the_same_instance_again_is_a_success_and_no_second_copy(door, make_ct):
    dataset = make_ct()
    assert [answer.Status for answer in door.send(dataset, dataset)] == [0, 0]
    assert [answer.Status for answer in door.send(dataset)] == [0]
    door.wait_for_rows(INSTANCES, 1)
    assert len(door.kept()) == len(door.rows(INSTANCES)) == 1
    assert door.rows(REFUSALS) == []


def test_other_content_under_a_known_uid_is_refused_and_kept_aside(door, make_ct, encode):
    dataset = make_ct()
    other = make_ct(SOPInstanceUID=dataset.SOPInstanceUID)
    first, second = door.send(dataset, other)
    assert (first.Status, second.Status) == (0x0000, 0xC104)
    assert second.ErrorComment.startswith("instance_conflict")
    assert [path.read_bytes().endswith(encode(dataset)) for path in door.kept()] == [True]
    assert [path.read_bytes().endswith(encode(other)) for path in door.kept("conflict")] == [True]
    ((subject, reason, _, peer, _),) = door.wait_for_rows(REFUSALS, 1)
    assert (subject, reason, peer) == (dataset.SOPInstanceUID, "instance_conflict", "SENDER")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"StudyInstanceUID": ""}, Reason.IDENTITY_MISSING),
        ({"StudyInstanceUID": None}, Reason.IDENTITY_MISSING),
        ({"SeriesInstanceUID": ""}, Reason.IDENTITY_MISSING),
        ({"SeriesInstanceUID": None}, Reason.IDENTITY_MISSING),
        ({"SOPInstanceUID": ""}, Reason.IDENTITY_MISSING),
        ({"SOPInstanceUID": None}, Reason.IDENTITY_MISSING),
        ({"SOPClassUID": ""}, Reason.IDENTITY_MISSING),
        ({"SOPInstanceUID": "../../../etc/cron.d/x"}, Reason.IDENTIFIER_INVALID),
        ({"StudyInstanceUID": "../../../etc/cron.d/x"}, Reason.IDENTIFIER_INVALID),
        ({"SeriesInstanceUID": "1.2.3\x00.4"}, Reason.IDENTIFIER_INVALID),
        ({"SeriesInstanceUID": "1.02.3"}, Reason.IDENTIFIER_INVALID),
        ({"SOPInstanceUID": "1.2.3.4"}, Reason.COMMAND_MISMATCH),
        ({"SOPClassUID": MRImageStorage}, Reason.COMMAND_MISMATCH),
        ({"SOPClassUID": EnhancedCTImageStorage}, Reason.COMMAND_MISMATCH),
    ],
)
def test_what_has_no_sound_identity_is_refused_with_its_reason_and_the_association_lives(
    door, make_ct, encode, changed, reason
):
    named = generate_uid()
    bad, good = make_ct(SOPInstanceUID=named), make_ct()
    for keyword, value in changed.items():
        if value is None:
            delattr(bad, keyword)
        else:
            setattr(bad, keyword, value)
    peer = door.raw().associate()
    assert peer.store(encode(bad), named) == STATUSES[reason]
    assert peer.store(encode(good), good.SOPInstanceUID) == 0
    assert len(door.kept()) == 1
    assert [path.read_bytes().endswith(encode(bad)) for path in door.kept("refused")] == [True]
    ((subject, told, _, sender, times),) = door.wait_for_rows(REFUSALS, 1)
    assert (subject, told, sender, times) == (named, reason, "RAW", 1)
    door.wait_for_rows(INSTANCES, 1)
    assert not (door.spool.folder.parent / "etc").exists()


@pytest.mark.parametrize("named", ["", None, "../../x", "a" * 64])
def test_a_command_without_a_sound_uid_is_answered_and_refused(door, make_ct, encode, named):
    bad, good = make_ct(), make_ct()
    peer = door.raw().associate()
    assert peer.store(encode(bad), named) == 0xA900
    assert peer.store(encode(good), good.SOPInstanceUID) == 0
    ((subject, reason, *_),) = door.wait_for_rows(REFUSALS, 1)
    assert reason == "command_mismatch"
    assert re.fullmatch("[0-9a-f]{64}", subject)


def test_an_instance_of_another_class_than_its_context_is_refused(door, make_ct, encode):
    bad = make_ct(SOPClassUID=SecondaryCaptureImageStorage)
    peer = door.raw().associate(CTImageStorage)
    assert peer.store(encode(bad), bad.SOPInstanceUID, SecondaryCaptureImageStorage) == 0xA900


def cut_pixels(data: bytes) -> bytes:
    return data[:-100]


def cut_header(data: bytes) -> bytes:
    return data[:200]


def cut_value(data: bytes) -> bytes:
    return data[: data.index(b"ORIGINAL") + 4]


def garbage(data: bytes) -> bytes:
    return b"\xff\x00ZZMARK^PATIENT" * 500


def nothing(data: bytes) -> bytes:
    return b""


def claims_too_much(data: bytes) -> bytes:
    return data[:8] + b"\x10\x00\x10\x00UN\x00\x00\xff\xff\xff\x7fZZMARK" + data[8:]


def nested(data: bytes) -> bytes:
    return b"\x08\x00\x05\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 500 + data


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (cut_pixels, Reason.PIXELS_UNREADABLE),
        (cut_header, Reason.HEADER_UNREADABLE),
        (cut_value, Reason.HEADER_UNREADABLE),
        (garbage, Reason.HEADER_UNREADABLE),
        (nothing, Reason.IDENTITY_MISSING),
        (claims_too_much, Reason.HEADER_UNREADABLE),
        (nested, Reason.HEADER_UNREADABLE),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_reason_and_the_association_lives(door, make_ct, encode, spoil, reason):
    bad, good = make_ct(), make_ct()
    peer = door.raw().associate()
    assert peer.store(spoil(encode(bad)), bad.SOPInstanceUID) == STATUSES[reason]
    assert peer.store(encode(good), good.SOPInstanceUID) == 0
    ((subject, told, detail, *_),) = door.wait_for_rows(REFUSALS, 1)
    assert (subject, told) == (bad.SOPInstanceUID, reason)
    assert "ZZMARK" not in detail
    assert len(door.kept()) == 1


def test_a_cut_code_stream_is_refused(door, make_ct, encode):
    rle = "1.2.840.10008.1.2.5"
    whole = make_ct()
    whole.compress(rle)
    data = encode(whole)
    peer = door.raw().associate(syntax=rle)
    assert peer.store(data[:-20], whole.SOPInstanceUID) == 0xC105
    assert peer.store(data, whole.SOPInstanceUID) == 0


def test_repeated_refusals_are_counted_in_one_row(door, make_ct, encode):
    bad = encode(make_ct(StudyInstanceUID=""))
    peer = door.raw().associate()
    for _ in range(5):
        assert peer.store(bad, "1.2.3.4") == 0xC101
    door.wait_for_rows("SELECT 1 FROM refusal WHERE times = 5", 1)
    assert len(door.rows(REFUSALS)) == len(door.kept("refused")) == 1


def test_a_full_spool_is_told_and_passes(door, make_ct, encode):
    dataset = make_ct()
    peer = door.raw().associate()
    options = door.spool.options
    door.spool.options = type(options)(folder=options.folder, reserve_mib=2**40)
    assert peer.store(encode(dataset), dataset.SOPInstanceUID) == 0xA700
    assert door.kept() == []
    door.spool.options = options
    assert peer.store(encode(dataset), dataset.SOPInstanceUID) == 0


def test_a_fault_of_ours_is_answered_and_the_association_lives(door, make_ct, encode):
    dataset = make_ct()
    peer = door.raw().associate()
    key, door.receiver.acceptance.pseudonym_key = door.receiver.acceptance.pseudonym_key, b""
    assert peer.store(encode(dataset), dataset.SOPInstanceUID) == 0xC1FF
    assert door.kept() == door.kept("refused") == []
    door.receiver.acceptance.pseudonym_key = key
    assert peer.store(encode(dataset), dataset.SOPInstanceUID) == 0


def test_only_what_is_listed_is_agreed_on(door):
    wanted = [(uid, [syntax]) for uid in SOP_CLASSES[:3] for syntax in TRANSFER_SYNTAXES]
    refused = [
        (MRImageStorage, [ExplicitVRLittleEndian]),
        (CTImageStorage, [DeflatedExplicitVRLittleEndian]),
    ]
    with door.association(*wanted, *refused) as association:
        accepted = [(cx.abstract_syntax, list(cx.transfer_syntax)) for cx in association.accepted_contexts]
        assert accepted == wanted
        assert [cx.abstract_syntax for cx in association.rejected_contexts] == [cx[0] for cx in refused]
    several = [ImplicitVRLittleEndian, "1.2.840.10008.1.2.4.50", ExplicitVRLittleEndian]
    with door.association((CTImageStorage, several)) as association:
        assert [cx.transfer_syntax for cx in association.accepted_contexts] == [[ExplicitVRLittleEndian]]


def test_asynchronous_operations_are_answered_with_one(door):
    window = AsynchronousOperationsWindowNegotiation()
    window.maximum_number_operations_invoked = window.maximum_number_operations_performed = 0  # without limit
    ae = AE()
    ae.add_requested_context(CTImageStorage)
    association = ae.associate("127.0.0.1", door.port, ext_neg=[window])
    assert association.acceptor.asynchronous_operations == (1, 1)
    association.release()


def test_ae_titles_are_checked_where_that_is_asked_for(open_door):
    door = open_door(calling_ae_titles=("PACS", "CT1"), check_called_ae_title=True, ae_title="NODE")
    assert door.raw().rejection(calling="PACS", called="NODE") is None
    assert door.raw().rejection(calling="OTHER", called="NODE") == (1, 1, 3)  # calling AE title not recognized
    assert door.raw().rejection(calling="CT1", called="TRABECULA") == (1, 1, 7)  # called AE title not recognized


def test_whoever_is_turned_away_is_named_with_the_reason(open_door, make_ct, encode, caplog):
    door = open_door(data_path=DataPath.DIRECT, calling_ae_titles=("PACS",), check_called_ae_title=True)
    door.raw().rejection(calling="OTHER")
    door.raw().rejection(calling="PACS", called="WHO\nAMI")
    image = make_ct()
    peer = door.raw()
    assert peer.rejection(calling="PACS") is None
    assert peer.store(encode(image), "1.2.3") != 0  # which is not its own
    told = caplog.text
    assert (
        "rejected an association of 'OTHER' at 127.0.0.1: its AE title is not among receiver.calling_ae_titles" in told
    )
    assert "rejected an association of 'PACS' at 127.0.0.1: it calls an AE title that is none of ours" in told
    assert "refused an instance of 'PACS': " in told
    assert "AMI" not in told


def test_an_address_that_is_not_allowed_is_named(open_door, caplog):
    door = open_door(data_path=DataPath.DIRECT, allowed_networks=("10.1.0.0/16",))
    assert door.raw().is_closed_within(4)
    assert "refused a connection of 127.0.0.1: not in receiver.allowed_networks" in caplog.text


@pytest.mark.parametrize("data_path", DataPath)
@pytest.mark.parametrize(("network", "accepted"), [("127.0.0.0/8", True), ("10.1.0.0/16", False), ("::/0", False)])
def test_only_addresses_on_the_list_get_in(network, accepted, data_path, open_door):
    door = open_door(allowed_networks=(network,), data_path=data_path)
    ae = AE()
    ae.add_requested_context(CTImageStorage)
    association = ae.associate("127.0.0.1", door.port)
    assert association.is_established == accepted
    if accepted:
        association.release()


@pytest.mark.parametrize("data_path", DataPath)
def test_a_node_has_several_names_and_no_others(data_path, open_door):
    door = open_door(ae_title="NODE", other_ae_titles=("NIGHT", "OLD_NAME"), data_path=data_path)
    for called, accepted in (("NODE", True), ("NIGHT", True), ("OLD_NAME", True), ("TRABECULA", False)):
        ae = AE()
        ae.add_requested_context(CTImageStorage)
        association = ae.associate("127.0.0.1", door.port, ae_title=called)
        assert association.is_established == accepted
        if accepted:
            association.release()


@pytest.mark.dcmtk
class TestDcmtk:
    """A foreign client."""

    @pytest.fixture(autouse=True)
    def programs(self):
        if not (shutil.which("storescu") and shutil.which("echoscu")):
            pytest.skip("DCMTK is not installed")

    def run(self, *command: object) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, timeout=60)

    def test_an_echo_is_answered(self, door):
        assert self.run("echoscu", "-aec", "TRABECULA", "127.0.0.1", door.port).returncode == 0

    def test_a_series_is_stored(self, door, small_series):
        sent = list(small_series.paths)
        ran = self.run("storescu", "127.0.0.1", door.port, *sent)
        assert ran.returncode == 0, ran.stderr
        rows = door.wait_for_rows(INSTANCES, len(sent))
        for uid, path, *_ in rows:
            source = small_series.paths[small_series.sop_instance_uids.index(uid)]
            assert pydicom.dcmread(path) == pydicom.dcmread(source)

    def test_an_instance_without_a_study_is_refused_and_the_others_go_on(self, door, make_ct, tmp_path):
        files = [make_ct(), make_ct(StudyInstanceUID=""), make_ct(SeriesInstanceUID=""), make_ct()]
        for n, dataset in enumerate(files):
            dataset.save_as(tmp_path / f"{n}.dcm", enforce_file_format=True)
        ran = self.run("storescu", "-v", "-nh", "127.0.0.1", door.port, *(tmp_path / f"{n}.dcm" for n in range(4)))
        answers = re.findall(r"Received Store Response \((.*)\)", ran.stdout + ran.stderr)
        assert answers[0] == answers[3] == "Success"
        assert answers[1] == answers[2] == "Error: CannotUnderstand"
        assert len(door.wait_for_rows(REFUSALS, 2)) == 2
        assert len(door.wait_for_rows(INSTANCES, 2)) == 2

    def test_an_instance_without_a_uid_is_not_even_sent_by_it_and_the_door_stays_open(self, door, make_ct, tmp_path):
        make_ct(SOPInstanceUID="").save_as(tmp_path / "empty.dcm")
        make_ct().save_as(tmp_path / "good.dcm", enforce_file_format=True)
        self.run("storescu", "-nh", "127.0.0.1", door.port, tmp_path / "empty.dcm", tmp_path / "good.dcm")
        door.wait_for_rows(INSTANCES, 1)
        assert len(door.kept()) == 1
        assert self.run("echoscu", "127.0.0.1", door.port).returncode == 0

    def test_a_real_series_is_stored_whole(self, door, real_ct):
        folder = real_ct / "ct_thorax_contrast"
        sent = sorted(folder.iterdir())[:40]
        assert self.run("storescu", "127.0.0.1", door.port, *sent).returncode == 0
        assert len(door.wait_for_rows(INSTANCES, len(sent))) == len(sent)


@pytest.mark.real_data
def test_real_instances_with_empty_identifiers_are_refused_and_none_is_lost_or_invented(door, real_ct):
    syntax = "1.2.840.10008.1.2.4.90"
    peer = door.raw().associate(syntax=syntax)
    sent = sorted((real_ct / "ct_abdomen_j2k_empty_uids").iterdir())
    for path in sent:
        named = str(pydicom.dcmread(path, stop_before_pixels=True).file_meta.MediaStorageSOPInstanceUID)
        raw = path.read_bytes()
        data = raw[132 + 12 + int.from_bytes(raw[140:144], "little") :]
        assert peer.store(data, named) == 0xC101
    assert len(door.wait_for_rows(REFUSALS, len(sent))) == len(door.kept("refused")) == len(sent)
    assert door.kept() == door.rows(INSTANCES) == door.rows("SELECT * FROM study") == []


@contextmanager
def logs_in(file: Path) -> Iterator[None]:
    """Logging as the node has it; as before afterwards."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level, sys.excepthook, threading.excepthook)
    configure_logs(LogOptions(level="DEBUG", format=LogFormat.JSON, file=str(file)))
    try:
        yield
    finally:
        for handler in root.handlers:
            handler.close()
        root.handlers[:], root.level, sys.excepthook, threading.excepthook = before
        logging.captureWarnings(False)
        logging.raiseExceptions = True


def test_no_patient_is_named_in_logs_database_or_names(door, make_ct, encode, tmp_path):
    with logs_in(tmp_path / "node.log"):
        good, peer = make_ct(), door.raw().associate()
        assert peer.store(encode(good), good.SOPInstanceUID) == 0
        for bad in (
            make_ct(StudyInstanceUID="ZZMARK^PATIENT"),
            make_ct(SOPInstanceUID=good.SOPInstanceUID),
            make_ct(StudyDate="ZZMARKID", PatientBirthDate="ZZMARKID"),
        ):
            peer.store(encode(bad), "ZZMARK^PATIENT")
            peer.store(encode(bad), bad.SOPInstanceUID)
        peer.store(garbage(b""), "ZZMARKID")
        door.wait_for_rows(REFUSALS, 4)
        door.registrar.stop()
    told = (tmp_path / "node.log").read_bytes()
    assert b"refused an instance" in told
    assert b"ZZMARK" not in told
    assert good.SOPInstanceUID.encode() not in told
    for path in tmp_path.glob("trabecula.db*"):
        assert b"ZZMARK" not in path.read_bytes()
    assert not [path for path in tmp_path.rglob("*") if "ZZMARK" in path.name or good.StudyInstanceUID in path.name]


def test_every_status_is_told_in_the_rooms_own_words():
    assert room.__doc__ is not None
    told = dict(re.findall(r"^    ([AC][0-9A-F]{3}) .*  (\w+)$", room.__doc__, flags=re.MULTILINE))
    assert told == {f"{status:04X}": str(reason) for reason, status in STATUSES.items()}


@pytest.mark.parametrize(
    "wrong",
    [
        {"ae_title": ""},
        {"ae_title": "SEVENTEEN LETTERS"},
        {"calling_ae_titles": ("A\\B",)},
        {"port": 70000},
        {"max_pdu_bytes": 0},
        {"max_associations": 0},
        {"pdu_timeout_s": 0.0},
    ],
)
def test_options_without_meaning_are_refused(wrong):
    with pytest.raises(ValueError, match=r"must|has"):
        ReceiverOptions(**wrong)


def test_a_taken_port_or_a_strange_host_is_told(door):
    for options in (ReceiverOptions(port=door.port), ReceiverOptions(host="no.such.host.invalid")):
        with pytest.raises(DeploymentError, match=r"can't listen.*receiver\.port"):
            Receiver(options, door.spool, door.registrar, b"key").start()


def test_a_stop_lets_an_association_end_and_takes_no_new_one(open_door, make_ct, encode):
    door = open_door(stop_grace_s=5.0)
    dataset, peer, silent = make_ct(), door.raw().associate(), door.raw()
    port = door.port
    stopping = threading.Thread(target=door.receiver.stop)
    stopping.start()
    stopping.join(0.3)
    assert peer.store(encode(dataset), dataset.SOPInstanceUID) == 0
    with pytest.raises(ConnectionRefusedError):
        type(peer)(port)
    peer.send_pdu(5, bytes(4))
    assert peer.read_pdu()[0] == 6
    stopping.join(5)
    assert not stopping.is_alive()
    assert silent.is_closed_within(1)
