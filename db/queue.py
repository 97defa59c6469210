"""
Work to do: jobs with a lease and a fencing token.

A job is claimed for a while by the database's clock. A worker that dies loses its lease, and another takes over; a
worker that only seemed dead finds its token outdated and changes nothing. A job that was attempted before is claimed
alone, so that a series which kills its worker never takes others to the dead letters with it.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from db.columns import utc_now, word
from db.events import tell
from db.live import is_backfilled
from db.schema import Change, JobState, SeriesState, instance, job, result, screening, series
from db.series import SeriesRow, has_forgotten, lock_series, obsolete_jobs, place, read_series, set_aside
from db.statements import rows_where_in
from engine.records import Program, Reason, SeriesRef

MAX_ATTEMPTS = 3  # our choice: twice may be bad luck
FORGOTTEN = "its received files were cleared before; send or fetch the series again"
LOST = "the lease ran out: the worker died or hung"
BACK_OFF_S = 10.0  # our choice: wait after the first failed attempt; doubles with each
AFTER_LIVE = 10  # our choice: priority of what a backfill fetched; what comes by itself has 0 and goes first


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that one worker holds for a while."""

    job_id: int
    token: int  # outdated as soon as anybody else claims the job
    attempts: int  # this one included
    revision: int  # of the series
    program: Program
    series: SeriesRef
    owner: str = ""  # who works


@dataclass(frozen=True, slots=True)
class Reaped:
    """What became of jobs, or objects, whose lease ran out."""

    ready: int
    dead: int


def enqueue(connection: sa.Connection, member: SeriesRow, program: Program) -> None:
    """See that a selected series is analysed once in this revision: by a new job, or as its job ended before.

    Args:
        member: locked, see `db.series.lock_series`.
    """
    ours = (job.c.series_id == member.id, job.c.program == program, job.c.revision == member.revision)
    before = connection.execute(sa.select(job.c.id, job.c.state, job.c.reason, job.c.detail).where(*ours)).first()
    if (before is None or not _is_current(connection, before.id)) and has_forgotten(connection, member.id):
        obsolete_jobs(connection, [member.id], program)
        set_aside(connection, member, program, Reason.PIXELS_CLEARED, FORGOTTEN, selected=True)
        return
    if before is None:
        priority = AFTER_LIVE if is_backfilled(connection, member.series_instance_uid) else 0
        fresh = {"series_id": member.id, "program": program, "revision": member.revision, "priority": priority}
        connection.execute(sa.insert(job).values(**fresh, token=0, **_ready_anew(), created_at=utc_now()))
    elif before.state in (JobState.READY, JobState.LEASED) or _is_current(connection, before.id):
        return
    elif before.state is JobState.OBSOLETE or before.reason is None:
        connection.execute(sa.update(job).where(job.c.id == before.id).values(**_ready_anew()))
    else:
        set_aside(connection, member, program, before.reason, before.detail, selected=True)
        return
    place(connection, [member.id], program, SeriesState.WAITING)
    tell(connection, "series", [member.series_instance_uid], Change.QUEUED)


def claim(connection: sa.Connection, owner: str, limit: int, lease_s: float) -> tuple[Claim, ...]:
    """Take up to `limit` ready jobs; one that was attempted before comes alone. None: nothing to do now.

    Args:
        owner: who works, for people; host, process and something random.
    """
    ready = connection.execute(
        sa.select(job.c.id, job.c.attempts)
        .where(job.c.state == word(JobState.READY), job.c.not_before <= utc_now())
        .order_by(job.c.priority, job.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    if not ready:
        return ()
    alone = ready[0].attempts > 0
    taken = [ready[0].id] if alone else [row.id for row in ready if row.attempts == 0]
    rows = connection.execute(
        sa.update(job)
        .where(job.c.id.in_(taken))
        .values(
            state=JobState.LEASED,
            owner=owner,
            attempts=job.c.attempts + 1,
            token=job.c.token + 1,
            lease_until=utc_now(lease_s),
        )
        .returning(job.c.id, job.c.series_id, job.c.token, job.c.attempts, job.c.revision, job.c.program)
    ).all()
    refs = read_series(connection, [row.series_id for row in rows])
    claims = (
        Claim(row.id, row.token, row.attempts, row.revision, row.program, refs[row.series_id], owner) for row in rows
    )
    return tuple(sorted(claims, key=lambda claimed: taken.index(claimed.job_id)))


def heartbeat(connection: sa.Connection, claims: Sequence[Claim], lease_s: float) -> tuple[Claim, ...]:
    """Extend leases.

    Returns:
        The claims that are still held; the others were lost, and what is done for them is in vain.
    """
    extended = connection.execute(
        sa.update(job).where(held(claims)).values(lease_until=utc_now(lease_s)).returning(job.c.id)
    )
    ids = set(extended.scalars())
    return tuple(claimed for claimed in claims if claimed.job_id in ids)


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
    members = lock_series(connection, series.c.series_instance_uid == claim.series.series_instance_uid)
    is_dead = claim.attempts >= max_attempts
    delay_s = back_off_s * 2 ** (claim.attempts - 1) * random.uniform(0.5, 1.5)  # jitter: not all at once again
    failed = connection.execute(
        sa.update(job)
        .where(held([claim]))
        .values(
            state=JobState.DEAD if is_dead else JobState.READY,
            owner=None,
            lease_until=None,
            not_before=utc_now(delay_s),
            reason=reason,
            detail=message,
            ended_at=utc_now() if is_dead else None,
        )
        .returning(job.c.series_id)
    ).scalar_one_or_none()
    if failed is None:
        return JobState.OBSOLETE
    tell(connection, "series", [claim.series.series_instance_uid], Change.ATTEMPT_FAILED, reason, message)
    if is_dead:
        set_aside(connection, members[0], claim.program, reason, message, selected=True)
    return JobState.DEAD if is_dead else JobState.READY


def release(connection: sa.Connection, claims: Sequence[Claim]) -> int:
    """Give claims back untouched, as at an orderly stop; they do not count as attempts. Returns how many were held."""
    back = connection.execute(
        sa.update(job)
        .where(held(claims))
        .values(state=JobState.READY, owner=None, lease_until=None, attempts=job.c.attempts - 1)
    )
    return back.rowcount


def reap(connection: sa.Connection, max_attempts: int = MAX_ATTEMPTS) -> Reaped:
    """Take back jobs whose lease ran out: ready again, or dead after `max_attempts`. Any process may call it."""
    expired = (job.c.state == word(JobState.LEASED)) & (job.c.lease_until < utc_now())
    locked = lock_series(connection, series.c.id.in_(sa.select(job.c.series_id).where(expired)))
    members = {member.id: member for member in locked}
    worn_out = connection.execute(
        sa.update(job)
        .where(expired, job.c.attempts >= max_attempts)
        .values(
            state=JobState.DEAD,
            owner=None,
            lease_until=None,
            ended_at=utc_now(),
            reason=Reason.ANALYSIS_FAILED,
            detail=LOST,
        )
        .returning(job.c.series_id, job.c.program)
    )
    dead = sorted(tuple(row) for row in worn_out)
    for series_id, program in dead:
        set_aside(connection, members[series_id], program, Reason.ANALYSIS_FAILED, LOST, selected=True)
    ready = connection.execute(
        sa.update(job)
        .where(expired, job.c.attempts < max_attempts)
        .values(state=JobState.READY, owner=None, lease_until=None, reason=Reason.ANALYSIS_FAILED, detail=LOST)
    )
    return Reaped(ready.rowcount, len(dead))


def retry(connection: sa.Connection, series_instance_uid: str | None = None, reason: Reason | None = None) -> int:
    """Make jobs ready that ended without a result; without anything to choose them by, all that are dead.

    Args:
        series_instance_uid: its job, if it ended dead or with a reason that loading or analysis gave.
        reason: jobs that ended with it, dead or not.

    Returns:
        How many are ready again.
    """
    ended = sa.and_(
        series.c.id == job.c.series_id,
        series.c.revision == job.c.revision,
        screening.c.series_id == job.c.series_id,
        screening.c.program == job.c.program,
        screening.c.state == SeriesState.SET_ASIDE,
        screening.c.reason == job.c.reason,
    )
    kept = ~sa.exists().where(instance.c.series_id == series.c.id, instance.c.cleared_at.is_not(None))
    ended = ended & kept
    wanted = job.c.state == JobState.DEAD
    if series_instance_uid is not None or reason is not None:
        wanted = job.c.state.in_((JobState.DEAD, JobState.DONE))
    if series_instance_uid is not None:
        wanted &= series.c.series_instance_uid == series_instance_uid
    if reason is not None:
        wanted &= job.c.reason == reason
    members = lock_series(connection, sa.exists().where(ended, wanted).correlate(series))
    query = sa.select(job.c.id, job.c.series_id, job.c.program).where(ended, wanted)
    again = rows_where_in(connection, query, series.c.id, [member.id for member in members])
    if not again:
        return 0
    one = sa.update(job).where(job.c.id == sa.bindparam("job_id")).values(**_ready_anew())
    connection.execute(one, [{"job_id": row.id} for row in again])
    for program in {row.program for row in again}:
        waiting = [row.series_id for row in again if row.program == program]
        place(connection, waiting, program, SeriesState.WAITING)
    tell(connection, "series", [member.series_instance_uid for member in members], Change.RETRIED)
    return len(again)


def _ready_anew() -> dict[str, Any]:
    """The columns of a job that nobody has tried yet; its token stays, so that no old claim comes to life."""
    return {
        "state": JobState.READY,
        "attempts": 0,
        "not_before": utc_now(),
        "reason": None,
        "detail": "",
        "ended_at": None,
    }


def held(claims: Sequence[Claim]) -> sa.ColumnElement[bool]:
    """The fence: jobs that are still leased under these claims' tokens."""
    fence = sa.tuple_(job.c.id, job.c.token).in_([(claimed.job_id, claimed.token) for claimed in claims])
    return fence & (job.c.state == JobState.LEASED)


def _is_current(connection: sa.Connection, job_id: int) -> bool:
    found = connection.execute(sa.select(result.c.id).where(result.c.job_id == job_id, result.c.is_current)).first()
    return found is not None
