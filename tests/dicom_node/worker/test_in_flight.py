"""Several series are in flight at a time, and none takes its neighbours along."""

import threading
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from db import schema
from engine.errors import AnatomyNotFound
from engine.programs.stages import Stage, each
from engine.records import Reason, SeriesRef

from .workplace import Does, Memory


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
