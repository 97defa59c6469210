"""
A walk through a data set that takes what is wanted of it.

Most elements are stepped over in one tight loop; that loop is why a header costs tens of microseconds.
"""

from dataclasses import dataclass

from engine.loading.cursor import (
    ITEM,
    ITEM_END,
    LITTLE,
    LONG_FORM,
    MOST_ELEMENTS,
    PIXEL_DATA,
    PIXELS_BEGIN,
    SEQUENCE_END,
    SPECIAL,
    UNDEFINED,
    WANTED,
    Cursor,
    unreadable,
)
from engine.loading.tags import GROUPS, PER_FRAME, SEQUENCES, SHARED

LONGEST_VALUE = 1024
"""Bytes of the longest value that is believed. Our choice: of all we read, the longest is some dozen."""

MOST_FRAMES = 10_000
"""Items of per-frame functional groups. Our choice, as of instances: what is kept of them stays small."""

_UNKNOWN = 1  # a tag that no data set has


@dataclass(frozen=True, slots=True)
class PixelData:
    """Where a file's pixel data lie; nothing of it was read."""

    offset: int  # of the first byte of the value; for fragments: of the first item
    length: int | None  # bytes; None: encapsulated fragments


Values = dict[int, bytes | str]


class Walker(Cursor):
    """Walks one data set."""

    def file_meta(self) -> str:
        """The transfer syntax, from group 2; ends at the first element after it."""
        self.skip_to(128)
        if self.take(4) != b"DICM":
            raise unreadable("there is no DICM mark after the preamble")
        transfer_syntax_uid = ""
        head, long = LITTLE.explicit, LITTLE.long
        while self.at + 8 <= self.size_bytes:
            start = self._there(8)
            group, element, vr, length = head(self._data, start)
            if group != 2:
                break
            if vr in LONG_FORM:
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
            if not tag or PIXELS_BEGIN <= tag <= PIXEL_DATA:
                place = PixelData(self.at, None if length == UNDEFINED else length) if tag == PIXEL_DATA else None
                return values | shared, frames, place
            if tag in (ITEM, ITEM_END, SEQUENCE_END):
                raise unreadable("an item stands outside a sequence")
            if tag == SHARED:
                shared = next(iter(self._groups(length, explicit, 1)), {})
            elif tag == PER_FRAME:
                frames = self._groups(length, explicit, MOST_FRAMES)
            elif tag in WANTED:
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
        at, size = self.at - self._base, len(data)
        last = size - 12
        for walked in range(self.walked, MOST_ELEMENTS):
            while at > last:
                self.at, before = self._base + at, size - at
                if self.at > self.size_bytes:
                    raise unreadable("an element is longer than the file")
                data = self._window(12)
                at, size = self.at - self._base, len(data)
                last = size - 12
                if size == at:
                    self.walked = walked
                    return 0, b"", 0
                if size - at < 8:
                    raise unreadable("the file ends inside an element")
                if size - at == before:  # the last element is a short one
                    break
            if explicit:
                number, vr, length = head(data, at)
                if vr in LONG_FORM:
                    if size - at < 12:
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
            elif tag not in SPECIAL and tag not in values and length <= LONGEST_VALUE and at + length <= size:
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
