"""
The front door: instances come by C-STORE, and success is answered only when one is safely in the spool.

What can't be accepted is refused with a status and a typed reason, its bytes are kept aside within bounds, and the
association goes on. Statuses, so that a sender's log tells what was wrong (PS3.4 table B.2-1):

    0000  stored, or stored before with the same bytes
    A700  the disk is full or below its reserve; try again later
    A900  command and data set disagree                              command_mismatch
    C101  an identifier of study, series or instance is missing      identity_missing
    C102  an identifier is no UID                                    identifier_invalid
    C103  the header can't be read                                   header_unreadable
    C104  the UID is known with other content; the first one stays   instance_conflict
    C105  the pixel data are cut short or missing                    pixels_unreadable
    C1FF  a fault of ours
"""

import errno
import logging
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from db.registry import Arrival as Registered
from dicom_node.intake.file_format import IMPLEMENTATION_CLASS_UID, dicom_file
from dicom_node.intake.inspection import Command, inspect
from dicom_node.intake.registrar import Registrar
from dicom_node.spool import MIB, Arrival, Refusal, Spool, Stored
from engine.errors import DeploymentError, StorageFull, UnreadableInstance
from engine.loading.headers import check_uid
from engine.records import InstanceHeader, Reason

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

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

VERIFICATION = "1.2.840.10008.1.1"

SOP_CLASSES = (
    "1.2.840.10008.5.1.4.1.1.2",  # CT
    "1.2.840.10008.5.1.4.1.1.2.1",  # enhanced CT
    "1.2.840.10008.5.1.4.1.1.2.2",  # legacy converted enhanced CT
    "1.2.840.10008.5.1.4.1.1.7",  # secondary capture, and its multi-frame kinds: single bit, byte, word, true colour
    "1.2.840.10008.5.1.4.1.1.7.1",
    "1.2.840.10008.5.1.4.1.1.7.2",
    "1.2.840.10008.5.1.4.1.1.7.3",
    "1.2.840.10008.5.1.4.1.1.7.4",
)
"""What is taken. Only CT is read; the rest comes with CT studies and is set aside with a reason a person can query."""

TRANSFER_SYNTAXES = (
    "1.2.840.10008.1.2.1",  # explicit VR little endian
    "1.2.840.10008.1.2",  # implicit VR little endian
    "1.2.840.10008.1.2.5",  # RLE
    "1.2.840.10008.1.2.4.70",  # JPEG lossless, first-order prediction
    "1.2.840.10008.1.2.4.57",  # JPEG lossless
    "1.2.840.10008.1.2.4.80",  # JPEG-LS lossless
    "1.2.840.10008.1.2.4.90",  # JPEG 2000 lossless
    "1.2.840.10008.1.2.4.201",  # HTJ2K lossless
    "1.2.840.10008.1.2.4.202",  # HTJ2K lossless, RPCL
    "1.2.840.10008.1.2.4.50",  # from here on lossy: taken so that the series is known, then set aside
    "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.81",
    "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.4.203",
)
"""The first that a sender offers too is agreed on. Deflated is not offered: a megabyte may unpack to any size."""


@dataclass(frozen=True, slots=True)
class ReceiverOptions:
    """Where the front door is, who may use it, and what one sender may take up."""

    ae_title: str = "TRABECULA"
    host: str = "127.0.0.1"  # only this machine; a hospital's node listens on an address of its network, or "0.0.0.0"
    port: int = 11112  # 0: any free one
    check_called_ae_title: bool = False  # refuse associations that call another AE title
    calling_ae_titles: tuple[str, ...] = ()  # who may send; empty: anybody. AE titles are no authentication
    max_associations: int = 32
    max_pdu_bytes: int = 131072
    max_instance_mib: int = 512  # a larger one ends the association; each may hold two in memory
    pdu_timeout_s: float = 15.0  # in which a PDU that began must be complete
    association_timeout_s: float = 15.0  # in which a connection must ask for an association
    idle_timeout_s: float = 60.0  # after which an association on which nothing moves is ended
    stop_grace_s: float = 10.0  # at a stop, associations may take so long to end by themselves

    def __post_init__(self) -> None:
        """Refuse what DICOM or TCP can't express, and amounts without meaning."""
        for title in (self.ae_title, *self.calling_ae_titles):
            if not 1 <= len(title.strip()) <= 16 or not title.isascii() or not title.isprintable() or "\\" in title:
                raise ValueError("an AE title has 1 to 16 plain characters")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port must be 0 to 65535, not {self.port}")
        if not 4096 <= self.max_pdu_bytes <= 16 * MIB:
            raise ValueError(f"max_pdu_bytes must be 4096 to {16 * MIB}, not {self.max_pdu_bytes}")
        if min(self.max_associations, self.max_instance_mib) < 1:
            raise ValueError("max_associations and max_instance_mib must be 1 or more")
        if min(self.pdu_timeout_s, self.association_timeout_s, self.idle_timeout_s) <= 0 or self.stop_grace_s < 0:
            raise ValueError("timeouts must be above 0")


class Receiver:
    """A listening front door; opened by `start` or `with`, closed by `stop`."""

    def __init__(self, options: ReceiverOptions, spool: Spool, registrar: Registrar, pseudonym_key: bytes) -> None:
        """Hold what is needed; nothing listens yet."""
        self.options = options
        self._spool = spool
        self._registrar = registrar
        self._pseudonym_key = pseudonym_key
        self._server: Any = None

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
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Listen.

        Raises:
            DeploymentError: the address can't be listened on.
        """
        from pynetdicom import _config, evt

        from dicom_node.intake.connections import (
            GuardedConnection,
            GuardedServer,
            Limits,
            name_what_is_missing,
            reject_beyond,
        )

        _config.LOG_HANDLER_LEVEL = "none"  # its own handlers only make texts that nobody may read
        options = self.options
        limits = Limits(
            options.max_associations, options.max_pdu_bytes, options.max_instance_mib * MIB, options.pdu_timeout_s
        )
        try:
            self._server = _application_entity(options).make_server(
                _address(options),
                evt_handlers=[
                    (evt.EVT_C_ECHO, lambda _: SUCCESS),
                    (evt.EVT_C_STORE, self._on_store),
                    (evt.EVT_ASYNC_OPS, lambda _: (1, 1)),
                    (evt.EVT_REQUESTED, reject_beyond(limits)),
                    (evt.EVT_DIMSE_RECV, name_what_is_missing),
                ],
                server_class=GuardedServer,
                request_handler=GuardedConnection,
            )
        except OSError as bad:
            why = errno.errorcode.get(bad.errno or 0, type(bad).__name__)
            raise DeploymentError(
                f"can't listen on {options.host}, port {options.port} ({why}); see 'receiver.host' and 'receiver.port'"
            ) from None
        self._server.limits = limits
        threading.Thread(target=self._server.serve_forever, args=(0.1,), name="front door", daemon=True).start()
        log.info("listening on %s, port %d", options.host, self.port)

    def stop(self) -> None:
        """Stop listening, let associations end for a while, abort those that don't."""
        if self._server is None:
            return
        from dicom_node.intake.connections import close

        server, self._server = self._server, None
        server.shutdown()
        until = time.monotonic() + self.options.stop_grace_s
        while any(peer.is_established for peer in server.active_associations) and time.monotonic() < until:
            time.sleep(0.05)
        for peer in server.active_associations:
            close(peer)

    def _on_store(self, event: Any) -> "int | Dataset":
        """Answer a C-STORE request. Never raises: pynetdicom would log what the exception quotes."""
        try:
            return self._store(event)
        except StorageFull as full:
            log.error("an instance was not taken: %s", full)
            return _answer(OUT_OF_RESOURCES, "the disk is full; try again later")
        except Exception:
            log.exception("an instance was not taken")
            return _answer(OUR_FAULT, "a fault of the receiver")

    def _store(self, event: Any) -> "int | Dataset":
        request, context = event.request, event.context
        command = Command(
            str(context.abstract_syntax), str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID)
        )
        content = dicom_file(
            command.sop_class_uid, command.sop_instance_uid, str(context.transfer_syntax), request.DataSet.getvalue()
        )
        try:
            header = inspect(content, command, self._pseudonym_key)
            stored = self._spool.store(header.sop_instance_uid, content)
            if stored.arrival is Arrival.CONFLICTING:
                raise UnreadableInstance(Reason.INSTANCE_CONFLICT, "the same instance came before with other content")
        except UnreadableInstance as refused:
            return self._refuse(content, command, refused, str(event.assoc.requestor.ae_title))
        self._registrar.offer(_registered(header, stored))
        return SUCCESS

    def _refuse(self, content: bytes, command: Command, refused: UnreadableInstance, peer: str) -> "Dataset":
        log.warning("refused an instance: %s, %s", refused.reason, refused.message)
        self._spool.refuse(
            content, Refusal(_subject(content, command), refused.reason, refused.message, _printable(peer))
        )
        self._registrar.look_at_refusals()
        return _answer(STATUSES.get(refused.reason, STATUSES[Reason.HEADER_UNREADABLE]), str(refused))


def _application_entity(options: ReceiverOptions) -> Any:
    from pynetdicom import AE

    from dicom_node.intake.connections import SILENT_PER_ASSOCIATION

    ae = AE(ae_title=options.ae_title)
    ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    ae.maximum_pdu_size = options.max_pdu_bytes
    ae.maximum_associations = options.max_associations * SILENT_PER_ASSOCIATION  # ours counts before
    ae.acse_timeout = options.association_timeout_s
    ae.dimse_timeout = options.idle_timeout_s
    ae.network_timeout = options.idle_timeout_s
    ae.require_called_aet = options.check_called_ae_title
    ae.require_calling_aet = list(options.calling_ae_titles)
    ae.add_supported_context(VERIFICATION)
    for sop_class in SOP_CLASSES:
        ae.add_supported_context(sop_class, list(TRANSFER_SYNTAXES))
    return ae


def _address(options: ReceiverOptions) -> tuple[str, int]:
    """The address to listen on; a host's name is looked up."""
    found = socket.getaddrinfo(options.host or None, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return str(found[0][4][0]), options.port


def _registered(header: InstanceHeader, stored: Stored) -> Registered:
    return Registered(header, str(stored.path), stored.size_bytes, stored.sha256)


def _subject(content: bytes, command: Command) -> str:
    """What a refusal is about: the instance that the command names, or else these bytes."""
    try:
        return check_uid(command.sop_instance_uid)
    except UnreadableInstance:
        from hashlib import sha256

        return sha256(content).hexdigest()


def _printable(peer: str) -> str:
    return "".join(letter for letter in peer if " " <= letter <= "~").strip()[:16]


def _answer(status: int, comment: str) -> "Dataset":
    """A status with an Error Comment (LO: 64 characters)."""
    from pydicom.dataset import Dataset

    answer = Dataset()
    answer.Status = status
    answer.ErrorComment = comment[:64]
    return answer
