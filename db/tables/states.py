"""
Where things stand, and what can happen to them: the words in the tables' columns.
"""

from enum import StrEnum


class StudyState(StrEnum):
    """Whether instances of a study are still awaited."""

    RECEIVING = "receiving"
    CLOSED = "closed"


class SeriesState(StrEnum):
    """Where a series stands towards a program; "done" and "set_aside" are ends."""

    RECEIVING = "receiving"  # its study is open: no program has decided about it yet
    WAITING = "waiting"  # selected: a job is ready or running
    DONE = "done"  # one current result
    SET_ASIDE = "set_aside"  # one reason


class JobState(StrEnum):
    """Where a job stands; "done", "dead" and "obsolete" are ends."""

    READY = "ready"
    LEASED = "leased"
    DONE = "done"  # a result, or a reason that no second attempt would change
    DEAD = "dead"  # failed too often; a person can retry it
    OBSOLETE = "obsolete"  # its series changed, or lost to a better one, before it ended


class ObjectState(StrEnum):
    """Where a report object stands towards one destination; "dead", "superseded" and "committed" are ends.

    "sent" is one too, where the destination is not asked for commitment.
    """

    READY = "ready"
    LEASED = "leased"
    SENT = "sent"
    COMMITTED = "committed"  # the destination said that it keeps it
    DEAD = "dead"  # refused too often; a person can retry it
    SUPERSEDED = "superseded"  # its result is no longer current: not sent any more


class BackfillState(StrEnum):
    """Where an order to fetch from an archive stands."""

    OPEN = "open"
    PAUSED = "paused"  # by a person, who lets it go on
    DONE = "done"


class PartState(StrEnum):
    """Where a part of a backfill stands."""

    WAITING = "waiting"  # its search failed, and is tried again
    SEARCHED = "searched"  # its series are rows
    DEAD = "dead"  # its search failed too often; a person can retry it


class FetchState(StrEnum):
    """Where a series of a backfill stands; "done", "skipped" and "dead" are ends."""

    WAITING = "waiting"
    FETCHING = "fetching"
    DONE = "done"  # every instance that the archive names is here, or was refused with a reason
    SKIPPED = "skipped"  # not wanted: not asked for, or no program reads it
    DEAD = "dead"  # failed too often; a person can retry it


class Change(StrEnum):
    """What an event tells."""

    RECEIVED = "received"
    REOPENED = "reopened"
    CLOSED = "closed"
    QUEUED = "queued"
    SET_ASIDE = "set_aside"
    ATTEMPT_FAILED = "attempt_failed"
    RETRIED = "retried"
    DONE = "done"
    SENT = "sent"
    COMMITTED = "committed"
    NOT_COMMITTED = "not_committed"
    CLEARED = "cleared"
    DEAD = "dead"
    SUPERSEDED = "superseded"
