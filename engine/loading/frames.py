"""
Where the pixels of each frame lie in a file, and their bytes.

Nothing is read for sizes that were not checked: uncoded frames have the size that their header says, and a coded frame
is at most twice as large.
"""

import os
import threading
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from engine.errors import UnsupportedSeries
from engine.loading.elements import Elements, fragments, inflated
from engine.loading.streams import unreadable
from engine.loading.tags import Tag
from engine.loading.walker import PixelData
from engine.records import Reason
from engine.selection import DEFLATED, EXPLICIT_BIG_ENDIAN, NATIVE, RLE

_EXPANSION = 2  # coded to plain; our choice: no lossless coder makes more than half as much again of noise
_SPARE = 2**16  # bytes beside it; our choice: headers of streams
_STARTS = (b"\xff\xd8", b"\xff\x4f")  # SOI, SOC; JP2 files begin otherwise, and have a fragment a frame


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """How the pixels of a file's frames are stored, and where."""

    transfer_syntax_uid: str
    rows: int
    columns: int
    bits_allocated: int  # 8 or 16
    bits_stored: int
    signed: bool
    pixel_data: PixelData
    frames: int = 1

    @property
    def size_bytes(self) -> int:
        """Of one unpacked frame."""
        return self.rows * self.columns * self.bits_allocated // 8

    @property
    def native(self) -> bool:
        """Whether pixels are not coded."""
        return self.transfer_syntax_uid in NATIVE

    @property
    def big_endian(self) -> bool:
        """Whether numbers have their high byte first."""
        return self.transfer_syntax_uid == EXPLICIT_BIG_ENDIAN

    @property
    def kind(self) -> tuple[str, int, int, int, int, bool]:
        """What frames have in common that are decoded alike."""
        return self.transfer_syntax_uid, self.rows, self.columns, self.bits_allocated, self.bits_stored, self.signed

    @property
    def as_it_is(self) -> bool:
        """Whether pixels lie in the file neither coded nor deflated."""
        return self.transfer_syntax_uid in NATIVE and self.transfer_syntax_uid != DEFLATED


class Frames:
    """The frames of one file. Threads may share it; the file is opened at each reading."""

    def __init__(self, path: Path, form: PixelFormat) -> None:
        """Nothing is read yet."""
        self.path, self.form = path, form
        self._parts: list[list[tuple[int, int]]] = []  # of each coded frame: offset and length of its fragments
        self._inflated: bytes | None = None
        self._looking = threading.Lock()

    def read(self, n: int) -> bytes:
        """The bytes of frame `n`: of a native one exactly as many as its pixels take.

        Raises:
            UndecodableSeries: pixels are cut short, or more than can be meant.
            UnreadableInstance: fragments are malformed.
            OSError: the file can't be read.
        """
        with open(self.path, "rb", buffering=0) as file:  # noqa: PTH123 - as often as there are slices
            size_bytes = os.fstat(file.fileno()).st_size
            if self.form.transfer_syntax_uid == DEFLATED:
                return self._native(n, *self._inflate(file, size_bytes))
            return self._native(n, file, size_bytes) if self.form.native else self._coded(n, file, size_bytes)

    def read_into(self, room: NDArray[np.uint8], n: int) -> None:
        """The same of a frame that lies in the file as it is, into memory of its size. Raises as `read`."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            at = self.place(n, os.fstat(descriptor).st_size)
            count = os.preadv(descriptor, [room.data], at)
        finally:
            os.close(descriptor)
        if count != self.form.size_bytes:
            raise unreadable("the pixels are cut short")

    def _native(self, n: int, file: BinaryIO, size_bytes: int) -> bytes:
        file.seek(self.place(n, size_bytes))
        data = file.read(self.form.size_bytes)
        if len(data) != self.form.size_bytes:
            raise unreadable("the pixels are cut short")
        return data

    def place(self, n: int, size_bytes: int = 2**63) -> int:
        """Where a native frame begins, once it is known that all are there, in a file of so many bytes."""
        form, at = self.form, self.form.pixel_data
        due = form.size_bytes * form.frames
        excess = (at.length or 0) - due  # some writers fill up, to even length or by a little more
        if at.offset + due > size_bytes or not 0 <= excess <= form.size_bytes // form.rows:
            raise unreadable(f"{due} bytes of pixels are due, {min(at.length or 0, size_bytes - at.offset)} there")
        return at.offset + n * form.size_bytes

    def _coded(self, n: int, file: BinaryIO, size_bytes: int) -> bytes:
        with self._looking:
            if not self._parts:
                self._parts = _frames(file, size_bytes, self.form)
        parts = self._parts[n]
        if sum(length for _, length in parts) > longest(self.form.size_bytes):
            raise unreadable("the stream is longer than any coder makes it")
        data = []
        for offset, length in parts:
            file.seek(offset)
            data.append(file.read(length))
        return b"".join(data)

    def _inflate(self, file: BinaryIO, size_bytes: int) -> tuple[BinaryIO, int]:
        """The inflated data set; that of many frames is kept."""
        form = self.form
        with self._looking:
            data = self._inflated
            if data is None:
                data = inflated(file, size_bytes, form.pixel_data.offset + form.size_bytes * form.frames)
            if form.frames > 1:
                self._inflated = data
        return BytesIO(data), len(data)


def longest(size_bytes: int) -> int:
    """Bytes that the code stream of a frame of so many bytes may have."""
    return size_bytes * _EXPANSION + _SPARE


def pixel_format(elements: Elements) -> PixelFormat:
    """How the pixels of a data set are stored; nothing is read of them.

    Raises:
        UnsupportedSeries: bits are laid out in a way that is not read, or the image is not one of CT numbers.
        UndecodableSeries: there are no pixels, or they are not packed as they must be.
    """
    syntax = elements.transfer_syntax_uid
    if elements.short(Tag.SAMPLES_PER_PIXEL) not in (None, 1) or elements.text(Tag.PHOTOMETRIC_INTERPRETATION) not in (
        "",
        "MONOCHROME2",
    ):
        raise UnsupportedSeries(Reason.NOT_PRIMARY, "the image is not one of CT numbers: colour or inverted grey")
    rows, columns = elements.short(Tag.ROWS), elements.short(Tag.COLUMNS)
    if elements.pixel_data is None or not rows or not columns:
        raise unreadable("there are no pixels")
    allocated, stored = elements.short(Tag.BITS_ALLOCATED), elements.short(Tag.BITS_STORED)
    high, representation = elements.short(Tag.HIGH_BIT), elements.short(Tag.PIXEL_REPRESENTATION)
    unknown = (
        allocated not in (8, 16) or stored is None or not 2 <= stored <= allocated or high not in (None, stored - 1)
    )
    if allocated is None or stored is None or unknown or (allocated == 8 and syntax == EXPLICIT_BIG_ENDIAN):
        raise UnsupportedSeries(
            Reason.TRANSFER_SYNTAX_UNSUPPORTED, "the bits of a pixel are laid out in an unknown way"
        )
    if representation not in (0, 1):
        raise unreadable("PixelRepresentation is neither 0 nor 1")
    if (elements.pixel_data.length is None) == (syntax in NATIVE):
        raise unreadable("the pixel data are not packed as their transfer syntax says")
    frames = max(1, elements.integer(Tag.NUMBER_OF_FRAMES) or 1)
    return PixelFormat(syntax, rows, columns, allocated, stored, representation == 1, elements.pixel_data, frames)


def _frames(file: BinaryIO, size_bytes: int, form: PixelFormat) -> list[list[tuple[int, int]]]:
    """Fragments of each frame: all of a single one; else one each, as the offset table says, or as streams begin.

    Source: DICOM PS3.5 section A.4 and table A.4-1.
    """
    table, *parts = fragments(file, size_bytes, form.pixel_data) or (None,)
    if form.frames == 1:
        return [parts]
    if len(parts) == form.frames:
        return [[part] for part in parts]
    if table is None or form.transfer_syntax_uid == RLE or len(parts) < form.frames:
        raise unreadable(f"{form.frames} frames are due, {len(parts)} there")
    if table[1] == 4 * form.frames:
        file.seek(table[0])
        base, data = sum(table), file.read(table[1])
        starts = {base + int.from_bytes(data[n : n + 4], "little") + 8 for n in range(0, len(data), 4)}
    else:
        starts = {offset for offset, _ in parts if _begins(file, offset)}
    found: list[list[tuple[int, int]]] = []
    for part in parts:
        if part[0] in starts:
            found.append([])
        if found:
            found[-1].append(part)
    if len(found) != form.frames or sum(map(len, found)) != len(parts):
        raise unreadable("the fragments do not divide into frames")
    return found


def _begins(file: BinaryIO, offset: int) -> bool:
    file.seek(offset)
    return file.read(2) in _STARTS
