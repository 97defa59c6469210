"""
What a code stream says of itself, read before any decoder sees it.

The header is short and plain in all the formats that are read; a stream that contradicts itself here is refused.
"""

import struct
from dataclasses import dataclass

from engine.errors import UndecodableSeries
from engine.records import Reason

MOST_TILES = 4096  # of a JPEG 2000 stream; our choice: encoders of CT make one


@dataclass(frozen=True, slots=True)
class StreamHeader:
    """What a code stream says of itself."""

    rows: int
    columns: int
    components: int
    precision: int  # bits
    signed: bool
    lossless: bool


def jpeg_header(stream: bytes) -> StreamHeader:
    """Of JPEG and JPEG-LS: the frame header, and for JPEG-LS the allowed error.

    Source: ITU-T T.81 annex B; ITU-T T.87 annex C. SOF3 is lossless Huffman, SOF55 is JPEG-LS.
    """
    at, frame = 2, None
    if stream[:2] != b"\xff\xd8":
        raise unreadable("the stream is no JPEG")
    while True:
        mark, code, length = struct.unpack_from(">BBH", stream, at)
        if mark != 0xFF or length < 2:
            raise unreadable("the stream's header is damaged")
        if code == 0xFF:  # fill byte
            at += 1
            continue
        if code in (0xC3, 0xF7) or (0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC)):
            frame = code, *struct.unpack_from(">BHHB", stream, at + 4)
        if code == 0xDA:
            break
        at += 2 + length
    if frame is None:
        raise unreadable("the stream has no frame header")
    sof, precision, rows, columns, components = frame
    near = stream[at + 5 + 2 * stream[at + 4]] if sof == 0xF7 else 0
    return StreamHeader(rows, columns, components, precision, False, sof == 0xC3 or (sof == 0xF7 and near == 0))


def bare(stream: bytes) -> bytes:
    """The code stream of JPEG 2000, out of a JP2 file if it was put into one."""
    at = stream.find(b"\xff\x4f\xff\x51")
    if at < 0:
        raise unreadable("the stream is no JPEG 2000")
    return stream[at:]


def jpeg_2000_header(stream: bytes) -> StreamHeader:
    """Image size (SIZ) and wavelet (COD). Source: ITU-T T.800 annex A; the 5-3 wavelet is the reversible one."""
    right, bottom, left, top, tile_width, tile_height = struct.unpack_from(">6I", stream, 8)
    components, depth = struct.unpack_from(">HB", stream, 40)
    columns, rows = right - left, bottom - top
    if not tile_width or not tile_height or (columns // tile_width + 1) * (rows // tile_height + 1) > MOST_TILES:
        raise unreadable("the stream is cut into too many tiles")
    at, reversible = 2, None
    while reversible is None:
        code, length = struct.unpack_from(">HH", stream, at)
        if code == 0xFF90 or code < 0xFF00 or length < 2:  # the first tile begins
            raise unreadable("the stream's header is damaged")
        if code == 0xFF52:
            reversible = stream[at + 13] == 1
        at += 2 + length
    return StreamHeader(rows, columns, components, (depth & 0x7F) + 1, depth >= 0x80, reversible)


def unreadable(message: str) -> UndecodableSeries:
    """The error of pixels that can't be had."""
    return UndecodableSeries(Reason.PIXELS_UNREADABLE, message)
