"""
The front door: instances come by C-STORE, and success is answered only when one is safely in the spool.

Two ways lead in, by `data_path`: our own, and pynetdicom's, guarded. What is taken in and answered is the same.
"""

import errno
import logging
import socket
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from dicom_node.intake.acceptance import Acceptance
from dicom_node.intake.commitment import Commitments
from dicom_node.intake.options import DataPath, ReceiverOptions, TlsOptions
from dicom_node.intake.pressure import Pressure
from dicom_node.intake.registrar import Registrar
from dicom_node.spool import Spool
from engine.errors import DeploymentError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

log = logging.getLogger(__name__)

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:!aNULL:!aDSS:!SHA1"
"""Of TLS 1.2: forward secrecy and authenticated encryption (RFC 9325 section 4.2); those of TLS 1.3 all have both."""

BACKLOG = 128


class _Way(Protocol):
    """What both ways in have in common."""

    @property
    def port(self) -> int: ...

    def open(self) -> None: ...

    def close(self, grace_s: float) -> None: ...


class Receiver:
    """A listening front door; opened by `start` or `with`, closed by `stop`."""

    def __init__(
        self,
        options: ReceiverOptions,
        spool: Spool,
        registrar: Registrar,
        pseudonym_key: bytes,
        queue_age_s: Callable[[], float | None] = lambda: None,
        on_commitment_report: "Callable[[str, int, Dataset], int] | None" = None,
    ) -> None:
        """Hold what is needed; nothing listens yet.

        Args:
            queue_age_s: how long the oldest job that could run has waited.
            on_commitment_report: called with AE title, event type and information when a peer tells what became of
                objects that we asked it to commit to; its return is the status that the peer gets.
        """
        self.options = options
        self.acceptance = Acceptance(spool, registrar, pseudonym_key, Pressure(options, spool, queue_age_s))
        self._commitments = Commitments(spool, options)
        self._on_commitment_report = on_commitment_report
        self._way: _Way | None = None

    def __enter__(self) -> "Receiver":
        """Start listening."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop listening."""
        self.stop()

    @property
    def port(self) -> int:
        """The port it listens on."""
        assert self._way is not None
        return self._way.port

    def start(self) -> None:
        """Listen.

        Raises:
            DeploymentError: the address can't be listened on, or TLS can't be had as it is asked for.
        """
        options = self.options
        tls = server_context(options.tls)
        try:
            self._way = self._direct(tls) if options.data_path is DataPath.DIRECT else self._by_pynetdicom(tls)
        except OSError as bad:
            why = errno.errorcode.get(bad.errno or 0, type(bad).__name__)
            raise DeploymentError(
                f"can't listen on {options.host}, port {options.port} ({why}); see 'receiver.host' and 'receiver.port'"
            ) from None
        self._commitments.start()
        self._way.open()
        log.info("listening on %s, port %d", options.host, self.port)

    def stop(self) -> None:
        """Stop listening, let associations end for a while, abort those that don't."""
        if self._way is not None:
            way, self._way = self._way, None
            way.close(self.options.stop_grace_s)
            self._commitments.stop()

    def _direct(self, tls: ssl.SSLContext | None) -> _Way:
        from dicom_node.intake.association import House
        from dicom_node.intake.door import Door
        from dicom_node.intake.negotiation import Negotiator

        negotiator = Negotiator(self.options)
        house = House(self.options, negotiator, self.acceptance, self._commitments, self._on_commitment_report)
        family, address = address_of(self.options)
        return Door(house, socket.create_server(address, family=family, backlog=BACKLOG), tls)

    def _by_pynetdicom(self, tls: ssl.SSLContext | None) -> _Way:
        from dicom_node.intake.stock import StockDoor

        _, address = address_of(self.options)
        return StockDoor(self.options, self.acceptance, self._commitments, self._on_commitment_report, address, tls)


def server_context(options: TlsOptions) -> ssl.SSLContext | None:
    """How TLS is spoken; None: it is not.

    Raises:
        DeploymentError: a file can't be read, or is no certificate or key.
    """
    if not options.certificate:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    try:
        context.load_cert_chain(options.certificate, options.key, password=lambda: "")  # never ask at a terminal
        if options.client_authorities:
            context.load_verify_locations(options.client_authorities)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ValueError) as bad:
        why = getattr(bad, "reason", None) or getattr(bad, "strerror", None) or type(bad).__name__
        raise DeploymentError(f"TLS can't be had as 'receiver.tls' asks for it: {why}") from None
    return context


def address_of(options: ReceiverOptions) -> tuple[socket.AddressFamily, tuple[str, int]]:
    """The address to listen on; a host's name is looked up."""
    found = socket.getaddrinfo(options.host or None, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return found[0][0], (str(found[0][4][0]), options.port)
