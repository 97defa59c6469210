"""What a program is made of: stages that series pass one after the other, each with its own resource to keep busy."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Generic, Protocol, TypeVar

from engine.errors import DeploymentError
from engine.records import Program, SeriesRef
from engine.volume import Analysis


class Case(Protocol):
    """One series on its way; what the stages found out about it is the program's own matter."""

    series: SeriesRef
    seconds: tuple[tuple[str, float], ...]  # of each stage that it passed


Passing = TypeVar("Passing", bound=Case)


@dataclass(frozen=True, slots=True)
class Stage(Generic[Passing]):
    """One step of a program.

    `work` takes some cases a step further and tells for each what went wrong, if anything did. It is called by one
    thread at a time, beside the work of other stages.
    """

    name: str
    work: Callable[[Sequence[Passing]], list[Exception | None]]
    together: int = 1  # cases that it takes at once, where so many wait

    def run(self, cases: Sequence[Passing]) -> list[Exception | None]:
        """Work, and note how long it took; cases that share a call share its time."""
        begun = perf_counter()
        failures = self.work(cases)
        share = (perf_counter() - begun) / len(cases)
        for case in cases:
            case.seconds += ((self.name, share),)
        return failures


class StagedProgram(Protocol[Passing]):
    """A program whose models are open."""

    program: Program

    @property
    def stages(self) -> tuple[Stage[Passing], ...]:
        """Its stages, in the order of the trip."""
        ...

    def begin(self, series: SeriesRef) -> Passing:
        """A series before the first stage."""
        ...

    def end(self, case: Passing) -> Analysis:
        """What a series that passed all stages yields."""
        ...


def each(work: Callable[[Passing], object]) -> Callable[[Sequence[Passing]], list[Exception | None]]:
    """A stage's work from work on a single case."""

    def run(cases: Sequence[Passing]) -> list[Exception | None]:
        return [attempt(lambda: work(case)) for case in cases]  # noqa: B023  called at once

    return run


def attempt(work: Callable[[], object]) -> Exception | None:
    """Do something; the exception it ended with, or None.

    Raises:
        DeploymentError: that is nobody's own failure.
    """
    try:
        work()
    except DeploymentError:
        raise
    except Exception as error:
        return error
    return None
