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

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from time import perf_counter

from db.registry import Arrival as Registered
from dicom_node import metrics
from dicom_node.durable import Aside
from dicom_node.intake.file_format import file_head
from dicom_node.intake.inspection import Command, has_native_pixels, inspect_file, judge, read_early
from dicom_node.intake.registrar import Registrar
from dicom_node.spool import Arrival, Refusal, Spool
from engine.digest import Digest
from engine.errors import StorageFull, UnreadableInstance
from engine.loading.elements import Elements
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

LOOK_EARLY_BYTES = 12 * 1024
"""With so much here, a CT's header mostly is: it has 2 to 8 kB. Our choice."""

WRITE_EARLY_BYTES = 192 * 1024
"""That are worth a call while more is awaited. Measured: less costs calls, more waits for the last byte; and what lies
in the buffer already is written at once, with the rest."""

LOOKED_AT_EARLY = 16 * 1024, 64 * 1024
"""Bytes, a few first and then more. Our choice: nearly every CT's header lies in the first, and what is looked at is
put together for it; still more costs more than most headers are worth."""

NEVER = 1 << 62


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
            peer: AE title of the sender, printable.
        """
        return Reception(self, command, transfer_syntax_uid, peer)


class Reception:
    """One instance on its way in: `take` its bytes, `finish` it, and `settle` it once the answer is sent.

    What can be done while the rest is on its way is done then: the header is read as soon as it is here, and bytes are
    written in large parts; the digest is made while the disk writes. All in the association's own thread: to hand the
    digest to another one cost more than it saved, as all of them take turns at the interpreter.
    """

    def __init__(self, acceptance: Acceptance, command: Command, transfer_syntax_uid: str, peer: str) -> None:
        """Begin with the file's head; nothing is written yet."""
        self.size_bytes = 0
        self._acceptance = acceptance
        self._spool = acceptance.spool
        self._command = command
        self._peer = peer
        self._pieces: list[bytes | memoryview] = []  # of the file, since the last `spill`
        self._written = self._digested = 0  # so many of them are in the file, and in the digest, already
        self._unwritten_bytes = 0
        self._aside: Aside | None = None
        self._digest = Digest()
        self._is_whole = True  # nothing was spilled: the pieces are the whole file
        self._early: tuple[Elements, InstanceHeader] | None = None  # what the header says, if it was here early
        self._look_at_bytes = LOOK_EARLY_BYTES
        self._full = StorageFull(why) if (why := acceptance.pressure()) else None
        self._registered: tuple[InstanceHeader, str, Arrival] | None = None
        self._status = OUR_FAULT
        self._seconds = 0.0, 0.0, 0.0  # that looking, writing and flushing took
        self._transfer_syntax_uid = transfer_syntax_uid
        self.take(file_head(command.sop_class_uid, command.sop_instance_uid, transfer_syntax_uid))
        self._head_bytes = self.size_bytes

    def take(self, piece: bytes | memoryview) -> None:
        """The next bytes; a view must stay as it is until `spill` or `settle` returns."""
        self._pieces.append(piece)
        self.size_bytes += len(piece)
        self._unwritten_bytes += len(piece)
        if self.size_bytes >= self._look_at_bytes:
            self._look_early()

    def write_early(self) -> None:
        """Write what was taken while more is awaited, if it is worth a call. A full disk is told by `finish`."""
        if self._unwritten_bytes >= WRITE_EARLY_BYTES:
            self._write_or_give_up()

    def spill(self) -> None:
        """Write what was taken, so that views may be used again. A full disk is told by `finish`."""
        self._write_or_give_up()
        self._add_to_digest()
        self._pieces, self._written, self._digested, self._is_whole = [], 0, 0, False
        self._look_at_bytes = NEVER

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
        self._status = answer.status
        return answer

    def settle(self) -> None:
        """What can wait until the sender has its answer: the registry. No view is used any more when it returns."""
        metrics.count_instance(self._status, self.size_bytes)
        if self._registered is not None:
            header, path, arrival = self._registered
            registered = Registered(header, path, self.size_bytes, self._digest.text())
            self._acceptance.registrar.offer(registered)
            metrics.count_arrival(arrival)
            metrics.time_stages(*self._seconds)
        self.drop()

    def drop(self) -> None:
        """Let go of everything; what was not kept is gone. May be called again."""
        self._pieces = []
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
            aside = self._write()
            written = perf_counter()
            aside.start_flush()
            self._add_to_digest()
            path, arrival = self._spool.keep(header.sop_instance_uid, aside)
            if arrival is Arrival.CONFLICTING:
                raise UnreadableInstance(Reason.INSTANCE_CONFLICT, "the same instance came before with other content")
        except UnreadableInstance as refused:
            return self._refuse(refused)
        self._seconds = inspected - began, written - inspected, perf_counter() - written
        self._registered = header, path, arrival
        return Answer(SUCCESS)

    def _look_early(self) -> None:
        """Read the header from what is here; when it is not all here, or is odd, `finish` looks at the whole."""
        self._look_at_bytes = NEVER
        for most_bytes in LOOKED_AT_EARLY:
            head = b"".join(_beginning(self._pieces, most_bytes))
            with suppress(UnreadableInstance):
                key = self._acceptance.pseudonym_key
                self._early = read_early(head, self._head_bytes, self._transfer_syntax_uid, key)
            if self._early is not None or len(head) < most_bytes:
                return

    def _inspect(self) -> InstanceHeader:
        command, key = self._command, self._acceptance.pseudonym_key
        if self._is_whole and self._early is not None and has_native_pixels(self._early[0]):
            elements, header = self._early
            judge(elements, header, command, None, self.size_bytes)
            return header
        if self._is_whole:
            return inspect_file(BytesIO(b"".join(self._pieces)), self.size_bytes, command, key)
        with self._write().open() as file:
            return inspect_file(file, self.size_bytes, command, key)

    def _write_or_give_up(self) -> None:
        if self._full is None:
            try:
                self._write()
            except StorageFull as full:
                self._full = full
                self.drop()

    def _write(self) -> Aside:
        """The file, with all that was taken."""
        if self._aside is None:
            self._aside = self._spool.begin()
        if self._written < len(self._pieces):
            self._spool.write(self._aside, self._pieces[self._written :])
            self._written, self._unwritten_bytes = len(self._pieces), 0
        return self._aside

    def _add_to_digest(self) -> None:
        for piece in self._pieces[self._digested :]:
            self._digest.update(piece)
        self._digested = len(self._pieces)

    def _refuse(self, refused: UnreadableInstance) -> Answer:
        log.warning("refused an instance of '%s': %s, %s", self._peer, refused.reason, refused.message)
        try:
            aside: Aside | None = self._write()
        except StorageFull:
            aside = None  # its sender keeps it
        self._spool.turn_away(aside, Refusal(self._subject(aside), refused.reason, refused.message, self._peer))
        self._acceptance.registrar.look_at_refusals()
        metrics.count_refusal(refused.reason)
        return Answer(STATUSES.get(refused.reason, STATUSES[Reason.HEADER_UNREADABLE]), str(refused))

    def _subject(self, aside: Aside | None) -> str:
        """What a refusal is about: the instance that the command names, or else these bytes, as they are kept."""
        try:
            return check_uid(self._command.sop_instance_uid)
        except UnreadableInstance:
            return "" if aside is None else self._spool.refused_name(aside)


def _beginning(pieces: Sequence[bytes | memoryview], size_bytes: int) -> Iterator[bytes | memoryview]:
    for piece in pieces:
        if size_bytes <= 0:
            return
        yield piece[:size_bytes]
        size_bytes -= len(piece)


def printable(peer: str) -> str:
    """An AE title as it may be written down."""
    return "".join(letter for letter in peer if " " <= letter <= "~").strip()[:16]
