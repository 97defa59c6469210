"""
One connection's bytes, PDU by PDU, through one buffer: no length that a peer claims is believed before it is checked,
no read waits longer than allowed, and fragments of a data set are handed on as views into the buffer, never copied.

Source: DICOM PS3.8 section 9.3.
"""

import mmap
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)

BUFFER_BYTES = 1024 * 1024
"""One slice of 512 x 512 pixels fits in twice. Memory that was never written to costs nothing."""

FLOWING_BYTES = 64 * 1024
"""Read at once: so much is under way that its sender waits for no acknowledgement. With less, one with Nagle's
algorithm may hold its last bytes back until it gets one. Our choice."""

LONGEST_ASSOCIATE = BUFFER_BYTES - 6
"""Bytes of an A-ASSOCIATE-RQ. Our choice: 128 contexts with forty transfer syntaxes each have a fifth of it."""


class ConnectionEnded(Exception):
    """Raised when the peer is gone, or has broken the protocol or our patience; the association ends."""


class ProtocolBroken(ConnectionEnded):
    """Raised when what came is no DICOM; the peer is told so by an A-ABORT."""


class TooSlow(ConnectionEnded):
    """Raised when something did not come in time; the peer is told so by an A-ABORT."""


class NotTrusted(ConnectionEnded):
    """Raised when TLS is not agreed on with a peer that tried."""


NO_TLS = "it does not speak TLS"
HANDSHAKES = {  # OpenSSL's reasons
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it shows no certificate",
    "HTTP_REQUEST": NO_TLS,
    "WRONG_VERSION_NUMBER": NO_TLS,
    "UNSUPPORTED_PROTOCOL": "it speaks TLS older than 1.2 alone",
    "NO_SHARED_CIPHER": "it knows none of the ciphers that we take",
    "TLSV1_ALERT_UNKNOWN_CA": "it does not take our certificate: it does not know who signed it",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it does not take our certificate",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it does not take our certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "it does not take our certificate: it has expired",
}


@dataclass(frozen=True, slots=True)
class Patience:
    """How long is waited, and for how much."""

    max_pdu_bytes: int  # of a P-DATA-TF's body, as was told to the peer
    pdu_timeout_s: float  # for a PDU that began to be complete
    begin_timeout_s: float  # for the first PDU to begin
    idle_timeout_s: float  # for any other to begin


@dataclass(slots=True)
class Fragment:
    """A part of a presentation data value, as a view that is good until `before_reuse` or `rewind`."""

    context_id: int
    is_command: bool
    is_end: bool  # the last bytes of the last fragment of a message's command or data set
    data: memoryview


class Wire:
    """The receiving and sending side of one connection; used by one thread."""

    def __init__(self, connection: socket.socket, patience: Patience) -> None:
        """Take over a connected socket; a TLS one has not shaken hands yet."""
        self._idle_timeout_s = patience.begin_timeout_s
        self.before_reuse: Callable[[], None] = lambda: None  # called before views into the buffer lose their content
        self.before_wait: Callable[[], None] = lambda: None  # called when more is awaited
        self._connection = connection
        self._patience = patience
        self._is_plain = not isinstance(connection, ssl.SSLSocket)
        self._memory = mmap.mmap(-1, BUFFER_BYTES)
        self._view = memoryview(self._memory)
        self._head = self._tail = 0  # what came and was not used yet lies between them
        self._left = 0  # bytes of the current PDU that were not used yet
        self._until = 0.0  # when the current PDU must be complete
        self._got = 0  # bytes of the last read
        self.bytes_received = 0
        shortest_s = min(patience.pdu_timeout_s, patience.begin_timeout_s, patience.idle_timeout_s)
        _set_timeouts(connection, shortest_s, self._is_plain)

    def shake_hands(self) -> None:
        """Begin TLS, where the connection is to have it.

        Raises:
            NotTrusted: the peer does not speak TLS, or one of us does not take the other's certificate.
            ConnectionEnded: it left, or is too slow.
        """
        if isinstance(self._connection, ssl.SSLSocket):
            try:
                self._connection.do_handshake()
            except ssl.SSLEOFError:
                raise ConnectionEnded("the peer left before TLS was agreed on") from None
            except ssl.SSLCertVerificationError as bad:
                raise NotTrusted(f"its certificate is not taken ({bad.verify_message})") from None
            except ssl.SSLError as bad:
                reason = bad.reason or type(bad).__name__
                raise NotTrusted(HANDSHAKES.get(reason, f"TLS was not agreed on ({reason})")) from None
            except (OSError, ValueError) as bad:
                raise ConnectionEnded(f"TLS was not agreed on ({type(bad).__name__})") from None

    def read_pdu(self) -> tuple[int, int]:
        """Wait for a PDU; its type and length. All of its body must be used before the next call.

        Raises:
            ConnectionEnded: as its subclasses say; or the peer closed the connection.
        """
        if self._head == self._tail:
            self._wait_for_more(time.monotonic() + self._idle_timeout_s)
        self._until = time.monotonic() + self._patience.pdu_timeout_s
        self._need(6)
        kind, length = struct.unpack_from(">BxI", self._memory, self._head)
        if not ASSOCIATE_RQ <= kind <= ABORT:
            raise ProtocolBroken("a PDU has a type that is none")
        longest = 2 * self._patience.max_pdu_bytes if kind == P_DATA else LONGEST_ASSOCIATE  # some do not keep to it
        if length > longest:
            raise ProtocolBroken("a PDU is longer than agreed")
        self._head += 6
        self._left = length
        self._idle_timeout_s = self._patience.idle_timeout_s
        return kind, length

    def read_body(self) -> bytes:
        """The whole body of a PDU that is no P-DATA."""
        self._need(self._left)
        body = bytes(self._view[self._head : self._head + self._left])
        self._head += self._left
        return body

    def fragments(self) -> Iterator[Fragment]:
        """The body of a P-DATA PDU."""
        while self._left:
            if self._left < 6:
                raise ProtocolBroken("a PDU ends inside an item")
            if self._tail - self._head < 6:
                self._need(6)
            length, context_id, control = struct.unpack_from(">IBB", self._memory, self._head)
            self._head += 6
            self._left -= 6
            left = length - 2
            if not 0 <= left <= self._left or control > 3:
                raise ProtocolBroken("an item of a PDU is longer than the PDU, or of a kind that is none")
            is_command, is_last = bool(control & 1), bool(control & 2)
            while True:
                if left and self._head == self._tail:
                    self._wait_for_more(self._until)
                taken = min(left, self._tail - self._head)
                piece = self._view[self._head : self._head + taken]
                self._head += taken
                self._left -= taken
                left -= taken
                yield Fragment(context_id, is_command, is_last and not left, piece)
                if not left:
                    break

    def rewind(self) -> None:
        """Use the buffer from its beginning, now that nobody holds views into it, and if nothing waits in it."""
        if self._head == self._tail:
            self._head = self._tail = 0

    def send(self, data: bytes) -> None:
        """Send all of it.

        Raises:
            ConnectionEnded: the peer is gone, or does not take it in time.
        """
        try:
            self._connection.sendall(data)
        except OSError as bad:
            raise ConnectionEnded(f"an answer was not taken ({type(bad).__name__})") from None

    def await_close(self, seconds: float) -> None:
        """Let the peer close first, for a while, as who is answered should: what was sent may still be on its way."""
        self._connection.settimeout(seconds)
        until = time.monotonic() + seconds
        with suppress(OSError):
            while time.monotonic() < until and self._connection.recv_into(self._view):
                pass

    def interrupt(self) -> None:
        """End the connection from another thread: whatever waits here ends with `ConnectionEnded`."""
        with suppress(OSError):  # it has ended already
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the connection and let go of the buffer."""
        self.interrupt()
        self._connection.close()
        self.before_reuse = self.before_wait = lambda: None
        self._view = memoryview(b"")
        self._memory = mmap.mmap(-1, 1)  # the old one goes with its last view

    def _need(self, count: int) -> None:
        """Wait until so many unused bytes lie one after the other."""
        while self._tail - self._head < count:
            self._wait_for_more(self._until, count)

    def _wait_for_more(self, until: float, count: int = 1) -> None:
        if self._head + count > BUFFER_BYTES or self._tail == BUFFER_BYTES:
            self._make_room()
        self.before_wait()
        while True:
            if self._is_plain and self._got < FLOWING_BYTES:
                self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            try:
                got = self._connection.recv_into(self._view[self._tail :])
            except (BlockingIOError, TimeoutError):
                got = -1
            except OSError as bad:
                raise ConnectionEnded(f"the connection broke ({type(bad).__name__})") from None
            if not got:
                raise ConnectionEnded("the peer closed the connection")
            if time.monotonic() > until:
                raise TooSlow("nothing moves" if self._head == self._tail else "a PDU does not come to its end")
            if got > 0:
                self._got = got
                self._tail += got
                self.bytes_received += got
                return

    def _make_room(self) -> None:
        """Move what was not used yet to the beginning."""
        self.before_reuse()
        left = self._tail - self._head
        self._memory.move(0, self._head, left)
        self._head, self._tail = 0, left


def _set_timeouts(connection: socket.socket, seconds: float, is_plain: bool) -> None:
    """A plain socket waits in the kernel, which saves a call for each read; a TLS one can't."""
    if not is_plain:
        connection.settimeout(seconds)
        return
    connection.settimeout(None)
    timeout = struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6) or 1)
    for side in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        connection.setsockopt(socket.SOL_SOCKET, side, timeout)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
