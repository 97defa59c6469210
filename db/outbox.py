"""
Report objects that wait for a peer, each once for each destination.

The same leases as the queue's. Sending twice is harmless, as an object keeps its SOP Instance UID; sending an object
of a result that is no longer current is not, so those are never handed out.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from db.columns import utc_now, word
from db.events import tell
from db.queue import LOST, Reaped
from db.schema import Change, ObjectState, outbox, result, series
from engine.records import ObjectUids, Program

MAX_ATTEMPTS = 20  # our choice: with the back-off, about ten hours of a peer that refuses
BACK_OFF_S = 10.0  # our choice: wait after the first refusal; doubles with each
NO_SUCH_INSTANCE = 0x0112  # failure reason (PS3.3 C.14.1.1)
LONGEST_BACK_OFF_S = 3600.0  # our choice


@dataclass(frozen=True, slots=True)
class ClaimedObject:
    """An object that one sender holds for a while."""

    outbox_id: int
    token: int
    attempts: int  # this one included
    destination: str
    kind: str  # "sr", "seg", "picture"
    sop_class_uid: str
    sop_instance_uid: str
    path: str


@dataclass(frozen=True, slots=True)
class SentObject:
    """An object that a destination has stored."""

    sop_class_uid: str
    sop_instance_uid: str


def predecessor(
    connection: sa.Connection, series_instance_uid: str, program: Program, kind: str, sop_instance_uid: str
) -> ObjectUids | None:
    """The object that one of the same kind, on the same series of images, replaces: the latest that a destination has.

    One that was withdrawn before anybody got it is not told: nobody could look it up. An object that was written
    before keeps what it replaced then, so that it says the same whenever it is written again.

    Args:
        sop_instance_uid: of the one that replaces.
    """
    mine = sa.select(sa.func.min(outbox.c.created_at)).where(outbox.c.sop_instance_uid == sop_instance_uid)
    first = connection.execute(mine).scalar_one()
    query = (
        sa.select(outbox.c.sop_class_uid, outbox.c.series_instance_uid, outbox.c.sop_instance_uid)
        .join_from(outbox, result)
        .join(series)
        .where(
            series.c.series_instance_uid == series_instance_uid,
            result.c.program == program,
            outbox.c.kind == kind,
            outbox.c.state.in_((ObjectState.SENT, ObjectState.COMMITTED)),
            outbox.c.series_instance_uid.is_not(None),
            outbox.c.sop_instance_uid != sop_instance_uid,
        )
        .order_by(outbox.c.created_at.desc(), outbox.c.id.desc())
        .limit(1)
    )
    if first is not None:
        query = query.where(outbox.c.created_at < first)
    row = connection.execute(query).first()
    return ObjectUids(*row) if row else None


def claim_objects(
    connection: sa.Connection, destination: str, owner: str, limit: int, lease_s: float
) -> tuple[ClaimedObject, ...]:
    """Take up to `limit` objects that wait for a destination, oldest first."""
    ready = connection.execute(
        sa.select(outbox.c.id)
        .where(
            outbox.c.destination == destination,
            outbox.c.state == word(ObjectState.READY),
            outbox.c.not_before <= utc_now(),
        )
        .order_by(outbox.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    rows = connection.execute(
        sa.update(outbox)
        .where(outbox.c.id.in_(ready.scalars().all()))
        .values(
            state=ObjectState.LEASED,
            owner=owner,
            attempts=outbox.c.attempts + 1,
            token=outbox.c.token + 1,
            lease_until=utc_now(lease_s),
        )
        .returning(
            outbox.c.id,
            outbox.c.token,
            outbox.c.attempts,
            outbox.c.destination,
            outbox.c.kind,
            outbox.c.sop_class_uid,
            outbox.c.sop_instance_uid,
            outbox.c.path,
        )
    )
    return tuple(sorted((ClaimedObject(*row) for row in rows), key=lambda claimed: claimed.outbox_id))


def sent(connection: sa.Connection, claimed: ClaimedObject) -> bool:
    """The peer has it. False if another sender holds it by now: that one will tell."""
    told = connection.execute(
        sa.update(outbox)
        .where(
            outbox.c.id == claimed.outbox_id,
            outbox.c.token == claimed.token,
            outbox.c.state.in_((ObjectState.LEASED, ObjectState.READY, ObjectState.SUPERSEDED)),
        )
        .values(state=ObjectState.SENT, owner=None, lease_until=None, sent_at=utc_now(), detail="")
    )
    if told.rowcount != 1:
        return False
    tell(connection, "object", [claimed.sop_instance_uid], Change.SENT, detail=claimed.destination)
    return True


def refused(
    connection: sa.Connection,
    claimed: ClaimedObject,
    message: str,
    max_attempts: int = MAX_ATTEMPTS,
    back_off_s: float = BACK_OFF_S,
) -> ObjectState:
    """The peer did not take it: try again later, or give up after `max_attempts`.

    Args:
        message: what the peer said; never patient data.
        back_off_s: before the second attempt, on average; doubles with each, up to an hour.

    Returns:
        READY or DEAD; SUPERSEDED if the claim was lost or the object is not wanted any more.
    """
    is_dead = claimed.attempts >= max_attempts
    longest_s = min(LONGEST_BACK_OFF_S, back_off_s * 2 ** min(claimed.attempts - 1, 30))
    told = connection.execute(
        sa.update(outbox)
        .where(_held([claimed]))
        .values(
            state=ObjectState.DEAD if is_dead else ObjectState.READY,
            owner=None,
            lease_until=None,
            not_before=utc_now(longest_s * random.uniform(0.5, 1.5)),  # jitter: not all at once again
            detail=message,
        )
    )
    if told.rowcount != 1:
        return ObjectState.SUPERSEDED
    if is_dead:
        tell(connection, "object", [claimed.sop_instance_uid], Change.DEAD, detail=message)
    return ObjectState.DEAD if is_dead else ObjectState.READY


def postpone(connection: sa.Connection, claimed: Sequence[ClaimedObject], delay_s: float) -> int:
    """The peer could not be reached: give objects back, not to be tried for a while; not counted as attempts."""
    back = connection.execute(
        sa.update(outbox)
        .where(_held(claimed))
        .values(
            state=ObjectState.READY,
            owner=None,
            lease_until=None,
            attempts=outbox.c.attempts - 1,
            not_before=utc_now(delay_s),
        )
    )
    return back.rowcount


def reap(connection: sa.Connection, max_attempts: int = MAX_ATTEMPTS) -> Reaped:
    """Take back objects whose lease ran out: ready again, or dead after `max_attempts`."""
    expired = connection.execute(
        sa.select(outbox.c.id, outbox.c.attempts, outbox.c.sop_instance_uid)
        .where(outbox.c.state == word(ObjectState.LEASED), outbox.c.lease_until < utc_now())
        .with_for_update(skip_locked=True)
    ).all()
    for row in expired:
        state = ObjectState.DEAD if row.attempts >= max_attempts else ObjectState.READY
        connection.execute(
            sa.update(outbox)
            .where(outbox.c.id == row.id)
            .values(state=state, owner=None, lease_until=None, detail=LOST)
        )
    dead = [row.sop_instance_uid for row in expired if row.attempts >= max_attempts]
    tell(connection, "object", dead, Change.DEAD, detail=LOST)
    return Reaped(len(expired) - len(dead), len(dead))


def to_commit(
    connection: sa.Connection, destination: str, transaction_uid: str, limit: int, ask_again_s: float
) -> tuple[SentObject, ...]:
    """Objects that a destination is to be asked about now; they bear the transaction from now on.

    Args:
        ask_again_s: when they are asked about again, if no answer came.
    """
    due = (
        sa.select(outbox.c.id)
        .where(
            outbox.c.destination == destination,
            outbox.c.state == ObjectState.SENT,
            outbox.c.ask_at.is_(None) | (outbox.c.ask_at <= utc_now()),
        )
        .order_by(outbox.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    rows = connection.execute(
        sa.update(outbox)
        .where(outbox.c.id.in_(connection.execute(due).scalars().all()))
        .values(transaction_uid=transaction_uid, ask_at=utc_now(ask_again_s), detail="")
        .returning(outbox.c.sop_class_uid, outbox.c.sop_instance_uid)
    )
    return tuple(SentObject(*row) for row in rows)


def ask_later(connection: sa.Connection, transaction_uid: str, delay_s: float, message: str) -> None:
    """A request for commitment did not reach its peer.

    Args:
        message: why, in our words.
    """
    mine = (outbox.c.transaction_uid == transaction_uid) & (outbox.c.state == ObjectState.SENT)
    connection.execute(sa.update(outbox).where(mine).values(ask_at=utc_now(delay_s), detail=message))


def committed(connection: sa.Connection, transaction_uid: str, sop_instance_uids: Sequence[str]) -> int:
    """A peer keeps objects. Returns how many it told us of that we had asked for."""
    kept = connection.execute(
        sa.update(outbox)
        .where(
            outbox.c.transaction_uid == transaction_uid,
            outbox.c.sop_instance_uid.in_(sop_instance_uids),
            outbox.c.state == ObjectState.SENT,
        )
        .values(state=ObjectState.COMMITTED, detail="")
        .returning(outbox.c.sop_instance_uid)
    )
    uids = kept.scalars().all()
    tell(connection, "object", uids, Change.COMMITTED)
    return len(uids)


def not_committed(
    connection: sa.Connection, transaction_uid: str, reasons: Mapping[str, int], max_attempts: int = MAX_ATTEMPTS
) -> int:
    """A peer does not keep objects. One that it does not even have is sent again, others are asked about again.

    Args:
        reasons: SOP Instance UID with the Failure Reason (PS3.3 C.14.1.1).

    Returns:
        How many it told us of that we had asked for.
    """
    rows = connection.execute(
        sa.select(outbox.c.id, outbox.c.sop_instance_uid, outbox.c.attempts, outbox.c.cleared_at)
        .where(
            outbox.c.transaction_uid == transaction_uid,
            outbox.c.sop_instance_uid.in_(list(reasons)),
            outbox.c.state == ObjectState.SENT,
        )
        .with_for_update()
    ).all()
    for row in rows:
        reason = reasons[row.sop_instance_uid]
        told = f"not committed ({reason:#06x})"
        values: dict[str, Any] = {"detail": told}
        if reason == NO_SUCH_INSTANCE and row.cleared_at is None:
            is_dead = row.attempts >= max_attempts
            values |= {"state": ObjectState.DEAD if is_dead else ObjectState.READY, "not_before": utc_now()}
            values |= {"transaction_uid": None, "ask_at": None}
        connection.execute(sa.update(outbox).where(outbox.c.id == row.id).values(**values))
        tell(connection, "object", [row.sop_instance_uid], Change.NOT_COMMITTED, detail=told)
    return len(rows)


def retry(connection: sa.Connection, destination: str | None = None) -> int:
    """Make dead objects ready again: those of a destination, or all. Returns how many."""
    dead = outbox.c.state == ObjectState.DEAD
    wanted = dead if destination is None else dead & (outbox.c.destination == destination)
    again = connection.execute(
        sa.update(outbox)
        .where(wanted)
        .values(state=ObjectState.READY, attempts=0, not_before=utc_now(), detail="")
        .returning(outbox.c.sop_instance_uid)
    )
    uids = again.scalars().all()
    tell(connection, "object", uids, Change.RETRIED)
    return len(uids)


def _held(claimed: Sequence[ClaimedObject]) -> sa.ColumnElement[bool]:
    """The fence: objects that are still leased under these tokens."""
    fence = sa.tuple_(outbox.c.id, outbox.c.token).in_([(each.outbox_id, each.token) for each in claimed])
    return fence & (outbox.c.state == ObjectState.LEASED)
