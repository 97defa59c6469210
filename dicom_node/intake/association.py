"""
One association from its request to its end, in one thread that waits for nothing but the network and the disk.

An instance's bytes go from the connection's buffer to the spool without becoming objects on the way; only when it is
kept is success answered. What is not a C-STORE is small and rare, and is handled a data set at a time.

Source: DICOM PS3.7 (messages), PS3.8 section 9 (upper layer).
"""

import logging
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

from dicom_node import metrics
from dicom_node.intake import commands
from dicom_node.intake.acceptance import Acceptance, Reception, printable
from dicom_node.intake.commands import MalformedCommand, Request, data_pdus, read_command, write_response
from dicom_node.intake.commitment import Commitments
from dicom_node.intake.inspection import Command
from dicom_node.intake.negotiation import (
    CONGESTION,
    LIMIT_EXCEEDED,
    Agreement,
    Context,
    Negotiator,
    Unacceptable,
    accept,
    in_words,
    read_proposal,
    reject,
)
from dicom_node.intake.options import ReceiverOptions
from dicom_node.intake.wire import (
    ABORT,
    ASSOCIATE_RQ,
    P_DATA,
    RELEASE_RP,
    RELEASE_RQ,
    ConnectionEnded,
    Fragment,
    NotTrusted,
    ProtocolBroken,
    TooSlow,
    Wire,
)
from dicom_node.spool import MIB

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

log = logging.getLogger(__name__)

BY_PROVIDER = 2  # source of an abort (PS3.8 table 9-26)

LONGEST_GOODBYE_S = 2.0  # our choice: how long a peer may take to close after the last word

LONGEST_DATA_SET = 4 * MIB
"""Of a message that is no C-STORE. Our choice: a request to commit to ten thousand instances has a third of it."""


@dataclass(frozen=True, slots=True)
class House:
    """What every association needs of the node."""

    options: ReceiverOptions
    negotiator: Negotiator
    acceptance: Acceptance
    commitments: Commitments
    on_commitment_report: "Callable[[str, int, Dataset], int] | None"


class Association:
    """One association; `run` is the life of its thread."""

    def __init__(
        self, house: House, wire: Wire, address: str, take_place: Callable[[], bool], leave: Callable[[], None]
    ) -> None:
        """Take over a connection.

        Args:
            address: where it comes from, for the log.
            take_place: takes one of the places for associations, where one is free.
            leave: gives it back.
        """
        self.calling_ae_title = ""
        self._house = house
        self._wire = wire
        self._who = address
        self._take_place = take_place
        self._leave = leave
        self._agreement = Agreement(b"", {}, 0)
        self._context_id = 0  # of the message that is coming
        self._command = bytearray()
        self._request: Request | None = None  # whose data set is coming
        self._reception: Reception | None = None
        self._data_set = bytearray()
        self._until = 0.0  # when the message must be complete
        self._message_id = 0  # of our own requests

    def run(self) -> None:
        """Serve it to its end. Never raises."""
        ending = "broken"
        try:
            self._wire.shake_hands()
            if self._begin():
                with metrics.open_association():
                    ending = self._serve()
            else:
                ending = "rejected"
        except (ProtocolBroken, TooSlow, Unacceptable, MalformedCommand) as broken:
            log.warning("ended an association of %s: %s", self._who, str(broken))
            ending = self._abort()
        except NotTrusted as refused:
            log.warning("refused a connection of %s: %s", self._who, str(refused))
        except ConnectionEnded as ended:
            if self._agreement.contexts:
                log.warning("an association of %s broke: %s", self._who, str(ended))
        except Exception:
            log.exception("ended an association of %s", self._who)
            ending = self._abort()
        finally:
            if self._reception is not None:
                self._reception.drop()
            metrics.count_association(ending, self._wire.bytes_received)
            self._leave()
            if ending != "broken":
                self._wire.await_close(LONGEST_GOODBYE_S)
            self._wire.close()

    def _begin(self) -> bool:
        """Negotiate; whether there is an association."""
        options = self._house.options
        kind, _ = self._wire.read_pdu()
        if kind != ASSOCIATE_RQ:
            raise ProtocolBroken("a connection does not begin with a request for an association")
        proposal = read_proposal(self._wire.read_body())
        self.calling_ae_title = printable(proposal.calling_ae_title)
        self._who = f"'{self.calling_ae_title}' at {self._who}"
        rejection = self._house.negotiator.rejection(proposal)
        if rejection is None:
            self._agreement = self._house.negotiator.agree(proposal)
            if self._agreement.wants_to_store and (why := self._house.acceptance.pressure()):
                log.warning("rejected an association of %s: %s", self._who, why)
                rejection = CONGESTION
            elif not self._take_place():
                log.warning("rejected an association of %s: %d are open", self._who, options.max_associations)
                rejection = LIMIT_EXCEEDED
        else:
            log.warning("rejected an association of %s: %s", self._who, in_words(rejection))
        if rejection is not None:
            metrics.count_rejection(rejection)
            self._wire.send(reject(rejection))
            return False
        self._wire.send(accept(proposal, self._agreement))
        self._wire.before_reuse, self._wire.before_wait = self._spill, self._write_early
        self._wire.rewind()
        return True

    def _serve(self) -> str:
        """Take messages until the association ends; how it ended."""
        while True:
            kind, _ = self._wire.read_pdu()
            if kind == P_DATA:
                for fragment in self._wire.fragments():
                    self._take(fragment)
            elif kind == RELEASE_RQ:
                self._wire.read_body()
                self._wire.send(struct.pack(">BxIxxxx", RELEASE_RP, 4))
                return "released"
            elif kind == ABORT:
                return "aborted"
            else:
                raise ProtocolBroken("a PDU came that does not belong into an association")

    def _take(self, fragment: Fragment) -> None:
        begins = not self._command and self._request is None
        if begins:
            self._context_id = fragment.context_id
            self._until = time.monotonic() + self._house.options.instance_timeout_s
        elif fragment.context_id != self._context_id:
            raise ProtocolBroken("messages are mixed up")
        elif time.monotonic() > self._until:
            raise TooSlow("a message does not come to its end")
        if fragment.is_command:
            self._take_command(fragment)
        elif self._request is None:
            raise ProtocolBroken("a data set came without a command")
        elif self._reception is not None:
            self._take_instance(self._reception, fragment)
        else:
            self._take_data_set(self._request, fragment)

    def _take_command(self, fragment: Fragment) -> None:
        if self._request is not None:
            raise ProtocolBroken("a command came where a data set should go on")
        self._command += fragment.data
        if len(self._command) > commands.LONGEST_COMMAND:
            raise ProtocolBroken("a command is larger than any")
        if not fragment.is_end:
            return
        request = read_command(self._command)
        self._command.clear()
        context = self._context()
        if not request.has_data_set:
            self._handle(request, b"")
            return
        self._request = request
        if request.command_field == commands.C_STORE_RQ:
            command = Command(
                context.abstract_syntax,
                request.uid(commands.AFFECTED_SOP_CLASS_UID),
                request.uid(commands.AFFECTED_SOP_INSTANCE_UID),
            )
            acceptance = self._house.acceptance
            self._reception = acceptance.begin(command, context.transfer_syntax, self.calling_ae_title)

    def _take_instance(self, reception: Reception, fragment: Fragment) -> None:
        reception.take(fragment.data)
        if reception.size_bytes > self._house.options.max_instance_mib * MIB:
            raise ProtocolBroken("a data set is larger than the limit")
        if fragment.is_end and self._request is not None:
            request, self._request = self._request, None
            answer = reception.finish()
            self._reception = None
            self._answer(request, answer.status, answer.comment)
            reception.settle()
            self._wire.rewind()

    def _take_data_set(self, request: Request, fragment: Fragment) -> None:
        self._data_set += fragment.data
        if len(self._data_set) > LONGEST_DATA_SET:
            raise ProtocolBroken("a data set is larger than the limit")
        if fragment.is_end:
            data, self._data_set, self._request = bytes(self._data_set), bytearray(), None
            self._handle(request, data)
            self._wire.rewind()

    def _spill(self) -> None:
        if self._reception is not None:
            self._reception.spill()

    def _write_early(self) -> None:
        if self._reception is not None:
            self._reception.write_early()

    def _context(self) -> Context:
        try:
            return self._agreement.contexts[self._context_id]
        except KeyError:
            raise ProtocolBroken("a message came in a presentation context that was not agreed on") from None

    def _handle(self, request: Request, data: bytes) -> None:
        """Answer what is no instance."""
        field = request.command_field
        if request.is_response or field == commands.C_CANCEL_RQ:
            return
        if field == commands.C_ECHO_RQ:
            self._answer(request, commands.SUCCESS)
        elif field == commands.N_ACTION_RQ:
            self._commit(request, data)
        elif field == commands.N_EVENT_REPORT_RQ and self._house.on_commitment_report is not None:
            self._be_told(request, data, self._house.on_commitment_report)
        else:
            self._answer(request, commands.UNRECOGNIZED_OPERATION, "this is not done here")

    def _commit(self, request: Request, data: bytes) -> None:
        asked = self._house.commitments.ask(request, self._decoded(data), self.calling_ae_title)
        self._answer(request, asked.status, asked.comment)
        if asked.report is None:
            return
        context = self._context()
        self._message_id = self._message_id % 0xFFFF + 1
        command, data_set = asked.report.message(self._message_id, context.transfer_syntax)
        self._send(command, is_command=True)
        self._send(data_set, is_command=False)

    def _be_told(self, request: Request, data: bytes, told: "Callable[[str, int, Dataset], int]") -> None:
        event_type = request.short(commands.EVENT_TYPE_ID)
        information = self._decoded(data)
        if event_type is None or information is None:
            self._answer(request, commands.INVALID_ARGUMENT)
            return
        self._answer(request, told(self.calling_ae_title, event_type, information))

    def _decoded(self, data: bytes) -> "Dataset | None":
        """A data set as an object; None: it can't be read."""
        from pynetdicom.dsutils import decode

        implicit = self._context().transfer_syntax == "1.2.840.10008.1.2"
        try:
            return decode(BytesIO(data), implicit, is_little_endian=True)
        except Exception as bad:  # whatever hostile bytes bring about
            log.warning("a data set can't be read: %s", type(bad).__name__)
            return None

    def _answer(self, request: Request, status: int, comment: str = "") -> None:
        self._send(write_response(request, status, comment), is_command=True)

    def _send(self, data: bytes, is_command: bool) -> None:
        self._wire.send(data_pdus(self._context_id, data, is_command, self._agreement.max_pdu_bytes))

    def _abort(self) -> str:
        with suppress(ConnectionEnded):  # it has ended already
            self._wire.send(struct.pack(">BxIxxBB", ABORT, 4, BY_PROVIDER, 0))
        return "broken"  # what still comes is not wanted
