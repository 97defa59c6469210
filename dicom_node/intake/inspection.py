"""
What is looked at before an instance is accepted: its identifiers, whether they are those of the command, and its end.

No pixel is decoded. What is accepted here can be registered; whether it can be analysed is asked later.
"""

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO

from dicom_node.intake.services import DEFLATED, IMAGES
from engine.errors import ScreeningError, UnreadableInstance
from engine.loading.elements import Elements, Inflating, fragments, read_data_set, read_elements
from engine.loading.headers import header_from
from engine.loading.walker import Walker
from engine.records import InstanceHeader, Reason

LARGEST_INFLATED = 1 << 30
"""Bytes of a deflated data set that is believed, once it is unpacked. Our choice."""


@dataclass(frozen=True, slots=True)
class Command:
    """What a C-STORE request says of the data set that follows it."""

    abstract_syntax: str  # of the presentation context that it came in
    sop_class_uid: str  # Affected SOP Class UID
    sop_instance_uid: str  # Affected SOP Instance UID


def inspect(content: bytes, command: Command, pseudonym_key: bytes) -> InstanceHeader:
    """The header of an instance that may be accepted.

    Args:
        content: a whole DICOM file.

    Raises:
        UnreadableInstance: its header can't be read, lacks an identifier or has one that is no UID; the command speaks
            of another instance; or the pixel data are cut short or missing.
    """
    return inspect_file(BytesIO(content), len(content), command, pseudonym_key)


def inspect_file(file: BinaryIO, size_bytes: int, command: Command, pseudonym_key: bytes) -> InstanceHeader:
    """The same of an open file; its pixels are not read.

    Raises:
        UnreadableInstance: likewise.
    """
    elements, header = read_file(file, size_bytes, pseudonym_key)
    judge(elements, header, command, file, size_bytes)
    return header


def judge(elements: Elements, header: InstanceHeader, command: Command, file: BinaryIO | None, size_bytes: int) -> None:
    """Whether an instance whose header was read may be accepted.

    Args:
        file: not needed for native pixels.

    Raises:
        UnreadableInstance: the command speaks of another instance; or the pixel data are cut short or missing.
    """
    if header.sop_instance_uid != command.sop_instance_uid:
        raise UnreadableInstance(Reason.COMMAND_MISMATCH, "command and data set name different instances")
    if not header.sop_class_uid == command.sop_class_uid == command.abstract_syntax:
        raise UnreadableInstance(Reason.COMMAND_MISMATCH, "command, context and data set name different SOP classes")
    if header.sop_class_uid in IMAGES:
        _refuse_cut_pixels(file, size_bytes, elements)


def has_native_pixels(elements: Elements) -> bool:
    """Whether there are pixels, and their length is told before them and can be compared with the file's."""
    pixels = elements.pixel_data
    return pixels is not None and pixels.length is not None and elements.transfer_syntax_uid != DEFLATED


def read_content(content: bytes, pseudonym_key: bytes) -> tuple[Elements, InstanceHeader]:
    """What a file's header holds, and what it says.

    Raises:
        UnreadableInstance: it can't be read, lacks an identifier or has one that is no UID.
    """
    return read_file(BytesIO(content), len(content), pseudonym_key)


def read_file(file: BinaryIO, size_bytes: int, pseudonym_key: bytes) -> tuple[Elements, InstanceHeader]:
    """The same of an open file.

    Raises:
        UnreadableInstance: likewise.
    """
    return _read(lambda: read_elements(file, size_bytes), pseudonym_key)


def read_early(
    head: bytes, at: int, transfer_syntax_uid: str, pseudonym_key: bytes
) -> tuple[Elements, InstanceHeader] | None:
    """The same of the first bytes of a file; None: the header is not all here.

    Args:
        at: where the data set begins.

    Raises:
        UnreadableInstance: likewise, or more is needed to tell.
    """
    early = _read(lambda: read_data_set(BytesIO(head), at, transfer_syntax_uid), pseudonym_key)
    return early if early[0].pixel_data is not None else None


def _read(elements_of: Callable[[], Elements], pseudonym_key: bytes) -> tuple[Elements, InstanceHeader]:
    try:
        elements = elements_of()
        return elements, header_from(elements, pseudonym_key)
    except ScreeningError:
        raise
    except Exception as bad:  # whatever hostile bytes bring about; the cause may quote them, so it is cut off
        raise UnreadableInstance(Reason.HEADER_UNREADABLE, f"the header breaks off with {type(bad).__name__}") from None


def _refuse_cut_pixels(file: BinaryIO | None, size_bytes: int, elements: Elements) -> None:
    """An image whose pixels end too early was cut on the way, and can be sent again."""
    pixels = elements.pixel_data
    if pixels is None:
        raise UnreadableInstance(Reason.PIXELS_UNREADABLE, "the data set ends before its pixel data")
    if elements.transfer_syntax_uid == DEFLATED and pixels.length is not None and file is not None:
        if not _inflates_to(file, size_bytes, pixels.offset + pixels.length):
            raise UnreadableInstance(Reason.PIXELS_UNREADABLE, "the deflated pixel data are cut short or too large")
        return
    if pixels.length is not None:
        if pixels.offset + pixels.length > size_bytes:
            raise UnreadableInstance(Reason.PIXELS_UNREADABLE, "the pixel data are cut short")
        return
    if file is None:
        raise ValueError("fragments can't be judged without the file")
    try:
        fragments(file, size_bytes, pixels)
    except UnreadableInstance:
        raise UnreadableInstance(Reason.PIXELS_UNREADABLE, "the fragments of the pixel data are cut short") from None


def _inflates_to(file: BinaryIO, size_bytes: int, wanted_bytes: int) -> bool:
    """Whether a deflated data set is so long once it is unpacked; it is unpacked piece by piece, and not kept."""
    if wanted_bytes > LARGEST_INFLATED:
        return False
    walker = Walker(file, size_bytes)
    walker.file_meta()
    stream = Inflating(file, walker.at)
    stream.seek(wanted_bytes - 1)
    return len(stream.read(1)) == 1
