"""
The other way in: pynetdicom's own receiver on guarded connections (guarded.py). It is there for a peer that gets on
better with it, and as the judge of our own way in tests.
"""

import ipaddress
import logging
import ssl
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pynetdicom import AE, _config, evt
from pynetdicom.association import Association

from dicom_node.intake import commands
from dicom_node.intake.acceptance import Acceptance, Answer, printable
from dicom_node.intake.commands import Request
from dicom_node.intake.commitment import Commitments
from dicom_node.intake.door import SILENT_PER_ASSOCIATION
from dicom_node.intake.file_format import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_node.intake.guarded import GuardedConnection, GuardedServer, Limits, close, name_what_is_missing
from dicom_node.intake.inspection import Command
from dicom_node.intake.negotiation import CALLED_NOT_RECOGNISED, CONGESTION, LIMIT_EXCEEDED
from dicom_node.intake.options import ReceiverOptions
from dicom_node.intake.services import (
    LITTLE_ENDIAN,
    SOP_CLASSES,
    STORAGE_COMMITMENT,
    STORAGE_COMMITMENT_INSTANCE,
    VERIFICATION,
    transfer_syntaxes,
)
from dicom_node.spool import MIB

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

log = logging.getLogger(__name__)


class StockDoor:
    """pynetdicom's receiver on our terms."""

    def __init__(
        self,
        options: ReceiverOptions,
        acceptance: Acceptance,
        commitments: Commitments,
        on_commitment_report: "Callable[[str, int, Dataset], int] | None",
        address: tuple[str, int],
        tls: ssl.SSLContext | None,
    ) -> None:
        """Listen; nothing is answered yet.

        Raises:
            OSError: the address can't be listened on.
        """
        _config.LOG_HANDLER_LEVEL = "none"  # its own handlers only make texts that nobody may read
        self._options = options
        self._acceptance = acceptance
        self._commitments = commitments
        self._told = on_commitment_report
        handlers: list[tuple[Any, Any]] = [
            (evt.EVT_C_ECHO, lambda _: commands.SUCCESS),
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_N_ACTION, self._on_action),
            (evt.EVT_ASYNC_OPS, lambda _: (1, 1)),
            (evt.EVT_REQUESTED, self._on_requested),
            (evt.EVT_DIMSE_RECV, name_what_is_missing),
        ]
        if on_commitment_report is not None:
            handlers.append((evt.EVT_N_EVENT_REPORT, self._on_event_report))
        self._server: Any = _application_entity(options).make_server(
            address, evt_handlers=handlers, server_class=GuardedServer, request_handler=GuardedConnection
        )
        self._server.limits = Limits(
            options.max_associations, options.max_pdu_bytes, options.max_instance_mib * MIB, options.pdu_timeout_s
        )
        self._server.networks = tuple(ipaddress.ip_network(network) for network in options.allowed_networks)
        self._server.tls = tls

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.server_address[1])

    def open(self) -> None:
        """Take connections."""
        threading.Thread(target=self._server.serve_forever, args=(0.1,), name="front door", daemon=True).start()

    def close(self, grace_s: float) -> None:
        """Stop listening, let associations end for a while, abort those that don't."""
        server = self._server
        server.shutdown()
        until = time.monotonic() + grace_s
        while any(peer.is_established for peer in server.active_associations) and time.monotonic() < until:
            time.sleep(0.05)
        for peer in server.active_associations:
            close(peer)

    def _on_requested(self, event: evt.Event) -> None:
        """Reject associations above the limit, or under pressure; silent connections do not count."""
        association = event.assoc
        asked = association.requestor.primitive
        called = self._options.called_ae_titles
        others = association.ae.active_associations
        reason: tuple[int, int, int] | None = None
        if called and asked.called_ae_title.strip() not in {title.strip() for title in called}:
            reason = CALLED_NOT_RECOGNISED
        elif self._wants_to_store(asked) and (why := self._acceptance.pressure()):
            log.warning("rejected an association: %s", why)
            reason = CONGESTION
        elif sum(1 for other in others if other.is_established) >= self._options.max_associations:
            log.warning("rejected an association: %d are open", self._options.max_associations)
            reason = LIMIT_EXCEEDED
        if reason is not None:
            association.acse.send_reject(*reason)
            association.kill()

    def _wants_to_store(self, asked: Any) -> bool:
        return any(context.abstract_syntax in SOP_CLASSES for context in asked.presentation_context_definition_list)

    def _on_store(self, event: evt.Event) -> "int | Dataset":
        """Answer a C-STORE request. Never raises: pynetdicom would log what the exception quotes."""
        request, context = event.request, event.context
        command = Command(
            str(context.abstract_syntax), str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID)
        )
        peer = printable(str(event.assoc.requestor.ae_title))
        reception = self._acceptance.begin(command, str(context.transfer_syntax), peer)
        reception.take(request.DataSet.getvalue())
        answer = reception.finish()
        reception.settle()
        return _status(answer)

    def _on_action(self, event: evt.Event) -> "tuple[int | Dataset, None]":
        """Answer a request for storage commitment, and report over the same association once the answer is sent."""
        asked_for = event.request
        elements = {
            commands.REQUESTED_SOP_CLASS_UID: str(asked_for.RequestedSOPClassUID).encode(),
            commands.ACTION_TYPE_ID: int(asked_for.ActionTypeID).to_bytes(2, "little"),
        }
        request = Request(commands.N_ACTION_RQ, int(asked_for.MessageID), True, elements)
        try:
            information = event.action_information
        except Exception:  # it can't be read; its cause may quote it
            information = None
        asked = self._commitments.ask(request, information, str(event.assoc.requestor.ae_title).strip())
        if asked.report is not None:
            threading.Thread(target=_report, args=(event.assoc, asked.report), daemon=True).start()
        return _status(Answer(asked.status, asked.comment)), None

    def _on_event_report(self, event: evt.Event) -> "tuple[int, None]":
        if self._told is None:
            return commands.PROCESSING_FAILURE, None
        try:
            return self._told(
                str(event.assoc.requestor.ae_title).strip(), int(event.request.EventTypeID), event.event_information
            ), None
        except Exception as bad:
            log.warning("a report of a storage commitment was not understood: %s", type(bad).__name__)
            return commands.PROCESSING_FAILURE, None


def _report(association: Association, report: Any) -> None:
    """After a pause, so that the answer goes first."""
    time.sleep(0.2)
    try:
        association.send_n_event_report(
            report.data_set(), report.event_type_id, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
        )
    except Exception as bad:
        log.warning("a storage commitment could not be told: %s", type(bad).__name__)


def _application_entity(options: ReceiverOptions) -> Any:
    ae = AE(ae_title=options.ae_title)
    ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    ae.maximum_pdu_size = options.max_pdu_bytes
    ae.maximum_associations = options.max_associations * SILENT_PER_ASSOCIATION  # ours counts before
    ae.acse_timeout = options.association_timeout_s
    ae.dimse_timeout = options.idle_timeout_s
    ae.network_timeout = options.idle_timeout_s
    ae.require_calling_aet = list(options.calling_ae_titles)
    ae.add_supported_context(VERIFICATION, list(LITTLE_ENDIAN))
    for sop_class in SOP_CLASSES:
        ae.add_supported_context(sop_class, transfer_syntaxes(options.accept_deflated))
    if options.storage_commitment:
        ae.add_supported_context(STORAGE_COMMITMENT, list(LITTLE_ENDIAN), scu_role=True, scp_role=True)
    return ae


def _status(answer: Answer) -> "int | Dataset":
    """A status with an Error Comment (LO: 64 characters), where there is one."""
    from pydicom.dataset import Dataset

    if not answer.comment:
        return answer.status
    told = Dataset()
    told.Status = answer.status
    told.ErrorComment = answer.comment[:64]
    return told
