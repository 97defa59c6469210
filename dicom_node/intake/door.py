"""
Where connections come in: counted before a thread is made for them, and places for associations that only those hold
who have one.
"""

import ipaddress
import logging
import socket
import ssl
import threading
import time
from contextlib import suppress

from dicom_node import metrics
from dicom_node.intake.association import Association, House
from dicom_node.intake.wire import Patience, Wire

log = logging.getLogger(__name__)

SILENT_PER_ASSOCIATION = 8
"""Connections taken for each association allowed. Our choice: those that stay silent are soon dropped, and should not
meanwhile keep out the others; each costs a thread."""

BACKLOG = 128


class Door:
    """A listening socket and the associations that came in by it."""

    def __init__(self, house: House, listening: socket.socket, tls: ssl.SSLContext | None) -> None:
        """Hold what is needed; `open` begins.

        Args:
            listening: bound and listening.
        """
        self._house = house
        self._listening = listening
        self._tls = tls
        self._networks = tuple(ipaddress.ip_network(network) for network in house.options.allowed_networks)
        self._lock = threading.Lock()
        self._wires: set[Wire] = set()
        self._established: set[Wire] = set()
        self._thread = threading.Thread(target=self._run, name="front door", daemon=True)

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._listening.getsockname()[1])

    def open(self) -> None:
        """Take connections."""
        self._thread.start()

    def close(self, grace_s: float) -> None:
        """Stop listening, let associations end for a while, end those that don't."""
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._thread.join()
        self._listening.close()
        until = time.monotonic() + grace_s
        while self._established and time.monotonic() < until:
            time.sleep(0.05)
        with self._lock:
            left = list(self._wires)
        for wire in left:
            wire.interrupt()
        until = time.monotonic() + 5.0  # an instance that is whole may still be kept and answered
        while self._wires and time.monotonic() < until:
            time.sleep(0.01)

    def _run(self) -> None:
        while True:
            try:
                connection, address = self._listening.accept()
            except OSError as bad:
                if self._listening.fileno() < 0 or bad.errno in (22, 9):  # EINVAL, EBADF: it was shut down
                    return
                log.error("a connection could not be taken: %s", bad)
                time.sleep(0.1)  # no file descriptors left, perhaps
                continue
            try:
                self._welcome(connection, str(address[0]))
            except Exception:
                log.exception("a connection could not be served")
                connection.close()

    def _welcome(self, connection: socket.socket, address: str) -> None:
        options = self._house.options
        if not self._is_allowed(address):
            log.warning("refused a connection of %s: not in receiver.allowed_networks", address)
            metrics.count_closed("address")
            connection.close()
            return
        with self._lock:
            too_many = len(self._wires) >= options.max_associations * SILENT_PER_ASSOCIATION
        if too_many:
            log.warning("refused a connection of %s: too many that did not ask for an association yet", address)
            metrics.count_closed("too_many")
            connection.close()
            return
        if self._tls is not None:
            connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        timeouts = (options.pdu_timeout_s, options.association_timeout_s, options.idle_timeout_s)
        wire = Wire(connection, Patience(options.max_pdu_bytes, *timeouts))
        with self._lock:
            self._wires.add(wire)
        threading.Thread(target=self._serve, args=(wire, address), name="association", daemon=True).start()

    def _serve(self, wire: Wire, address: str) -> None:
        try:
            Association(self._house, wire, address, lambda: self._take_place(wire), lambda: self._leave(wire)).run()
        finally:
            self._leave(wire)
            with self._lock:
                self._wires.discard(wire)

    def _leave(self, wire: Wire) -> None:
        with self._lock:
            self._established.discard(wire)

    def _take_place(self, wire: Wire) -> bool:
        with self._lock:
            if len(self._established) >= self._house.options.max_associations:
                return False
            self._established.add(wire)
            return True

    def _is_allowed(self, address: str) -> bool:
        if not self._networks:
            return True
        theirs = ipaddress.ip_address(address.partition("%")[0])
        mapped = getattr(theirs, "ipv4_mapped", None)
        return any((mapped or theirs) in network for network in self._networks)
