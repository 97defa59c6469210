"""
What arrived: studies, series, instances; what was turned away; and when a study is complete.

Registering is idempotent: what is known already changes nothing, so a sender may repeat itself and a spool may be
read again after a crash. An instance that contradicts what is known is refused, and nothing is overwritten.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import sqlalchemy as sa

from engine.records import InstanceHeader, Program, Reason, Selection, SeriesRef


class Arrival(NamedTuple):
    """One instance that lies safely on disk."""

    header: InstanceHeader
    path: str
    size_bytes: int
    sha256: str  # hexadecimal, of the file


@dataclass(frozen=True, slots=True)
class Registration:
    """What became of one arrival."""

    sop_instance_uid: str
    is_new: bool
    reason: Reason | None = None  # why it was refused; it is then neither new nor known
    detail: str = ""


class DueStudy(NamedTuple):
    """A study to which nothing was added for a while."""

    study_instance_uid: str
    revision: int


def register_instances(connection: sa.Connection, arrivals: Sequence[Arrival]) -> tuple[Registration, ...]:
    """Remember instances; each was, or is now, known, or is refused with a reason.

    A new instance of a closed study reopens it: the study's revision grows, and so does that of each series that
    already served in it and now has more; their jobs become obsolete, their results are no longer current and what
    was not sent of them stays unsent. A refusal is written down here; the caller need not record it again.

    Args:
        arrivals: (header, path, size_bytes, sha256) each; plain tuples in this order do as well.

    Returns:
        In the order of `arrivals`. Reason INSTANCE_CONFLICT: the study belongs to another patient, the series to
        another study, the instance to another series, or the same instance came before with another content.
    """
    raise NotImplementedError


def known_instances(connection: sa.Connection, sop_instance_uids: Iterable[str]) -> frozenset[str]:
    """Those of the UIDs that are registered."""
    raise NotImplementedError


def known_paths(connection: sa.Connection, paths: Iterable[str]) -> frozenset[str]:
    """Those of the paths that are registered."""
    raise NotImplementedError


def record_refusal(
    connection: sa.Connection, reason: Reason, detail: str = "", *, subject: str = "", peer: str = ""
) -> None:
    """Write down that an instance was turned away or set aside. Repeats of the same are counted, not added.

    Args:
        detail: what was found; never patient data, never a path.
        subject: the SOP Instance UID if it is one, else the SHA-256 of the bytes; may be empty.
        peer: AE title of who sent it.
    """
    raise NotImplementedError


def studies_due(connection: sa.Connection, quiet_s: float, force_s: float) -> tuple[DueStudy, ...]:
    """Open studies that got nothing new for `quiet_s`, or that have been open for `force_s`; longest waiting first."""
    raise NotImplementedError


def series_of_study(connection: sa.Connection, study_instance_uid: str) -> tuple[SeriesRef, ...]:
    """All series of a study with all their instances, ordered by Series Instance UID; none if it is unknown."""
    raise NotImplementedError


def close_study(
    connection: sa.Connection,
    study_instance_uid: str,
    revision: int,
    selections: Sequence[Selection],
    program: Program,
) -> bool:
    """Close a study for a program: jobs for the selected series, a reason for every other.

    A series whose job of the same revision ended before keeps that end: it is not analysed twice. A series that was
    selected before and now is not (a better one came) is set aside: its result is kept, but is no longer current,
    and what was not sent of it stays unsent. If it is selected again later, it is analysed again.

    Args:
        revision: of the study, as `studies_due` gave it.
        selections: one for each series of the study.

    Returns:
        False, and nothing is changed, if the study is unknown, closed, or got new instances since.
    """
    raise NotImplementedError
