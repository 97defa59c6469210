"""
Cut the few attributes that we need out of a DICOM file, without believing anything it says.

A walker steps over the data set element by element and keeps only what is asked for, so that time
and memory follow the header's size and never a length that the file merely claims: no length may
reach beyond the file, nested sequences are stepped over without recursion, and the number of
elements is limited. What it keeps are raw values; they become text and numbers only when asked for.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import BinaryIO

from engine.errors import UnreadableInstance
from engine.loading.tags import SEQUENCES, Tag
from engine.records import Reason

IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1.99"
EXPLICIT_VR_BIG_ENDIAN = "1.2.840.10008.1.2.2"

LONGEST_VALUE = 1024
"""Bytes of the longest value that is believed. Our choice: of all we read, the longest is some dozen."""

MOST_ELEMENTS = 1_000_000
"""Elements walked before giving up. Our choice: about two seconds; an enhanced CT of 2000 frames has fewer."""

DEEPEST_NESTING = 64
"""Open sequences and items. Our choice: real headers stay below ten."""

LARGEST_NUMBER = 2.0**31
"""Numbers beyond it are taken for absent. Our choice: nothing we read comes near, and sums stay finite."""

_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_PIXEL_DATA = 0x7FE00010
_PIXELS_BEGIN = 0x7FE00008  # float and double pixel data lie before pixel data
_LONG_FORM = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_WANTED = frozenset(int(tag) for tag in Tag)


@dataclass(frozen=True, slots=True)
class PixelData:
    """Where a file's pixel data lie; nothing of it was read."""

    offset: int  # of the first byte of the value; for fragments: of the first item
    length: int | None  # bytes; None: encapsulated fragments


@dataclass(frozen=True)
class Elements:
    """Raw attribute values of one data set, and what they say when read with a forgiving eye."""

    transfer_syntax_uid: str
    values: Mapping[int, bytes | str]  # of a sequence: whether it has items
    pixel_data: PixelData | None = None

    def raw(self, tag: Tag) -> bytes | str:
        """The whole value without its padding, empty where there is none."""
        value = self.values.get(tag, b"")
        return value.strip("\0 ") if isinstance(value, str) else value.strip(b"\0 ")

    def has(self, tag: Tag) -> bool:
        """Whether the attribute is there and not empty."""
        return bool(self.raw(tag))

    def texts(self, tag: Tag) -> tuple[str, ...]:
        """The values, printable ASCII only, without padding; empty ones are kept as ''.

        >>> Elements("", {Tag.CONVOLUTION_KERNEL: b"Br38f\\\\3 "}).texts(Tag.CONVOLUTION_KERNEL)
        ('Br38f', '3')
        """
        if not self.has(tag):
            return ()
        value = self.values[tag]
        text = value if isinstance(value, str) else value.decode("ascii", "replace")
        return tuple(_printable(part) for part in text.split("\\"))

    def text(self, tag: Tag) -> str:
        """The first value, or ''."""
        return next(iter(self.texts(tag)), "")

    def numbers(self, tag: Tag, count: int) -> tuple[float, ...] | None:
        """Exactly `count` finite numbers written as text, or None.

        >>> Elements("", {Tag.GANTRY_DETECTOR_TILT: b"+18.5 "}).numbers(Tag.GANTRY_DETECTOR_TILT, 1)
        (18.5,)
        """
        parts = self.texts(tag)
        if len(parts) != count:
            return None
        found = tuple(_number(part) for part in parts)
        return tuple(value for value in found if value is not None) if None not in found else None

    def number(self, tag: Tag) -> float | None:
        """The first value as a finite number, or None."""
        return _number(self.text(tag))

    def integer(self, tag: Tag) -> int | None:
        """The first value as a whole number written as text, or None."""
        value = self.number(tag)
        return int(value) if value is not None and value == int(value) and abs(value) < 2**31 else None

    def short(self, tag: Tag, signed: bool = False) -> int | None:
        """A binary 16-bit number (VR US or SS), or None."""
        value = self.values.get(tag)
        if isinstance(value, str):
            return self.integer(tag)
        if value is None or len(value) < 2:
            return None
        return int(struct.unpack_from("<h" if signed else "<H", value)[0])


def read_elements(file: BinaryIO, size_bytes: int) -> Elements:
    """Walk a DICOM file up to its pixel data.

    Args:
        file: at any position; must be able to seek.
        size_bytes: the file's size.

    Raises:
        UnreadableInstance: no DICOM file, cut short, contradicts itself, or is encoded in a way
            that is not read here (deflated: its size is not known before it is unpacked; big endian).

    Source: DICOM PS3.5 section 7 (data elements, nesting), PS3.10 section 7.1 (preamble, group 2).
    """
    walker = _Walker(file, size_bytes)
    walker.skip_to(128)
    if walker.take(4) != b"DICM":
        raise _unreadable("there is no DICM mark after the preamble")
    transfer_syntax_uid = walker.file_meta()
    refuse_transfer_syntax(transfer_syntax_uid)
    values, pixel_data = walker.data_set()
    return Elements(transfer_syntax_uid, values, pixel_data)


def refuse_transfer_syntax(transfer_syntax_uid: str) -> None:
    """Refuse the encodings of a data set that are not read here.

    Raises:
        UnreadableInstance: deflated or big endian.
    """
    if transfer_syntax_uid in (DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN):
        kind = "big endian" if transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN else "deflated"
        raise UnreadableInstance(Reason.TRANSFER_SYNTAX_UNSUPPORTED, f"the data set is {kind}")


def fragments(file: BinaryIO, size_bytes: int, pixel_data: PixelData) -> tuple[tuple[int, int], ...]:
    """(offset, length) of every encapsulated fragment, without the offset table.

    Raises:
        UnreadableInstance: a fragment reaches beyond the file, or the sequence does not end.

    Source: DICOM PS3.5 section A.4.
    """
    walker = _Walker(file, size_bytes)
    walker.skip_to(pixel_data.offset)
    found: list[tuple[int, int]] = []
    while True:
        tag, length = walker.item()
        if tag == _SEQUENCE_END:
            return tuple(found[1:])
        if tag != _ITEM or length == _UNDEFINED:
            raise _unreadable("a fragment of the pixel data is malformed")
        found.append((walker.at, length))
        walker.skip_to(walker.at + length)


class _Walker:
    """A position in a file that never leaves it."""

    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        self.file = file
        self.size_bytes = size_bytes
        self.at = 0
        self.walked = 0
        file.seek(0)

    def take(self, count: int) -> bytes:
        if self.at + count > self.size_bytes:
            raise _unreadable("the file ends inside an element")
        data = self.file.read(count)
        if len(data) != count:
            raise _unreadable("the file ends inside an element")
        self.at += count
        return data

    def skip_to(self, at: int) -> None:
        if at > self.size_bytes:
            raise _unreadable("an element is longer than the file")
        self.file.seek(at)
        self.at = at

    def item(self) -> tuple[int, int]:
        group, element, length = struct.unpack("<HHI", self.take(8))
        self._count()
        return group << 16 | element, length

    def element(self, explicit: bool) -> tuple[int, bytes, int]:
        """Tag, VR (empty where implicit) and length of the next element."""
        head = self.take(8)
        self._count()
        group, element, long_length = struct.unpack("<HHI", head)
        tag = group << 16 | element
        if not explicit or group == 0xFFFE:
            return tag, b"", long_length
        vr = head[4:6]
        if vr in _LONG_FORM:
            return tag, vr, struct.unpack("<I", self.take(4))[0]
        return tag, vr, head[6] | head[7] << 8

    def file_meta(self) -> str:
        """The transfer syntax, from group 2; ends at the first element after it."""
        transfer_syntax_uid = ""
        while self.at + 8 <= self.size_bytes:
            start = self.at
            tag, _, length = self.element(explicit=True)
            if tag >> 16 != 2:
                self.skip_to(start)
                break
            if tag == Tag.TRANSFER_SYNTAX_UID and length <= 64:
                transfer_syntax_uid = self.take(length).decode("ascii", "replace").strip("\0 ")
            else:
                self.skip_to(self.at + length)
        if not transfer_syntax_uid:
            raise _unreadable("the file names no transfer syntax")
        return transfer_syntax_uid

    def data_set(self) -> tuple[dict[int, bytes | str], PixelData | None]:
        """Wanted values of the top level, up to the pixel data."""
        explicit = self._looks_explicit()
        values: dict[int, bytes | str] = {}
        while self.at < self.size_bytes:
            tag, vr, length = self.element(explicit)
            if _PIXELS_BEGIN <= tag <= _PIXEL_DATA:
                return values, self._pixel_data(length) if tag == _PIXEL_DATA else None
            if tag >> 16 == 0xFFFE:
                raise _unreadable("an item stands outside a sequence")
            if tag in _WANTED and tag in values:
                raise _unreadable("an attribute is given twice")
            start = self.at
            if length == _UNDEFINED:
                self._skip_sequence(explicit and vr != b"UN")
                end = self.at - 8
            else:
                end = start + length
                self.skip_to(end)
            if tag in SEQUENCES:
                values[tag] = b"items" if end > start else b""
            elif tag in _WANTED:
                values[tag] = self._value(start, end)
        return values, None

    def _value(self, start: int, end: int) -> bytes:
        if end - start > LONGEST_VALUE:
            raise _unreadable("a value is longer than any that is meant")
        after = self.at
        self.skip_to(start)
        value = self.take(end - start)
        self.skip_to(after)
        return value

    def _pixel_data(self, length: int) -> PixelData:
        return PixelData(self.at, None if length == _UNDEFINED else length)

    def _looks_explicit(self) -> bool:
        """By the first element: some writers name the wrong encoding."""
        if self.at + 8 > self.size_bytes:
            return True
        head = self.take(8)
        self.skip_to(self.at - 8)
        return head[4:6].isalpha() and head[4:6].isupper()

    def _skip_sequence(self, explicit: bool) -> None:
        """Step over an element of undefined length, to behind its delimiter."""
        inside = [("sequence", explicit)]
        while inside:
            place, explicit = inside[-1]
            if len(inside) > DEEPEST_NESTING:
                raise _unreadable("sequences are nested too deeply")
            if place == "sequence":
                tag, length = self.item()
                if tag == _SEQUENCE_END:
                    inside.pop()
                elif tag != _ITEM:
                    raise _unreadable("a sequence holds something that is no item")
                elif length == _UNDEFINED:
                    inside.append(("item", explicit))
                else:
                    self.skip_to(self.at + length)
                continue
            tag, vr, length = self.element(explicit)
            if tag == _ITEM_END:
                inside.pop()
            elif tag >> 16 == 0xFFFE:
                raise _unreadable("an item does not end where it should")
            elif length == _UNDEFINED:
                inside.append(("sequence", explicit and vr != b"UN"))
            else:
                self.skip_to(self.at + length)

    def _count(self) -> None:
        self.walked += 1
        if self.walked > MOST_ELEMENTS:
            raise _unreadable("there are too many elements")


def _unreadable(message: str) -> UnreadableInstance:
    return UnreadableInstance(Reason.HEADER_UNREADABLE, message)


def _printable(text: str) -> str:
    return "".join(letter for letter in text if " " <= letter <= "~").strip()


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if isfinite(value) and abs(value) <= LARGEST_NUMBER and "_" not in text else None
