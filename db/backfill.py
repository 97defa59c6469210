"""
What is fetched from archives: orders, the parts that they consist of, and each series with its own state.

A series is a row, so that one which can't be had makes no other wait and none is fetched twice. The same order, given
again, goes on where it stopped. One process works on an archive at a time (a lock beside the spool sees to it), so
what was being fetched when it ended is simply fetched on. No identifier of a patient or of an examination stands here:
orders and parts are known by keyed hashes.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from db.columns import utc_now, word
from db.schema import (
    BackfillState,
    FetchState,
    PartState,
    backfill,
    backfill_part,
    backfill_series,
)
from db.statements import insert_into
from engine.records import Reason

LONGEST_BACK_OFF_S = 6 * 3600.0  # our choice


@dataclass(frozen=True, slots=True)
class Run:
    """An order, opened."""

    id: int
    is_new: bool
    is_paused: bool  # by a person: it stays so until a person lets it go on


@dataclass(frozen=True, slots=True)
class FoundSeries:
    """A series that an archive has."""

    study_instance_uid: str
    series_instance_uid: str
    is_wanted: bool
    reason: Reason | None = None  # why no program reads it
    detail: str = ""
    expected: int | None = None  # instances, as the archive said
    slices: int | None = None  # that these hold, where it is known; None: one each


@dataclass(frozen=True, slots=True)
class ClaimedSeries:
    """A series that is being fetched."""

    id: int
    part: str  # keyed hash
    study_instance_uid: str
    series_instance_uid: str
    attempts: int  # this one included


@dataclass(frozen=True, slots=True)
class Fetched:
    """What came of one attempt to fetch a series."""

    expected: int
    received: int  # that are here now, whenever they came
    size_bytes: int  # that came over the network in this attempt
    seconds: float
    detail: str = ""


def open_run(connection: sa.Connection, key: str, archive: str, said: str) -> Run:
    """Begin an order, or go on with it. What was being fetched when its last process ended is fetched on."""
    new = insert_into(connection, backfill).values(
        key=key,
        archive=archive,
        said=said,
        state=BackfillState.OPEN,
        detail="",
        created_at=utc_now(),
        seen_at=utc_now(),
    )
    made = connection.execute(new.on_conflict_do_nothing(index_elements=[backfill.c.key]).returning(backfill.c.id))
    is_new = made.first() is not None
    state = sa.case((backfill.c.state == word(BackfillState.PAUSED), backfill.c.state), else_=word(BackfillState.OPEN))
    row = connection.execute(
        sa.update(backfill)
        .where(backfill.c.key == key)
        .values(state=state, detail="", seen_at=utc_now())
        .returning(backfill.c.id, backfill.c.state)
    ).one()
    connection.execute(
        sa.update(backfill_series)
        .where(backfill_series.c.backfill_id == row.id, backfill_series.c.state == FetchState.FETCHING)
        .values(state=FetchState.WAITING)
    )
    return Run(row.id, is_new, row.state is BackfillState.PAUSED)


def tell_state(
    connection: sa.Connection, run_id: int, detail: str, state: BackfillState | None = None
) -> BackfillState:
    """A sign of life: what the process does. Returns the order's state, which a person may have changed."""
    said = {"detail": detail, "seen_at": utc_now()} | ({} if state is None else {"state": state})
    told: BackfillState = connection.execute(
        sa.update(backfill).where(backfill.c.id == run_id).values(**said).returning(backfill.c.state)
    ).scalar_one()
    return told


def state_of(connection: sa.Connection, run_id: int) -> BackfillState:
    """An order's state."""
    state: BackfillState = connection.execute(sa.select(backfill.c.state).where(backfill.c.id == run_id)).scalar_one()
    return state


def set_state(connection: sa.Connection, run_id: int, state: BackfillState) -> bool:
    """A person pauses an order or lets it go on. False: there is no such order, or it is done."""
    changed = connection.execute(
        sa.update(backfill).where(backfill.c.id == run_id, backfill.c.state != BackfillState.DONE).values(state=state)
    )
    return changed.rowcount == 1


def open_parts(connection: sa.Connection, run_id: int, keys: Iterable[str]) -> int:
    """Write down which parts an order has, so that its end can be foreseen. Those that it knows stay as they are; what
    waits to be searched and is not among them any more (a folder that is gone) is not waited for.

    Returns:
        How many are gone so.
    """
    mine = backfill_part.c.backfill_id == run_id
    rows = connection.execute(sa.select(backfill_part.c.key, backfill_part.c.state).where(mine))
    known = {row.key: row.state for row in rows}
    wanted = dict.fromkeys(keys)
    new = [{"key": key} for key in wanted if key not in known]
    if new:
        values = {"state": PartState.WAITING, "studies": 0, "attempts": 0, "not_before": utc_now(), "detail": ""}
        connection.execute(insert_into(connection, backfill_part).values(backfill_id=run_id, **values), new)
    gone = [{"gone": key} for key, state in known.items() if state is PartState.WAITING and key not in wanted]
    if gone:
        connection.execute(sa.delete(backfill_part).where(mine, backfill_part.c.key == sa.bindparam("gone")), gone)
    return len(gone)


def parts_not_due(connection: sa.Connection, run_id: int) -> frozenset[str]:
    """Keys of the parts that need no search now: searched, dead, or to be tried again later."""
    rows = connection.execute(
        sa.select(backfill_part.c.key).where(
            backfill_part.c.backfill_id == run_id,
            (backfill_part.c.state != PartState.WAITING) | (backfill_part.c.not_before > utc_now()),
        )
    )
    return frozenset(rows.scalars())


def keep_part(connection: sa.Connection, run_id: int, key: str, studies: int, found: Iterable[FoundSeries]) -> None:
    """A part was searched: its series become rows. Those that the order knows already stay as they are."""
    part_id = _part(connection, run_id, key, PartState.SEARCHED, studies=studies, detail="")
    rows = [
        {
            "study_instance_uid": each.study_instance_uid,
            "series_instance_uid": each.series_instance_uid,
            "state": FetchState.WAITING if each.is_wanted else FetchState.SKIPPED,
            "reason": each.reason,
            "detail": each.detail,
            "expected": each.expected,
        }
        for each in found
    ]
    if not rows:
        return
    new = insert_into(connection, backfill_series).values(
        backfill_id=run_id,
        backfill_part_id=part_id,
        received=0,
        size_bytes=0,
        seconds=0.0,
        attempts=0,
        not_before=utc_now(),
    )
    key_columns = [backfill_series.c.backfill_id, backfill_series.c.series_instance_uid]
    connection.execute(new.on_conflict_do_nothing(index_elements=key_columns), rows)


def part_failed(
    connection: sa.Connection, run_id: int, key: str, message: str, max_attempts: int, back_off_s: float
) -> PartState:
    """A part could not be searched: try again later, or give up. Returns WAITING or DEAD."""
    before = connection.execute(
        sa.select(backfill_part.c.attempts).where(backfill_part.c.backfill_id == run_id, backfill_part.c.key == key)
    ).scalar_one_or_none()
    attempts = (before or 0) + 1
    state = PartState.DEAD if attempts >= max_attempts else PartState.WAITING
    delay_s = _delay_s(attempts, back_off_s)
    _part(connection, run_id, key, state, attempts=attempts, detail=message, not_before=utc_now(delay_s))
    return state


def claim_series(connection: sa.Connection, run_id: int) -> ClaimedSeries | None:
    """The next series to fetch; None: none is due now."""
    ready = (
        sa.select(backfill_series.c.id)
        .where(
            backfill_series.c.backfill_id == run_id,
            backfill_series.c.state == word(FetchState.WAITING),
            backfill_series.c.not_before <= utc_now(),
        )
        .order_by(backfill_series.c.id)
        .limit(1)
    )
    row = connection.execute(
        sa.update(backfill_series)
        .where(backfill_series.c.id == ready.scalar_subquery())
        .values(state=FetchState.FETCHING, attempts=backfill_series.c.attempts + 1)
        .returning(backfill_series)
    ).first()
    if row is None:
        return None
    part = connection.execute(sa.select(backfill_part.c.key).where(backfill_part.c.id == row.backfill_part_id))
    return ClaimedSeries(row.id, part.scalar_one(), row.study_instance_uid, row.series_instance_uid, row.attempts)


def series_done(connection: sa.Connection, claimed: ClaimedSeries, fetched: Fetched) -> None:
    """Every instance is here, or was refused with a reason."""
    _end(connection, claimed, fetched, {"state": FetchState.DONE, "ended_at": utc_now(), "detail": fetched.detail})


def series_failed(
    connection: sa.Connection, claimed: ClaimedSeries, fetched: Fetched, max_attempts: int, back_off_s: float
) -> FetchState:
    """An attempt brought not all of it: try again later, or give up. Returns WAITING or DEAD."""
    is_dead = claimed.attempts >= max_attempts
    state = FetchState.DEAD if is_dead else FetchState.WAITING
    changes: dict[str, Any] = {
        "state": state,
        "detail": fetched.detail,
        "not_before": utc_now(_delay_s(claimed.attempts, back_off_s)),
        "ended_at": utc_now() if is_dead else None,
    }
    _end(connection, claimed, fetched, changes)
    return state


def give_back(connection: sa.Connection, claimed: ClaimedSeries, fetched: Fetched) -> None:
    """At an orderly stop, or when the archive itself is away: fetched on later, and not counted as an attempt."""
    changes = {"state": FetchState.WAITING, "attempts": backfill_series.c.attempts - 1, "not_before": utc_now()}
    _end(connection, claimed, fetched, changes)


def next_due_s(connection: sa.Connection, run_id: int) -> float | None:
    """Seconds until a series or part that waits may be tried; 0: now. None: nothing waits or is being fetched."""
    waits = []
    for table, states in (
        (backfill_series, (FetchState.WAITING, FetchState.FETCHING)),
        (backfill_part, (PartState.WAITING,)),
    ):
        soonest, now = connection.execute(
            sa.select(sa.func.min(table.c.not_before, type_=table.c.not_before.type), utc_now()).where(
                table.c.backfill_id == run_id, table.c.state.in_(states)
            )
        ).one()
        if soonest is not None:
            waits.append(max(0.0, (soonest - now).total_seconds()))
    return min(waits, default=None)


def count_waiting(connection: sa.Connection, run_id: int) -> int:
    """Series that are known and may be fetched now."""
    query = sa.select(sa.func.count()).where(
        backfill_series.c.backfill_id == run_id,
        backfill_series.c.state == word(FetchState.WAITING),
        backfill_series.c.not_before <= utc_now(),
    )
    return connection.execute(query).scalar_one()


def retry(connection: sa.Connection, run_id: int) -> int:
    """Try again what died: series and parts of an order, which is open again. Returns how many."""
    anew = {"attempts": 0, "not_before": utc_now(), "detail": ""}
    again = 0
    for table, dead, waiting in (
        (backfill_series, FetchState.DEAD, FetchState.WAITING),
        (backfill_part, PartState.DEAD, PartState.WAITING),
    ):
        told = connection.execute(
            sa.update(table)
            .where(table.c.backfill_id == run_id, table.c.state == dead)
            .values(state=waiting, **anew, **({"ended_at": None} if table is backfill_series else {}))
        )
        again += told.rowcount
    if again:
        connection.execute(sa.update(backfill).where(backfill.c.id == run_id).values(state=BackfillState.OPEN))
    return again


def _part(connection: sa.Connection, run_id: int, key: str, state: PartState, **said: Any) -> int:
    values = {"studies": 0, "attempts": 0, "not_before": utc_now(), "detail": "", **said, "state": state}
    new = insert_into(connection, backfill_part).values(backfill_id=run_id, key=key, **values)
    row_id: int = connection.execute(
        new.on_conflict_do_update(
            index_elements=[backfill_part.c.backfill_id, backfill_part.c.key],
            set_={name: new.excluded[name] for name in values},
        ).returning(backfill_part.c.id)
    ).scalar_one()
    return row_id


def _end(connection: sa.Connection, claimed: ClaimedSeries, fetched: Fetched, changes: dict[str, Any]) -> None:
    connection.execute(
        sa.update(backfill_series)
        .where(backfill_series.c.id == claimed.id, backfill_series.c.state == FetchState.FETCHING)
        .values(
            expected=fetched.expected or backfill_series.c.expected,
            received=fetched.received if fetched.expected else backfill_series.c.received,  # else nothing was listed
            size_bytes=backfill_series.c.size_bytes + fetched.size_bytes,
            seconds=backfill_series.c.seconds + fetched.seconds,
            **changes,
        )
    )


def _delay_s(attempts: int, back_off_s: float) -> float:
    """Doubles with each attempt; spread, so that not all that failed together come again together."""
    longest: float = min(LONGEST_BACK_OFF_S, back_off_s * 2 ** min(attempts - 1, 30))
    return longest * random.uniform(0.5, 1.0)
