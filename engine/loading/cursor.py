"""
A position in a data set that steps from element to element and never leaves the file.

Time and memory follow the header's size and never a length that the file merely claims: a small window of the file is
held, no length may reach beyond the file, nested sequences are stepped over without recursion, and the number of
elements is limited.
"""

import struct
from collections.abc import Iterator
from typing import BinaryIO

from engine.errors import UnreadableInstance
from engine.loading.tags import PER_FRAME, SEQUENCES, SHARED, Tag
from engine.records import Reason

MOST_ELEMENTS = 1_000_000
"""Elements walked before giving up. Our choice: about a second; an enhanced CT of 2000 frames has fewer."""

DEEPEST_NESTING = 64
"""Open sequences and items. Our choice: real headers stay below ten."""

UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
PIXEL_DATA = 0x7FE00010
PIXELS_BEGIN = 0x7FE00008  # float and double pixel data lie before pixel data
LONG_FORM = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
WANTED = frozenset({*map(int, Tag), SHARED, PER_FRAME})
SPECIAL = frozenset({*SEQUENCES, SHARED, PER_FRAME, ITEM, ITEM_END, SEQUENCE_END, *range(PIXELS_BEGIN, PIXEL_DATA + 1)})


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
        self.tags = {numbers[1].unpack(numbers[0].pack(tag >> 16, tag & 0xFFFF))[0]: tag for tag in (*WANTED, *SPECIAL)}


LITTLE, BIG = _Order("<"), _Order(">")
_WINDOW = 16384  # bytes read at once; our choice: most headers of CT fit in, and a page more costs nothing


class Cursor:
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
        self._order = BIG if big_endian else LITTLE

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
        if vr in LONG_FORM:
            start = self._there(12)
            self.at += 12
            return group << 16 | element, vr, self._order.long(self._data, start + 8)[0]
        self.at += 8
        return group << 16 | element, vr, length

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
