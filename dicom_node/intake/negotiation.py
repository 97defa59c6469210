"""
What an association is agreed on: who may have one, and which presentation contexts.

pynetdicom reads the request, negotiates and writes the answer. As the answer to the same proposal is the same, it is
remembered: a modality that opens an association for each image proposes the same each time.
"""

import struct
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

from dicom_node.intake.file_format import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_node.intake.options import ReceiverOptions
from dicom_node.intake.services import LITTLE_ENDIAN, SOP_CLASSES, STORAGE_COMMITMENT, VERIFICATION, transfer_syntaxes
from dicom_node.intake.wire import ASSOCIATE_AC, ASSOCIATE_RJ, ASSOCIATE_RQ

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
MOST_REMEMBERED, LONGEST_REMEMBERED = 64, 65536  # proposals, and bytes of one; our choice

PERMANENT, TRANSIENT = 1, 2
BY_USER, BY_PRESENTATION = 1, 3
CALLING_NOT_RECOGNISED, CALLED_NOT_RECOGNISED = (PERMANENT, BY_USER, 3), (PERMANENT, BY_USER, 7)
CONGESTION, LIMIT_EXCEEDED = (TRANSIENT, BY_PRESENTATION, 1), (TRANSIENT, BY_PRESENTATION, 2)
UNSUPPORTED_VERSION = (PERMANENT, 2, 2)
"""Result, source and reason of a rejection (PS3.8 table 9-21)."""


@dataclass(frozen=True, slots=True)
class Context:
    """A presentation context that was agreed on."""

    abstract_syntax: str
    transfer_syntax: str


@dataclass(frozen=True, slots=True)
class Agreement:
    """The answer to a proposal."""

    answer: bytes  # variable items of an A-ASSOCIATE-AC
    contexts: dict[int, Context]
    max_pdu_bytes: int  # that the peer takes; 0: any

    @property
    def wants_to_store(self) -> bool:
        """Whether instances may come."""
        return any(context.abstract_syntax in SOP_CLASSES for context in self.contexts.values())


@dataclass(frozen=True, slots=True)
class Proposal:
    """An A-ASSOCIATE-RQ, as far as it is read by us."""

    body: bytes
    calling_ae_title: str
    called_ae_title: str

    @property
    def titles(self) -> bytes:
        """Reserved field, called and calling title, and a reserved field, which the answer repeats."""
        return self.body[2:68]


class Unacceptable(ValueError):
    """Raised when a request for an association can't be read."""


class Negotiator:
    """Answers proposals; shared by all connections."""

    def __init__(self, options: ReceiverOptions) -> None:
        """Hold what is on offer."""
        from pynetdicom.presentation import build_context

        self._options = options
        self._supported = [build_context(VERIFICATION, list(LITTLE_ENDIAN))]
        self._supported += [
            build_context(sop_class, transfer_syntaxes(options.accept_deflated)) for sop_class in SOP_CLASSES
        ]
        if options.storage_commitment:
            commitment = build_context(STORAGE_COMMITMENT, list(LITTLE_ENDIAN))
            commitment.scu_role = commitment.scp_role = True  # they ask us, or tell us what became of what we asked
            self._supported.append(commitment)
        self._calling = {title.strip() for title in options.calling_ae_titles}
        self._called = {title.strip() for title in options.called_ae_titles}
        self._lock = Lock()
        self._remembered: OrderedDict[bytes, Agreement] = OrderedDict()

    def rejection(self, proposal: Proposal) -> tuple[int, int, int] | None:
        """Why this peer gets no association at all; None: it may have one."""
        if int.from_bytes(proposal.body[:2], "big") & 1 == 0:
            return UNSUPPORTED_VERSION
        if self._calling and proposal.calling_ae_title not in self._calling:
            return CALLING_NOT_RECOGNISED
        if self._called and proposal.called_ae_title not in self._called:
            return CALLED_NOT_RECOGNISED
        return None

    def agree(self, proposal: Proposal) -> Agreement:
        """Negotiate.

        Raises:
            Unacceptable: the proposal can't be read.
        """
        items = proposal.body[68:]
        with self._lock:
            if (known := self._remembered.get(items)) is not None:
                self._remembered.move_to_end(items)
                return known
        try:
            agreement = self._negotiate(proposal.body)
        except Exception as bad:  # whatever hostile bytes bring about; the cause may quote them, so it is cut off
            raise Unacceptable(f"the request for an association can't be read ({type(bad).__name__})") from None
        with self._lock:
            if len(items) <= LONGEST_REMEMBERED:
                self._remembered[items] = agreement
            while len(self._remembered) > MOST_REMEMBERED:
                self._remembered.popitem(last=False)
        return agreement

    def _negotiate(self, body: bytes) -> Agreement:
        from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
        from pynetdicom.pdu_primitives import A_ASSOCIATE
        from pynetdicom.presentation import negotiate_as_acceptor

        neutral = body[:4] + b"CALLED".ljust(16) + b"CALLING".ljust(16) + body[36:]  # titles are read by us
        request = A_ASSOCIATE_RQ()
        request.decode(struct.pack(">BxI", ASSOCIATE_RQ, len(neutral)) + neutral)
        asked = request.to_primitive()
        told = {type(item).__name__: item for item in asked.user_information}
        roles = {
            item.sop_class_uid: (item.scu_role, item.scp_role)
            for item in asked.user_information
            if type(item).__name__ == "SCP_SCU_RoleSelectionNegotiation"
        }
        results, granted = negotiate_as_acceptor(asked.presentation_context_definition_list, self._supported, roles)
        answer = A_ASSOCIATE()
        answer.application_context_name = APPLICATION_CONTEXT
        answer.calling_ae_title = answer.called_ae_title = "ANY"
        answer.result, answer.result_source = 0, 1
        answer.presentation_context_definition_results_list = results
        answer.user_information = [*self._user_information("AsynchronousOperationsWindowNegotiation" in told), *granted]
        contexts = {
            int(result.context_id): Context(str(result.abstract_syntax), str(result.transfer_syntax[0]))
            for result in results
            if result.result == 0
        }
        longest = int(told["MaximumLengthNotification"].maximum_length_received)
        return Agreement(A_ASSOCIATE_AC(answer).encode()[74:], contexts, longest)

    def _user_information(self, asynchronous: bool) -> Sequence[Any]:
        from pynetdicom.pdu_primitives import (
            AsynchronousOperationsWindowNegotiation,
            ImplementationClassUIDNotification,
            ImplementationVersionNameNotification,
            MaximumLengthNotification,
        )

        length, ours, version = (
            MaximumLengthNotification(),
            ImplementationClassUIDNotification(),
            ImplementationVersionNameNotification(),
        )
        length.maximum_length_received = self._options.max_pdu_bytes
        ours.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        version.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        if not asynchronous:
            return length, ours, version
        window = AsynchronousOperationsWindowNegotiation()  # some send without end where it is not answered
        window.maximum_number_operations_invoked = window.maximum_number_operations_performed = 1
        return length, ours, version, window


def read_proposal(body: bytes) -> Proposal:
    """The titles of an A-ASSOCIATE-RQ.

    Raises:
        Unacceptable: it is too short to be one.
    """
    if len(body) < 68 + 4:
        raise Unacceptable("the request for an association is too short")
    called, calling = (body[at : at + 16].decode("latin-1").strip("\0 ") for at in (4, 20))
    return Proposal(body, calling, called)


def accept(proposal: Proposal, agreement: Agreement) -> bytes:
    """The A-ASSOCIATE-AC."""
    body = b"\0\1" + proposal.titles + agreement.answer
    return struct.pack(">BxI", ASSOCIATE_AC, len(body)) + body


def in_words(rejection: tuple[int, int, int]) -> str:
    """Why a peer gets no association, for people."""
    return {
        CALLING_NOT_RECOGNISED: "its AE title is not among receiver.calling_ae_titles",
        CALLED_NOT_RECOGNISED: "it calls an AE title that is none of ours (receiver.ae_title, other_ae_titles)",
        UNSUPPORTED_VERSION: "it speaks another version of the protocol",
    }.get(rejection, str(rejection))


def reject(why: tuple[int, int, int]) -> bytes:
    """The A-ASSOCIATE-RJ."""
    return struct.pack(">BxIxBBB", ASSOCIATE_RJ, 4, *why)
