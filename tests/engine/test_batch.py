"""A batch answers for every series, in order, hides no bug, and holds no more than it may."""

import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest

from engine.batch import Pipeline, Work, analyse_many
from engine.errors import SeriesError, UndecodableSeries, UnusableModel
from engine.programs.stages import Stage, each
from engine.records import Program, Reason, SeriesFailure, SeriesRef

SERIES = SeriesRef(
    "1.1", "1.2", "0" * 32, None, None, None, None, "CT", (), None, None, None, (), None, None, False, None, False,
    True, "1.2.840.10008.1.2.1", None, None, (),
)  # fmt: skip


class Told:
    """A program of two stages that is told what happens to each series in the second."""

    program = Program.VERTEBRAL

    def __init__(self, together=1, **ends):
        self.ends = ends
        self.asked, self.calls = [], []
        self.stages = (Stage("first", each(self.first)), Stage("second", self.second, together=together))

    def begin(self, series):
        self.asked.append(series.series_instance_uid)
        return SimpleNamespace(series=series, seconds=())

    def first(self, case):
        case.end = self.ends.get(case.series.series_instance_uid, case.series)

    def second(self, cases):
        self.calls.append(len(cases))
        return [case.end if isinstance(case.end, Exception) else None for case in cases]

    def end(self, case):
        return case.end


def named(*uids):
    return [replace(SERIES, series_instance_uid=uid) for uid in uids]


@pytest.mark.parametrize("in_flight", [1, 2, 8])
@pytest.mark.parametrize("together", [1, 3])
def test_each_series_has_its_answer_in_order(in_flight, together):
    program = Told(together, b=UndecodableSeries(Reason.PIXELS_UNREADABLE, "a slice breaks off"))
    names = [*"abcdefghijkl"]
    answers = list(analyse_many(named(*names), program, in_flight))
    failure = SeriesFailure("1.1", "b", Program.VERTEBRAL, Reason.PIXELS_UNREADABLE, "a slice breaks off")
    assert answers == [failure if one.series_instance_uid == "b" else one for one in named(*names)]
    assert sum(program.calls) == len(names)
    assert max(program.calls) <= together


@pytest.mark.parametrize("end", [ZeroDivisionError("a bug"), MemoryError()])
def test_what_is_no_fault_of_the_series_ends_the_batch(end):
    answers = analyse_many(named("a", "b", "c"), Told(b=end))
    next(answers)
    with pytest.raises(type(end)):
        next(answers)


def test_a_machine_that_is_set_up_wrongly_ends_the_batch():
    program = Told()
    program.stages = (Stage("load", each(lambda case: (_ for _ in ()).throw(UnusableModel("gone")))),)
    with pytest.raises(UnusableModel, match="gone"):
        list(analyse_many(named("a", "b", "c"), program))


@pytest.mark.parametrize("in_flight", [1, 3])
def test_no_more_series_are_under_way_than_are_allowed(in_flight):
    program = Told()
    answers = analyse_many(named(*"abcdefgh"), program, in_flight)
    assert program.asked == []
    for n, _ in enumerate(answers, start=1):
        assert len(program.asked) < n + in_flight


def test_stages_work_at_the_same_time():
    """The first stage's second series waits for the first series to arrive in the second stage, and the other way."""
    meeting = threading.Barrier(2, timeout=20)
    program = Told()
    program.stages = (
        Stage("first", each(lambda case: case.series.series_instance_uid == "b" and meeting.wait())),
        Stage("second", each(lambda case: case.series.series_instance_uid == "a" and meeting.wait())),
    )
    program.end = lambda case: case.series
    assert list(analyse_many(named("a", "b"), program, 2)) == named("a", "b")


def test_answers_come_as_they_are_ready_and_a_source_that_has_nothing_is_asked_again():
    released = threading.Event()
    program = Told()
    program.stages = (Stage("only", each(lambda case: released.wait(20))),)
    program.end = lambda case: case.series
    asked = []

    def source():
        yield Work(1, Program.VERTEBRAL, named("a")[0])
        asked.append("nothing yet")
        released.set()
        yield None
        asked.append("again")
        yield Work(2, Program.VERTEBRAL, named("b")[0])

    pipeline = Pipeline({Program.VERTEBRAL: program}, 4)
    assert [key for key, _ in pipeline.run(source())] == [1, 2]
    assert asked == ["nothing yet", "again"]


def test_a_pipeline_that_is_left_leaves_no_thread_behind():
    before = threading.active_count()
    answers = analyse_many(named(*"abcdef"), Told(), 3)
    next(answers)
    answers.close()
    assert threading.active_count() == before


def test_every_series_error_has_a_reason_that_survives():
    for kind in SeriesError.__subclasses__():
        (failure,) = analyse_many(named("a"), Told(a=kind(Reason.LEVEL_GAP, "why")))
        assert (failure.reason, failure.message) == (Reason.LEVEL_GAP, "why")
