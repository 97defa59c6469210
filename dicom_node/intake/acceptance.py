"""
Whether an instance is taken in, whichever way its bytes came: looked at, kept, or refused with a status and a reason.

What can't be accepted is refused with a status and a typed reason, its bytes are kept aside within bounds, and the
association goes on. Statuses, so that a sender's log tells what was wrong (PS3.4 table B.2-1):

    0000  stored, or stored before with the same bytes
    A700  the disk is full or below its reserve, or the node is too far behind; try again later
    A900  command and data set disagree                              command_mismatch
    C101  an identifier of study, series or instance is missing      identity_missing
    C102  an identifier is no UID                                    identifier_invalid
    C103  the header can't be read                                   header_unreadable
    C104  the UID is known with other content; the first one stays   instance_conflict
    C105  the pixel data are cut short or missing                    pixels_unreadable
    C1FF  a fault of ours
"""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from time import perf_counter

from db.registry import Arrival as Registered
from dicom_node import metrics
from dicom_node.durable import Aside
from dicom_node.intake.file_format import file_head
from dicom_node.intake.inspection import Command, inspect_file
from dicom_node.intake.registrar import Registrar
from dicom_node.spool import Arrival, Refusal, Spool
from engine.errors import StorageFull, UnreadableInstance
from engine.loading.headers import check_uid
from engine.records import InstanceHeader, Reason

log = logging.getLogger(__name__)

SUCCESS, OUT_OF_RESOURCES, OUR_FAULT = 0x0000, 0xA700, 0xC1FF

STATUSES = {
    Reason.COMMAND_MISMATCH: 0xA900,
    Reason.IDENTITY_MISSING: 0xC101,
    Reason.IDENTIFIER_INVALID: 0xC102,
    Reason.HEADER_UNREADABLE: 0xC103,
    Reason.INSTANCE_CONFLICT: 0xC104,
    Reason.PIXELS_UNREADABLE: 0xC105,
}
"""Failures, by reason. The low digits of the C's are our choice; all mean "can't understand"."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a sender is told."""

    status: int
    comment: str = ""  # of at most 64 letters


class Acceptance:
    """What every instance is held against; shared by all associations."""

    def __init__(
        self, spool: Spool, registrar: Registrar, pseudonym_key: bytes, pressure: Callable[[], str] = lambda: ""
    ) -> None:
        """Hold what is needed.

        Args:
            pressure: why nothing can be taken in just now; empty if it can.
        """
        self.spool = spool
        self.registrar = registrar
        self.pseudonym_key = pseudonym_key
        self.pressure = pressure

    def begin(self, command: Command, transfer_syntax_uid: str, peer: str) -> "Reception":
        """Start to receive an instance.

        Args:
            peer: AE title of the sender.
        """
        return Reception(self, command, transfer_syntax_uid, printable(peer))


class Reception:
    """One instance on its way in: `take` its bytes, `finish` it, and `settle` it once the answer is sent."""

    def __init__(self, acceptance: Acceptance, command: Command, transfer_syntax_uid: str, peer: str) -> None:
        """Begin with the file's head; nothing is written yet."""
        self.size_bytes = 0
        self._acceptance = acceptance
        self._spool = acceptance.spool
        self._command = command
        self._peer = peer
        self._pieces: list[bytes | memoryview] = []
        self._aside: Aside | None = None
        self._content: bytes | None = None  # of the file, where it was small enough to be held
        self._full = StorageFull(why) if (why := acceptance.pressure()) else None
        self._registered: tuple[InstanceHeader, Path] | None = None
        self.take(file_head(command.sop_class_uid, command.sop_instance_uid, transfer_syntax_uid))

    def take(self, piece: bytes | memoryview) -> None:
        """The next bytes; a view must stay as it is until `spill` or `finish`."""
        self._pieces.append(piece)
        self.size_bytes += len(piece)

    def spill(self) -> None:
        """Write what was taken, so that views may be used again. A full disk is told by `finish`."""
        pieces, self._pieces = self._pieces, []
        if self._full is None:
            try:
                self._write(pieces)
            except StorageFull as full:
                self._full = full
                self.drop()

    def finish(self) -> Answer:
        """Judge and keep the instance; with success, it is durable. Never raises."""
        try:
            answer = self._finish()
        except StorageFull as full:
            log.error("an instance was not taken: %s", full)
            answer = Answer(OUT_OF_RESOURCES, str(full))
        except Exception:
            log.exception("an instance was not taken")
            answer = Answer(OUR_FAULT, "a fault of the receiver")
        metrics.count_instance(answer.status, self.size_bytes)
        if self._registered is None:
            self.drop()
        return answer

    def settle(self) -> None:
        """What can wait until the sender has its answer: the digest, and the registry."""
        if self._registered is not None:
            header, path = self._registered
            self._acceptance.registrar.offer(Registered(header, str(path), self.size_bytes, self._sha256()))
        self.drop()

    def drop(self) -> None:
        """Let go of everything; what was not kept is gone. May be called again."""
        self._pieces, self._content = [], None
        if self._aside is not None:
            self._aside.close()
            self._aside = None

    def _finish(self) -> Answer:
        if self._full is not None:
            raise self._full
        began = perf_counter()
        try:
            header = self._inspect()
            inspected = perf_counter()
            aside = self._write([self._content] if self._content is not None else [])
            written = perf_counter()
            path, arrival = self._spool.keep(header.sop_instance_uid, aside)
            if arrival is Arrival.CONFLICTING:
                raise UnreadableInstance(Reason.INSTANCE_CONFLICT, "the same instance came before with other content")
        except UnreadableInstance as refused:
            return self._refuse(refused)
        metrics.time_stages(inspect=inspected - began, write=written - inspected, sync=perf_counter() - written)
        metrics.count_arrival(arrival)
        self._registered = header, path
        return Answer(SUCCESS)

    def _inspect(self) -> InstanceHeader:
        command, key = self._command, self._acceptance.pseudonym_key
        if self._aside is None:
            self._content = b"".join(self._pieces)
            self._pieces = []
            return inspect_file(BytesIO(self._content), self.size_bytes, command, key)
        self.spill()
        if self._full is not None:
            raise self._full
        with self._aside.open() as file:
            return inspect_file(file, self.size_bytes, command, key)

    def _write(self, pieces: list[bytes | memoryview]) -> Aside:
        if self._aside is None:
            self._aside = self._spool.begin()
        if pieces:
            self._spool.write(self._aside, pieces)
        return self._aside

    def _refuse(self, refused: UnreadableInstance) -> Answer:
        log.warning("refused an instance: %s, %s", refused.reason, refused.message)
        try:
            aside = self._aside or self._write([self._content or b""])
        except StorageFull:
            aside = None  # its sender keeps it
        subject = self._subject()
        self._spool.turn_away(aside, Refusal(subject, refused.reason, refused.message, self._peer))
        self._acceptance.registrar.look_at_refusals()
        metrics.count_refusal(refused.reason)
        return Answer(STATUSES.get(refused.reason, STATUSES[Reason.HEADER_UNREADABLE]), str(refused))

    def _subject(self) -> str:
        """What a refusal is about: the instance that the command names, or else these bytes."""
        try:
            return check_uid(self._command.sop_instance_uid)
        except UnreadableInstance:
            return self._sha256()

    def _sha256(self) -> str:
        if self._content is not None:
            return hashlib.sha256(self._content).hexdigest()
        if self._aside is None:
            return hashlib.sha256(b"").hexdigest()
        with self._aside.open() as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def printable(peer: str) -> str:
    """An AE title as it may be written down."""
    return "".join(letter for letter in peer if " " <= letter <= "~").strip()[:16]
