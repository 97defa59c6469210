"""
Many series at the same time: each stage of a program works on one while the others work on others.

A stage has a thread of its own, and what waits between two stages is bounded: no more series are under way than are
allowed, whatever the size of the archive. A series that can't be analysed is an answer, not the end.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from engine.errors import SeriesError
from engine.programs.stages import Stage, StagedProgram
from engine.records import Program, SeriesFailure, SeriesRef
from engine.volume import Analysis

Key = TypeVar("Key")
LEAVE_S = 5.0  # our choice: how long stages that are left may take to notice; a tile takes a second at most


@dataclass(frozen=True, slots=True)
class Work(Generic[Key]):
    """A series to analyse, and what its answer is to be known by."""

    key: Key
    program: Program
    series: SeriesRef


@dataclass(slots=True)
class _Passing(Generic[Key]):
    """One series under way."""

    key: Key
    program: StagedProgram[Any]
    case: Any


class Pipeline(Generic[Key]):
    """Programs whose stages work at the same time; models stay open from series to series."""

    def __init__(
        self, programs: Mapping[Program, StagedProgram[Any]], in_flight: int, told: Callable[[str], object] = str
    ) -> None:
        """Hold the programs.

        Args:
            in_flight: series under way at most; each holds its volume.
            told: called with the name of each stage when it begins to work, by that stage's thread.
        """
        self._programs = programs
        self._in_flight = in_flight
        self._told = told

    def run(self, source: Iterator[Work[Key] | None]) -> Generator[tuple[Key, Analysis | Exception], None, None]:
        """Take work while there is room, and yield what is ready, in the order in which it becomes ready.

        Args:
            source: asked in the caller's thread whenever there is room. None: nothing to take before something that
                is under way has ended; with nothing under way it is asked again at once. Its end: there is no more.

        Yields:
            the work's key with its analysis, or with the exception that it ended with, of whatever kind.

        Raises:
            DeploymentError: a person must act; what is under way is left.
        """
        finished: queue.SimpleQueue[tuple[_Passing[Key], Exception | None]] = queue.SimpleQueue()
        line = _Line(self._programs, finished, self._told)
        under_way, more = 0, True
        try:
            while more or under_way:
                while more and under_way < self._in_flight:
                    try:
                        work = next(source)
                    except StopIteration:
                        more = False
                        break
                    if work is not None:
                        program = self._programs[work.program]
                        line.put(work.program, _Passing(work.key, program, program.begin(work.series)))
                        under_way += 1
                    elif under_way:
                        break
                if under_way:
                    passed, failure = finished.get()
                    if failure is not None and passed.case is None:
                        raise failure  # a stage itself broke down
                    yield passed.key, _end(passed) if failure is None else failure
                    under_way -= 1
                    del passed
        finally:
            line.close()


def _end(passed: _Passing[Any]) -> Analysis | Exception:
    try:
        return passed.program.end(passed.case)
    except Exception as error:
        return error


class _Line(Generic[Key]):
    """The threads of all stages, and the queues between them."""

    def __init__(
        self,
        programs: Mapping[Program, StagedProgram[Any]],
        finished: "queue.SimpleQueue[tuple[_Passing[Key], Exception | None]]",
        told: Callable[[str], object],
    ) -> None:
        self._told = told
        self._left = threading.Event()
        self._finished = finished
        self._doors: dict[Program, list[queue.SimpleQueue[_Passing[Key] | None]]] = {}
        self._threads = []
        for kind, program in programs.items():
            stages = program.stages
            doors: list[queue.SimpleQueue[_Passing[Key] | None]] = [queue.SimpleQueue() for _ in stages]
            self._doors[kind] = doors
            for n, stage in enumerate(stages):
                after = doors[n + 1] if n + 1 < len(stages) else None
                thread = threading.Thread(
                    target=self._serve, args=(stage, doors[n], after), name=f"{kind} {stage.name}", daemon=True
                )
                thread.start()
                self._threads.append(thread)

    def put(self, program: Program, passing: _Passing[Key]) -> None:
        """Send a series on its way."""
        self._doors[program][0].put(passing)

    def close(self) -> None:
        """Let the threads end: at once where they wait, after their current work where they don't."""
        self._left.set()
        for doors in self._doors.values():
            for door in doors:
                door.put(None)
        until = time.monotonic() + LEAVE_S
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _serve(
        self,
        stage: Stage[Any],
        door: "queue.SimpleQueue[_Passing[Key] | None]",
        after: "queue.SimpleQueue[_Passing[Key] | None] | None",
    ) -> None:
        while (first := door.get()) is not None and not self._left.is_set():
            some = [first]
            with suppress(queue.Empty):
                while len(some) < stage.together and (another := door.get_nowait()) is not None:
                    some.append(another)
            try:
                self._told(stage.name)
                failures = stage.run([passing.case for passing in some])
            except Exception as broken:  # of the machine, or a bug of the stage itself: told where the line is run
                first.case = None
                self._finished.put((first, broken))
                return
            for passing, failure in zip(some, failures, strict=True):
                if failure is None and after is not None:
                    after.put(passing)
                else:
                    self._finished.put((passing, failure))
            del first, some, failures


def analyse_many(
    series: Iterable[SeriesRef], program: StagedProgram[Any], in_flight: int = 4
) -> Iterator[Analysis | SeriesFailure]:
    """Analyse series, several at the same time.

    Args:
        in_flight: series under way at most, those included whose turn to be told has not come.

    Yields:
        For each, in their order, its analysis, or why there is none. Only what is raised on purpose becomes a
        failure; a bug, or a machine that is set up wrongly, ends the batch.
    """
    awaited: deque[int] = deque()
    ready: dict[int, Analysis | Exception] = {}
    known: dict[int, SeriesRef] = {}

    def work() -> Iterator[Work[int] | None]:
        for n, one in enumerate(series):
            while len(awaited) >= in_flight:
                yield None
            awaited.append(n)
            known[n] = one
            yield Work(n, program.program, one)

    for number, outcome in Pipeline[int]({program.program: program}, in_flight).run(work()):
        ready[number] = outcome
        while awaited and awaited[0] in ready:
            n = awaited.popleft()
            yield _told(known.pop(n), ready.pop(n), program.program)


def _told(series: SeriesRef, outcome: Analysis | Exception, program: Program) -> Analysis | SeriesFailure:
    if isinstance(outcome, SeriesError):
        return SeriesFailure(
            series.study_instance_uid, series.series_instance_uid, program, outcome.reason, outcome.message
        )
    if isinstance(outcome, Exception):
        raise outcome
    return outcome
