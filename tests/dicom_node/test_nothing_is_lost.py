"""
Receiver, worker and sender are killed at every stage of a run; nothing is lost, and nothing is said twice.

Twenty studies go in over real sockets while the three processes are ended by SIGKILL again and again; then a
late slice arrives. The tests below look at what is left: the spool, the database, the PACS, the logs.
"""

import hashlib
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.uid import (
    Comprehensive3DSRStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)
from pynetdicom import AE, evt

from exporters.reference.phantom_series import SeriesTruth

from .foreign import free_port
from .killed_node import ENDED, LEASED, ON_THE_WAY, RESULTS, UNSENT, Node, Pacs, wait_for
from .modality import STUDIES, copies, send_until_acknowledged

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]


@dataclass
class Aftermath:
    """All that is left when the run has ended."""

    node: Node
    pacs: Pacs
    acknowledged: dict[str, str]  # SOP Instance UID -> SHA-256 of its pixels
    late_study: str
    results_before: list[tuple[Any, ...]]  # of the late study, before its late slice
    sr_before: set[str]


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
