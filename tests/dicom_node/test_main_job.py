"""
The main job on a whole node: series go in by C-STORE, answers come back to a PACS, odd ones end in a typed reason.

One node (`trabecula run`) takes all cases of this file; the tests look at how each ended.
"""

import shutil
import sqlite3
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import psutil
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    Comprehensive3DSRStorage,
    CTImageStorage,
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)
from pynetdicom import AE, evt

from exporters.reference.phantom_series import SeriesTruth

from .foreign import free_port, wait_for_port
from .killed_node import CONFIG
from .odd_series import ANALYSED, CASES, Slices, as_patient

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]
ROOT = Path(__file__).parent.parent.parent
MOST_MEMORY_MIB = 2500  # of the whole node, all processes together


@dataclass
class Run:
    """A node that has worked through all cases."""

    folder: Path
    port: int
    studies: dict[str, str]  # case -> study instance UID
    received: list[Dataset]  # what the PACS got
    refused: list[int]  # statuses of instances without identity
    after_refusal: int  # status of the next instance on the same association
    most_memory_mib: float
    alive: bool

    def ask(self, query: str, *values: str) -> list[tuple[Any, ...]]:
        uri = f"file:{self.folder / 'node.db'}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=20)) as database:
            return database.execute(query, values).fetchall()

    def end(self, study: str) -> tuple[str, str | None]:
        """(state, reason) of the study's one series; the result's reason where there is one."""
        ((state, aside, withheld),) = self.ask(
            "SELECT p.state, p.reason, r.reason FROM screening p JOIN series s ON s.id = p.series_id "
            "JOIN study t ON t.id = s.study_id "
            "LEFT JOIN result r ON r.series_id = s.id AND r.is_current WHERE t.study_instance_uid = ?",
            study,
        )
        return state, aside or withheld


def send(port: int, images: Slices) -> list[int]:
    """The status of each C-STORE. What is not answered is sent again: pynetdicom's client can miss an answer."""
    statuses: list[int] = []
    for _ in range(5):
        ae = AE(ae_title="MODALITY")
        ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
        ae.dimse_timeout = 10
        peer = ae.associate("127.0.0.1", port, ae_title="TRABECULA", max_pdu=131072)
        assert peer.is_established
        while len(statuses) < len(images) and peer.is_established:
            answer = peer.send_c_store(images[len(statuses)])
            if "Status" not in answer:
                break
            statuses.append(int(answer.Status))
        if peer.is_established:
            peer.release()
        if len(statuses) == len(images):
            break
    return statuses


def send_without_identity(port: int, truth: SeriesTruth) -> tuple[list[int], int]:
    """Three instances whose study or series can't be told, then a good one, on one association."""
    ae = AE(ae_title="MODALITY")
    ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    peer = ae.associate("127.0.0.1", port, ae_title="TRABECULA")
    statuses = []
    for keyword, value in (("StudyInstanceUID", ""), ("SeriesInstanceUID", ""), ("StudyInstanceUID", "../../escape")):
        image = as_patient(truth, 900)[0]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom says that the last one is no UID
            image[keyword].value = value
            statuses.append(int(peer.send_c_store(image).get("Status", -1)))
    good = int(peer.send_c_store(as_patient(truth, 901)[0]).get("Status", -1))
    peer.release()
    return statuses, good


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, small_series: SeriesTruth) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("node")
    received: list[Dataset] = []

    def keep(event: Any) -> int:
        one = event.dataset
        one.file_meta = event.file_meta
        received.append(one)
        return 0x0000

    pacs = AE(ae_title="PACS")
    for context in (Comprehensive3DSRStorage, SegmentationStorage, SecondaryCaptureImageStorage):
        pacs.add_supported_context(context)
    server = pacs.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, keep)])
    port = free_port()
    text = CONFIG.format(port=port, pacs=server.socket.getsockname()[1], worker="", sender="")
    (folder / "node.toml").write_text(text)
    with (folder / "node.log").open("wb") as log:
        command = [sys.executable, "-m", "dicom_node", "--config", str(folder / "node.toml"), "run"]
        node = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            wait_for_port(port, node)
            sent = {"plain": as_patient(small_series, 0)}
            for number, spoil in enumerate(CASES, start=1):
                slices = as_patient(small_series, number)
                spoil(slices)
                sent[spoil.__name__] = slices
            studies = {name: str(slices[0].StudyInstanceUID) for name, slices in sent.items()}
            for slices in sent.values():
                assert send(port, slices) == [0x0000] * len(slices)
            refused, after_refusal = send_without_identity(port, small_series)
            outcome = Run(folder, port, studies, received, refused, after_refusal, 0.0, True)
            outcome.most_memory_mib = wait_until_ended(outcome, node, len(studies) + 1)
            outcome.alive = node.poll() is None
            yield outcome
        finally:
            node.terminate()
            node.wait(30)
            server.shutdown()


def wait_until_ended(run: Run, process: "subprocess.Popen[bytes]", series: int) -> float:
    """Wait until every series has ended and nothing waits to be sent; returns the most memory seen, MiB."""
    until, most = time.monotonic() + 240, 0.0
    while time.monotonic() < until:
        node = psutil.Process(process.pid)
        with suppress(psutil.NoSuchProcess):
            sizes = [one.memory_info().rss for one in [node, *node.children(recursive=True)]]
            most = max(most, sum(sizes) / 2**20)
        with suppress(sqlite3.OperationalError):
            ((ended, left),) = run.ask(
                "SELECT (SELECT COUNT(*) FROM screening WHERE state IN ('done', 'set_aside')), "
                "(SELECT COUNT(*) FROM outbox WHERE state IN ('ready', 'leased'))"
            )
            if ended >= series and left == 0:
                return most
        time.sleep(0.3)
    raise AssertionError(f"not all series ended: {run.ask('SELECT state, COUNT(*) FROM screening GROUP BY state')}")


def objects(run: Run, case: str, sop_class: str) -> list[Dataset]:
    return [one for one in run.received if one.StudyInstanceUID == run.studies[case] and one.SOPClassUID == sop_class]


@pytest.mark.parametrize("spoil", CASES, ids=lambda spoil: spoil.__name__)
def test_each_odd_series_ends_in_its_reason(run: Run, spoil: Callable[[Slices], None]) -> None:
    state, reason = run.end(run.studies[spoil.__name__])
    assert reason in {str(reason) for reason in CASES[spoil]}
    if spoil in ANALYSED:
        assert state == "done"


def test_a_plain_series_is_named_and_measured_near_the_truth(run: Run, small_series: SeriesTruth) -> None:
    assert run.end(run.studies["plain"]) == ("done", None)
    rows = run.ask(
        "SELECT v.level, v.volumetric_bmd FROM vertebra v JOIN result r ON r.id = v.result_id AND r.is_current "
        "JOIN series s ON s.id = r.series_id JOIN study t ON t.id = s.study_id WHERE t.study_instance_uid = ?",
        run.studies["plain"],
    )
    measured = {level: value for level, value in rows if value is not None}
    assert {"L1", "L2", "L3"} <= measured.keys()
    truth = {str(level): value for level, value in small_series.vbmd.items()}
    assert np.mean([abs(measured[level] - truth[level]) for level in ("L1", "L2", "L3")]) < 15


def test_the_pacs_gets_report_segmentation_and_picture(run: Run) -> None:
    assert len(objects(run, "plain", Comprehensive3DSRStorage)) == 1
    assert len(objects(run, "plain", SegmentationStorage)) == 1
    assert len(objects(run, "plain", SecondaryCaptureImageStorage)) == 1


def test_the_segmentation_has_a_core_and_a_body_a_level(run: Run) -> None:
    (received,) = objects(run, "plain", SegmentationStorage)
    segmentation = highdicom.seg.Segmentation.from_dataset(received)
    levels = run.ask(
        "SELECT COUNT(*) FROM vertebra v JOIN result r ON r.id = v.result_id AND r.is_current "
        "JOIN series s ON s.id = r.series_id JOIN study t ON t.id = s.study_id WHERE t.study_instance_uid = ?",
        run.studies["plain"],
    )
    labels = [segmentation.get_segment_description(n).segment_label for n in segmentation.segment_numbers]
    assert sum(label.endswith("trabecular core") for label in labels) == levels[0][0] > 0
    assert sum(label.endswith("vertebral body") for label in labels) == levels[0][0] == len(labels) / 2


def test_reports_carry_the_identity_of_the_source(run: Run) -> None:
    (report,) = objects(run, "plain", Comprehensive3DSRStorage)
    assert (str(report.PatientName), report.PatientID) == ("Case^0", "CASE0")


@pytest.mark.parametrize("case", ["contrast", "tube_voltage"])
def test_a_withheld_density_leaves_hounsfield_units_and_no_class(run: Run, case: str) -> None:
    rows = run.ask(
        "SELECT v.attenuation_mean, v.volumetric_bmd, v.finding, r.finding FROM vertebra v "
        "JOIN result r ON r.id = v.result_id AND r.is_current "
        "JOIN series s ON s.id = r.series_id JOIN study t ON t.id = s.study_id WHERE t.study_instance_uid = ?",
        run.studies[case],
    )
    assert rows
    assert all(density is None and level is None and patient is None for _, density, level, patient in rows)
    assert any(attenuation is not None for attenuation, *_ in rows)


def test_instances_without_identity_are_refused_with_a_reason_and_the_association_lives(run: Run) -> None:
    assert all(status not in (0x0000, -1) for status in run.refused)
    assert run.after_refusal == 0x0000
    reasons = {reason for (reason,) in run.ask("SELECT reason FROM refusal")}
    assert {"identity_missing", "identifier_invalid"} <= reasons
    assert run.ask("SELECT COUNT(*) FROM study WHERE study_instance_uid = ''") == [(0,)]


def test_memory_stays_bounded_and_the_node_lives(run: Run) -> None:
    assert run.alive
    assert 0 < run.most_memory_mib < MOST_MEMORY_MIB


@pytest.mark.real_data
@pytest.mark.dcmtk
def test_a_real_contrast_ct_sent_by_a_foreign_client_is_never_given_a_density(run: Run, real_ct: Path) -> None:
    storescu = shutil.which("storescu")
    if storescu is None:
        pytest.skip("DCMTK is not installed")
    folder = real_ct / "ct_thorax_contrast"
    address = ["-aec", "TRABECULA", "127.0.0.1", str(run.port)]
    sent = subprocess.run([storescu, *address, "+sd", str(folder)], capture_output=True, check=False, timeout=120)
    assert sent.returncode == 0, sent.stderr.decode()
    study = str(dcmread(next(folder.glob("*.dcm")), stop_before_pixels=True).StudyInstanceUID)
    until = time.monotonic() + 90
    while time.monotonic() < until:
        with suppress(ValueError):
            state, reason = run.end(study)
            if state in ("done", "set_aside"):
                break
        time.sleep(0.3)
    assert reason in {"contrast", "level_uncertain"}
    densities = run.ask("SELECT r.volumetric_bmd, r.finding FROM result r JOIN series s ON s.id = r.series_id "
                        "JOIN study t ON t.id = s.study_id WHERE t.study_instance_uid = ?", study)  # fmt: skip
    assert all(density is None and finding is None for density, finding in densities)
