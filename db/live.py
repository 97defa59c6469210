"""
Backfills beside what comes by itself and what is analysed: who waits for whom.
"""

import sqlalchemy as sa

from db.columns import utc_now, word
from db.schema import BackfillState, FetchState, StudyState, backfill, backfill_series, job, study
from db.schema import JobState as Job

ALIVE_S = 120.0  # our choice: a process that gave no sign for so long is gone


def is_being_fetched(study_instance_uid: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    """Whether a backfill that is alive has begun to fetch a series of a study, and is not through with it."""
    begun = (backfill_series.c.state == FetchState.FETCHING) | (
        (backfill_series.c.state == FetchState.WAITING) & (backfill_series.c.attempts > 0)
    )
    alive = (backfill.c.state == BackfillState.OPEN) & (backfill.c.seen_at > utc_now(-ALIVE_S))
    return sa.exists().where(
        backfill_series.c.study_instance_uid == study_instance_uid,
        backfill.c.id == backfill_series.c.backfill_id,
        begun,
        alive,
    )


def is_backfilled(connection: sa.Connection, series_instance_uid: str) -> bool:
    """Whether a series came, or will come, by a backfill."""
    query = sa.select(backfill_series.c.id).where(
        backfill_series.c.series_instance_uid == series_instance_uid, backfill_series.c.state != FetchState.SKIPPED
    )
    return connection.execute(query.limit(1)).first() is not None


def is_live(connection: sa.Connection, within_s: float) -> bool:
    """Whether something came within so many seconds that no backfill had asked for."""
    ours = sa.exists().where(
        backfill_series.c.study_instance_uid == study.c.study_instance_uid,
        backfill_series.c.state != FetchState.SKIPPED,
    )
    query = sa.select(study.c.id).where(
        study.c.state == word(StudyState.RECEIVING), study.c.last_received_at > utc_now(-within_s), ~ours
    )
    return connection.execute(query.limit(1)).first() is not None


def count_unread(connection: sa.Connection) -> int:
    """Series that wait to be analysed."""
    query = sa.select(sa.func.count()).select_from(job).where(job.c.state == word(Job.READY))
    return connection.execute(query).scalar_one()
