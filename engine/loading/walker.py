"""
A position in a data set that steps from element to element and never leaves the file.

Time and memory follow the header's size and never a length that the file merely claims: a small window of the file is
held, no length may reach beyond the file, nested sequences are stepped over without recursion, and the number of
elements is limited. Most elements are stepped over in one tight loop; that loop is why a header costs tens of
microseconds.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from engine.errors import UnreadableInstance
from engine.loading.tags import GROUPS, PER_FRAME, SEQUENCES, SHARED, Tag
from engine.records import Reason

LONGEST_VALUE = 1024
"""Bytes of the longest value that is believed. Our choice: of all we read, the longest is some dozen."""

MOST_ELEMENTS = 1_000_000
"""Elements walked before giving up. Our choice: about a second; an enhanced CT of 2000 frames has fewer."""

MOST_FRAMES = 10_000
"""Items of per-frame functional groups. Our choice, as of instances: what is kept of them stays small."""

DEEPEST_NESTING = 64
"""Open sequences and items. Our choice: real headers stay below ten."""

UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNKNOWN = 1  # a tag that no data set has
_PIXEL_DATA = 0x7FE00010
_PIXELS_BEGIN = 0x7FE00008  # float and double pixel data lie before pixel data
_LONG_FORM = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_WANTED = frozenset({*map(int, Tag), SHARED, PER_FRAME})
_SPECIAL = frozenset(
    {*SEQUENCES, SHARED, PER_FRAME, ITEM, ITEM_END, SEQUENCE_END, *range(_PIXELS_BEGIN, _PIXEL_DATA + 1)}
)


class _Order:
    """Elements in one byte order. Tags are looked up as they stand in the file: no arithmetic for each."""

    def __init__(self, sign: str) -> None:
        """Of "<" or ">"."""
        self.implicit = struct.Struct(f"{sign}HHI").unpack_from
        self.explicit = struct.Struct(f"{sign}HH2sH").unpack_from
        self.bare = struct.Struct(f"{sign}II").unpack_from  # tag as one number, length
        self.head = struct.Struct(f"{sign}I2sH").unpack_from  # tag as one number, VR, short length
        self.long = struct.Struct(f"{sign}I").unpack_from
        numbers = struct.Struct(f"{sign}HH"), struct.Struct(f"{sign}I")
        self.tags = {
            numbers[1].unpack(numbers[0].pack(tag >> 16, tag & 0xFFFF))[0]: tag for tag in (*_WANTED, *_SPECIAL)
        }


_LITTLE, _BIG = _Order("<"), _Order(">")
_WINDOW = 16384  # bytes read at once; our choice: most headers of CT fit in, and a page more costs nothing


@dataclass(frozen=True, slots=True)
class PixelData:
    """Where a file's pixel data lie; nothing of it was read."""

    offset: int  # of the first byte of the value; for fragments: of the first item
    length: int | None  # bytes; None: encapsulated fragments


Values = dict[int, bytes | str]


class Walker:
    """Steps over one data set."""

    def __init__(self, file: BinaryIO, size_bytes: int, big_endian: bool = False) -> None:
        """Begin at the start of a file.

        Args:
            file: can seek; what lies beyond its end reads as nothing.
            size_bytes: of the file; an upper bound will do.
            big_endian: only of elements behind the file's group 2.
        """
        self.size_bytes = size_bytes
        self.at = 0
        self.walked = 0
        self.order(big_endian)
        self._file = file
        self._base, self._data = 0, b""

    def order(self, big_endian: bool) -> None:
        """Take what follows in this byte order."""
        self._order = _BIG if big_endian else _LITTLE

    def take(self, count: int) -> bytes:
        """The next bytes."""
        start = self._there(count)
        self.at += count
        return self._data[start : start + count]

    def skip_to(self, at: int) -> None:
        """Go on elsewhere; forward only, where the file is inflated on the way."""
        if at > self.size_bytes:
            raise unreadable("an element is longer than the file")
        self.at = at

    def at_end(self) -> bool:
        """Whether nothing follows."""
        return self.at >= self.size_bytes or not self._window(1)

    def item(self) -> tuple[int, int]:
        """Tag and length of the next item or delimiter."""
        start = self._there(8)
        group, element, length = self._order.implicit(self._data, start)
        self.at += 8
        self._count()
        return group << 16 | element, length

    def element(self, explicit: bool) -> tuple[int, bytes, int]:
        """Tag, VR (empty where implicit) and length of the next element."""
        start = self._there(8)
        self._count()
        group, element, vr, length = self._order.explicit(self._data, start)
        if not explicit or group == 0xFFFE:
            self.at += 8
            return group << 16 | element, b"", self._order.long(self._data, start + 4)[0]
        if vr in _LONG_FORM:
            start = self._there(12)
            self.at += 12
            return group << 16 | element, vr, self._order.long(self._data, start + 8)[0]
        self.at += 8
        return group << 16 | element, vr, length

    def file_meta(self) -> str:
        """The transfer syntax, from group 2; ends at the first element after it."""
        self.skip_to(128)
        if self.take(4) != b"DICM":
            raise unreadable("there is no DICM mark after the preamble")
        transfer_syntax_uid = ""
        head, long = _LITTLE.explicit, _LITTLE.long
        while self.at + 8 <= self.size_bytes:
            start = self._there(8)
            group, element, vr, length = head(self._data, start)
            if group != 2:
                break
            if vr in _LONG_FORM:
                length, self.at = long(self._data, self._there(12) + 8)[0], self.at + 12
            else:
                self.at += 8
            self._count()
            if element == 0x0010 and length <= 64:
                transfer_syntax_uid = self.take(length).decode("ascii", "replace").strip("\0 ")
            else:
                self.skip_to(self.at + length)
        if not transfer_syntax_uid:
            raise unreadable("the file names no transfer syntax")
        return transfer_syntax_uid

    def data_set(self) -> tuple[Values, list[Values], PixelData | None]:
        """Wanted values of the top level up to the pixel data; with the shared and per-frame groups' laid over them.

        Returns:
            The values of the whole, those of each frame (none, where the data set has no per-frame groups),
            and where the pixels lie.
        """
        explicit = self._looks_explicit()
        values: Values = {}
        shared: Values = {}
        frames: list[Values] = []
        while True:
            tag, vr, length = self._gather(explicit, values)
            if not tag or _PIXELS_BEGIN <= tag <= _PIXEL_DATA:
                place = PixelData(self.at, None if length == UNDEFINED else length) if tag == _PIXEL_DATA else None
                return values | shared, frames, place
            if tag in (ITEM, ITEM_END, SEQUENCE_END):
                raise unreadable("an item stands outside a sequence")
            if tag == SHARED:
                shared = next(iter(self._groups(length, explicit, 1)), {})
            elif tag == PER_FRAME:
                frames = self._groups(length, explicit, MOST_FRAMES)
            elif tag in _WANTED:
                if tag in values:
                    raise unreadable("an attribute is given twice")
                values[tag] = self._value(tag, length, explicit and vr != b"UN")
            else:
                self._skip_sequence(explicit and vr != b"UN")

    def _gather(self, explicit: bool, values: Values) -> tuple[int, bytes, int]:
        """Take wanted values and step over the rest, as long as nothing else comes; locals for speed.

        Returns:
            Tag, VR and length of what needs another look: sequences, pixels, what is given twice or lies not
            wholly in the window. Tag 0: the data set ends.
        """
        head, bare, long, tags = self._order.head, self._order.bare, self._order.long, self._order.tags
        data = self._window(12)
        at = self.at - self._base
        last = len(data) - 12
        for walked in range(self.walked, MOST_ELEMENTS):
            while at > last:
                self.at, before = self._base + at, len(data) - at
                if self.at > self.size_bytes:
                    raise unreadable("an element is longer than the file")
                data = self._window(12)
                at = self.at - self._base
                last = len(data) - 12
                if len(data) == at:
                    self.walked = walked
                    return 0, b"", 0
                if len(data) - at < 8:
                    raise unreadable("the file ends inside an element")
                if len(data) - at == before:  # the last element is a short one
                    break
            if explicit:
                number, vr, length = head(data, at)
                if vr in _LONG_FORM:
                    if len(data) - at < 12:
                        raise unreadable("the file ends inside an element")
                    length, at = long(data, at + 8)[0], at + 12
                else:
                    at += 8
            else:
                number, length = bare(data, at)
                vr, at = b"", at + 8
            tag = tags.get(number)
            if tag is None:
                if length != UNDEFINED:
                    at += length
                    continue
            elif tag not in _SPECIAL and tag not in values and length <= LONGEST_VALUE and at + length <= len(data):
                values[tag] = data[at : at + length]
                at += length
                continue
            self.at, self.walked = self._base + at, walked + 1
            return tag or _UNKNOWN, vr, length
        raise unreadable("there are too many elements")

    def _value(self, tag: int, length: int, explicit: bool) -> bytes | str:
        """The value of the element whose head was just read; of a sequence, whether it has items."""
        if tag in SEQUENCES:
            start = self.at
            if length == UNDEFINED:
                self._skip_sequence(explicit)
                return b"items" if self.at - 8 > start else b""
            self.skip_to(start + length)
            return b"items" if length else b""
        if length > LONGEST_VALUE:
            raise unreadable("a value is longer than any that is meant")
        return self.take(length)

    def _looks_explicit(self) -> bool:
        """By the first element: some writers name the wrong encoding."""
        data = self._window(8)
        vr = data[self.at - self._base + 4 : self.at - self._base + 6]
        return len(vr) < 2 or (vr.isalpha() and vr.isupper())

    def _groups(self, length: int, explicit: bool, most: int) -> list[Values]:
        """Functional groups, an item each: the wanted values of the macros that are read, in one table.

        Source: DICOM PS3.3 C.7.6.16 (multi-frame functional groups).
        """
        found: list[Values] = []
        for item_length in self._items(length):
            if len(found) == most:
                raise unreadable("there are too many frames")
            values: Values = {}
            for tag, vr, macro_length in self._members(item_length, explicit):
                if tag in GROUPS:
                    for inner_length in self._items(macro_length):
                        self._macro(GROUPS[tag], values, inner_length, explicit and vr != b"UN")
                else:
                    self._skip(macro_length, explicit and vr != b"UN")
            found.append(values)
        return found

    def _macro(self, wanted: frozenset[int], values: Values, length: int, explicit: bool) -> None:
        for tag, vr, member_length in self._members(length, explicit):
            if tag in wanted:
                values[tag] = self._value(tag, member_length, explicit and vr != b"UN")
            else:
                self._skip(member_length, explicit and vr != b"UN")

    def _items(self, length: int) -> Iterator[int]:
        """Lengths of the items of a sequence; who takes one must walk over it."""
        end = None if length == UNDEFINED else self.at + length
        while end is None or self.at < end:
            tag, item_length = self.item()
            if tag == SEQUENCE_END and end is None:
                return
            if tag != ITEM:
                raise unreadable("a sequence holds something that is no item")
            yield item_length

    def _members(self, length: int, explicit: bool) -> Iterator[tuple[int, bytes, int]]:
        """Elements of an item; who takes one must walk over it."""
        end = None if length == UNDEFINED else self.at + length
        while end is None or self.at < end:
            tag, vr, member_length = self.element(explicit)
            if tag == ITEM_END and end is None:
                return
            if tag >> 16 == 0xFFFE:
                raise unreadable("an item does not end where it should")
            yield tag, vr, member_length

    def _skip(self, length: int, explicit: bool) -> None:
        if length == UNDEFINED:
            self._skip_sequence(explicit)
        else:
            self.skip_to(self.at + length)

    def _skip_sequence(self, explicit: bool) -> None:
        """Step over an element of undefined length, to behind its delimiter."""
        inside = [("sequence", explicit)]
        while inside:
            place, explicit = inside[-1]
            if len(inside) > DEEPEST_NESTING:
                raise unreadable("sequences are nested too deeply")
            if place == "sequence":
                tag, length = self.item()
                if tag == SEQUENCE_END:
                    inside.pop()
                elif tag != ITEM:
                    raise unreadable("a sequence holds something that is no item")
                elif length == UNDEFINED:
                    inside.append(("item", explicit))
                else:
                    self.skip_to(self.at + length)
                continue
            tag, vr, length = self.element(explicit)
            if tag == ITEM_END:
                inside.pop()
            elif tag >> 16 == 0xFFFE:
                raise unreadable("an item does not end where it should")
            elif length == UNDEFINED:
                inside.append(("sequence", explicit and vr != b"UN"))
            else:
                self.skip_to(self.at + length)

    def _there(self, count: int) -> int:
        """Where in the window the next bytes stand, once they are known to be all there."""
        start = self.at - self._base
        if start < 0 or start + count > len(self._data):
            self._window(count)
            start = self.at - self._base
            if start + count > len(self._data):
                raise unreadable("the file ends inside an element")
        return start

    def _window(self, count: int) -> bytes:
        """The part of the file that is held; it holds the next `count` bytes, if there are so many."""
        start = self.at - self._base
        if start < 0 or start + count > len(self._data):
            rest = self._data[start:] if start >= 0 else b""
            begin = self.at + len(rest)
            self._file.seek(begin)
            more = self._file.read(max(0, min(max(count, _WINDOW), self.size_bytes - begin)))
            self._base, self._data = self.at, rest + more
        return self._data

    def _count(self) -> None:
        self.walked += 1
        if self.walked > MOST_ELEMENTS:
            raise unreadable("there are too many elements")


def unreadable(message: str) -> UnreadableInstance:
    """The error of a header that can't be walked."""
    return UnreadableInstance(Reason.HEADER_UNREADABLE, message)
