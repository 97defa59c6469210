"""
Code streams to stored values, on the CPU; the only door to imagecodecs.

A stream is looked at before it is decoded: its own header must agree with the data set's on size, it
must be lossless by its own word, and it must be whole, because some decoders fill a broken stream up
in silence. Nothing is allocated for sizes that were not checked.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from engine.errors import SeriesError, UndecodableSeries, UnreadableInstance, UnsupportedSeries
from engine.loading.elements import Elements, PixelData, fragments
from engine.loading.tags import Tag
from engine.records import Reason
from engine.selection import (
    EXPLICIT_LITTLE_ENDIAN,
    HTJ2K,
    IMPLICIT_LITTLE_ENDIAN,
    JPEG_2000,
    JPEG_LOSSLESS,
    JPEG_LS,
    RLE,
    is_lossy,
)

LARGEST_EDGE = 4096
"""Rows or columns. Our choice: CT is 512, seldom 1024 or 2048."""

MOST_TILES = 4096  # of a JPEG 2000 stream; our choice: encoders of CT make one
_PADDING = 16  # bytes at a stream's end within which its end mark must stand; our choice

Stored = NDArray[np.int16] | NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """How one image's pixels are stored, and where."""

    transfer_syntax_uid: str
    rows: int
    columns: int
    bits_allocated: int  # 8 or 16
    bits_stored: int
    signed: bool
    pixel_data: PixelData

    @property
    def size_bytes(self) -> int:
        """Of the unpacked image."""
        return self.rows * self.columns * self.bits_allocated // 8


@dataclass(frozen=True, slots=True)
class _StreamHeader:
    """What a code stream says of itself."""

    rows: int
    columns: int
    components: int
    precision: int  # bits
    signed: bool
    lossless: bool


def pixel_format(elements: Elements) -> PixelFormat:
    """How the pixels of a data set are stored; nothing is read of them.

    Raises:
        UnsupportedSeries: compressed with loss, or in a way that no decoder here is trusted with.
        UndecodableSeries: there are no pixels, or more than any CT image has.
    """
    syntax = elements.transfer_syntax_uid
    if is_lossy(syntax) or elements.text(Tag.LOSSY_IMAGE_COMPRESSION) == "01":
        raise UnsupportedSeries(Reason.LOSSY_COMPRESSION, "the pixels were compressed with loss")
    if syntax not in DECODERS:
        raise UnsupportedSeries(Reason.TRANSFER_SYNTAX_UNSUPPORTED, "no decoder reads this transfer syntax")
    if elements.short(Tag.SAMPLES_PER_PIXEL) not in (None, 1) or elements.text(Tag.PHOTOMETRIC_INTERPRETATION) not in (
        "",
        "MONOCHROME2",
    ):
        raise UnsupportedSeries(Reason.NOT_PRIMARY, "the image is not one of CT numbers: colour or inverted grey")
    rows, columns = elements.short(Tag.ROWS), elements.short(Tag.COLUMNS)
    if elements.pixel_data is None or not rows or not columns:
        raise _unreadable("there are no pixels")
    if max(rows, columns) > LARGEST_EDGE:
        raise UndecodableSeries(Reason.IMAGE_TOO_LARGE, f"an image claims {rows} x {columns} pixels")
    allocated, stored = elements.short(Tag.BITS_ALLOCATED), elements.short(Tag.BITS_STORED)
    high, representation = elements.short(Tag.HIGH_BIT), elements.short(Tag.PIXEL_REPRESENTATION)
    if allocated not in (8, 16) or stored is None or not 2 <= stored <= allocated or high not in (None, stored - 1):
        raise UnsupportedSeries(
            Reason.TRANSFER_SYNTAX_UNSUPPORTED, "the bits of a pixel are laid out in an unknown way"
        )
    if representation not in (0, 1):
        raise _unreadable("PixelRepresentation is neither 0 nor 1")
    if (elements.pixel_data.length is None) == (syntax in (IMPLICIT_LITTLE_ENDIAN, EXPLICIT_LITTLE_ENDIAN)):
        raise _unreadable("the pixel data are not packed as their transfer syntax says")
    return PixelFormat(syntax, rows, columns, allocated, stored, representation == 1, elements.pixel_data)


def read_pixels(path: Path, form: PixelFormat) -> Stored:
    """The stored values of one image.

    Returns:
        (J, I) int16 or uint16 as `form.signed`; a new array.

    Raises:
        UndecodableSeries: the file is gone or cut short, the stream is damaged, or contradicts the header.
        UnsupportedSeries: the stream is lossy by its own word.
    """
    try:
        with path.open("rb") as file:
            stream = _stream(file, path.stat().st_size, form)
        return decode(stream, form)
    except UnreadableInstance as bad:
        raise _unreadable(bad.message) from bad
    except SeriesError:
        raise
    except FileNotFoundError:
        raise UndecodableSeries(Reason.FILE_MISSING, "a file is no longer there") from None
    except Exception as bad:  # decoders raise what they like
        raise _unreadable(f"the decoder gave up with {type(bad).__name__}") from bad


def decode(stream: bytes, form: PixelFormat) -> Stored:
    """The stored values of one image's stream; raises as `read_pixels`, and what decoders raise."""
    return DECODERS[form.transfer_syntax_uid](stream, form)


def _stream(file: BinaryIO, size_bytes: int, form: PixelFormat) -> bytes:
    """The bytes of the one frame; a frame may come in several fragments."""
    at = form.pixel_data
    if at.length is not None:
        excess = at.length - form.size_bytes  # some writers fill up, to even length or by a little more
        if at.offset + form.size_bytes > size_bytes or not 0 <= excess <= form.size_bytes // form.rows:
            raise _unreadable(
                f"{form.size_bytes} bytes of pixels are due, {min(at.length, size_bytes - at.offset)} there"
            )
        file.seek(at.offset)
        return file.read(form.size_bytes)
    parts = []
    for offset, length in fragments(file, size_bytes, at):
        file.seek(offset)
        parts.append(file.read(length))
    return b"".join(parts)


def _native(stream: bytes, form: PixelFormat) -> Stored:
    if len(stream) != form.size_bytes:
        raise _unreadable("the pixels are cut short")
    return _stored_values(np.frombuffer(stream, f"<u{form.bits_allocated // 8}"), form, form.bits_stored)


def _rle(stream: bytes, form: PixelFormat) -> Stored:
    """One run-length segment a byte plane. Source: DICOM PS3.5 annex G."""
    from imagecodecs import dicomrle_decode

    planes = form.bits_allocated // 8
    header = struct.unpack_from("<16I", stream)
    if header[0] != planes or not all(64 <= offset < len(stream) for offset in header[1 : planes + 1]):
        raise _unreadable("the run-length header contradicts itself")
    values = np.empty(form.rows * form.columns, dtype=f"<u{planes}")
    unpacked = dicomrle_decode(stream, values.dtype, out=values.data.cast("B"))
    if len(unpacked) != form.size_bytes:
        raise _unreadable("the runs are cut short")
    return _stored_values(values, form, form.bits_stored)


def _jpeg(stream: bytes, form: PixelFormat) -> Stored:
    """A scan that breaks off is filled up in silence; that each pixel takes a bit catches the worst of it."""
    from imagecodecs import jpeg8_decode

    if len(stream) * 8 < form.rows * form.columns:
        raise _unreadable("the stream is shorter than a bit a pixel")
    return _coded(stream, form, _jpeg_header(stream), jpeg8_decode)


def _jpeg_ls(stream: bytes, form: PixelFormat) -> Stored:
    from imagecodecs import jpegls_decode

    return _coded(stream, form, _jpeg_header(stream), jpegls_decode)


def _jpeg_2000(stream: bytes, form: PixelFormat) -> Stored:
    from imagecodecs import jpeg2k_decode

    stream = _bare(stream)
    return _coded(stream, form, _jpeg_2000_header(stream), jpeg2k_decode)


def _coded(stream: bytes, form: PixelFormat, said: _StreamHeader, decoder: Callable[[bytes], Any]) -> Stored:
    """Decode a stream once all that it says of itself agrees with the data set."""
    if (said.rows, said.columns, said.components) != (form.rows, form.columns, 1):
        raise _unreadable(f"the stream holds {said.rows} x {said.columns} pixels, not {form.rows} x {form.columns}")
    if not said.lossless:
        raise UnsupportedSeries(Reason.LOSSY_COMPRESSION, "the stream is lossy, though its transfer syntax is not")
    if not 2 <= said.precision <= 16:
        raise _unreadable(f"the stream has {said.precision} bits a pixel")
    if b"\xff\xd9" not in stream[-_PADDING:]:  # EOI, EOC
        raise _unreadable("the stream has no end")
    values = np.asarray(decoder(stream))
    if values.shape != (form.rows, form.columns) or values.dtype not in (np.uint8, np.uint16, np.int8, np.int16):
        raise UndecodableSeries(Reason.PIXELS_IMPLAUSIBLE, "the decoder's answer has another shape or type")
    if said.signed and not form.signed and values.min() < 0:
        raise UndecodableSeries(Reason.PIXELS_IMPLAUSIBLE, "the stream holds negative values, its header none")
    return _stored_values(values, form, min(said.precision, form.bits_stored))


def _stored_values(values: NDArray[Any], form: PixelFormat, bits: int) -> Stored:
    """Only the lowest bits count, whatever an encoder left above them; the highest of them may be the sign."""
    wide = values.reshape(form.rows, form.columns).astype(np.int16 if values.dtype.kind == "i" else np.uint16)
    unused = 16 - bits
    if form.signed:
        return (wide.view(np.int16) << unused) >> unused
    return wide.view(np.uint16) & np.uint16((1 << bits) - 1)


def _jpeg_header(stream: bytes) -> _StreamHeader:
    """Of JPEG and JPEG-LS: the frame header, and for JPEG-LS the allowed error.

    Source: ITU-T T.81 annex B; ITU-T T.87 annex C. SOF3 is lossless Huffman, SOF55 is JPEG-LS.
    """
    at, frame = 2, None
    if stream[:2] != b"\xff\xd8":
        raise _unreadable("the stream is no JPEG")
    while True:
        mark, code, length = struct.unpack_from(">BBH", stream, at)
        if mark != 0xFF or length < 2:
            raise _unreadable("the stream's header is damaged")
        if code == 0xFF:  # fill byte
            at += 1
            continue
        if code in (0xC3, 0xF7) or (0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC)):
            frame = code, *struct.unpack_from(">BHHB", stream, at + 4)
        if code == 0xDA:
            break
        at += 2 + length
    if frame is None:
        raise _unreadable("the stream has no frame header")
    sof, precision, rows, columns, components = frame
    near = stream[at + 5 + 2 * stream[at + 4]] if sof == 0xF7 else 0
    return _StreamHeader(rows, columns, components, precision, False, sof == 0xC3 or (sof == 0xF7 and near == 0))


def _bare(stream: bytes) -> bytes:
    """The code stream of JPEG 2000, out of a JP2 file if it was put into one."""
    at = stream.find(b"\xff\x4f\xff\x51")
    if at < 0:
        raise _unreadable("the stream is no JPEG 2000")
    return stream[at:]


def _jpeg_2000_header(stream: bytes) -> _StreamHeader:
    """Image size (SIZ) and wavelet (COD). Source: ITU-T T.800 annex A; the 5-3 wavelet is the reversible one."""
    right, bottom, left, top, tile_width, tile_height = struct.unpack_from(">6I", stream, 8)
    components, depth = struct.unpack_from(">HB", stream, 40)
    columns, rows = right - left, bottom - top
    if not tile_width or not tile_height or (columns // tile_width + 1) * (rows // tile_height + 1) > MOST_TILES:
        raise _unreadable("the stream is cut into too many tiles")
    at, reversible = 2, None
    while reversible is None:
        code, length = struct.unpack_from(">HH", stream, at)
        if code == 0xFF90 or code < 0xFF00 or length < 2:  # the first tile begins
            raise _unreadable("the stream's header is damaged")
        if code == 0xFF52:
            reversible = stream[at + 13] == 1
        at += 2 + length
    return _StreamHeader(rows, columns, components, (depth & 0x7F) + 1, depth >= 0x80, reversible)


def _unreadable(message: str) -> UndecodableSeries:
    return UndecodableSeries(Reason.PIXELS_UNREADABLE, message)


DECODERS: dict[str, Callable[[bytes, PixelFormat], Stored]] = {
    IMPLICIT_LITTLE_ENDIAN: _native,
    EXPLICIT_LITTLE_ENDIAN: _native,
    RLE: _rle,
    **dict.fromkeys(JPEG_LOSSLESS, _jpeg),
    JPEG_LS: _jpeg_ls,
    JPEG_2000: _jpeg_2000,
    **dict.fromkeys(HTJ2K, _jpeg_2000),  # OpenJPH is faster, but imagecodecs lets its errors pass in silence
}
