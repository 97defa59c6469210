"""
Which files are needed no more, and the mark that they are gone.

Received files of a series go when every program has done with it: its result stands and has reached every destination
(and was committed to, where that is asked for), or it was set aside long ago for a reason that no second attempt
changes. Report objects go when every destination has them. What waits, failed for a fault of ours, or is a dead letter
is never touched. The mark and the deletion are one transaction, in which nothing is registered: a crash on the way
leaves files without a mark, or no file without a mark, and the next pass marks them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from db.columns import utc_now
from db.connection import Purpose, exclusive
from db.events import tell
from db.schema import (
    Change,
    FetchState,
    ObjectState,
    SeriesState,
    StudyState,
    backfill_series,
    instance,
    outbox,
    result,
    screening,
    series,
    study,
)
from db.series import lock_series
from engine.records import Reason

FAULTS_OF_OURS = (Reason.ANALYSIS_FAILED, Reason.REPORT_FAILED)
"""Ends that a second attempt may change."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How long what is finished is kept, seconds."""

    done_s: float  # after a result, sent to all
    set_aside_s: float  # after its study was closed
    reports_s: float  # after they were sent to all
    committing: tuple[str, ...] = ()  # destinations that must commit; to the others sent is sent


@dataclass(frozen=True, slots=True)
class Finished:
    """A series whose files may go."""

    id: int
    series_instance_uid: str


def finished_series(connection: sa.Connection, policy: Policy, limit: int) -> tuple[Finished, ...]:
    """Series whose received files are needed no more, those that ended first first."""
    rows = connection.execute(
        sa.select(series.c.id, series.c.series_instance_uid)
        .join(study)
        .where(_may_forget_images(policy))
        .order_by(study.c.closed_at, series.c.id)
        .limit(limit)
    )
    return tuple(Finished(*row) for row in rows)


def forget_images(connection: sa.Connection, finished: Finished, policy: Policy) -> tuple[str, ...]:
    """Mark the files of a series as gone, if it is still finished; nothing is registered until the transaction ends.

    Returns:
        Their paths, to be deleted before the transaction ends; none if the series is needed again.
    """
    exclusive(connection, Purpose.REGISTER)
    lock_series(connection, series.c.id == finished.id)
    still = sa.select(series.c.id).join(study).where(series.c.id == finished.id, _may_forget_images(policy))
    if connection.execute(still).first() is None:
        return ()
    paths = connection.execute(
        sa.update(instance)
        .where(instance.c.series_id == finished.id, instance.c.cleared_at.is_(None))
        .values(cleared_at=utc_now())
        .returning(instance.c.path)
    ).scalars()
    tell(connection, "series", [finished.series_instance_uid], Change.CLEARED)
    return tuple(paths)


def finished_reports(connection: sa.Connection, policy: Policy, limit: int) -> tuple[Finished, ...]:
    """Series whose report objects are needed no more."""
    query = sa.select(series.c.id, series.c.series_instance_uid).join(study).where(_may_forget_reports(policy))
    rows = connection.execute(query.order_by(series.c.id).limit(limit))
    return tuple(Finished(*row) for row in rows)


def forget_reports(connection: sa.Connection, finished: Finished, policy: Policy) -> tuple[str, ...]:
    """The same of report objects; a superseded one goes with the others."""
    lock_series(connection, series.c.id == finished.id)
    still = sa.select(series.c.id).join(study).where(series.c.id == finished.id, _may_forget_reports(policy))
    if connection.execute(still).first() is None:
        return ()
    mine = sa.select(result.c.id).where(result.c.series_id == finished.id)
    paths = connection.execute(
        sa.update(outbox)
        .where(outbox.c.result_id.in_(mine), outbox.c.cleared_at.is_(None))
        .values(cleared_at=utc_now())
        .returning(outbox.c.path)
    ).scalars()
    return tuple(sorted(set(paths)))


def cleared_at(connection: sa.Connection, paths: Sequence[str]) -> dict[str, datetime]:
    """When the files of those of the paths were cleared that should not be there; nothing is registered meanwhile."""
    exclusive(connection, Purpose.REGISTER)
    query = sa.select(instance.c.path, instance.c.cleared_at)
    rows = connection.execute(query.where(instance.c.path.in_(paths), instance.c.cleared_at.is_not(None)))
    return {row.path: row.cleared_at for row in rows}


def _may_forget_images(policy: Policy) -> sa.ColumnElement[bool]:
    ended = screening.alias("ended")
    done = (ended.c.state == SeriesState.DONE) & _result_is_everywhere(ended, policy)
    aside = (
        (ended.c.state == SeriesState.SET_ASIDE)
        & ended.c.reason.not_in(FAULTS_OF_OURS)
        & (study.c.closed_at <= utc_now(-policy.set_aside_s))
    )
    return (
        _is_at_rest()
        & sa.exists().where(instance.c.series_id == series.c.id, instance.c.cleared_at.is_(None))
        & sa.exists().where(ended.c.series_id == series.c.id)
        & ~sa.exists().where(ended.c.series_id == series.c.id, ~(done | aside))
    )


def _may_forget_reports(policy: Policy) -> sa.ColumnElement[bool]:
    mine = (outbox.c.result_id == result.c.id) & (result.c.series_id == series.c.id)
    busy = sa.exists().where(screening.c.series_id == series.c.id, screening.c.state == SeriesState.WAITING)
    return (
        _is_at_rest()
        & ~busy
        & sa.exists().where(mine, outbox.c.cleared_at.is_(None))
        & ~sa.exists().where(mine, ~_is_over(policy, policy.reports_s))
    )


def _result_is_everywhere(ended: sa.FromClause, policy: Policy) -> sa.ColumnElement[bool]:
    """There is a current result, old enough, and nothing of it is still to be sent or committed to."""
    current = sa.and_(result.c.series_id == ended.c.series_id, result.c.program == ended.c.program, result.c.is_current)
    return sa.exists().where(current, result.c.recorded_at <= utc_now(-policy.done_s)) & ~sa.exists().where(
        current, outbox.c.result_id == result.c.id, ~_is_over(policy, 0.0)
    )


def _is_over(policy: Policy, for_s: float) -> sa.ColumnElement[bool]:
    """An object of the outbox has been where it should go for so long, or is not wanted any more."""
    sent = outbox.c.state == ObjectState.SENT
    if policy.committing:
        sent &= outbox.c.destination.not_in(policy.committing)
    there = (sent | (outbox.c.state == ObjectState.COMMITTED)) & (outbox.c.sent_at <= utc_now(-for_s))
    return there | (outbox.c.state == ObjectState.SUPERSEDED)


def _is_at_rest() -> sa.ColumnElement[bool]:
    """Its study is closed, and no backfill is about to bring more."""
    fetching = sa.exists().where(
        backfill_series.c.series_instance_uid == series.c.series_instance_uid,
        backfill_series.c.state == FetchState.FETCHING,
    )
    return (study.c.state == StudyState.CLOSED) & ~fetching
