"""
Receiver, worker and sender are killed at every stage of a run; nothing is lost, and nothing is said twice.

Twenty studies go in over real sockets while the three processes are ended by SIGKILL again and again; then a
late slice arrives. The tests below look at what is left: the spool, the database, the PACS, the logs.
"""

import hashlib
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    Comprehensive3DSRStorage,
    CTImageStorage,
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    generate_uid,
)
from pynetdicom import AE, evt

from exporters.reference.phantom_series import SeriesTruth

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]

ROOT = Path(__file__).parent.parent.parent
STUDIES = 20
NAME, IDENTIFIER = "ZZMARKED^PATIENT", "ZZMARKEDID"
CONFIG = """
[database]
url = "sqlite:///node.db"
[spool]
folder = "spool"
reserve_mib = 16
[receiver]
port = {port}
[studies]
quiet_s = 2.0
[worker]
poll_s = 0.2
lease_s = 4.0
max_attempts = 60
retry_after_s = 0.2
[sender]
poll_s = 0.2
store_timeout_s = 3.0
lease_s = 6.0
retry_after_s = 0.2
[[sender.destinations]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = {pacs}
"""


@dataclass
class Pacs:
    """What the PACS received: SOP Instance UID -> (kind, referenced series), and how often."""

    objects: dict[str, tuple[str, str]] = field(default_factory=dict)
    times: Counter[str] = field(default_factory=Counter)
    former: dict[str, str] = field(default_factory=dict)  # the document that a document says it replaces

    def keep(self, event: Any) -> int:
        received = event.dataset
        if "PredecessorDocumentsSequence" in received:
            (former,) = received.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
            self.former[str(received.SOPInstanceUID)] = str(former.ReferencedSOPInstanceUID)
        kind = {Comprehensive3DSRStorage: "sr", SegmentationStorage: "seg", SecondaryCaptureImageStorage: "picture"}
        uid = str(received.SOPInstanceUID)
        self.objects[uid] = (kind[received.SOPClassUID], str(received.StudyInstanceUID))
        self.times[uid] += 1
        return 0x0000


class Node:
    """The three processes, each of which can be killed and comes back."""

    def __init__(self, folder: Path, port: int, pacs_port: int) -> None:
        self.folder, self.port = folder, port
        (folder / "node.toml").write_text(CONFIG.format(port=port, pacs=pacs_port))
        self.logs = {verb: (folder / f"{verb}.log").open("ab") for verb in ("receive", "work", "send")}
        self.processes = {verb: self._start(verb) for verb in self.logs}
        self.kills: Counter[str] = Counter()

    def _start(self, verb: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "dicom_node", "--config", str(self.folder / "node.toml"), verb]
        log = self.logs[verb]
        return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def kill(self, verb: str, stage: str) -> None:
        self.processes[verb].send_signal(signal.SIGKILL)
        self.processes[verb].wait()
        self.kills[f"{verb}: {stage}"] += 1
        self.processes[verb] = self._start(verb)

    def revive(self) -> None:
        for verb, process in self.processes.items():
            if process.poll() is not None:
                self.processes[verb] = self._start(verb)

    def stop(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for log in self.logs.values():
            log.close()

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        """Rows of the node's database, read from outside; none while there is no table yet."""
        with suppress(sqlite3.OperationalError):
            uri = f"file:{self.folder / 'node.db'}?mode=ro"
            with closing(sqlite3.connect(uri, uri=True, timeout=20)) as database:
                return database.execute(query).fetchall()
        return []

    def count(self, query: str) -> int:
        rows = self.ask(query)
        return int(rows[0][0]) if rows else 0


@dataclass
class Aftermath:
    """All that is left when the run has ended."""

    node: Node
    pacs: Pacs
    acknowledged: dict[str, str]  # SOP Instance UID -> SHA-256 of its pixels
    late_study: str
    results_before: list[tuple[Any, ...]]  # of the late study, before its late slice
    sr_before: set[str]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def copies(truth: SeriesTruth) -> list[list[Dataset]]:
    """The same scan, from the sacrum to L2, as twenty patients' studies."""
    slices = [dcmread(path) for path in truth.paths[:48]]
    studies = []
    for n in range(STUDIES):
        study, series, frame = generate_uid(), generate_uid(), generate_uid()
        copied = []
        for one in slices:
            copy = Dataset()
            copy.update(one)
            copy.StudyInstanceUID, copy.SeriesInstanceUID, copy.FrameOfReferenceUID = study, series, frame
            copy.SOPInstanceUID = generate_uid()
            copy.PatientName, copy.PatientID = NAME, f"{IDENTIFIER}{n}"
            copy.file_meta = one.file_meta
            copied.append(copy)
        studies.append(copied)
    return studies


def send_until_acknowledged(port: int, images: list[Dataset], acknowledged: dict[str, str], until: float) -> None:
    """What a patient sender does: what was not acknowledged is sent again."""
    waiting = list(images)
    while waiting and time.monotonic() < until:
        if not listens(port):
            time.sleep(0.1)
            continue
        ae = AE(ae_title="MODALITY")
        ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 5
        peer = ae.associate("127.0.0.1", port, ae_title="TRABECULA", max_pdu=131072)
        while peer.is_established and waiting:
            with suppress(RuntimeError, ValueError):
                answer = peer.send_c_store(waiting[0])
                if answer.get("Status") == 0x0000:
                    stored = waiting.pop(0)
                    acknowledged[str(stored.SOPInstanceUID)] = hashlib.sha256(stored.PixelData).hexdigest()
                    continue
            break
        if peer.is_established:
            peer.release()
        elif waiting:
            time.sleep(0.2)


def listens(port: int) -> bool:
    """Somebody is behind the door just now."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for(condition: Callable[[], bool], node: Node, timeout_s: float) -> None:
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        if condition():
            return
        node.revive()
        time.sleep(0.1)
    raise AssertionError(f"not reached in {timeout_s} s; kills so far: {dict(node.kills)}")


ENDED = "SELECT COUNT(*) FROM screening WHERE state IN ('done', 'set_aside')"
LEASED = "SELECT COUNT(*) FROM job WHERE state = 'leased'"
RESULTS = "SELECT COUNT(*) FROM result"
ON_THE_WAY = "SELECT COUNT(*) FROM outbox WHERE state = 'leased'"
SENT = "SELECT COUNT(*) FROM outbox WHERE state = 'sent'"
UNSENT = "SELECT COUNT(*) FROM outbox WHERE state IN ('ready', 'leased')"


def kill_at_every_stage(node: Node, acknowledged: dict[str, str], total: int) -> None:
    """SIGKILL each process in the middle of each thing that it does."""
    dice = random.Random(7)
    for share in (0.1, 0.3, 0.6):
        wait_for(lambda share=share: len(acknowledged) >= share * total, node, 90)  # type: ignore[misc]
        node.kill("receive", "while instances arrive")
    wait_for(lambda: len(acknowledged) >= 0.9 * total, node, 90)
    node.kill("receive", "before the last studies are whole")
    for delay in (0.02, 0.3, 0.8, 1.5):
        wait_for(lambda: node.count(LEASED) > 0, node, 90)
        time.sleep(delay * dice.uniform(0.7, 1.3))
        node.kill("work", f"about {delay} s after it took a job")
    outgoing = node.folder / "spool" / "outgoing"
    wait_for(lambda: len(list(outgoing.glob("*/*"))) > node.count(RESULTS), node, 90)
    node.kill("work", "when reports are written and the result is not")
    for n in (1, 4, 8):
        wait_for(lambda n=n: node.count(RESULTS) >= n, node, 90)  # type: ignore[misc]
        node.kill("work", "after a result")
        wait_for(lambda: node.count(ON_THE_WAY) > 0 or node.count(UNSENT) == 0, node, 60)
        node.kill("send", "while objects are on the way")


@pytest.fixture(scope="module")
def aftermath(tmp_path_factory: pytest.TempPathFactory, small_series: SeriesTruth) -> Iterator[Aftermath]:
    folder = tmp_path_factory.mktemp("chaos")
    pacs = Pacs()
    ae = AE(ae_title="PACS")
    for context in (Comprehensive3DSRStorage, SegmentationStorage, SecondaryCaptureImageStorage):
        ae.add_supported_context(context)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, pacs.keep)])
    port = free_port()
    node = Node(folder, port, server.socket.getsockname()[1])
    studies = copies(small_series)
    late = studies[0].pop()
    acknowledged: dict[str, str] = {}
    until = time.monotonic() + 200
    senders = [
        threading.Thread(
            target=send_until_acknowledged,
            args=(port, [image for study in studies[half::2] for image in study], acknowledged, until),
        )
        for half in (0, 1)
    ]
    try:
        for sender in senders:
            sender.start()
        kill_at_every_stage(node, acknowledged, sum(len(study) for study in studies))
        for sender in senders:
            sender.join()
        wait_for(lambda: node.count(ENDED) == STUDIES and node.count(UNSENT) == 0, node, 200)
        late_study = str(late.StudyInstanceUID)
        before = results_of(node, late_study)
        sr_before = {uid for uid, what in pacs.objects.items() if what == ("sr", late_study)}
        send_until_acknowledged(port, [late], acknowledged, time.monotonic() + 30)
        wait_for(lambda: len(results_of(node, late_study)) > len(before), node, 60)
        wait_for(lambda: node.count(ENDED) == STUDIES and node.count(UNSENT) == 0, node, 60)
        node.stop()
        yield Aftermath(node, pacs, acknowledged, late_study, before, sr_before)
    finally:
        node.stop()
        server.shutdown()


def results_of(node: Node, study_instance_uid: str) -> list[tuple[Any, ...]]:
    return node.ask(
        "SELECT r.revision, r.is_current FROM result r JOIN series s ON s.id = r.series_id "
        f"JOIN study t ON t.id = s.study_id WHERE t.study_instance_uid = '{study_instance_uid}' ORDER BY r.revision"
    )


def test_every_process_was_killed_at_every_stage(aftermath: Aftermath) -> None:
    killed = Counter(stage.partition(":")[0] for stage in aftermath.node.kills.elements())
    assert killed == {"receive": 4, "work": 8, "send": 3}


def test_every_acknowledged_instance_is_there_whole(aftermath: Aftermath) -> None:
    kept = {}
    for path in (aftermath.node.folder / "spool" / "incoming").rglob("*.dcm"):
        one = dcmread(path)
        kept[str(one.SOPInstanceUID)] = hashlib.sha256(one.PixelData).hexdigest()
    assert len(aftermath.acknowledged) >= STUDIES
    assert aftermath.acknowledged.items() <= kept.items()
    registered = {uid for (uid,) in aftermath.node.ask("SELECT sop_instance_uid FROM instance")}
    assert aftermath.acknowledged.keys() <= registered


def test_no_half_file_is_left(aftermath: Aftermath) -> None:
    aside = [path for path in (aftermath.node.folder / "spool" / "partial").rglob("*") if path.is_file()]
    assert [path.name for path in aside if path.name != ".lock"] == []


def test_every_series_ends_in_one_current_result_or_one_reason(aftermath: Aftermath) -> None:
    ends = aftermath.node.ask(
        "SELECT s.id, p.state, p.reason, "
        "(SELECT COUNT(*) FROM result r WHERE r.series_id = s.id AND r.is_current AND r.revision = s.revision) "
        "FROM series s LEFT JOIN screening p ON p.series_id = s.id"
    )
    assert len(ends) == STUDIES
    for _, state, reason, current in ends:
        assert (state, current, reason is None) in {("done", 1, True), ("set_aside", 0, False)}
    assert sum(state == "done" for _, state, _, _ in ends) == STUDIES


def test_nothing_died(aftermath: Aftermath) -> None:
    assert aftermath.node.count("SELECT COUNT(*) FROM job WHERE state = 'dead'") == 0
    assert aftermath.node.count("SELECT COUNT(*) FROM outbox WHERE state = 'dead'") == 0


def test_no_report_is_sent_under_two_uids(aftermath: Aftermath) -> None:
    uids = defaultdict(set)
    for uid, (kind, study) in aftermath.pacs.objects.items():
        uids[study, kind].add(uid)
    assert len({study for study, _ in uids}) == STUDIES
    for (study, _), sent in uids.items():
        assert len(sent) == (2 if study == aftermath.late_study else 1)


def test_what_the_outbox_calls_sent_is_at_the_pacs(aftermath: Aftermath) -> None:
    sent = {uid for (uid,) in aftermath.node.ask("SELECT sop_instance_uid FROM outbox WHERE state = 'sent'")}
    assert sent
    assert sent <= aftermath.pacs.objects.keys()


def test_a_late_slice_supersedes_the_result_which_is_kept(aftermath: Aftermath) -> None:
    assert [current for _, current in aftermath.results_before] == [1]
    after = results_of(aftermath.node, aftermath.late_study)
    assert [current for _, current in after] == [0, 1]
    assert after[0][0] < after[1][0]
    now = {uid for uid, what in aftermath.pacs.objects.items() if what == ("sr", aftermath.late_study)}
    (late,) = now - aftermath.sr_before
    assert {aftermath.pacs.former[late]} == aftermath.sr_before


def test_no_identity_is_in_logs_or_database(aftermath: Aftermath) -> None:
    looked_at = [*aftermath.node.folder.glob("*.log"), *aftermath.node.folder.glob("node.db*")]
    assert sum(path.stat().st_size for path in looked_at) > 10_000
    for path in looked_at:
        content = path.read_bytes().upper()
        assert b"ZZMARKED" not in content, path.name
