"""
An association's own connection, made here and not by pynetdicom: what is in its way is known at once, where pynetdicom
tells its log alone, and who waits for it can be woken from beside.
"""

import socket
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pynetdicom import AE, evt
from pynetdicom.transport import AddressInformation, AssociationSocket

from dicom_node.peers.line import Trouble, trouble_of

if TYPE_CHECKING:
    from pynetdicom.association import Association
    from pynetdicom.transport import T_CONNECT


class Dialler(AE):  # type: ignore[misc]
    """Asks for one association."""

    line: "_Line | None" = None

    @property
    def trouble(self) -> tuple[Trouble, str] | None:
        """What of the connection did not work, and that in our words; None: it stood."""
        return None if self.line is None else self.line.trouble

    def leave(self) -> None:
        """End the connection from beside who waits for it, or for an answer on it."""
        if self.line is not None:
            self.line.leave()

    def _create_socket(
        self, assoc: "Association", address: AddressInformation, tls_args: tuple[ssl.SSLContext, str] | None
    ) -> AssociationSocket:
        """As pynetdicom's own, which makes its plain one here."""
        self.line = _Line(assoc, address=address)
        self.line.tls_args = tls_args
        return self.line


class _Line(AssociationSocket):  # type: ignore[misc]
    socket: Any  # None once it is closed
    trouble: tuple[Trouble, str] | None = None

    def connect(self, primitive: "T_CONNECT") -> None:
        """As pynetdicom's own, in its thread; but the handshake of TLS is a step of its own."""
        timeout_s, in_tls = self.assoc.connection_timeout, False
        try:
            if self.tls_args:
                context, name = self.tls_args
                self.socket = context.wrap_socket(self.socket, server_hostname=name, do_handshake_on_connect=False)
            self.socket.settimeout(timeout_s)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a message is several small writes
            self.socket.connect(primitive.address_info.as_tuple)
            if isinstance(self.socket, ssl.SSLSocket):
                in_tls = True
                self.socket.do_handshake()
            self.socket.settimeout(None)
            self.assoc.requestor.address_info = AddressInformation.from_tuple(self.socket.getsockname())
            self._is_connected = True
            evt.trigger(self.assoc, evt.EVT_CONN_OPEN, {"address": primitive.address_info.as_tuple})
            primitive.result = "Evt2"  # PS3.8 table 9-10: connected
        except OSError as bad:
            self.trouble = trouble_of(bad, timeout_s, in_tls)
            self.socket.close()
            self.socket = None
            primitive.result = "Evt17"  # closed
        finally:
            self.provider_queue.put(primitive)
            self._ready.set()

    def leave(self) -> None:
        held = self.socket
        if held is not None:
            with suppress(OSError):  # it is not connected yet, or has ended already
                socket.socket.shutdown(held, socket.SHUT_RDWR)  # not TLS's own, which would be no end to who reads
