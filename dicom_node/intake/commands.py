"""
DIMSE command sets as bytes: what a request says, and how it is answered.

A command set is a dozen small elements in implicit VR little endian, whatever the transfer syntax of the data set that
follows. It comes with every image, so it is read and written here in a few lines instead of by way of objects.

Source: DICOM PS3.7 section 6.3 and annex E.
"""

import struct
from dataclasses import dataclass
from functools import lru_cache

from dicom_node.intake.wire import P_DATA

C_STORE_RQ, C_ECHO_RQ, C_CANCEL_RQ = 0x0001, 0x0030, 0x0FFF
N_EVENT_REPORT_RQ, N_ACTION_RQ = 0x0100, 0x0130
RESPONSE = 0x8000  # bit of the command field

AFFECTED_SOP_CLASS_UID, REQUESTED_SOP_CLASS_UID = 0x0002, 0x0003
COMMAND_FIELD, MESSAGE_ID, RESPONDED_TO, DATA_SET_TYPE = 0x0100, 0x0110, 0x0120, 0x0800
STATUS, ERROR_COMMENT = 0x0900, 0x0902
AFFECTED_SOP_INSTANCE_UID, REQUESTED_SOP_INSTANCE_UID = 0x1000, 0x1001
EVENT_TYPE_ID, ACTION_TYPE_ID = 0x1002, 0x1008

NO_DATA_SET, SOME_DATA_SET = 0x0101, 0x0001
SUCCESS, SOP_CLASS_NOT_SUPPORTED, NO_SUCH_ACTION, UNRECOGNIZED_OPERATION = 0x0000, 0x0122, 0x0123, 0x0211
INVALID_ARGUMENT, PROCESSING_FAILURE = 0x0115, 0x0110

_HEAD = struct.Struct("<HHI")  # group, element, length
_GROUP_LENGTH = struct.Struct("<HHII")
_PDU = struct.Struct(">BxIIBB")  # type, length; of its one item: length, context, control
LAST = 2  # bit of the control: no further fragment follows

LONGEST_COMMAND = 16384
"""Bytes of a command set that is believed. Our choice: real ones have some two hundred."""


class MalformedCommand(ValueError):
    """Raised when a command set can't be read, or lacks what every one has."""


@dataclass(frozen=True, slots=True)
class Request:
    """One command set."""

    command_field: int
    message_id: int  # of a response: that of the request which it answers
    has_data_set: bool
    elements: dict[int, bytes]  # element number within group 0000 -> raw value

    @property
    def is_response(self) -> bool:
        """Whether it answers one of ours."""
        return bool(self.command_field & RESPONSE)

    def uid(self, element: int) -> str:
        """A UID as it stands, without its padding; empty where there is none."""
        return self.elements.get(element, b"").decode("latin-1").rstrip("\0 ")

    def short(self, element: int) -> int | None:
        """A number, where there is one."""
        return _number(self.elements, element)


def read_command(data: bytes | bytearray) -> Request:
    """Read a whole command set.

    Raises:
        MalformedCommand: it can't be read, or has no command field, message ID or data set type.
    """
    elements: dict[int, bytes] = {}
    data = bytes(data)
    at, size_bytes = 0, len(data)
    while at < size_bytes:
        if at + 8 > size_bytes:
            raise MalformedCommand("a command ends inside an element")
        group, element, length = _HEAD.unpack_from(data, at)
        at += 8
        if group or length > size_bytes - at:
            raise MalformedCommand("a command holds what does not belong there, or ends inside a value")
        elements[element] = data[at : at + length]
        at += length
    command_field, data_set_type = _number(elements, COMMAND_FIELD), _number(elements, DATA_SET_TYPE)
    if command_field is None or data_set_type is None:
        raise MalformedCommand("a command lacks its field or does not say whether a data set follows")
    answers = command_field & RESPONSE or command_field == C_CANCEL_RQ
    message_id = _number(elements, RESPONDED_TO if answers else MESSAGE_ID)
    if message_id is None:
        raise MalformedCommand("a command has no message ID")
    return Request(command_field, message_id, data_set_type != NO_DATA_SET, elements)


def write_response(request: Request, status: int, comment: str = "") -> bytes:
    """The command set that answers a request, without a data set.

    Args:
        comment: ASCII; cut after 64 characters, as VR LO allows.
    """
    said = request.elements
    class_uid = _echoed(said.get(AFFECTED_SOP_CLASS_UID) or said.get(REQUESTED_SOP_CLASS_UID))
    instance_uid = _echoed(said.get(AFFECTED_SOP_INSTANCE_UID) or said.get(REQUESTED_SOP_INSTANCE_UID))
    of_this_message = [(RESPONDED_TO, _short(request.message_id))]
    of_this_instance = [(AFFECTED_SOP_INSTANCE_UID, instance_uid)] if instance_uid else []
    of_this_instance += [(element, said[element]) for element in (EVENT_TYPE_ID, ACTION_TYPE_ID) if said.get(element)]
    return _with_length(
        _lasting_answer(class_uid, request.command_field)
        + _elements(of_this_message)
        + _lasting_status(status, comment[:64])
        + _elements(of_this_instance)
    )


def write_event_report(message_id: int, sop_class_uid: str, sop_instance_uid: str, event_type_id: int) -> bytes:
    """The command set of an N-EVENT-REPORT request; a data set follows it."""
    return write_command(
        [
            (AFFECTED_SOP_CLASS_UID, _uid(sop_class_uid)),
            (COMMAND_FIELD, _short(N_EVENT_REPORT_RQ)),
            (MESSAGE_ID, _short(message_id)),
            (DATA_SET_TYPE, _short(SOME_DATA_SET)),
            (AFFECTED_SOP_INSTANCE_UID, _uid(sop_instance_uid)),
            (EVENT_TYPE_ID, _short(event_type_id)),
        ]
    )


def write_command(elements: list[tuple[int, bytes]]) -> bytes:
    """A command set of raw values in ascending order; the group's length is put before them."""
    return _with_length(_elements(elements))


@lru_cache(maxsize=64)
def _lasting_answer(class_uid: bytes, command_field: int) -> bytes:
    """The beginning of an answer, the same for image after image."""
    elements = [(AFFECTED_SOP_CLASS_UID, class_uid), (COMMAND_FIELD, _short(command_field | RESPONSE))]
    return _elements([(element, value) for element, value in elements if value])


@lru_cache(maxsize=64)
def _lasting_status(status: int, comment: str) -> bytes:
    """What an answer says, likewise."""
    elements = [(DATA_SET_TYPE, _short(NO_DATA_SET)), (STATUS, _short(status)), (ERROR_COMMENT, _text(comment))]
    return _elements([(element, value) for element, value in elements if value])


def _elements(elements: list[tuple[int, bytes]]) -> bytes:
    return b"".join([_HEAD.pack(0, element, len(value)) + value for element, value in elements])


def _with_length(body: bytes) -> bytes:
    return _GROUP_LENGTH.pack(0, 0, 4, len(body)) + body


def data_pdus(context_id: int, data: bytes, is_command: bool, longest_pdu: int) -> bytes:
    """P-DATA-TF PDUs that carry one command set or one data set.

    Args:
        longest_pdu: bytes of a PDU's body that the peer takes; 0: any.

    Source: DICOM PS3.8 section 9.3.5 and annex E.2.
    """
    step = max(longest_pdu - 6, 128) if longest_pdu else len(data)
    if len(data) <= step:  # nearly every command set
        return _PDU.pack(P_DATA, len(data) + 6, len(data) + 2, context_id, is_command | LAST) + data
    pdus = []
    for at in range(0, len(data), step):
        piece = data[at : at + step]
        control = is_command | (LAST if at + step >= len(data) else 0)
        pdus.append(_PDU.pack(P_DATA, len(piece) + 6, len(piece) + 2, context_id, control) + piece)
    return b"".join(pdus)


def _number(elements: dict[int, bytes], element: int) -> int | None:
    value = elements.get(element, b"")
    return int.from_bytes(value, "little") if len(value) == 2 else None


def _short(value: int) -> bytes:
    return value.to_bytes(2, "little")


def _text(value: str) -> bytes:
    raw = value.encode("ascii", "replace")
    return raw + b" " * (len(raw) % 2)


def _uid(value: str) -> bytes:
    raw = value.encode("ascii")
    return raw + b"\0" * (len(raw) % 2)


def _echoed(uid: bytes | None) -> bytes:
    """A UID of the request in the answer; what is far too long to be one is left out."""
    return uid if uid and len(uid) <= 64 else b""
