"""A job that was taken ends in a result or a reason, or goes back; whatever happens on the way."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from pydicom import dcmread

from db import overview, queue, registry, schema
from db.connection import Database, DatabaseOptions, open_database
from db.migrate import upgrade
from dicom_node.report.options import ReportOptions
from dicom_node.spool import Spool, SpoolOptions
from dicom_node.worker import Worker, WorkerOptions, place_of
from engine.errors import AnatomyNotFound, BadOption, UnusableModel
from engine.loading.headers import read_header, series_of
from engine.options import read_options
from engine.programs.stages import Stage, each
from engine.programs.vertebral import VertebralOptions, VertebralProgram
from engine.records import Program, Reason, SeriesRef
from engine.runtime.backends import RuntimeOptions
from engine.volume import Analysis
from exporters.reference.phantom_series import SeriesTruth

KEY = b"a key of the tests, and no other"
QUICK: dict[str, Any] = {"poll_s": 0.05, "retry_after_s": 0.05, "lease_s": 30.0}


class Memory:
    """A node's database and spool, with one study of one selected series."""

    def __init__(self, folder: Path, series: SeriesTruth, slices: int | None = None) -> None:
        self.folder = folder
        self.database: Database = open_database(
            DatabaseOptions(f"sqlite:///{folder / 'memory.db'}", lock_timeout_s=0.5)
        )
        upgrade(self.database)
        self.spool = Spool(SpoolOptions(str(folder / "spool"), reserve_mib=1))
        self.paths = series.paths[:slices]
        self.series_instance_uid = series.series_instance_uid
        self.study_instance_uid = series.study_instance_uid
        self.take_in("")

    def take_in(self, suffix: str) -> str:
        """A study of one selected series, which a suffix to all its UIDs makes another; its series' UID."""
        arrivals = []
        for path in self.paths:
            header = read_header(path, KEY)
            header = replace(
                header,
                study_instance_uid=header.study_instance_uid + suffix,
                series_instance_uid=header.series_instance_uid + suffix,
                sop_instance_uid=header.sop_instance_uid + suffix,
            )
            stored = self.spool.store(header.sop_instance_uid, path.read_bytes() + suffix.encode())
            arrivals.append(registry.Arrival(header, str(stored.path), stored.size_bytes, stored.sha256))
        with self.database.begin() as connection:
            registry.register_instances(connection, arrivals)
            (due,) = registry.studies_due(connection, 0.0, 0.0)
            chosen = [registry.Selection(header.series_instance_uid, Program.VERTEBRAL, None)]
            assert registry.close_study(connection, due.study_instance_uid, due.revision, chosen, Program.VERTEBRAL)
        return header.series_instance_uid

    def worker(self, analyst: Any, **options: Any) -> Worker:
        return Worker(
            self.database,
            self.spool,
            {Program.VERTEBRAL: analyst},
            ("pacs", "viewer"),
            WorkerOptions(**(QUICK | options)),
            ReportOptions(),
        )

    def explained(self) -> overview.SeriesExplained:
        with self.database.read() as connection:
            study = overview.explain(connection, self.study_instance_uid)
        assert study is not None
        return study.series[0]

    def jobs(self) -> dict[str, Any]:
        """Every job by its series."""
        joined = sa.join(schema.job, schema.series, schema.job.c.series_id == schema.series.c.id)
        with self.database.read() as connection:
            rows = connection.execute(sa.select(schema.job, schema.series.c.series_instance_uid).select_from(joined))
            return {row.series_instance_uid: row for row in rows}

    def job(self) -> Any:
        with self.database.read() as connection:
            return connection.execute(sa.select(schema.job)).one()

    def close(self) -> None:
        self.spool.close()
        self.database.close()


@pytest.fixture
def memory(tmp_path: Path, small_series: SeriesTruth) -> Iterator[Memory]:
    """With a few slices, for tests that look at none."""
    made = Memory(tmp_path, small_series, slices=3)
    yield made
    made.close()


@pytest.fixture
def whole(tmp_path: Path, small_series: SeriesTruth) -> Iterator[Memory]:
    """With a series that can be analysed."""
    made = Memory(tmp_path, small_series)
    yield made
    made.close()


@pytest.fixture(scope="module")
def analysis(small_series: SeriesTruth) -> Analysis:
    """What the vertebral program makes of the series; once, as every repeat gives the same."""
    (series,) = series_of((read_header(path, KEY), str(path)) for path in small_series.paths)
    with VertebralProgram(VertebralOptions(), RuntimeOptions(threads=2)) as program:
        return program.analyse(series)


class Does:
    """A program that does what a test wants in the middle of an analysis."""

    program = Program.VERTEBRAL

    def __init__(self, act: Callable[[SeriesRef], Any]) -> None:
        self.act = act
        self.times = 0
        self.stages = (Stage("act", each(self._act)),)

    def begin(self, series: SeriesRef) -> Any:
        return SimpleNamespace(series=series, seconds=())

    def end(self, case: Any) -> Analysis:
        assert isinstance(case.done, Analysis)
        return case.done

    def _act(self, case: Any) -> None:
        self.times += 1
        case.done = self.act(case.series)


def repeat(analysis: Analysis) -> Callable[[SeriesRef], Any]:
    return lambda series: replace(analysis, series=series)


def fail_with(error: BaseException) -> Callable[[SeriesRef], Any]:
    def act(_: SeriesRef) -> Any:
        raise error

    return act


def sleep_s(seconds: float) -> None:
    """Not in one go, so that a signal is heeded as between two tiles."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.02)


def test_a_series_ends_in_a_result_whose_report_waits_for_every_destination(whole: Memory, analysis: Analysis):
    assert whole.worker(Does(repeat(analysis))).run(until_idle=True) == 1
    found = whole.explained()
    assert (found.state, found.job, found.reason) == ("done", "done", None)
    assert found.lines
    kinds = {kind for kind, _, _ in found.objects}
    assert {"sr", "picture"} <= kinds
    assert {(kind, name) for kind, name, _ in found.objects} == {(k, n) for k in kinds for n in ("pacs", "viewer")}
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


def test_heartbeats_keep_a_job_that_takes_longer_than_its_lease(memory: Memory):
    def be_slow(_: SeriesRef) -> Any:
        sleep_s(2.5)
        raise AnatomyNotFound(Reason.NO_VERTEBRA, "none")

    worker = memory.worker(Does(be_slow), lease_s=0.8)
    others: list[Any] = []

    def try_to_take_over() -> None:
        for _ in range(6):
            time.sleep(0.35)
            with memory.database.begin() as connection:
                queue.reap(connection)
                others.extend(queue.claim(connection, "other", 1, 30.0))

    rival = threading.Thread(target=try_to_take_over)
    rival.start()
    worker.run(until_idle=True)
    rival.join()
    assert others == []
    assert memory.explained().reason == "no_vertebra"


def test_who_lost_a_job_changes_nothing(memory: Memory):
    def lose(_: SeriesRef) -> Any:
        with memory.database.begin() as connection:
            connection.execute(sa.update(schema.job).values(lease_until=sa.func.strftime("%Y-%m-%d", "now", "-1 day")))
        with memory.database.begin() as connection:
            assert queue.reap(connection).ready == 1
            assert len(queue.claim(connection, "other", 1, 30.0)) == 1
        raise AnatomyNotFound(Reason.NO_VERTEBRA, "an outdated answer")

    worker = memory.worker(Does(lose))
    threading.Timer(1.0, worker.stop).start()
    worker.run()
    job = memory.job()
    assert (job.state, job.owner, job.attempts) == ("leased", "other", 2)
    assert memory.explained().reason is None


def test_a_stop_lets_the_current_job_end(memory: Memory):
    def stop_in_the_middle(_: SeriesRef) -> Any:
        worker.stop()
        raise AnatomyNotFound(Reason.NO_VERTEBRA, "none")

    worker = memory.worker(Does(stop_in_the_middle))
    assert worker.run() == 1
    assert memory.explained().reason == "no_vertebra"


def test_an_interrupted_job_goes_back_and_does_not_count(memory: Memory):
    worker = memory.worker(Does(lambda _: sleep_s(30)))
    before = signal.signal(signal.SIGALRM, lambda *_: (worker.stop(), worker.interrupt()))
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        began = time.monotonic()
        worker.run()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - began < 10
    job = memory.job()
    assert (job.state, job.attempts, job.owner) == ("ready", 0, None)


def test_a_machine_that_is_set_up_wrongly_gives_the_job_back_and_is_told(memory: Memory):
    with pytest.raises(UnusableModel, match="damaged"):
        memory.worker(Does(fail_with(UnusableModel("the model is damaged")))).run(until_idle=True)
    job = memory.job()
    assert (job.state, job.attempts) == ("ready", 0)


def test_a_database_that_is_locked_for_a_while_is_waited_for(memory: Memory):
    program = Does(fail_with(AnatomyNotFound(Reason.NO_VERTEBRA, "none")))
    worker = memory.worker(program)
    with closing(sqlite3.connect(memory.folder / "memory.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        thread = threading.Thread(target=worker.run)
        thread.start()
        time.sleep(1.2)
        assert program.times == 0
        other.execute("ROLLBACK")
    until = time.monotonic() + 10
    while memory.explained().state != "set_aside" and time.monotonic() < until:
        time.sleep(0.05)
    worker.stop()
    thread.join()
    assert memory.explained().reason == "no_vertebra"


HANGS = """
import sys, time
from pathlib import Path
from db.connection import DatabaseOptions, open_database
from dicom_node.report.options import ReportOptions
from dicom_node.spool import Spool, SpoolOptions
from dicom_node.worker import Worker, WorkerOptions
from engine.programs.stages import Stage, each
from engine.records import Program

class Hangs:
    stages = (Stage("hang", each(lambda case: time.sleep(1000))),)

    def begin(self, series):
        return series

folder = Path(sys.argv[1])
database = open_database(DatabaseOptions(f"sqlite:///{folder / 'memory.db'}"))
spool = Spool(SpoolOptions(str(folder / "spool"), reserve_mib=1))
options = WorkerOptions(lease_s=0.8, analysis_limit_s=1.0, poll_s=0.05)
Worker(database, spool, {Program.VERTEBRAL: Hangs()}, (), options, ReportOptions()).run()
"""


def test_an_analysis_that_hangs_ends_its_process_and_another_takes_over(memory: Memory):
    ran = subprocess.run([sys.executable, "-c", HANGS, str(memory.folder)], timeout=60, check=False)
    assert ran.returncode == os.EX_TEMPFAIL
    time.sleep(1.0)
    memory.worker(Does(fail_with(AnatomyNotFound(Reason.NO_VERTEBRA, "none")))).run(until_idle=True)
    found = memory.explained()
    assert (found.reason, found.attempts) == ("no_vertebra", 2)


def test_one_series_is_loaded_while_another_is_looked_at(memory: Memory):
    first, second = memory.series_instance_uid, memory.take_in(".2")
    meeting = threading.Barrier(2, timeout=20)

    def meet(uid: str) -> Callable[[Any], None]:
        return lambda case: meeting.wait() and None if case.series.series_instance_uid == uid else None

    def nothing(case: Any) -> None:
        raise AnatomyNotFound(Reason.NO_VERTEBRA, "none")

    program = Does(lambda _: None)
    program.stages = (Stage("load", each(meet(second))), Stage("look", each(meet(first))), Stage("end", each(nothing)))
    assert memory.worker(program).run(until_idle=True) == 2
    assert {job.state for job in memory.jobs().values()} == {"done"}


def test_a_job_that_was_attempted_before_is_alone_in_the_process(memory: Memory):
    poison = memory.series_instance_uid
    others = [memory.take_in(f".{n}") for n in range(2, 6)]
    with memory.database.begin() as connection:
        connection.execute(sa.update(schema.job).where(schema.job.c.id == memory.jobs()[poison].id).values(attempts=1))
    events: list[tuple[str, str]] = []

    def look(series: SeriesRef) -> Any:
        raise AnatomyNotFound(Reason.NO_VERTEBRA, "none")

    program = Does(look)
    worker = memory.worker(program)
    begin = program.begin
    program.begin = lambda series: events.append(("begin", series.series_instance_uid)) or begin(series)  # type: ignore[method-assign, func-returns-value]
    end = worker._end
    worker._end = lambda claim, outcome: (end(claim, outcome), events.append(("end", claim.series.series_instance_uid)))  # type: ignore[method-assign, assignment]
    assert worker.run(until_idle=True) == 5
    at = events.index(("begin", poison))
    begun, ended = ({uid for what, uid in events[:at] if what == word} for word in ("begin", "end"))
    assert begun == ended
    assert events[at + 1] == ("end", poison)
    assert {job.state for job in memory.jobs().values()} == {"done"}
    assert set(memory.jobs()) == {poison, *others}


def test_a_bug_fails_its_own_series_only(memory: Memory):
    ill, well = memory.series_instance_uid, memory.take_in(".2")

    def look(series: SeriesRef) -> Any:
        if series.series_instance_uid == ill:
            raise ZeroDivisionError
        raise AnatomyNotFound(Reason.NO_VERTEBRA, "none")

    memory.worker(Does(look), max_attempts=1).run(until_idle=True)
    jobs = memory.jobs()
    assert (jobs[ill].state, jobs[ill].attempts, jobs[ill].reason) == ("dead", 1, "analysis_failed")
    assert (jobs[well].state, jobs[well].attempts, jobs[well].reason) == ("done", 1, "no_vertebra")


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
