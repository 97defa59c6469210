"""Many series, one after the other: a series that can't be analysed is an answer, not the end."""

from collections.abc import Iterable, Iterator
from typing import Protocol

from engine.errors import SeriesError
from engine.records import Program, SeriesFailure, SeriesRef
from engine.volume import Analysis


class ScreeningProgram(Protocol):
    """A program whose models are open."""

    program: Program

    def analyse(self, series: SeriesRef) -> Analysis:
        """Take one series from its files to its result; SeriesError if it can't be analysed."""
        ...


def analyse_many(series: Iterable[SeriesRef], program: ScreeningProgram) -> Iterator[Analysis | SeriesFailure]:
    """Analyse series in their order.

    Yields:
        For each its analysis, or why there is none. Only what is raised on purpose becomes a failure; a
        bug, or a machine that is set up wrongly, ends the batch.
    """
    for one in series:
        try:
            yield program.analyse(one)
        except SeriesError as error:
            yield SeriesFailure(
                one.study_instance_uid, one.series_instance_uid, program.program, error.reason, error.message
            )
