"""
The spool forgets what is finished: by age, and sooner where the disk becomes low. docs/operations.md tells the policy.

What may go is a question to the database; here files are deleted, inside the transaction that marks them as gone. So
a process that is killed on the way has deleted files that are not marked yet, of a series that is finished: the next
pass marks them. A series that is wanted again after that ends with `pixels_cleared`, until it is sent again.
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from db import clearing
from db.clearing import Policy
from db.connection import Database
from dicom_node.spool import MIB, Spool

log = logging.getLogger(__name__)

TOGETHER = 50  # series of one look; our choice
CHUNK = 500  # files of one look at the spool's names; our choice
CLOCKS_APART_S = 60.0  # our choice: of database and file system
HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class ClearingOptions:
    """How long what is finished stays in the spool."""

    enabled: bool = True  # False: a person makes room
    done_after_h: float = 168.0  # received files, after the result was written down, sent (and committed) everywhere
    set_aside_after_h: float = 720.0  # received files of series that no program reads, after their study was closed
    reports_after_h: float = 720.0  # SR, SEG and picture, after they were sent to all; without destinations they stay
    low_mib: int = 8192  # with less free space, what is finished goes after `urgent_after_h`
    urgent_after_h: float = 1.0
    every_s: float = 60.0

    def __post_init__(self) -> None:
        """Refuse times without meaning."""
        ages = (self.done_after_h, self.set_aside_after_h, self.reports_after_h, self.urgent_after_h, self.low_mib)
        if min(ages) < 0 or self.every_s <= 0:
            raise ValueError("ages and low_mib can't be negative, and every_s must be above 0")


@dataclass(slots=True)
class Cleared:
    """What one pass took away."""

    series: int = 0
    reports: int = 0  # series whose report objects went
    size_bytes: int = 0


class Clearer:
    """Clears one spool."""

    def __init__(self, database: Database, spool: Spool, options: ClearingOptions, committing: Sequence[str]) -> None:
        """Hold what is needed.

        Args:
            committing: names of the destinations that must commit to what was sent.
        """
        self._database = database
        self._spool = spool
        self._options = options
        self._committing = tuple(committing)

    def clear(self, stop: threading.Event | None = None) -> Cleared:
        """Clear all that may go now.

        Raises:
            DeploymentError: as `Database.begin`; what went before stays gone.
        """
        cleared = Cleared()
        stop = stop or threading.Event()
        while not stop.is_set() and (size_bytes := self._clear_images(cleared)) is not None:
            cleared.size_bytes += size_bytes
        while not stop.is_set() and (size_bytes := self._clear_reports(cleared)) is not None:
            cleared.size_bytes += size_bytes
        if cleared.series or cleared.reports:
            log.info(
                "cleared %d series and the reports of %d, %d MiB",
                cleared.series,
                cleared.reports,
                cleared.size_bytes // MIB,
            )
        return cleared

    def sweep(self, stop: threading.Event | None = None) -> bool:
        """Delete files that were cleared and are there all the same, as after a power cut; whether it is through."""
        names = self._spool.incoming()
        while chunk := list(islice(names, CHUNK)):
            if stop is not None and stop.is_set():
                return False
            with self._database.begin() as connection:
                for path, at in clearing.cleared_at(connection, [str(path) for path in chunk]).items():
                    if _written_at(Path(path)) < at.timestamp() - CLOCKS_APART_S:  # else it came again just now
                        self._delete([path], "incoming")
        return True

    def _policy(self) -> Policy:
        options = self._options
        ages_h = (options.done_after_h, options.set_aside_after_h)
        if self._spool.free_bytes() < options.low_mib * MIB:
            ages_h = (min(ages_h[0], options.urgent_after_h), min(ages_h[1], options.urgent_after_h))
        done_s, set_aside_s = (age * HOUR_S for age in ages_h)
        return Policy(done_s, set_aside_s, options.reports_after_h * HOUR_S, self._committing)

    def _clear_images(self, cleared: Cleared) -> int | None:
        """Some series; None: there are no more. The policy is asked each time, as there may be room by then."""
        policy = self._policy()
        with self._database.read() as connection:
            finished = clearing.finished_series(connection, policy, TOGETHER)
        size_bytes, went = 0, 0
        for series in finished:
            with self._database.begin() as connection:
                paths = clearing.forget_images(connection, series, policy)
                size_bytes += self._delete(paths, "incoming")
            went += bool(paths)
        cleared.series += went
        return size_bytes if went else None

    def _clear_reports(self, cleared: Cleared) -> int | None:
        policy = self._policy()
        with self._database.read() as connection:
            finished = clearing.finished_reports(connection, policy, TOGETHER)
        size_bytes, went = 0, 0
        for series in finished:
            with self._database.begin() as connection:
                paths = clearing.forget_reports(connection, series, policy)
                pictures = [str(Path(path).with_suffix(".png")) for path in paths]
                size_bytes += self._delete([*paths, *pictures], "outgoing")
            went += bool(paths)
        cleared.reports += went
        return size_bytes if went else None

    def _delete(self, paths: Sequence[str], room: str) -> int:
        """Delete files of a room of the spool; what lies elsewhere is not ours to delete. Returns their size."""
        size_bytes = 0
        folders = set()
        for path in _below(paths, self._spool.folder / room):
            try:
                size_bytes += path.stat().st_size
                path.unlink()
                folders.add(path.parent)
            except FileNotFoundError:
                continue  # a pass before this one came so far
        if room == "outgoing":
            for folder in folders:
                if not any(folder.iterdir()):
                    folder.rmdir()
        return size_bytes


def _below(paths: Sequence[str], folder: Path) -> Iterator[Path]:
    return (path for path in map(Path, paths) if folder in path.parents)


def _written_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")
