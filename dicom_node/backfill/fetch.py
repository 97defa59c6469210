"""
One series from an archive into the spool and the registry: what is missing is asked for, and counted afterwards.
"""

import logging
import threading
import time
from dataclasses import dataclass, field

from db import backfill
from db.backfill import ClaimedSeries, Fetched
from db.connection import Database
from db.known import size_bytes
from db.registry import Arrival, here_or_finished, known_instances, record_refusal, register_instances
from dicom_node.backfill.options import BackfillOptions
from dicom_node.backfill.pace import Pace
from dicom_node.backfill.source import Part, Source
from dicom_node.intake.taking import Offered, missing, put_aside, spooled, take
from dicom_node.spool import Spool
from engine.errors import DatabaseUnavailable, PeerAway, PeerError, StorageFull, UnreadableInstance

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.5  # our choice: before what is missing is asked for again at once; doubles


@dataclass(slots=True)
class _Attempt:
    """What came of one attempt at a series."""

    claimed: ClaimedSeries
    began: float = field(default_factory=time.monotonic)
    uids: list[str] = field(default_factory=list)  # that the archive lists
    asked: list[str] = field(default_factory=list)  # of these, what was missing when it began
    arrivals: dict[str, Arrival] = field(default_factory=dict)
    refusals: dict[str, UnreadableInstance] = field(default_factory=dict)
    full: StorageFull | None = None
    trouble: str = ""
    is_away: bool = False


class Fetcher:
    """Fetches claimed series, one a call; threads may share it."""

    def __init__(
        self,
        database: Database,
        spool: Spool,
        pseudonym_key: bytes,
        source: Source,
        options: BackfillOptions,
        pace: Pace,
        stopped: threading.Event,
    ) -> None:
        """Hold what is needed.

        Args:
            stopped: set when the order is stopped. It is one with whoever searches: a source may be shared, and who
                leaves it ends what the others wait for, which is no fault of the archive's.
        """
        self._database = database
        self._spool = spool
        self._key = pseudonym_key
        self._source = source
        self._options = options
        self._pace = pace
        self._stopped = stopped
        self._leave = threading.Event()

    def leave(self) -> None:
        """Leave series where they are, as the order was stopped."""
        self._leave.set()

    def hold(self, is_held: bool) -> None:
        """A person paused the order: leave series where they are, until it goes on."""
        (self._leave.set if is_held else self._leave.clear)()

    def fetch(self, claimed: ClaimedSeries, part: Part | None) -> None:
        """Take one series to an end, or back among those that wait.

        Args:
            part: that it was found in; None: the order does not hold it any more.

        Raises:
            DeploymentError: a person must act.
        """
        attempt = _Attempt(claimed)
        try:
            if part is None:
                raise PeerError("where it was found is gone")
            study, series = claimed.study_instance_uid, claimed.series_instance_uid
            attempt.uids = list(self._source.listing(part, study, series, self._goes_on))
            if attempt.uids:
                self._ask(attempt, part)
            else:
                attempt.trouble = "the archive lists no instance of it"
        except PeerError as failed:
            attempt.trouble, attempt.is_away = str(failed), isinstance(failed, PeerAway)
        self._write_down(attempt)

    def _ask(self, attempt: _Attempt, part: Part) -> None:
        """Ask for what is missing, and at once again for what did not come (the first level of retries)."""
        claimed = attempt.claimed
        for again in range(1 + self._options.immediate_retries):
            left = self._left(attempt)
            attempt.asked = attempt.asked or left
            if not left or self._leave.wait(FIRST_PAUSE_S * 2 ** (again - 1) if again else 0):
                return
            try:
                self._source.fetch(
                    part,
                    claimed.study_instance_uid,
                    claimed.series_instance_uid,
                    left,
                    len(left) == len(attempt.uids),
                    lambda offered: self._take(attempt, offered),
                    self._goes_on,
                )
                self._await_front_door(attempt)
                attempt.trouble = ""
            except PeerError as failed:
                log.warning("series %s: %s", claimed.series_instance_uid, failed)
                attempt.trouble, attempt.is_away = str(failed), isinstance(failed, PeerAway)
            if attempt.full is not None:
                return

    def _goes_on(self) -> bool:
        return not self._stopped.is_set() and not self._leave.is_set()

    def _take(self, attempt: _Attempt, offered: Offered) -> bool:
        uid = offered.command.sop_instance_uid
        try:
            attempt.arrivals[uid] = take(offered, self._spool, self._key)
        except UnreadableInstance as refused:
            log.warning("refused an instance: %s", refused)
            attempt.refusals[uid] = refused
        except StorageFull as full:
            attempt.full = full
        return attempt.full is None and self._goes_on()

    def _left(self, attempt: _Attempt) -> list[str]:
        return [uid for uid in missing(attempt.uids, self._database, self._spool) if uid not in attempt.refusals]

    def _await_front_door(self, attempt: _Attempt) -> None:
        """What comes by C-MOVE is registered by the receiver: wait as long as it goes on coming."""
        if not self._source.comes_by_front_door:
            return
        left, since = self._unregistered(attempt), time.monotonic()
        while left and time.monotonic() - since < self._options.arrival_timeout_s and self._goes_on():
            self._leave.wait(0.1)
            now = self._unregistered(attempt)
            if now < left:
                left, since = now, time.monotonic()

    def _unregistered(self, attempt: _Attempt) -> int:
        with self._database.read() as connection:
            return len(attempt.uids) - len(known_instances(connection, attempt.uids))

    def _write_down(self, attempt: _Attempt) -> None:
        """Register what is here and say how the series stands, in one transaction."""
        while True:
            try:
                self._register(attempt)
                break
            except DatabaseUnavailable as passing:
                log.warning("waiting for the database: %s", passing)
                if self._leave.wait(self._options.poll_s):
                    return  # nothing is lost: the spool has it, and the series is fetched on
        if attempt.is_away or attempt.full is not None:
            why = attempt.trouble if attempt.full is None else str(attempt.full)
            self._pace.failed(self._options.connect_timeout_s, why)
        if attempt.full is not None:
            log.warning("series %s: %s", attempt.claimed.series_instance_uid, attempt.full)

    def _register(self, attempt: _Attempt) -> None:
        claimed, options = attempt.claimed, self._options
        arrivals = dict(attempt.arrivals)
        with self._database.begin() as connection:
            known = here_or_finished(connection, attempt.uids)
            for uid in attempt.uids:  # what an attempt before this one brought, and did not come to register
                if uid not in known and uid not in arrivals and uid not in attempt.refusals:
                    arrival = spooled(uid, self._spool, self._key)
                    if arrival is not None:
                        arrivals[uid] = arrival
            registrations = register_instances(connection, list(arrivals.values()))
            for uid, why in attempt.refusals.items():
                record_refusal(connection, why.reason, why.message, subject=uid, peer=self._source.name)
            refused = set(attempt.refusals) | {each.sop_instance_uid for each in registrations if each.reason}
            here = here_or_finished(connection, attempt.uids)
            gone = sum(uid not in here and uid not in refused for uid in attempt.uids)
            seconds = time.monotonic() - attempt.began
            is_whole = bool(attempt.uids) and not gone
            detail = (f"{len(refused)} refused" if refused else "") if is_whole else _what_is_wrong(attempt, gone)
            came = size_bytes(connection, here.intersection(attempt.asked))
            fetched = Fetched(len(attempt.uids), len(here), came, seconds, detail)
            was_put_off = not self._goes_on() or attempt.is_away or attempt.full is not None
            if is_whole:
                backfill.series_done(connection, claimed, fetched)
            elif was_put_off:
                backfill.give_back(connection, claimed, fetched)
            else:
                state = backfill.series_failed(connection, claimed, fetched, options.attempts, options.retry_after_s)
                log.warning("series %s: %s; it is %s", claimed.series_instance_uid, detail, state)
        put_aside(list(zip(arrivals.values(), registrations, strict=True)), self._spool)
        if is_whole:
            self._pace.fetched(seconds, len(attempt.asked))
        elif not was_put_off:
            self._pace.failed(FIRST_PAUSE_S, detail)


def _what_is_wrong(attempt: _Attempt, gone: int) -> str:
    if not attempt.uids or not attempt.trouble:
        return attempt.trouble or f"{gone} of {len(attempt.uids)} instances did not come"
    return f"{gone} of {len(attempt.uids)} instances did not come: {attempt.trouble}"
