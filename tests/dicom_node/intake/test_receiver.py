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
    ExplicitVRLittleEndian,
)

from dicom_node.logs import LogFormat, LogOptions, configure_logs

from .asked import INSTANCES, REFUSALS
from .spoiled import garbage


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
