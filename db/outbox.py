"""
Report objects that wait for a peer, each once for each destination.

The same leases as the queue's. Sending twice is harmless, as an object keeps its SOP Instance UID; sending an object
of a result that is no longer current is not, so those are never handed out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from db.queue import Reaped
from db.schema import ObjectState

MAX_ATTEMPTS = 20  # our choice: with the back-off, about ten hours of a peer that refuses
BACK_OFF_S = 10.0  # our choice: wait after the first refusal; doubles with each
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


def claim_objects(
    connection: sa.Connection, destination: str, owner: str, limit: int, lease_s: float
) -> tuple[ClaimedObject, ...]:
    """Take up to `limit` objects that wait for a destination, oldest first."""
    raise NotImplementedError


def sent(connection: sa.Connection, claimed: ClaimedObject) -> bool:
    """The peer has it. False if another sender holds it by now: that one will tell."""
    raise NotImplementedError


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
    raise NotImplementedError


def postpone(connection: sa.Connection, claimed: Sequence[ClaimedObject], delay_s: float) -> int:
    """The peer could not be reached: give objects back, not to be tried for a while; not counted as attempts."""
    raise NotImplementedError


def reap(connection: sa.Connection, max_attempts: int = MAX_ATTEMPTS) -> Reaped:
    """Take back objects whose lease ran out: ready again, or dead after `max_attempts`."""
    raise NotImplementedError


def retry(connection: sa.Connection, destination: str | None = None) -> int:
    """Make dead objects ready again: those of a destination, or all. Returns how many."""
    raise NotImplementedError
