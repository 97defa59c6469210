"""
Why reports wait, destination by destination: told by whoever sends, read by whoever asks how things stand.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from db.columns import utc_now, word
from db.schema import ObjectState, destination, outbox
from db.statements import insert_into

SIGN_EVERY_S = 30.0  # our choice: how often who sends gives a sign of life
ALIVE_S = 120.0  # our choice: who gave none for so long is gone

Sign = Callable[[sa.Connection, Collection[str]], None]
"""Given of the destinations that one process serves: `begin`, `give_sign`, `end`."""


class Why(StrEnum):
    """What keeps reports from being done with."""

    NOT_CONFIGURED = "not_configured"  # the configuration knows no destination of this name
    NOBODY_SENDS = "nobody_sends"  # no process gave a sign lately
    LEFT_ALONE = "left_alone"  # the destination is away, or takes nothing now; it is asked again
    REFUSED = "refused"  # it took others, and not these; they are sent again, later with each time
    IN_TURN = "in_turn"  # nothing is in their way
    NOT_COMMITTED = "not_committed"  # it has them, and did not say yet that it keeps them
    DEAD = "dead"  # refused too often; a person must act


@dataclass(frozen=True, slots=True)
class Waiting:
    """Some reports to one destination that wait for the same reason."""

    destination: str
    why: Why
    objects: int
    detail: str  # what was in the way, in our words
    since_s: float | None  # how long it has been in the way
    next_s: float | None  # until the next attempt; None: there will be none by itself, or at once


def begin(connection: sa.Connection, names: Collection[str]) -> None:
    """A process begins to send, and knows nothing bad yet of these destinations."""
    for name in sorted(names):
        _put(connection, name, detail="", since=None, next_at=None, seen_at=utc_now())


def give_sign(connection: sa.Connection, names: Collection[str]) -> None:
    """It still does."""
    for name in sorted(names):
        _put(connection, name, seen_at=utc_now())


def end(connection: sa.Connection, names: Collection[str]) -> None:
    """It does no more; another one that does will give a sign."""
    connection.execute(sa.update(destination).where(destination.c.name.in_(names)).values(seen_at=utc_now(-ALIVE_S)))


def leave_alone(connection: sa.Connection, name: str, detail: str, delay_s: float) -> None:
    """A destination is away, or takes nothing now.

    Args:
        detail: what is in the way, in our words; never patient data.
        delay_s: until it is tried again.
    """
    began = sa.func.coalesce(destination.c.since, utc_now(), type_=destination.c.since.type)
    _put(connection, name, detail=detail, since=began, next_at=utc_now(delay_s), seen_at=utc_now())


def take_up(connection: sa.Connection, name: str) -> None:
    """It takes what is sent."""
    _put(connection, name, detail="", since=None, next_at=None, seen_at=utc_now())


def waiting(connection: sa.Connection, configured: Mapping[str, bool]) -> tuple[Waiting, ...]:
    """All that waits or is dead, by destination and reason.

    Args:
        configured: the destinations; whether each is asked if it keeps what it got.
    """
    now: datetime = connection.execute(sa.select(utc_now())).scalar_one()
    lines = {row.name: row for row in connection.execute(sa.select(destination))}
    return tuple(
        line
        for name, rows in _unfinished(connection, [name for name, commits in configured.items() if commits])
        for line in _of_destination(name, rows, lines.get(name), now, name in configured)
    )


def _put(connection: sa.Connection, name: str, **values: Any) -> None:
    first = {"detail": ""} | values | ({"since": utc_now()} if values.get("detail") else {})
    new = insert_into(connection, destination).values(name=name, **first)
    connection.execute(new.on_conflict_do_update(index_elements=[destination.c.name], set_=values))


def _unfinished(connection: sa.Connection, committing: Collection[str]) -> Iterator[tuple[str, list[Any]]]:
    """What is not done with, in groups that are told alike."""
    was_refused = (outbox.c.detail != "") & (outbox.c.attempts > 0)
    unsent = outbox.c.state.in_([word(state) for state in (ObjectState.READY, ObjectState.LEASED, ObjectState.DEAD)])
    uncommitted = (outbox.c.state == word(ObjectState.SENT)) & outbox.c.destination.in_(committing)
    is_asked = outbox.c.transaction_uid.is_not(None)
    due = sa.case((outbox.c.state == ObjectState.SENT, outbox.c.ask_at), else_=outbox.c.not_before)
    groups = (outbox.c.destination, outbox.c.state, outbox.c.detail, was_refused, is_asked)
    query = sa.select(
        outbox.c.destination,
        outbox.c.state,
        outbox.c.detail,
        was_refused.label("was_refused"),
        is_asked.label("is_asked"),
        sa.func.count().label("objects"),
        sa.func.min(due, type_=outbox.c.not_before.type).label("due"),
        sa.func.min(outbox.c.created_at, type_=outbox.c.created_at.type).label("created_at"),
        sa.func.min(outbox.c.sent_at, type_=outbox.c.created_at.type).label("sent_at"),
    )
    rows = connection.execute(query.where(unsent | uncommitted).group_by(*groups).order_by(*groups)).all()
    for name in dict.fromkeys(row.destination for row in rows):
        yield name, [row for row in rows if row.destination == name]


def _of_destination(name: str, rows: Sequence[Any], line: Any, now: datetime, is_configured: bool) -> Iterator[Waiting]:
    def since(begun: datetime | None) -> float | None:
        return None if begun is None else (now - begun).total_seconds()

    def until(due: datetime | None) -> float | None:
        return None if due is None else max(0.0, (due - now).total_seconds())

    detail, left_since, next_at = ("", None, None) if line is None else (line.detail, line.since, line.next_at)
    is_served = line is not None and (now - line.seen_at).total_seconds() < ALIVE_S
    in_turn = [row for row in rows if _waits_in_turn(row)]
    if in_turn:
        count, oldest = sum(row.objects for row in in_turn), min(row.created_at for row in in_turn)
        if not is_configured:
            yield Waiting(name, Why.NOT_CONFIGURED, count, "", since(oldest), None)
        elif not is_served:
            yield Waiting(name, Why.NOBODY_SENDS, count, detail, since(oldest), None)
        elif detail:
            yield Waiting(name, Why.LEFT_ALONE, count, detail, since(left_since), until(next_at))
        else:
            yield Waiting(name, Why.IN_TURN, count, "", since(oldest), None)
    for row in rows:
        if row.state is ObjectState.DEAD:
            yield Waiting(name, Why.DEAD, row.objects, row.detail, since(row.created_at), None)
        elif row.state is ObjectState.SENT:
            told = row.detail or ("asked, no report yet" if row.is_asked else "not asked yet")
            yield Waiting(name, Why.NOT_COMMITTED, row.objects, told, since(row.sent_at), until(row.due))
        elif not _waits_in_turn(row):
            due = until(max(row.due, next_at or row.due)) if is_served else None
            yield Waiting(name, Why.REFUSED, row.objects, row.detail, since(row.created_at), due)


def _waits_in_turn(row: Any) -> bool:
    return row.state is ObjectState.LEASED or (row.state is ObjectState.READY and not row.was_refused)
