"""
The back door: reports wait in the outbox and go to each destination by C-STORE.

An object counts as sent when the destination answered with a status that means "stored", and not before; no answer
is no answer. A repeat stores the same object under the same UID, so sending twice does no harm. Each destination has
its own thread and its own back-off: one that is down holds up none of the others, and loses nothing.
"""

import logging
import os
import random
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from db import outbox
from db.connection import Database
from db.outbox import ClaimedObject
from engine.errors import DatabaseUnavailable, PeerError, StorageFull

if TYPE_CHECKING:
    from pynetdicom.association import Association

log = logging.getLogger(__name__)

STORED = frozenset({0x0000, 0xB000, 0xB006, 0xB007})
"""Statuses of C-STORE that mean: it is stored. The B's are warnings (PS3.4 table B.2-1)."""

OUT_OF_RESOURCES = range(0xA700, 0xA800)
"""Statuses that are about the peer, not about the object (PS3.4 table B.2-1)."""

EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
REAP_EVERY_S = 30.0  # our choice: how often objects are looked for whose sender died
LONGEST_PAUSE_S = 30.0  # our choice: between attempts to reach a database that is out of order
STALL_MARGIN_S = 60.0  # our choice: beyond all timeouts together; nothing that is alive takes so long


@dataclass(frozen=True, slots=True)
class Destination:
    """A peer that reports are sent to."""

    name: str  # ours; stands in the outbox and in `status`
    ae_title: str
    host: str
    port: int

    def __post_init__(self) -> None:
        """Refuse what DICOM or TCP can't address."""
        if not 1 <= len(self.name) <= 64:
            raise ValueError("a destination needs a name of 1 to 64 characters")
        if not 1 <= len(self.ae_title.strip()) <= 16 or not self.ae_title.isascii() or "\\" in self.ae_title:
            raise ValueError(f"ae_title of destination '{self.name}' must be 1 to 16 plain characters")
        if not 1 <= self.port <= 65535:
            raise ValueError(f"port of destination '{self.name}' must be 1 to 65535, not {self.port}")


@dataclass(frozen=True, slots=True)
class SenderOptions:
    """Where reports go, how long to wait for an answer and how patient to be."""

    ae_title: str = "TRABECULA"  # how this node calls itself
    destinations: tuple[Destination, ...] = ()  # none: reports stay on disk and are not sent
    connect_timeout_s: float = 10.0
    association_timeout_s: float = 30.0  # for an answer to the request of an association
    store_timeout_s: float = 60.0  # for an answer to one C-STORE
    idle_timeout_s: float = 60.0  # of an open association on which nothing moves
    batch: int = 16  # objects for one association
    poll_s: float = 2.0  # pause when there is nothing to send
    lease_s: float = 600.0  # how long a sender that died keeps its objects
    retry_after_s: float = 10.0  # pause when a destination is not there, or refuses an object; doubles each time
    longest_retry_s: float = 600.0  # longest pause while a destination is not there; that may last for weeks
    max_refusals: int = 20  # of one object by a destination that is there; then it is a dead letter

    def __post_init__(self) -> None:
        """Refuse numbers without meaning, and two destinations of one name."""
        timeouts = (self.connect_timeout_s, self.association_timeout_s, self.store_timeout_s, self.idle_timeout_s)
        if min(*timeouts, self.poll_s, self.retry_after_s, self.longest_retry_s) <= 0:
            raise ValueError("timeouts and pauses must be above 0")
        if self.lease_s < 2 * self.store_timeout_s:
            raise ValueError("lease_s must be at least twice store_timeout_s")
        if min(self.batch, self.max_refusals) < 1:
            raise ValueError("batch and max_refusals must be 1 or more")
        names = [destination.name for destination in self.destinations]
        if len(set(names)) < len(names):
            raise ValueError("two destinations have the same name")


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


def echo(destination: Destination, options: SenderOptions) -> None:
    """Ask a destination whether it is there (C-ECHO).

    Raises:
        PeerError: it is not, or does not take us.
    """
    verification = "1.2.840.10008.1.1"
    with _association(destination, [(verification, (IMPLICIT,))], options) as association:
        if not association.accepted_contexts:
            raise PeerError(f"'{destination.name}' is there, but does not answer C-ECHO")
        status = association.send_c_echo()
        if "Status" not in status or status.Status != 0x0000:
            raise PeerError(f"'{destination.name}' did not answer C-ECHO with success")


def store(destination: Destination, items: Sequence[ClaimedObject], options: SenderOptions) -> Iterator[Answer]:
    """Send objects over one association.

    Yields:
        An answer for each item as soon as it is known; fewer if the destination is lost on the way.

    Raises:
        PeerError: the destination is not there, does not take us, can take nothing now, or was lost on the way.
    """
    readable: list[tuple[ClaimedObject, str]] = []
    for item in items:
        try:
            readable.append((item, _transfer_syntax(item)))
        except Exception as bad:  # a damaged file makes pydicom raise many kinds
            yield Answer(item, Outcome.REFUSED, f"our file can't be read ({type(bad).__name__})")
    if not readable:
        return
    contexts = sorted({(item.sop_class_uid, _proposed(syntax)) for item, syntax in readable})
    with _association(destination, contexts, options) as association:
        for item, _ in readable:
            answer = _store_one(association, item)
            yield answer
            if answer.outcome is Outcome.PUT_OFF or (not association.is_established and association.accepted_contexts):
                raise PeerError(f"'{destination.name}': {answer.detail}")


def _store_one(association: "Association", item: ClaimedObject) -> Answer:
    if item.sop_class_uid not in {str(context.abstract_syntax) for context in association.accepted_contexts}:
        return Answer(item, Outcome.REFUSED, "the SOP class is not accepted")
    try:
        status = association.send_c_store(item.path)
    except RuntimeError:  # the association ended before this object's turn
        return Answer(item, Outcome.PUT_OFF, "the association ended")
    except ValueError:
        return Answer(item, Outcome.REFUSED, "the transfer syntax is not accepted")
    except (OSError, AttributeError) as bad:
        return Answer(item, Outcome.REFUSED, f"our file can't be read ({type(bad).__name__})")
    if "Status" not in status:
        return Answer(item, Outcome.REFUSED, "no answer to C-STORE")
    code = int(status.Status)
    if code in OUT_OF_RESOURCES:
        return Answer(item, Outcome.PUT_OFF, f"out of resources ({code:#06x})")
    return Answer(item, Outcome.STORED if code in STORED else Outcome.REFUSED, f"status {code:#06x}")


def _transfer_syntax(item: ClaimedObject) -> str:
    from pydicom.filereader import read_file_meta_info

    return str(read_file_meta_info(item.path).TransferSyntaxUID)


def _proposed(syntax: str) -> tuple[str, ...]:
    """A file is sent as it is; one in explicit VR in implicit VR too, the default that every peer must take."""
    return (EXPLICIT, IMPLICIT) if syntax == EXPLICIT else (syntax,)


@contextmanager
def _association(
    destination: Destination, contexts: Sequence[tuple[str, tuple[str, ...]]], options: SenderOptions
) -> Iterator["Association"]:
    """An association with a destination, released at the end.

    It is yielded without one accepted context too: then the peer is there and takes nothing of what was proposed.
    """
    from pynetdicom import AE

    ae = AE(ae_title=options.ae_title)
    ae.connection_timeout = options.connect_timeout_s
    ae.acse_timeout = options.association_timeout_s
    ae.dimse_timeout = options.store_timeout_s
    ae.network_timeout = options.idle_timeout_s
    for abstract_syntax, transfer_syntaxes in contexts:
        ae.add_requested_context(abstract_syntax, list(transfer_syntaxes))
    try:
        association = ae.associate(destination.host, destination.port, ae_title=destination.ae_title)
    except (OSError, RuntimeError) as bad:  # a name that does not resolve, no route
        raise PeerError(f"'{destination.name}' can't be reached ({type(bad).__name__})") from None
    if association.is_rejected:
        why = association.acceptor.primitive.reason_str
        raise PeerError(f"'{destination.name}' rejected the association: {why}")
    if not association.is_established and not association.rejected_contexts:
        raise PeerError(f"'{destination.name}' can't be reached, or did not answer")
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


class Sender:
    """Serves every destination until stopped."""

    def __init__(self, database: Database, options: SenderOptions) -> None:
        """Hold what is needed; nothing is sent yet."""
        self._stop = threading.Event()
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
            DeploymentError: a person must act. A database that is out of order for a while is waited for.
        """
        threads = [
            threading.Thread(target=line.serve, args=(until_idle,), name=f"to {line.destination.name}", daemon=True)
            for line in self._lines
        ]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            self._watch()
            time.sleep(0.05 if until_idle else 0.2)
        while not threads and not until_idle and not self._stop.wait(1.0):
            pass  # nobody to send to: as idle as any other process
        for line in self._lines:
            if line.failed is not None:
                raise line.failed
        return sum(line.stored for line in self._lines)

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
        self.busy_since: float | None = None
        self._database = database
        self._options = options
        self._owner = owner
        self._stop = stop
        self._failures = 0  # in a row, of the destination itself
        self._delay_s = 0.0
        self._reaped_at = -REAP_EVERY_S

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
                elif until_idle:
                    return
                else:
                    self._stop.wait(self._options.poll_s)
                pause = self._options.poll_s
            except PeerError as away:
                log.warning("%s; next attempt in %.0f s", away, self._delay_s)
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
            if time.monotonic() - self._reaped_at >= REAP_EVERY_S:
                outbox.reap(connection, options.max_refusals)
                self._reaped_at = time.monotonic()
            return outbox.claim_objects(connection, self.destination.name, self._owner, options.batch, options.lease_s)

    def _deliver(self, claimed: Sequence[ClaimedObject]) -> None:
        """Send a batch and write down each answer at once; what got none goes back into the outbox."""
        began = time.monotonic()
        self.busy_since = began
        waiting = {item.outbox_id: item for item in claimed}
        self._delay_s = 0.0
        try:
            for answer in store(self.destination, claimed, self._options):
                self._write_down(answer)
                del waiting[answer.item.outbox_id]
                self.busy_since = time.monotonic()
                if self._stop.is_set() or self.busy_since - began > self._options.lease_s / 2:
                    break
            self._failures = 0
        except PeerError:
            self._delay_s = self._back_off()
            raise
        finally:
            self.busy_since = None
            if waiting:
                with self._database.begin() as connection:
                    outbox.postpone(connection, tuple(waiting.values()), self._delay_s)

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
        level = logging.INFO if answer.detail == "status 0x0000" else logging.WARNING
        name = self.destination.name
        log.log(level, "%s %s to '%s': %s; %s", item.kind, item.sop_instance_uid, name, answer.detail, state)

    def _back_off(self) -> float:
        """Doubles with each failure in a row; spread, so that several senders do not knock all at once."""
        longest: float = min(self._options.longest_retry_s, self._options.retry_after_s * 2**self._failures)
        self._failures = min(self._failures + 1, 16)
        return longest * random.uniform(0.5, 1.0)
