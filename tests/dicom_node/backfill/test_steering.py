"""A person steers an order that runs in another process: sees it, pauses it, lets it go on."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from threading import Event

import pytest
from pydicom.uid import MRImageStorage
from typer.testing import CliRunner

from db.schema import BackfillState
from dicom_node.backfill.files import file_source
from dicom_node.backfill.runner import Backfill
from dicom_node.cli import app

from .conftest import KEY, QUICK, SELECTION, SLICES, MadeArchive, Memory, uid
from .peer import Peer

ROOT = Path(__file__).parents[3]
SOON = 60.0
CONFIG = """
[spool]
reserve_mib = 0
[selection]
min_extent_mm = 10.0
[backfill]
keep_free_mib = 0
live_pause_s = 0.0
associations = 1
answer_timeout_s = 600.0
poll_s = 0.05
[[backfill.archives]]
name = "peer"
ae_title = "ARCHIVE"
host = "127.0.0.1"
port = {port}
"""


@pytest.mark.usefixtures("logs_as_before")
def test_an_order_is_seen_paused_and_resumed_from_beside(tmp_path: Path, three_studies: MadeArchive):
    reached, over = Event(), Event()

    def stall(series: str) -> None:
        if series == uid(2, 1) and not over.is_set():
            reached.set()
            over.wait(SOON)

    def told(*words: str) -> str:
        ran = CliRunner().invoke(app, ["--config", str(config), *words])
        assert ran.exit_code == 0, ran.output
        return " ".join(ran.output.split())

    def until(state: str, series: dict[str, int]) -> dict[str, object]:
        pause = Event()
        for _ in range(int(SOON / 0.1)):
            (line,) = json.loads(told("status", "--json"))["backfills"]
            if (line["state"], line["series"]) == (state, series | {"skipped": 6}):
                return dict(line)
            pause.wait(0.1)
        raise AssertionError(line)

    peer = Peer(three_studies, stall)
    config = tmp_path / "node.toml"
    config.write_text(CONFIG.format(port=peer.archive().port))
    words = ["backfill", "archive", "peer", "--since", "2026-03-01", "--until", "2026-03-03", "--config", str(config)]
    process = subprocess.Popen(
        [sys.executable, "-m", "dicom_node", *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert reached.wait(SOON)
        line = until("open", {"done": 1, "fetching": 1, "waiting": 1})
        assert (line["is_running"], line["detail"]) == (True, "fetching")
        told("backfill", "pause", "1")
        until("paused", {"done": 1, "waiting": 2})  # what it was fetching is left where it is
        assert "paused by a person" in told("status")
        over.set()
        assert peer.was_left.wait(SOON)
        asked = list(peer.asked)
        told("backfill", "resume", "1")
        output, errors = process.communicate(timeout=SOON)
    finally:
        over.set()
        process.kill()
        process.communicate()
        peer.stop()
    assert process.returncode == 0, errors
    assert "done; 'trabecula backfill list' tells what came of it" in " ".join(output.split())
    assert sorted(peer.asked[len(asked) :]) == [uid(2, 1), uid(3, 1)]
    (line,) = json.loads(told("backfill", "list", "--json"))
    assert (line["state"], line["series"], line["instances"]) == ("done", {"done": 3, "skipped": 6}, 3 * SLICES)


@pytest.mark.usefixtures("logs_as_before")
def test_a_list_is_of_any_modality_unless_one_is_named(tmp_path: Path, made: MadeArchive):
    made.add(1, 1)
    made.add(4, 1, slices=1, Modality="MR", SOPClassUID=MRImageStorage)
    (tmp_path / "list.csv").write_text("AccessionNumber\nACC1\nACC4\n")
    peer = Peer(made)
    config = tmp_path / "node.toml"
    config.write_text(CONFIG.format(port=peer.archive().port))

    def counted(*more: str) -> str:
        words = ["--config", str(config), "backfill", "archive", "peer", "--csv", str(tmp_path / "list.csv")]
        ran = CliRunner().invoke(app, [*words, "--dry-run", *more])
        assert ran.exit_code == 0, ran.output
        return " ".join(ran.output.split())

    try:
        assert "studies 2 series wanted at most 1, 12 instances series not wanted 1 (1 not_ct)" in counted()
        assert "studies 1 series wanted at most 1, 12 instances series not wanted 0" in counted("--modality", "CT")
    finally:
        peer.stop()


def test_folders_that_waited_and_are_not_there_any_more_are_told(memory: Memory, made: MadeArchive, caplog):
    """A share that is not mounted looks like that."""
    made.add(1, 1)
    made.add(2, 1)
    orders = [
        Backfill(memory.database, memory.spool, KEY, file_source(made.folder, KEY, SELECTION), QUICK) for _ in "12"
    ]
    orders[0].stop()
    assert orders[0].run() is BackfillState.OPEN
    shutil.rmtree(made.folder / "study2")
    assert orders[1].run() is BackfillState.DONE
    assert "1 parts that waited to be searched are not there any more" in caplog.text
