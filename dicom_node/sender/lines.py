"""
The sender at work: one line a destination, each with its own thread and its own back-off.

An object counts as sent when the destination answered with a status that means "stored", and not before; no answer
is no answer. A repeat stores the same object under the same UID, so sending twice does no harm. A destination that is
down, or whose certificates can't be used, holds up none of the others, and loses nothing. Where one commits to what it
stored, it is asked to.
"""

import logging
import os
import random
import secrets
import socket
import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress

from db import outbox, waiting
from db.connection import Database
from db.outbox import ClaimedObject
from dicom_node.peers import commitment
from dicom_node.sender.answers import Answer, Outcome
from dicom_node.sender.options import Destination, SenderOptions
from dicom_node.sender.store import peer_of, store
from engine.errors import DatabaseUnavailable, PeerAway, PeerError, StorageFull, UnusableCredentials

log = logging.getLogger(__name__)

REAP_EVERY_S = 30.0  # our choice: how often objects are looked for whose sender died; or once a lease
ASK_EVERY_S = 10.0  # our choice: how often it is looked what to ask commitment for
MOST_ASKED = 200  # objects of one request for commitment; our choice
TROUBLE = "%s; next attempt in %.0f s"
LONGEST_PAUSE_S = 30.0  # our choice: between attempts to reach a database that is out of order
WITHOUT_REMARK = frozenset({"status 0x0000", "HTTP 200"})  # stored, and nothing to be said of it
STALL_MARGIN_S = 60.0  # our choice: beyond all timeouts together; nothing that is alive takes so long


class Sender:
    """Serves every destination until stopped."""

    def __init__(self, database: Database, options: SenderOptions) -> None:
        """Hold what is needed; nothing is sent yet."""
        self._stop = threading.Event()
        self._database = database
        self._told_at = time.monotonic()
        owner = f"{socket.gethostname()[:32]}-{os.getpid()}-{secrets.token_hex(4)}"
        self._lines = [_Line(database, each, options, owner, self._stop) for each in options.destinations]
        self._stall_s = STALL_MARGIN_S + sum(
            (options.connect_timeout_s, options.association_timeout_s, options.store_timeout_s, options.idle_timeout_s)
        )

    def stop(self) -> None:
        """Begin no more; what is on its way ends."""
        self._stop.set()

    def run(self, until_idle: bool = False) -> int:
        """Send until stopped.

        Args:
            until_idle: return when nothing more can be sent now.

        Returns:
            How many objects were stored, counted once for each destination.

        Raises:
            DeploymentError: a person must act. A database that is out of order for a while is waited for, and so are
                the credentials of a destination, unless `until_idle`: then it is raised when the others are done.
        """
        threads = [
            threading.Thread(target=line.serve, args=(until_idle,), name=f"to {line.destination.name}", daemon=True)
            for line in self._lines
        ]
        self._tell(waiting.begin)
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            self._watch()
            if time.monotonic() - self._told_at >= waiting.SIGN_EVERY_S:
                self._tell(waiting.give_sign)
            time.sleep(0.05 if until_idle else 0.2)
        while not threads and not until_idle and not self._stop.wait(1.0):
            pass  # nobody to send to: as idle as any other process
        self._tell(waiting.end)
        for amiss in (*(line.failed for line in self._lines), *(line.amiss for line in self._lines if until_idle)):
            if amiss is not None:
                raise amiss
        return sum(line.stored for line in self._lines)

    def _tell(self, sign: waiting.Sign) -> None:
        """Say in the database that these destinations are served, or no more: for `status`, so it may fail."""
        self._told_at = time.monotonic()
        if self._lines:
            with suppress(DatabaseUnavailable, StorageFull), self._database.begin() as connection:
                sign(connection, [line.destination.name for line in self._lines])

    def _watch(self) -> None:
        """One line that fails ends all; one that hangs ends the process, as no thread can be stopped from outside."""
        if any(line.failed is not None for line in self._lines):
            self._stop.set()
        for line in self._lines:
            if line.busy_since is not None and time.monotonic() - line.busy_since > self._stall_s:
                log.critical("destination '%s': sending hangs; this process ends", line.destination.name)
                logging.shutdown()
                os._exit(os.EX_TEMPFAIL)


class _Line:
    """What goes to one destination, one association after the other."""

    def __init__(
        self, database: Database, destination: Destination, options: SenderOptions, owner: str, stop: threading.Event
    ) -> None:
        self.destination = destination
        self.stored = 0
        self.failed: BaseException | None = None
        self.amiss: UnusableCredentials | None = None  # the last that was
        self.busy_since: float | None = None
        self._database = database
        self._options = options
        self._owner = owner
        self._stop = stop
        self._failures = 0  # in a row, of the destination itself
        self._delay_s = 0.0
        self._refused = set[int]()  # objects, one after the other
        self._trouble: PeerError | UnusableCredentials | None = None  # why it was left alone, as the database says too
        self._reaped_at = -REAP_EVERY_S
        self._asked_at = -ASK_EVERY_S
        self._told = commitment.report_taker(database, options.max_refusals)

    def serve(self, until_idle: bool) -> None:
        try:
            self._serve(until_idle)
        except BaseException as failed:
            self.failed = failed

    def _serve(self, until_idle: bool) -> None:
        pause = self._options.poll_s
        while not self._stop.is_set():
            try:
                claimed = self._claim()
                if claimed:
                    self._deliver(claimed)
                has_asked = self._ask_for_commitment()
                if not claimed and not has_asked:
                    if until_idle:
                        return
                    self._stop.wait(self._options.poll_s)
                pause = self._options.poll_s
            except (PeerError, UnusableCredentials) as trouble:
                self.amiss = trouble if isinstance(trouble, UnusableCredentials) else None
                log.log(logging.ERROR if self.amiss else logging.WARNING, TROUBLE, trouble, self._delay_s)
                if until_idle:
                    return
                self._stop.wait(self._delay_s)
            except (DatabaseUnavailable, StorageFull) as passing:
                log.warning("waiting for the machine: %s", passing)
                self._stop.wait(pause)
                pause = min(LONGEST_PAUSE_S, 2 * pause)

    def _claim(self) -> tuple[ClaimedObject, ...]:
        options = self._options
        with self._database.begin() as connection:
            if time.monotonic() - self._reaped_at >= min(REAP_EVERY_S, options.lease_s):
                outbox.reap(connection, options.max_refusals)
                self._reaped_at = time.monotonic()
            return outbox.claim_objects(connection, self.destination.name, self._owner, options.batch, options.lease_s)

    def _deliver(self, claimed: Sequence[ClaimedObject]) -> None:
        """Send a batch and write down each answer at once; what got none goes back into the outbox."""
        began = time.monotonic()
        self.busy_since = began
        unanswered = {item.outbox_id: item for item in claimed}
        self._delay_s, is_lost = 0.0, False
        try:
            for answer in store(self.destination, claimed, self._options, self._goes_on):
                self._write_down(answer)
                del unanswered[answer.item.outbox_id]
                self._count(answer)
                self.busy_since = time.monotonic()
                if self._stop.is_set() or self.busy_since - began > self._options.lease_s / 2:
                    break
        except (PeerError, UnusableCredentials) as failed:
            if not self._goes_on():
                return  # it was left, which says nothing of it
            self._delay_s, self._trouble, is_lost = self._back_off(), failed, True
            raise
        finally:
            self.busy_since = None
            if unanswered or is_lost:
                with self._database.begin() as connection:
                    outbox.postpone(connection, tuple(unanswered.values()), self._delay_s)
                    if is_lost:
                        waiting.leave_alone(connection, self.destination.name, str(self._trouble), self._delay_s)

    def _goes_on(self) -> bool:
        return not self._stop.is_set()

    def _count(self, answer: Answer) -> None:
        """A destination that refuses one object after the other is left alone for a while.

        Raises:
            PeerError: it does.
        """
        if answer.outcome is Outcome.STORED:
            self._refused.clear()
            self._failures = 0
        elif answer.outcome is Outcome.REFUSED and answer.is_the_peers:
            self._refused.add(answer.item.outbox_id)
        if len(self._refused) >= self._options.refusals_in_a_row:
            self._refused.clear()
            raise PeerError(f"'{self.destination.name}' refuses one object after the other")

    def _ask_for_commitment(self) -> bool:
        """Ask what was sent to be kept, now and then; whether it was asked."""
        destination, options = self.destination, self._options
        if not destination.commitment or time.monotonic() - self._asked_at < ASK_EVERY_S:
            return False
        self._asked_at = time.monotonic()
        transaction_uid = f"2.25.{uuid.uuid4().int}"
        with self._database.begin() as connection:
            items = outbox.to_commit(connection, destination.name, transaction_uid, MOST_ASKED, options.ask_again_s)
        if not items:
            return False
        self.busy_since = time.monotonic()
        try:
            peer, wait_s = peer_of(destination, options), options.commitment_wait_s
            commitment.ask(peer, transaction_uid, items, self._told, wait_s, self._goes_on)
        except (PeerError, UnusableCredentials) as failed:
            delay_s, why = min(options.longest_retry_s, options.ask_again_s), str(failed)
            if not self._goes_on():
                delay_s, why = 0.0, ""  # it was left
            log.warning("%s", failed)
            with self._database.begin() as connection:
                outbox.ask_later(connection, transaction_uid, delay_s, why)
            return False
        finally:
            self.busy_since = None
        return len(items) == MOST_ASKED

    def _write_down(self, answer: Answer) -> None:
        item, options = answer.item, self._options
        with self._database.begin() as connection:
            if answer.outcome is Outcome.STORED:
                state = "sent" if outbox.sent(connection, item) else "sent, but no longer ours"
                self.stored += 1
            elif answer.outcome is Outcome.REFUSED:
                state = outbox.refused(connection, item, answer.detail, options.max_refusals, options.retry_after_s)
            else:  # longer than what waits behind it, so that one object never bars the way
                outbox.postpone(connection, [item], 2 * options.retry_after_s * 2 ** min(self._failures, 8))
                state = "put off"
            is_there = answer.outcome is Outcome.REFUSED and isinstance(self._trouble, PeerAway)
            if self._trouble and (is_there or answer.outcome is Outcome.STORED):
                waiting.take_up(connection, self.destination.name)
                self._trouble = None
        level = logging.INFO if answer.detail in WITHOUT_REMARK else logging.WARNING
        name = self.destination.name
        log.log(level, "%s %s to '%s': %s; %s", item.kind, item.sop_instance_uid, name, answer.detail, state)

    def _back_off(self) -> float:
        """Doubles with each failure in a row; spread, so that several senders do not knock all at once."""
        longest: float = min(self._options.longest_retry_s, self._options.retry_after_s * 2**self._failures)
        self._failures = min(self._failures + 1, 16)
        return longest * random.uniform(0.5, 1.0)
