"""
A backfill at work: search part after part, fetch series after series, and leave off as soon as something else is due.

What is done stands in rows, in the transaction that registers the instances; so a process that is killed at any
moment goes on with the next series, or with the rest of the one that it was fetching. Instances are safe in the spool
before anything is said of them. An attempt that brought less than the archive lists is a failed one.
"""

import fcntl
import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from db import backfill, live, progress
from db.connection import Database
from db.progress import BackfillLine
from db.registry import record_refusal
from db.schema import BackfillState
from dicom_node.backfill.fetch import Fetcher
from dicom_node.backfill.options import BackfillOptions
from dicom_node.backfill.pace import Pace
from dicom_node.backfill.source import Part, Source, keyed
from dicom_node.backfill.window import is_open, opens_at, read_windows
from dicom_node.spool import MIB, Spool
from engine.errors import BadOption, DatabaseUnavailable, PeerAway, PeerError, StorageFull

log = logging.getLogger(__name__)

AHEAD = 50  # our choice: so many series are known before more is searched for
FETCHING = "fetching"
LONGEST_PAUSE_S = 30.0  # our choice: while the database is out of order

Told = Callable[[BackfillLine], None]


class Backfill:
    """One order, worked on until it is done, stopped or paused."""

    def __init__(
        self,
        database: Database,
        spool: Spool,
        pseudonym_key: bytes,
        source: Source,
        options: BackfillOptions,
        told: Told = lambda _: None,
        clock: Callable[[], datetime] = datetime.now,
    ) -> None:
        """Hold what is needed; nothing is asked yet.

        Args:
            clock: local time, by which windows open and close.
        """
        self._database = database
        self._spool = spool
        self._key = pseudonym_key
        self._source = source
        self._options = options
        self._told = told
        self._clock = clock
        self._stop = threading.Event()
        self._windows = read_windows(options.windows)
        self.pace = Pace(options.associations, options.slow_factor, options.longest_pause_s)
        self._fetcher = Fetcher(database, spool, pseudonym_key, source, options, self.pace, self._stop)
        self._parts: dict[str, Part] = {}  # by keyed hash
        self._told_at = 0.0
        self._doing = FETCHING

    def stop(self) -> None:
        """Fetch no more; series that are being fetched are left where they are, and fetched on the next time."""
        self._stop.set()
        self._fetcher.leave()

    def run(self) -> BackfillState:
        """Work until the order is done or `stop` is called.

        Returns:
            DONE, or OPEN if it was stopped before.

        Raises:
            BadOption: another process works on this archive.
            DeploymentError: a person must act. A database or disk that is out of order for a while is waited for.
        """
        self._parts = {keyed(self._key, "part", part.key): part for part in self._source.parts()}
        with _only_one(self._spool, self._source):
            with self._database.begin() as connection:
                order = keyed(self._key, "order", self._source.key)
                run = backfill.open_run(connection, order, self._source.name, self._source.said)
                gone = backfill.open_parts(connection, run.id, self._parts)
            log.info("backfill %d: %s, %s", run.id, "begins" if run.is_new else "goes on", self._source.said)
            if gone:
                log.warning("%d parts that waited to be searched are not there any more; is all of it mounted?", gone)
            if run.is_paused:
                log.warning("a person paused it: 'trabecula backfill resume %d' lets it go on", run.id)
            with ThreadPoolExecutor(self._options.associations, thread_name_prefix="fetch") as pool:
                try:
                    state = self._work(run.id, pool)
                finally:
                    self.stop()
            self._say(run.id, "" if state is BackfillState.DONE else progress.STOPPED)
        return state

    def _work(self, run_id: int, pool: ThreadPoolExecutor) -> BackfillState:
        active: set[Future[None]] = set()
        pause_s = self._options.poll_s
        while not self._stop.is_set():
            try:
                active = _still_active(active)
                why = self._why_wait(run_id)
                if why:
                    self._fetcher.hold(why.startswith("paused"))
                    self._stop.wait(self._options.poll_s)
                    continue
                self._fetcher.hold(False)
                self._doing = FETCHING
                if len(active) < self.pace.allowed and (claimed := self._claim(run_id)) is not None:
                    active.add(pool.submit(self._fetcher.fetch, claimed, self._parts.get(claimed.part)))
                elif not self._search_next(run_id) and self._rest(run_id, active):
                    self._say(run_id, "", BackfillState.DONE)
                    return BackfillState.DONE
                pause_s = self._options.poll_s
            except (DatabaseUnavailable, StorageFull) as passing:
                log.warning("waiting for the machine: %s", passing)
                self._stop.wait(pause_s)
                pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)
        return BackfillState.OPEN

    def _why_wait(self, run_id: int) -> str:
        """What is more important now; empty: nothing."""
        options, now = self._options, self._clock()
        why = ""
        if not is_open(self._windows, now):
            why = f"waits for its window, {opens_at(self._windows, now):%a %H:%M}"
        elif self._spool.free_bytes() < (self._spool.options.reserve_mib + options.keep_free_mib) * MIB:
            why = "waits for room on the disk of the spool"
        elif self.pace.pause_s > 0:
            why = f"the archive is away or slow; next attempt in {self.pace.pause_s:.0f} s: {self.pace.why}"
        else:
            with self._database.read() as connection:
                if options.live_pause_s and live.is_live(connection, options.live_pause_s):
                    why = "waits while series come by themselves"
                elif live.count_unread(connection) >= options.most_unread:
                    why = "waits for the analysis"
        if self._say(run_id, why or self._doing) is BackfillState.PAUSED:
            return "paused by a person"
        return why

    def _say(self, run_id: int, detail: str, state: BackfillState | None = None) -> BackfillState:
        """A sign of life, and what a person is told; at most once a second, unless the state changes."""
        now = time.monotonic()
        if state is None and now - self._told_at < min(1.0, self._options.poll_s) and detail == FETCHING:
            with self._database.read() as connection:
                return backfill.state_of(connection, run_id)
        self._told_at = now
        with self._database.begin() as connection:
            told = backfill.tell_state(connection, run_id, detail, state)
            lines = {line.id: line for line in progress.backfills(connection)}
        self._told(lines[run_id])
        return told

    def _claim(self, run_id: int) -> backfill.ClaimedSeries | None:
        with self._database.begin() as connection:
            return backfill.claim_series(connection, run_id)

    def _search_next(self, run_id: int) -> bool:
        """Search the next part, unless enough is known; False: there was nothing to search."""
        with self._database.read() as connection:
            if backfill.count_waiting(connection, run_id) >= AHEAD:
                return False
            not_due = backfill.parts_not_due(connection, run_id)
        due = next((key for key in self._parts if key not in not_due), None)
        if due is None or self.pace.allowed == 0:
            return False
        try:
            findings = self._source.search(self._parts[due], go_on=lambda: not self._stop.is_set())
        except PeerAway as away:
            log.warning("%s", away)
            self.pace.failed(self._options.connect_timeout_s, str(away))
            return True
        except PeerError as failed:
            if self._stop.is_set():
                return True  # it was left, and is searched the next time
            log.warning("a part could not be searched: %s", failed)
            with self._database.begin() as connection:
                backfill.part_failed(
                    connection, run_id, due, str(failed), self._options.attempts, self._options.retry_after_s
                )
            return True
        if self._stop.is_set():
            return True  # likewise: what was found may be less than there is
        with self._database.begin() as connection:
            backfill.keep_part(connection, run_id, due, findings.studies, findings.series)
            for refused in findings.refusals:
                record_refusal(
                    connection, refused.reason, refused.detail, subject=refused.subject, peer=self._source.name
                )
        wanted = sum(found.is_wanted for found in findings.series)
        level = logging.INFO if findings.studies else logging.DEBUG  # years of an archive have many empty days
        told = "a part holds %d studies; %d of %d series are wanted"
        log.log(level, told, findings.studies, wanted, len(findings.series))
        return True

    def _rest(self, run_id: int, active: set[Future[None]]) -> bool:
        """Nothing to begin now: wait for what is on its way or due later. True: there is no such thing any more."""
        if active:
            wait(active, self._options.poll_s, FIRST_COMPLETED)
            return False
        with self._database.read() as connection:
            due_s = backfill.next_due_s(connection, run_id)
        if due_s is None:
            return True
        self._doing = f"waits to try again what failed; next attempt in {due_s:.0f} s"
        self._stop.wait(min(self._options.poll_s, max(due_s, 0.01)))
        return False


def _still_active(active: set[Future[None]]) -> set[Future[None]]:
    for future in active:
        if future.done():
            future.result()  # raises what ended it: a fault of ours, or that a person must act
    return {future for future in active if not future.done()}


@contextmanager
def _only_one(spool: Spool, source: Source) -> Iterator[None]:
    """A lock that ends with this process: so many associations are at most open to an archive as are allowed."""
    name = hashlib.sha256(source.lock.encode()).hexdigest()[:16]
    place = Path(spool.folder) / f".backfill-{name}.lock"
    door = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(door, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise BadOption(f"another process reads from archive '{source.name}' already") from None
    finally:
        os.close(door)
