"""
What an archive is to a backfill, whatever it speaks: parts that are searched, and series that are fetched.
"""

import hashlib
import hmac
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from db.backfill import FoundSeries
from dicom_node.intake.taking import Offered
from dicom_node.peers.leaving import GoOn, always
from engine.records import Program, Reason, SeriesRef
from engine.selection import SelectionOptions, select

Take = Callable[[Offered], bool]
"""What a source calls with each instance; False: it could not be kept now, and the source should stop."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of an order: a day, a folder, an examination. Small enough to be searched in one go."""

    key: str  # may be an identifier: it becomes a row only as a keyed hash


@dataclass(frozen=True, slots=True)
class Refusal:
    """A file that can't be used."""

    subject: str  # SHA-256 of its bytes
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class Findings:
    """What a part holds."""

    studies: int
    series: tuple[FoundSeries, ...]
    refusals: tuple[Refusal, ...] = ()


class Source(Protocol):
    """An archive with an order. Threads may share it."""

    name: str  # of the archive
    said: str  # the order in words, without identifiers
    key: str  # the order itself, with identifiers: becomes a row only as a keyed hash
    lock: str  # what only one process reads from at a time
    comes_by_front_door: bool  # what is fetched comes to our receiver, not to us

    def parts(self) -> Iterable[Part]:
        """All parts, always in the same order; cheap."""
        ...

    def search(self, part: Part, thoroughly: bool = True, go_on: GoOn = always) -> Findings:
        """Which series a part holds and which of them are wanted.

        Args:
            thoroughly: fetch headers or samples where answers tell too little; else count what may be wanted.
            go_on: where it is False the archive is left, and what is returned then may be less than there is.

        Raises:
            PeerError: the archive is away, refused, was lost on the way, or was left.
        """
        ...

    def listing(
        self, part: Part, study_instance_uid: str, series_instance_uid: str, go_on: GoOn = always
    ) -> Sequence[str]:
        """SOP Instance UIDs of a series, as the archive has it now.

        Raises:
            PeerError: as `search`.
        """
        ...

    def fetch(
        self,
        part: Part,
        study_instance_uid: str,
        series_instance_uid: str,
        uids: Sequence[str],
        whole: bool,
        take: Take,
        go_on: GoOn,
    ) -> None:
        """Fetch instances of a series; those that do not come, don't.

        Args:
            whole: `uids` are all that there are.

        Raises:
            PeerError: as `search`.
        """
        ...


def keyed(key: bytes, kind: str, text: str) -> str:
    """An identifier as it may stand in a row: HMAC-SHA-256 under the site's key, 64 hexadecimal digits."""
    return hmac.new(key, f"backfill\0{kind}\0{text}".encode(), hashlib.sha256).hexdigest()


def chosen(series: Sequence[SeriesRef], selection: SelectionOptions) -> tuple[FoundSeries, ...]:
    """What the engine's selection says of the series of a part, as rows."""
    return tuple(
        FoundSeries(
            ref.study_instance_uid,
            ref.series_instance_uid,
            choice.reason is None,
            choice.reason,
            choice.detail,
            len(ref.instances),
            ref.slice_count,
        )
        for ref, choice in zip(series, select(series, Program.VERTEBRAL, selection), strict=True)
    )
