"""
Connections of pynetdicom's receiver, guarded: bounded memory, and no peer that stalls holds its place.

pynetdicom 3.0 believes the length that a PDU claims, waits for its bytes for ever, collects a data set without limit
and reads on while messages wait. Here a PDU has a longest length and a time in which it must be complete, a message has
a largest size, at most one waits while another is served, and connections are counted before any thread is made for
them. This replaces two of pynetdicom's methods on each connection, hence its pinned version; a test attacks it.
"""

import gc
import ipaddress
import logging
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from socketserver import BaseServer
from typing import Any

from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.sop_class import CTImageStorage
from pynetdicom.transport import AssociationServer, RequestHandler

from dicom_node import metrics
from dicom_node.intake.door import SILENT_PER_ASSOCIATION
from dicom_node.intake.tally import Tally

log = logging.getLogger(__name__)

NO_UID = "0"  # pynetdicom takes it for a UID, we do not


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection, and all together, may take."""

    max_associations: int
    max_pdu_bytes: int
    max_message_bytes: int
    pdu_timeout_s: float


class GuardedServer(AssociationServer):  # type: ignore[misc]  # pynetdicom is untyped
    """A server that counts connections and makes guarded ones; each association has threads of its own."""

    request_queue_size = 128
    limits: Limits
    networks: tuple[Any, ...] = ()
    tls: ssl.SSLContext | None = None
    _polls = 0

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether one more connection is served."""
        if self.networks:
            theirs = ipaddress.ip_address(str(client_address[0]).partition("%")[0])
            if not any((getattr(theirs, "ipv4_mapped", None) or theirs) in network for network in self.networks):
                log.warning("refused a connection of %s: not in receiver.allowed_networks", theirs)
                metrics.count_closed("address")
                return False
        if len(self.active_associations) >= self.limits.max_associations * SILENT_PER_ASSOCIATION:
            metrics.count_closed("too_many")
            return False
        return True

    def service_actions(self) -> None:
        """Collect ended associations, which refer to themselves, now and then; at every 60th poll it costs too much."""
        self._polls += 1
        if self._polls % 600 == 0:
            gc.collect()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log instead of printing."""
        log.error("a connection could not be served", exc_info=True)

    def shutdown(self) -> None:
        """Stop listening; associations go on."""
        BaseServer.shutdown(self)
        self.server_close()


class GuardedConnection(RequestHandler):  # type: ignore[misc]
    """A connection, guarded before its first byte is read."""

    def _create_association(self) -> Association:
        if self.server.tls is not None:  # the hands are shaken at the first read, in the association's own thread
            wrap = self.server.tls.wrap_socket
            self.request: socket.socket = wrap(self.request, server_side=True, do_handshake_on_connect=False)
        association = super()._create_association()
        limits = self.server.limits
        self.request.settimeout(limits.pdu_timeout_s)
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        association.dul.socket.recv = _bounded_recv(association, self.request, limits, Tally(association))
        association.dul._is_transport_event = _patient(association)
        return association


def name_what_is_missing(event: evt.Event) -> None:
    """A handler of EVT_DIMSE_RECV: a C-STORE request that lacks a UID gets one that fits nothing, and is refused.

    pynetdicom leaves such a request without an answer, and the sender waiting.
    """
    message = event.message
    if not isinstance(message, C_STORE_RQ):
        return
    command = message.command_set
    if not command.get("AffectedSOPClassUID"):
        command.AffectedSOPClassUID, command.AffectedSOPInstanceUID = CTImageStorage, NO_UID
    elif not command.get("AffectedSOPInstanceUID"):
        command.AffectedSOPInstanceUID = NO_UID


def close(association: Association) -> None:
    """End an association now, or the connection of one that has not begun."""
    if association.is_established:
        association.abort()
    else:
        association.dul.socket.close()
        association.dul.to_user_queue.put(None)  # its thread waits there for a request


def _bounded_recv(
    association: Association, connection: socket.socket, limits: Limits, tally: Tally
) -> Callable[[int], bytes | bytearray]:
    """Read so many bytes of a PDU. pynetdicom takes an OSError as the end of the connection."""

    def recv(count: int) -> bytes | bytearray:
        if count > 2 * limits.max_pdu_bytes:  # twice: some do not keep to what was agreed
            raise OSError("a PDU is longer than agreed")
        message = association.dimse.message
        if message is not None and message.data_set.tell() + count > limits.max_message_bytes:
            raise OSError("a data set is larger than the limit")
        if message is not None and message.encoded_command_set.tell() > limits.max_pdu_bytes:
            raise OSError("a command is larger than the limit")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)  # senders with Nagle's algorithm wait for it
        data = bytearray(count)
        view, have = memoryview(data), 0
        until = time.monotonic() + limits.pdu_timeout_s
        while have < count:
            got = connection.recv_into(view[have:])
            if not got:
                return bytes(view[:have])
            have += got
            tally.received_bytes += got
            if have < count and time.monotonic() > until:
                raise TimeoutError("a PDU does not come to its end")
        return data

    return recv


def _patient(association: Association) -> Callable[[], bool]:
    """While a whole message waits, no further one is read: TCP holds the sender up."""
    read: Callable[[], bool] = association.dul._is_transport_event

    def read_unless_one_waits() -> bool:
        waits = not association.dimse.msg_queue.empty() and association.is_established
        return False if waits else read()

    return read_unless_one_waits
