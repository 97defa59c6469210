"""A job that was taken ends in a result, a reason or a dead letter."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydicom import dcmread

from db import queue, schema
from dicom_node.worker import WorkerOptions, place_of
from engine.errors import AnatomyNotFound, BadOption
from engine.loading.headers import read_header, series_of
from engine.options import read_options
from engine.programs.vertebral import VertebralOptions, VertebralProgram
from engine.records import Reason, SeriesRef
from engine.runtime.backends import RuntimeOptions
from engine.volume import Analysis
from exporters.reference.phantom_series import SeriesTruth

from .workplace import KEY, Does, Memory, fail_with, repeat


@pytest.fixture(scope="module")
def analysis(small_series: SeriesTruth) -> Analysis:
    """What the vertebral program makes of the series; once, as every repeat gives the same."""
    (series,) = series_of((read_header(path, KEY), str(path)) for path in small_series.paths)
    with VertebralProgram(VertebralOptions(), RuntimeOptions(threads=2)) as program:
        return program.analyse(series)


def test_a_series_ends_in_a_result_whose_report_waits_for_every_destination(whole: Memory, analysis: Analysis):
    assert whole.worker(Does(repeat(analysis))).run(until_idle=True) == 1
    found = whole.explained()
    assert (found.state, found.job, found.reason) == ("done", "done", None)
    assert found.lines
    kinds = {kind for kind, *_ in found.objects}
    assert {"sr", "picture"} <= kinds
    assert {(kind, name) for kind, name, *_ in found.objects} == {(k, n) for k in kinds for n in ("pacs", "viewer")}
    with whole.database.read() as connection:
        paths = connection.execute(sa.select(schema.outbox.c.path, schema.outbox.c.sop_instance_uid)).all()
    outgoing = whole.spool.folder / "outgoing"
    for path, uid in paths:
        assert dcmread(path).SOPInstanceUID == uid
        assert Path(path).is_relative_to(outgoing)


def test_a_repeat_writes_the_same_objects(whole: Memory, analysis: Analysis):
    whole.worker(Does(repeat(analysis))).run(until_idle=True)
    first = sorted(path.name for path in (whole.spool.folder / "outgoing").rglob("*.dcm"))
    with whole.database.begin() as connection:  # as if the worker had died before the result was written down
        for table in reversed(schema.metadata.sorted_tables):
            if table is schema.result or "result_id" in table.c:
                connection.execute(sa.delete(table))
        connection.execute(sa.update(schema.job).values(state="ready"))
        connection.execute(sa.update(schema.screening).values(state="waiting"))
    assert whole.worker(Does(repeat(analysis))).run(until_idle=True) == 1
    assert sorted(path.name for path in (whole.spool.folder / "outgoing").rglob("*.dcm")) == first
    assert whole.explained().state == "done"


def test_a_reason_of_the_series_is_an_answer_and_not_tried_again(memory: Memory):
    program = Does(fail_with(AnatomyNotFound(Reason.LEVEL_UNCERTAIN, "no anchor in view")))
    assert memory.worker(program).run(until_idle=True) == 1
    found = memory.explained()
    assert (found.state, found.reason, found.detail) == ("set_aside", "level_uncertain", "no anchor in view")
    assert (found.job, found.attempts, program.times) == ("done", 1, 1)


def test_what_nobody_foresaw_is_tried_again_and_then_becomes_a_dead_letter(memory: Memory):
    program = Does(fail_with(ZeroDivisionError("Doe^Jane was divided")))
    worker = memory.worker(program, max_attempts=3)
    until = time.monotonic() + 10
    while memory.job().state != "dead" and time.monotonic() < until:
        worker.run(until_idle=True)
        time.sleep(0.05)
    found = memory.explained()
    assert (found.state, found.reason, found.job) == ("set_aside", "analysis_failed", "dead")
    assert found.attempts == program.times == 3
    assert "ZeroDivisionError in engine.programs.stages:" in found.detail
    assert "Doe" not in found.detail


def test_a_dead_letter_can_be_retried_by_a_person(memory: Memory):
    memory.worker(Does(fail_with(ZeroDivisionError())), max_attempts=1).run(until_idle=True)
    assert memory.job().state == "dead"
    with memory.database.begin() as connection:
        assert queue.retry(connection) == 1
    memory.worker(Does(fail_with(AnatomyNotFound(Reason.NO_VERTEBRA, "none")))).run(until_idle=True)
    assert memory.explained().reason == "no_vertebra"


def lose(paths: list[Path]) -> None:
    paths[len(paths) // 2].unlink()


def swap_patient(paths: list[Path]) -> None:
    one = dcmread(paths[len(paths) // 2])
    one.PatientID = "another"
    one.save_as(paths[len(paths) // 2])


@pytest.mark.parametrize(("change", "reason"), [(lose, "file_missing"), (swap_patient, "report_failed")])
def test_a_report_that_can_t_be_written_is_a_typed_end(
    whole: Memory, analysis: Analysis, change: Callable[[list[Path]], None], reason: str
):
    def analyse_and_change_the_files(series: SeriesRef) -> Analysis:
        change([Path(instance.path) for instance in series.instances])
        return replace(analysis, series=series)

    whole.worker(Does(analyse_and_change_the_files)).run(until_idle=True)
    found = whole.explained()
    assert (found.state, found.reason) == ("set_aside", reason)
    assert not found.lines
    assert not found.objects


def test_a_place_is_told_without_words():
    with pytest.raises(TypeError) as caught:
        series_of(None)  # type: ignore[arg-type]
    assert place_of(caught.value).startswith("engine.series:")


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"max_attempts": 0}, "max_attempts"),
        ({"lease_s": 0.0}, "lease_s"),
        ({"processes": -1}, "processes"),
        ({"in_flight": 0}, "in_flight"),
        ({"stop_grace_s": -1.0}, "negative"),
        ({"leases_s": 1.0}, "did you mean 'worker.lease_s'"),
    ],
)
def test_options_without_meaning_are_refused(table: dict[str, object], said: str):
    with pytest.raises(BadOption, match=said):
        read_options(WorkerOptions, table, "worker")
