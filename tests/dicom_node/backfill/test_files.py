"""A folder tree is read from the past: only what serves, each file once, and on from where it was."""

import gc
import json
import multiprocessing
import os
import signal
from dataclasses import replace
from math import ceil
from pathlib import Path

import pytest
from pydicom.fileset import FileSet
from typer.testing import CliRunner

from db import backfill
from db.connection import DatabaseOptions, open_database
from db.schema import BackfillState
from dicom_node.backfill.estimate import estimate
from dicom_node.backfill.files import FolderSource, _file_id, file_source
from dicom_node.backfill.runner import Backfill
from dicom_node.cli import app
from dicom_node.spool import Spool, SpoolOptions
from engine.errors import BadOption, PeerError
from engine.records import Reason

from .conftest import KEY, QUICK, SELECTION, SLICES, MadeArchive, Memory, uid


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause before what is missing is asked for again."""
    monkeypatch.setattr("dicom_node.backfill.fetch.FIRST_PAUSE_S", 0.0)


WANTED = [uid(study, 1) for study in (1, 2, 3)]


def read(memory: Memory, path: Path) -> BackfillState:
    return Backfill(memory.database, memory.spool, KEY, file_source(path, KEY, SELECTION), QUICK).run()


def test_only_series_that_serve_are_read_and_each_is_a_row(memory: Memory, three_studies: MadeArchive):
    assert read(memory, three_studies.folder) is BackfillState.DONE
    assert memory.registered() == dict.fromkeys(WANTED, SLICES)
    states = memory.series()
    assert {name: states[name][:3] for name in WANTED} == dict.fromkeys(WANTED, ("done", None, SLICES))
    assert {states[uid(n, 2)][:2] for n in (1, 2, 3)} == {("skipped", Reason.BETTER_SERIES)}
    assert {states[uid(n, 3)][:2] for n in (1, 2, 3)} == {("skipped", Reason.NOT_CT)}


def test_neither_name_nor_number_nor_path_is_written_down(memory: Memory, three_studies: MadeArchive):
    read(memory, three_studies.folder)
    texts = memory.texts()
    assert "Marked" not in texts
    assert "ACC1" not in texts
    assert "study1" not in texts
    assert str(three_studies.folder) not in texts


def test_the_same_order_again_reads_nothing_again_and_finds_what_is_new(memory: Memory, copy: MadeArchive):
    read(memory, copy.folder)
    for path in copy.files[WANTED[0]]:
        path.unlink()  # whoever read it again would fail
    copy.add(4, 1)
    assert read(memory, copy.folder) is BackfillState.DONE
    assert memory.registered() == dict.fromkeys([*WANTED, uid(4, 1)], SLICES)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # pydicom leaves a folder behind
def test_a_dicomdir_names_its_files(memory: Memory, three_studies: MadeArchive, tmp_path: Path):
    listed = FileSet()
    for path in (*three_studies.files[WANTED[0]], *three_studies.files[WANTED[1]]):
        listed.add(path)
    listed.write(tmp_path / "medium")
    del listed
    gc.collect()
    assert read(memory, tmp_path / "medium" / "DICOMDIR") is BackfillState.DONE
    assert memory.registered() == dict.fromkeys(WANTED[:2], SLICES)


@pytest.mark.parametrize("hostile", ["..", "a/b", "", "x" * 100, "a\0b"])
def test_a_dicomdir_names_nothing_outside_its_folder(hostile: str):
    assert _file_id(["STUDY", hostile]) == ()
    assert _file_id(["STUDY", "IM000001"]) == ("STUDY", "IM000001")


def test_what_is_no_dicomdir_is_said(tmp_path: Path):
    (tmp_path / "DICOMDIR").write_bytes(b"rubbish")
    with pytest.raises(BadOption, match="no DICOMDIR"):
        file_source(tmp_path / "DICOMDIR", KEY, SELECTION)


def test_rubbish_among_files_is_accounted_for_and_stops_nothing(memory: Memory, copy: MadeArchive):
    (copy.folder / "study1" / "notes.txt").write_text("no DICOM")
    (copy.folder / "study1" / "cut.dcm").write_bytes(copy.files[WANTED[0]][0].read_bytes()[:200])
    (copy.folder / "study1" / "again.dcm").write_bytes(copy.files[WANTED[0]][0].read_bytes())
    assert read(memory, copy.folder) is BackfillState.DONE
    assert memory.registered()[WANTED[0]] == SLICES
    assert Reason.HEADER_UNREADABLE in memory.texts()


class Leaky(FolderSource):
    """Gives a share of what is asked for; after so many askings for a series, nothing."""

    def __init__(self, root: Path, askings: int = 100, share: float = 0.5) -> None:
        super().__init__(root, KEY, SELECTION)
        self._share = share
        self.asked: dict[str, list[int]] = {}
        self._askings = askings

    def fetch(self, part, study_uid, series_uid, uids, whole, take, go_on):  # type: ignore[no-untyped-def]
        asked = self.asked.setdefault(series_uid, [])
        asked.append(len(uids))
        if len(asked) > self._askings:
            raise PeerError("lost on the way")
        given = uids[: ceil(self._share * len(uids))]
        super().fetch(part, study_uid, series_uid, given, False, take, go_on)


def test_half_a_series_is_no_success_and_only_what_is_missing_is_asked_for_again(
    memory: Memory, copy: MadeArchive, at_once: None
):
    source = Leaky(copy.folder)
    order = Backfill(memory.database, memory.spool, KEY, source, replace(QUICK, attempts=9, immediate_retries=1))
    assert order.run() is BackfillState.DONE
    assert source.asked == {name: [12, 6, 3, 1] for name in WANTED}
    assert memory.series()[WANTED[0]] == ("done", None, SLICES, 2)
    assert memory.registered() == dict.fromkeys(WANTED, SLICES)


def test_a_series_that_never_comes_whole_is_given_up_and_no_other_waits(
    memory: Memory, copy: MadeArchive, at_once: None
):
    source = Leaky(copy.folder, 1)
    assert Backfill(memory.database, memory.spool, KEY, source, QUICK).run() is BackfillState.DONE
    assert source.asked == {name: [12, 6, 6, 6] for name in WANTED}  # twice at once, in each of two attempts
    assert {memory.series()[name] for name in WANTED} == {("dead", None, 6, 2)}
    assert "6 of 12 instances did not come: lost on the way" in memory.texts()
    with memory.database.begin() as connection:
        assert backfill.retry(connection, 1) == 3
    assert read(memory, copy.folder) is BackfillState.DONE
    assert memory.registered() == dict.fromkeys(WANTED, SLICES)


def test_pixels_that_are_cut_short_are_refused_with_a_reason_and_accounted_for(memory: Memory, copy: MadeArchive):
    last = copy.files[WANTED[1]][-1]
    last.write_bytes(last.read_bytes()[:-100])
    assert read(memory, copy.folder) is BackfillState.DONE
    assert memory.series()[WANTED[1]][:3] == ("done", None, SLICES - 1)
    assert Reason.PIXELS_UNREADABLE in memory.texts()


def test_a_dry_run_counts_and_keeps_nothing(memory: Memory, three_studies: MadeArchive):
    found = estimate(file_source(three_studies.folder, KEY, SELECTION), QUICK)
    assert (found.studies, found.wanted, found.instances) == (3, 3, 3 * SLICES)
    assert found.not_wanted == {"better_series": 3, "not_ct": 3}
    assert found.size_bytes > 0
    assert memory.series() == {}


@pytest.mark.parametrize("after", [1, SLICES, SLICES + 5])
def test_killed_at_any_moment_it_goes_on_and_loses_nothing(
    memory: Memory, three_studies: MadeArchive, tmp_path: Path, after: int
):
    """The child dies when so many instances are in the spool; some are registered by then, some are not."""
    child = multiprocessing.get_context("fork").Process(
        target=_read_and_die, args=(tmp_path, three_studies.folder, after)
    )
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    incoming = tmp_path / "spool" / "incoming"
    before = {path: path.stat().st_ino for path in incoming.glob("*/*.dcm")}
    assert len(before) == after
    assert sum(memory.registered().values()) < after
    source = Leaky(three_studies.folder, share=1.0)
    assert Backfill(memory.database, memory.spool, KEY, source, QUICK).run() is BackfillState.DONE
    assert memory.registered() == dict.fromkeys(WANTED, SLICES)
    now = {path: path.stat().st_ino for path in incoming.glob("*/*.dcm")}
    assert {path: now[path] for path in before} == before
    first_asked = sum(asked[0] for asked in source.asked.values())
    assert first_asked == 3 * SLICES - after  # nothing that was here is asked for again


def _read_and_die(folder: Path, archive: Path, after: int) -> None:
    database = open_database(DatabaseOptions(f"sqlite:///{folder / 'memory.db'}"))
    spool = Spool(SpoolOptions(folder=str(folder / "spool"), reserve_mib=0))
    store, count = spool.store, 0

    def dies(uid: str, content: bytes):  # type: ignore[no-untyped-def]
        nonlocal count
        stored = store(uid, content)
        count += 1
        if count == after:
            os.kill(os.getpid(), signal.SIGKILL)
        return stored

    spool.store = dies  # type: ignore[method-assign]
    Backfill(database, spool, KEY, file_source(archive, KEY, SELECTION), QUICK).run()


def test_by_the_command_line_it_is_told_how_far_an_order_is(
    tmp_path: Path, three_studies: MadeArchive, logs_as_before: None, signals_as_before: None
):
    config = tmp_path / "node.toml"
    config.write_text(
        "[spool]\nreserve_mib = 0\n"
        "[backfill]\nkeep_free_mib = 0\nlive_pause_s = 0.0\n"
        "[selection]\nmin_extent_mm = 10.0\n"
    )

    def told(*words: str) -> str:
        ran = CliRunner().invoke(app, ["--config", str(config), *words])
        assert ran.exit_code == 0, ran.output
        return ran.output

    counted = told("backfill", "folder", str(three_studies.folder), "--dry-run")
    assert "at most 3, 36 instances" in counted
    assert "20 slices a second over each of 2 associations, assumed, as nothing" in " ".join(counted.split())
    assert not (tmp_path / "trabecula.db").exists()
    assert "done" in told("backfill", "folder", str(three_studies.folder))
    counted = " ".join(told("backfill", "folder", str(three_studies.folder), "--dry-run").split())
    assert "associations, as measured here before" in counted
    assert "20 slices" not in counted
    (line,) = json.loads(told("backfill", "list", "--json"))
    assert (line["archive"], line["state"], line["series"]) == ("files", "done", {"done": 3, "skipped": 6})
    assert "skipped: 3 better_series, 3 not_ct" in " ".join(told("backfill", "list").split())
    assert json.loads(told("status", "--json"))["backfills"] == []  # it is done
    assert "tried again: 0" in told("backfill", "retry", "1")
