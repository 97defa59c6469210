"""
What a destination makes of an object, whichever way it is sent.
"""

from dataclasses import dataclass
from enum import StrEnum

from db.outbox import ClaimedObject


class Outcome(StrEnum):
    """What became of one object at a destination."""

    STORED = "stored"
    REFUSED = "refused"  # it did not take this object, or was lost over it
    PUT_OFF = "put_off"  # it can take nothing now


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one object at a destination, and how it said so."""

    item: ClaimedObject
    outcome: Outcome
    detail: str  # a status in hexadecimal, or what kept it from being sent; never the peer's own words
    is_the_peers: bool = True  # False: it was refused for a fault of ours
