"""
Work to do: jobs with a lease and a fencing token.

A job is claimed for a while by the database's clock. A worker that dies loses its lease, and another takes over; a
worker that only seemed dead finds its token outdated and changes nothing. A job that was attempted before is claimed
alone, so that a series which kills its worker never takes others to the dead letters with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from db.schema import JobState
from engine.records import Program, Reason, SeriesRef

MAX_ATTEMPTS = 3  # our choice: twice may be bad luck
BACK_OFF_S = 10.0  # our choice: wait after the first failed attempt; doubles with each


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that one worker holds for a while."""

    job_id: int
    token: int  # outdated as soon as anybody else claims the job
    attempts: int  # this one included
    revision: int  # of the series
    program: Program
    series: SeriesRef


@dataclass(frozen=True, slots=True)
class Reaped:
    """What became of jobs, or objects, whose lease ran out."""

    ready: int
    dead: int


def claim(connection: sa.Connection, owner: str, limit: int, lease_s: float) -> tuple[Claim, ...]:
    """Take up to `limit` ready jobs; one that was attempted before comes alone. None: nothing to do now.

    Args:
        owner: who works, for people; host, process and something random.
    """
    raise NotImplementedError


def heartbeat(connection: sa.Connection, claims: Sequence[Claim], lease_s: float) -> tuple[Claim, ...]:
    """Extend leases.

    Returns:
        The claims that are still held; the others were lost, and what is done for them is in vain.
    """
    raise NotImplementedError


def fail(
    connection: sa.Connection,
    claim: Claim,
    message: str,
    reason: Reason = Reason.ANALYSIS_FAILED,
    max_attempts: int = MAX_ATTEMPTS,
    back_off_s: float = BACK_OFF_S,
) -> JobState:
    """An attempt failed for no reason of the series' own: try again later, or give up after `max_attempts`.

    Giving up sets the series aside with `reason`; `retry` brings it back. (A reason of the series' own, such as a
    SeriesError, is an answer: `results.complete` takes it.)

    Args:
        message: what went wrong; never patient data, never a path.
        back_off_s: before the second attempt, on average; doubles with each attempt.

    Returns:
        READY or DEAD; OBSOLETE if the claim was lost meanwhile, and nothing is changed.
    """
    raise NotImplementedError


def release(connection: sa.Connection, claims: Sequence[Claim]) -> int:
    """Give claims back untouched, as at an orderly stop; they do not count as attempts. Returns how many were held."""
    raise NotImplementedError


def reap(connection: sa.Connection, max_attempts: int = MAX_ATTEMPTS) -> Reaped:
    """Take back jobs whose lease ran out: ready again, or dead after `max_attempts`. Any process may call it."""
    raise NotImplementedError


def retry(connection: sa.Connection, series_instance_uid: str | None = None) -> int:
    """Make jobs ready that ended without a result.

    Args:
        series_instance_uid: its job, if it ended dead or with a reason that loading or analysis gave; None: all dead
            jobs.

    Returns:
        How many are ready again.
    """
    raise NotImplementedError
