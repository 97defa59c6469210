"""
Code streams to stored values, on the CPU; the only door to imagecodecs.

A stream is looked at before it is decoded: its own header must agree with the data set's on size, it
must be lossless by its own word, and it must be whole, because some decoders fill a broken stream up
in silence. Nothing is allocated for sizes that were not checked.
"""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import SeriesError, UndecodableSeries, UnreadableInstance, UnsupportedSeries
from engine.loading.elements import Elements
from engine.loading.frames import Frames, PixelFormat
from engine.loading.frames import pixel_format as _pixel_format
from engine.loading.streams import StreamHeader, bare, jpeg_2000_header, jpeg_header, unreadable
from engine.loading.tags import Tag
from engine.records import Reason
from engine.selection import EXPLICIT_BIG_ENDIAN, HTJ2K, JPEG_2000, JPEG_LOSSLESS, JPEG_LS, NATIVE, RLE, is_lossy

LARGEST_EDGE = 4096
"""Rows or columns. Our choice: CT is 512, seldom 1024 or 2048."""

_PADDING = 16  # bytes at a stream's end within which its end mark must stand; our choice

Room = NDArray[np.uint8]
Stored = NDArray[np.int16] | NDArray[np.uint16]
Raw = tuple[NDArray[Any], int]
"""(J, I) values of 8 or 16 bits as they came out, and how many of their lowest bits count."""


def pixel_format(elements: Elements) -> PixelFormat:
    """How the pixels of a data set are stored; nothing is read of them.

    Raises:
        UnsupportedSeries: compressed with loss, or in a way that no decoder here is trusted with.
        UndecodableSeries: there are no pixels, or more than any CT image has.
    """
    if is_lossy(elements.transfer_syntax_uid, elements.text(Tag.LOSSY_IMAGE_COMPRESSION)):
        raise UnsupportedSeries(Reason.LOSSY_COMPRESSION, "the pixels were compressed with loss")
    if elements.transfer_syntax_uid not in DECODERS:
        raise UnsupportedSeries(Reason.TRANSFER_SYNTAX_UNSUPPORTED, "no decoder reads this transfer syntax")
    form = _pixel_format(elements)
    if max(form.rows, form.columns) > LARGEST_EDGE:
        raise UndecodableSeries(Reason.IMAGE_TOO_LARGE, f"an image claims {form.rows} x {form.columns} pixels")
    return form


def read_pixels(path: Path, form: PixelFormat) -> Stored:
    """The stored values of a single image.

    Returns:
        (J, I) int16 or uint16 as `form.signed`; a new array.

    Raises:
        SeriesError: as `unpack`.
    """
    return _stored_values(*unpack(Frames(path, form), 0), form)


def unpack(frames: Frames, n: int, room: Room | None = None) -> Raw:
    """Read and decode frame `n`.

    Args:
        room: memory for the bytes of a frame, which serves again; values of one that is not coded stand on it.

    Raises:
        UndecodableSeries: the file is gone or cut short, the stream is damaged, or contradicts the header.
        UnsupportedSeries: the stream is lossy by its own word.
    """
    if room is None or not frames.form.as_it_is:
        return decode_raw(read(frames, n), frames.form)
    try:
        frames.read_into(room, n)
    except (UnreadableInstance, OSError) as bad:
        raise _refusal(bad) from None
    return _laid_out(room.data, frames.form)


def read(frames: Frames, n: int) -> bytes:
    """The bytes of frame `n`.

    Raises:
        UndecodableSeries: the file is gone or cut short, or its fragments are malformed.
    """
    try:
        return frames.read(n)
    except (UnreadableInstance, OSError) as bad:
        raise _refusal(bad) from None


def _refusal(bad: UnreadableInstance | OSError) -> UndecodableSeries:
    if isinstance(bad, UnreadableInstance):
        return unreadable(bad.message)
    if isinstance(bad, FileNotFoundError):
        return UndecodableSeries(Reason.FILE_MISSING, "a file is no longer there")
    return unreadable(f"the file can't be read ({type(bad).__name__})")


def decode_raw(stream: bytes, form: PixelFormat, room: Room | None = None) -> Raw:
    """What a frame's stream holds; raises as `unpack`.

    Args:
        room: memory for two bytes a pixel; some decoders write there, which spares them to ask for new memory.
    """
    try:
        return DECODERS[form.transfer_syntax_uid](stream, form, room)
    except SeriesError:
        raise
    except Exception as bad:  # decoders raise what they like
        raise unreadable(f"the decoder gave up with {type(bad).__name__}") from bad


def warm() -> None:
    """Load all decoders' libraries, which otherwise happens at the first stream of each."""
    from imagecodecs import dicomrle_decode, jpeg2k_decode, jpeg8_decode, jpegls_decode  # noqa: F401


def decode(stream: bytes, form: PixelFormat) -> Stored:
    """The stored values of one frame's stream; raises as `unpack`, and what decoders raise."""
    return _stored_values(*DECODERS[form.transfer_syntax_uid](stream, form, None), form)


def _native(stream: bytes, form: PixelFormat, _: Room | None) -> Raw:
    if len(stream) != form.size_bytes:
        raise unreadable("the pixels are cut short")
    return _laid_out(stream, form)


def _laid_out(data: bytes | memoryview, form: PixelFormat) -> Raw:
    values = np.frombuffer(data, f"<u{form.bits_allocated // 8}").reshape(form.rows, form.columns)
    return (values.byteswap() if form.transfer_syntax_uid == EXPLICIT_BIG_ENDIAN else values), form.bits_stored


def _rle(stream: bytes, form: PixelFormat, _: Room | None) -> Raw:
    """One run-length segment a byte plane. Source: DICOM PS3.5 annex G."""
    from imagecodecs import dicomrle_decode

    planes = form.bits_allocated // 8
    header = struct.unpack_from("<16I", stream)
    if header[0] != planes or not all(64 <= offset < len(stream) for offset in header[1 : planes + 1]):
        raise unreadable("the run-length header contradicts itself")
    values = np.empty((form.rows, form.columns), dtype=f"<u{planes}")
    unpacked = dicomrle_decode(stream, values.dtype, out=values.reshape(-1).data.cast("B"))
    if len(unpacked) != form.size_bytes:
        raise unreadable("the runs are cut short")
    return values, form.bits_stored


def _jpeg(stream: bytes, form: PixelFormat, room: Room | None) -> Raw:
    """A scan that breaks off is filled up in silence; that each pixel takes a bit catches the worst of it."""
    from imagecodecs import jpeg8_decode

    if len(stream) * 8 < form.rows * form.columns:
        raise unreadable("the stream is shorter than a bit a pixel")
    return _coded(stream, form, jpeg_header(stream), jpeg8_decode, room)


def _jpeg_ls(stream: bytes, form: PixelFormat, room: Room | None) -> Raw:
    from imagecodecs import jpegls_decode

    return _coded(stream, form, jpeg_header(stream), jpegls_decode, room)


def _jpeg_2000(stream: bytes, form: PixelFormat, _: Room | None) -> Raw:
    from imagecodecs import jpeg2k_decode

    stream = bare(stream)
    return _coded(stream, form, jpeg_2000_header(stream), jpeg2k_decode)


def _coded(
    stream: bytes, form: PixelFormat, said: StreamHeader, decoder: Callable[..., Any], room: Room | None = None
) -> Raw:
    """Decode a stream once all that it says of itself agrees with the data set."""
    check_stream(stream, form, said)
    size = 1 if said.precision <= 8 else 2
    out = None if room is None else np.ndarray((form.rows, form.columns), f"u{size}", room)
    values = np.asarray(decoder(stream, out=out))
    if values.shape != (form.rows, form.columns) or values.dtype not in (np.uint8, np.uint16, np.int8, np.int16):
        raise UndecodableSeries(Reason.PIXELS_IMPLAUSIBLE, "the decoder's answer has another shape or type")
    if said.signed and not form.signed and values.min() < 0:
        raise UndecodableSeries(Reason.PIXELS_IMPLAUSIBLE, "the stream holds negative values, its header none")
    return values, min(said.precision, form.bits_stored)


def check_stream(stream: bytes, form: PixelFormat, said: StreamHeader) -> None:
    """A stream must hold what the data set says, without loss, and be whole.

    Raises:
        UndecodableSeries: it does not.
        UnsupportedSeries: it is lossy.
    """
    if (said.rows, said.columns, said.components) != (form.rows, form.columns, 1):
        raise unreadable(f"the stream holds {said.rows} x {said.columns} pixels, not {form.rows} x {form.columns}")
    if not said.lossless:
        raise UnsupportedSeries(Reason.LOSSY_COMPRESSION, "the stream is lossy, though its transfer syntax is not")
    if not 2 <= said.precision <= 16:
        raise unreadable(f"the stream has {said.precision} bits a pixel")
    if b"\xff\xd9" not in stream[-_PADDING:]:  # EOI, EOC
        raise unreadable("the stream has no end")


def _stored_values(values: NDArray[Any], bits: int, form: PixelFormat) -> Stored:
    """Only the lowest bits count, whatever an encoder left above them; the highest of them may be the sign."""
    wide = values.astype(np.int16 if values.dtype.kind == "i" else np.uint16)
    unused = 16 - bits
    if form.signed:
        return (wide.view(np.int16) << unused) >> unused
    return wide.view(np.uint16) & np.uint16((1 << bits) - 1)


DECODERS: dict[str, Callable[[bytes, PixelFormat, Room | None], Raw]] = {
    **dict.fromkeys(NATIVE, _native),
    RLE: _rle,
    **dict.fromkeys(JPEG_LOSSLESS, _jpeg),
    **dict.fromkeys(JPEG_LS, _jpeg_ls),
    **dict.fromkeys(JPEG_2000, _jpeg_2000),
    **dict.fromkeys(HTJ2K, _jpeg_2000),  # OpenJPH is faster, but imagecodecs lets its errors pass in silence
}
