"""A batch answers for every series, in order, and hides no bug."""

from dataclasses import replace

import pytest

from engine.batch import analyse_many
from engine.errors import SeriesError, UndecodableSeries, UnusableModel
from engine.records import Program, Reason, SeriesFailure, SeriesRef

SERIES = SeriesRef(
    "1.1", "1.2", "0" * 32, None, None, None, None, "CT", (), None, None, None, (), None, None, False, None, False,
    True, "1.2.840.10008.1.2.1", None, None, (),
)  # fmt: skip


class Told:
    """A program that is told what happens to each series."""

    program = Program.VERTEBRAL

    def __init__(self, **ends):
        self.ends = ends
        self.asked = []

    def analyse(self, series):
        self.asked.append(series.series_instance_uid)
        end = self.ends.get(series.series_instance_uid, series)
        if isinstance(end, Exception):
            raise end
        return end


def named(*uids):
    return [replace(SERIES, series_instance_uid=uid) for uid in uids]


def test_each_series_has_its_answer_in_order():
    program = Told(b=UndecodableSeries(Reason.PIXELS_UNREADABLE, "a slice breaks off"))
    first, second, third = analyse_many(named("a", "b", "c"), program)
    assert (first, third) == tuple(named("a", "c"))
    assert second == SeriesFailure("1.1", "b", Program.VERTEBRAL, Reason.PIXELS_UNREADABLE, "a slice breaks off")


@pytest.mark.parametrize("end", [ZeroDivisionError("a bug"), UnusableModel("gone"), MemoryError()])
def test_what_is_no_fault_of_the_series_ends_the_batch(end):
    answers = analyse_many(named("a", "b", "c"), Told(b=end))
    next(answers)
    with pytest.raises(type(end)):
        next(answers)


def test_a_batch_takes_no_series_before_it_is_asked():
    program = Told()
    answers = analyse_many(iter(named("a", "b", "c")), program)
    assert program.asked == []
    next(answers)
    assert program.asked == ["a"]


def test_every_series_error_has_a_reason_that_survives():
    for kind in SeriesError.__subclasses__():
        (failure,) = analyse_many(named("a"), Told(a=kind(Reason.LEVEL_GAP, "why")))
        assert (failure.reason, failure.message) == (Reason.LEVEL_GAP, "why")
