"""
How backfills stand, for people: counts, rates, and what is left.
"""

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from db.columns import utc_now, word
from db.live import ALIVE_S
from db.schema import BackfillState, FetchState, PartState, backfill, backfill_part, backfill_series

STOPPED = "stopped; the same order goes on"
RATE_OVER_S = 900.0  # our choice: the rate is of what ended in so many seconds
MEASURED_SERIES = 200  # our choice: the last so many of an archive say how fast it is
FEWEST_INSTANCES = 10  # our choice: in fewer, asking and listing take longer than fetching


@dataclass(frozen=True, slots=True)
class BackfillLine:
    """How an order stands, for people."""

    id: int
    archive: str
    said: str
    state: BackfillState
    is_running: bool  # a process gave a sign lately
    detail: str
    parts: dict[str, int]  # by state
    series: dict[str, int]  # by state
    skipped: dict[str, int]  # by reason
    dead: dict[str, int]  # by detail
    instances: int
    size_bytes: int
    series_per_hour: float | None  # None: nothing ended lately
    seconds_left: float | None  # at that rate, if the parts that wait hold as many series as those that were searched


def backfills(connection: sa.Connection, with_done: bool = True) -> tuple[BackfillLine, ...]:
    """How every order stands, the oldest first."""
    query = sa.select(backfill, (backfill.c.seen_at > utc_now(-ALIVE_S)).label("is_alive")).order_by(backfill.c.id)
    if not with_done:
        query = query.where(backfill.c.state != BackfillState.DONE)
    return tuple(_line(connection, row) for row in connection.execute(query).all())


def measured_rate(connection: sa.Connection, archive: str) -> float | None:
    """Instances a second over one association, of the series that were fetched last from an archive; None: there are
    none. Series whose instances were all here, and those of a few large ones, say nothing of that."""
    last = (
        sa.select(backfill_series.c.received, backfill_series.c.seconds)
        .join(backfill, backfill.c.id == backfill_series.c.backfill_id)
        .where(
            backfill.c.archive == archive,
            backfill_series.c.state == word(FetchState.DONE),
            backfill_series.c.received >= FEWEST_INSTANCES,
            backfill_series.c.size_bytes > 0,
            backfill_series.c.seconds > 0,
        )
        .order_by(backfill_series.c.id.desc())
        .limit(MEASURED_SERIES)
        .subquery()
    )
    received, seconds = connection.execute(sa.select(sa.func.sum(last.c.received), sa.func.sum(last.c.seconds))).one()
    return None if not seconds else float(received / seconds)


def _line(connection: sa.Connection, row: Any) -> BackfillLine:
    mine = backfill_series.c.backfill_id == row.id
    series_by = _by(connection, backfill_series.c.state, mine)
    instances, size_bytes = connection.execute(
        sa.select(sa.func.sum(backfill_series.c.received), sa.func.sum(backfill_series.c.size_bytes)).where(mine)
    ).one()
    parts = _by(connection, backfill_part.c.state, backfill_part.c.backfill_id == row.id)
    rate = _rate(connection, mine)
    left: float = series_by.get(FetchState.WAITING, 0) + series_by.get(FetchState.FETCHING, 0)
    if searched := parts.get(PartState.SEARCHED, 0):
        wanted = sum(series_by.values()) - series_by.get(FetchState.SKIPPED, 0)
        left += parts.get(PartState.WAITING, 0) * wanted / searched
    return BackfillLine(
        id=row.id,
        archive=row.archive,
        said=row.said,
        state=row.state,
        is_running=row.state is not BackfillState.DONE and bool(row.is_alive) and row.detail != STOPPED,
        detail=row.detail,
        parts=parts,
        series=series_by,
        skipped=_by(connection, backfill_series.c.reason, mine, backfill_series.c.state == FetchState.SKIPPED),
        dead=_by(connection, backfill_series.c.detail, mine, backfill_series.c.state == FetchState.DEAD),
        instances=int(instances or 0),
        size_bytes=int(size_bytes or 0),
        series_per_hour=rate,
        seconds_left=None if rate is None else left * 3600.0 / rate,
    )


def _rate(connection: sa.Connection, mine: sa.ColumnElement[bool]) -> float | None:
    """Series an hour, of those that ended lately, from the first of them until now."""
    ended = (backfill_series.c.state == FetchState.DONE) & (backfill_series.c.ended_at > utc_now(-RATE_OVER_S))
    count, first, now = connection.execute(
        sa.select(
            sa.func.count(),
            sa.func.min(backfill_series.c.ended_at, type_=backfill_series.c.ended_at.type),
            utc_now(),
        ).where(mine, ended)
    ).one()
    if count < 2:
        return None
    span_s: float = (now - first).total_seconds()
    return float((count - 1) * 3600.0 / max(span_s, 1e-3))


def _by(
    connection: sa.Connection, column: sa.ColumnElement[Any], *conditions: sa.ColumnElement[bool]
) -> dict[str, int]:
    rows = connection.execute(sa.select(column, sa.func.count()).where(*conditions).group_by(column).order_by(column))
    return {str(value) if value else "not asked for": count for value, count in rows}
