"""
The few attributes that we need of a DICOM file, without believing anything it says.

A walker keeps only what is asked for. What it keeps are raw values; they become text and numbers only when asked for.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite
from typing import BinaryIO

from engine.loading.cursor import ITEM, SEQUENCE_END, UNDEFINED, unreadable
from engine.loading.tags import Tag
from engine.loading.walker import PixelData, Values, Walker
from engine.selection import DEFLATED, EXPLICIT_BIG_ENDIAN

LARGEST_NUMBER = 2.0**31
"""Numbers beyond it are taken for absent. Our choice: nothing we read comes near, and sums stay finite."""

_FAR_AWAY = 2**62  # bytes of a file of unknown size

LARGEST_HEADER = 2**26
"""Bytes that are inflated of a deflated data set to find its pixels. Our choice: real headers stay below one MiB."""


@dataclass(frozen=True)
class Elements:
    """Raw attribute values of one data set, and what they say when read with a forgiving eye."""

    transfer_syntax_uid: str
    values: Mapping[int, bytes | str]  # of a sequence: whether it has items
    pixel_data: PixelData | None = None  # of a deflated data set: where they lie in what is inflated
    frames: Sequence[Values] = ()  # of each frame, where functional groups tell: what differs from `values`

    @property
    def big_endian(self) -> bool:
        """Whether binary numbers have their high byte first."""
        return self.transfer_syntax_uid == EXPLICIT_BIG_ENDIAN

    def frame(self, n: int) -> "Elements":
        """What is said of one frame, the first being 0: as if it were an image of its own."""
        return Elements(self.transfer_syntax_uid, {**self.values, **self.frames[n]}, self.pixel_data)

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
        return _texts(self.values.get(tag, b""))

    def text(self, tag: Tag) -> str:
        """The first value, or ''."""
        found = _texts(self.values.get(tag, b""))
        return found[0] if found else ""

    def numbers(self, tag: Tag, count: int) -> tuple[float, ...] | None:
        """Exactly `count` finite numbers written as text, or None.

        >>> Elements("", {Tag.GANTRY_DETECTOR_TILT: b"+18.5 "}).numbers(Tag.GANTRY_DETECTOR_TILT, 1)
        (18.5,)
        """
        found = _numbers(self.values.get(tag, b""))
        return (
            tuple(value for value in found if value is not None) if len(found) == count and None not in found else None
        )

    def number(self, tag: Tag) -> float | None:
        """The first value as a finite number, or None."""
        found = _numbers(self.values.get(tag, b""))
        return found[0] if found else None

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
        return int.from_bytes(value[:2], "big" if self.big_endian else "little", signed=signed)


def read_elements(file: BinaryIO, size_bytes: int) -> Elements:
    """Walk a DICOM file up to its pixel data.

    Args:
        file: at any position; must be able to seek.
        size_bytes: the file's size.

    Raises:
        UnreadableInstance: no DICOM file, cut short, or contradicts itself.

    Source: DICOM PS3.5 section 7 (data elements, nesting) and annex A, PS3.10 section 7.1 (preamble, group 2).
    """
    walker = Walker(file, size_bytes)
    return _walked(walker, file, walker.file_meta())


def read_data_set(file: BinaryIO, at: int, transfer_syntax_uid: str) -> Elements:
    """The same of a file whose head was read or made already, and that is not all here yet.

    Args:
        at: where the data set begins.

    Returns:
        What is here; without `pixel_data` where they are not reached.

    Raises:
        UnreadableInstance: likewise.
    """
    walker = Walker(file, _FAR_AWAY)
    walker.skip_to(at)
    return _walked(walker, file, transfer_syntax_uid)


def _walked(walker: Walker, file: BinaryIO, transfer_syntax_uid: str) -> Elements:
    if transfer_syntax_uid == DEFLATED:
        walker = Walker(Inflating(file, walker.at), LARGEST_HEADER)  # type: ignore[arg-type]
    walker.order(transfer_syntax_uid == EXPLICIT_BIG_ENDIAN)
    values, frames, pixel_data = walker.data_set()
    return Elements(transfer_syntax_uid, values, pixel_data, tuple(frames))


def inflated(file: BinaryIO, size_bytes: int, most_bytes: int) -> bytes:
    """A deflated data set, up to `most_bytes` of it.

    Raises:
        UnreadableInstance: no DICOM file, or damaged.
    """
    walker = Walker(file, size_bytes)
    walker.file_meta()
    return Inflating(file, walker.at).read(most_bytes)


class Inflating:
    """A deflated data set as a file that is read forward; a few kB are held, whatever it inflates to.

    Source: DICOM PS3.5 section A.5: everything behind group 2 is one bare deflate stream.
    """

    def __init__(self, file: BinaryIO, start: int) -> None:
        """Begin at the stream's first byte."""
        self._file, self._from = file, start
        self._stream = zlib.decompressobj(-zlib.MAX_WBITS)
        self._at, self._coded = 0, b""

    def seek(self, at: int) -> None:
        """Go forward; what is passed is inflated and forgotten."""
        if at < self._at:
            raise unreadable("a deflated data set is read forward only")
        while at > self._at and self.read(min(at - self._at, 2**16)):
            pass

    def read(self, count: int) -> bytes:
        """The next bytes; fewer at the end."""
        parts = []
        while count > 0 and not self._stream.eof:
            if not self._coded:
                self._file.seek(self._from)
                self._coded = self._file.read(2**16)
                self._from += len(self._coded)
            try:
                part = self._stream.decompress(self._coded, count)
            except zlib.error:
                raise unreadable("the deflated data set is damaged") from None
            if not part and not self._coded:
                break
            self._coded = self._stream.unconsumed_tail
            parts.append(part)
            count -= len(part)
            self._at += len(part)
        return b"".join(parts)


def fragments(file: BinaryIO, size_bytes: int, pixel_data: PixelData) -> tuple[tuple[int, int], ...]:
    """(offset, length) of every encapsulated fragment; the first one is the offset table.

    Raises:
        UnreadableInstance: a fragment reaches beyond the file, or the sequence does not end.

    Source: DICOM PS3.5 section A.4.
    """
    walker = Walker(file, size_bytes)
    walker.skip_to(pixel_data.offset)
    found: list[tuple[int, int]] = []
    while True:
        tag, length = walker.item()
        if tag == SEQUENCE_END:
            return tuple(found)
        if tag != ITEM or length == UNDEFINED:
            raise unreadable("a fragment of the pixel data is malformed")
        found.append((walker.at, length))
        walker.skip_to(walker.at + length)


@lru_cache(maxsize=1024)
def _texts(value: bytes | str) -> tuple[str, ...]:
    """Values of a series repeat from slice to slice."""
    text = (value if isinstance(value, str) else value.decode("ascii", "replace")).rstrip("\0 ")
    if not text.lstrip("\0 "):
        return ()
    parts = text.split("\\")
    if text.isascii() and text.isprintable():
        return tuple(part.strip() for part in parts)
    return tuple(_printable(part) for part in parts)


@lru_cache(maxsize=1024)
def _numbers(value: bytes | str) -> tuple[float | None, ...]:
    return tuple(_number(part) for part in _texts(value))


def _printable(text: str) -> str:
    return "".join(letter for letter in text if " " <= letter <= "~").strip()


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if isfinite(value) and abs(value) <= LARGEST_NUMBER and "_" not in text else None
