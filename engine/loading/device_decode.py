"""
Code streams to stored values by nvImageCodec, many at a time; the only door to it.

On a GPU it decodes JPEG 2000 and HTJ2K; the other syntaxes have no decoder there, or one that has answered zeros. It is
not trusted: streams are looked at before as on the CPU, and a sample of what it gives is decoded again there and
compared. Whoever differs once is not asked again.

A decoder belongs to one thread: two that shared one got nothing, or crashed.
"""

import logging
import os
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import BackendUnavailable
from engine.loading.decode import Raw, check_stream, decode_raw, read, unpack
from engine.loading.frames import Frames, PixelFormat
from engine.loading.streams import StreamHeader, bare, jpeg_2000_header, unreadable
from engine.loading.walker import PixelData
from engine.selection import HTJ2K, JPEG_2000

log = logging.getLogger(__name__)

SYNTAXES = frozenset({*JPEG_2000, *HTJ2K})
"""What is decoded: JPEG Lossless answered zeros for 12 bits before nvJPEG 13.0.2 and is cheap on a CPU."""

_NOWHERE = PixelData(0, None)
_SIGN_AT = 42  # byte of a bare stream: Ssiz of the first component; its highest bit says signed (ITU-T T.800 A.5.1)


@dataclass(frozen=True, slots=True)
class DeviceOptions:
    """Where code streams are decoded."""

    device: int = 0  # number of the GPU; -1: nvImageCodec's own CPU decoders, which prove this code
    check_every: int = 16  # one frame of so many is decoded again on the CPU and compared

    def __post_init__(self) -> None:
        """Refuse numbers without meaning."""
        if self.device < -1 or self.check_every < 1:
            raise ValueError("device is at least -1, check_every at least 1")


class DeviceDecoder:
    """One thread's decoder: that which makes it."""

    def __init__(self, options: DeviceOptions) -> None:
        """Open the device.

        Raises:
            BackendUnavailable: nvImageCodec is not installed, or the device is not there.
        """
        os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")  # its CPU decoder warns at each frame
        try:
            from nvidia import nvimgcodec
        except ImportError as absent:
            raise BackendUnavailable("nvImageCodec is not installed: pip install '.[dali]'") from absent
        self._options, self._thread = options, threading.get_ident()
        self.trusted = True
        try:
            if options.device < 0:
                cpu = [nvimgcodec.Backend(nvimgcodec.BackendKind.CPU_ONLY)]
                self._decoder = nvimgcodec.Decoder(device_id=nvimgcodec.NVIMGCODEC_DEVICE_CPU_ONLY, backends=cpu)
            else:
                self._decoder = nvimgcodec.Decoder(device_id=options.device)
        except Exception as bad:  # a bare RuntimeError, or the library's own
            raise BackendUnavailable(f"nvImageCodec can't use device {options.device} ({type(bad).__name__})") from bad
        native = nvimgcodec.ColorSpec.UNCHANGED  # without both, values are scaled to 8 bits
        self._params = nvimgcodec.DecodeParams(allow_any_depth=True, color_spec=native)

    def decode(self, streams: Sequence[bytes], form: PixelFormat) -> list[Raw]:
        """The stored values of frames of one form.

        Every frame that the device gives up, or answers in a way that can't be, is decoded on the CPU.

        Raises:
            SeriesError: a stream is damaged, lossy or contradicts the header.
        """
        if threading.get_ident() != self._thread:
            raise RuntimeError("a decoder belongs to the thread that made it")
        if not self.trusted or form.transfer_syntax_uid not in SYNTAXES:
            return [decode_raw(stream, form) for stream in streams]
        whole = [bare(stream) for stream in streams]
        heads = [_head(stream) for stream in whole]
        for stream, said in zip(whole, heads, strict=True):
            check_stream(stream, form, said)
        unsigned = [_unsigned(stream) if said.signed else stream for stream, said in zip(whole, heads, strict=True)]
        images = self._decoder.decode(unsigned, params=self._params)
        found = [_values(image, said, form) for image, said in zip(images, heads, strict=True)]
        for n in range(0, len(found), self._options.check_every):
            if found[n] is not None and not _same(found[n], decode_raw(streams[n], form)):
                log.error("the device decodes other values than the CPU: it is not asked again")
                self.trusted = False
                return [decode_raw(stream, form) for stream in streams]
        return [decode_raw(stream, form) if one is None else one for one, stream in zip(found, streams, strict=True)]


def unpack_many(decoder: DeviceDecoder, wanted: Sequence[tuple[Frames, int]]) -> list[Raw]:
    """Read and decode frames, each by its file and its number there.

    Raises:
        SeriesError: as `engine.loading.decode.unpack`.
    """
    found: list[Raw] = []
    for form, some in groupby(wanted, key=lambda one: replace(one[0].form, pixel_data=_NOWHERE, frames=1)):
        if form.transfer_syntax_uid in SYNTAXES:
            found += decoder.decode([read(frames, n) for frames, n in some], form)
        else:
            found += [unpack(frames, n) for frames, n in some]
    return found


def _unsigned(stream: bytes) -> bytes:
    """The same stream, said to be unsigned: its values come out greater by half the range, to the bit."""
    changed = bytearray(stream)
    changed[_SIGN_AT] &= 0x7F
    return bytes(changed)


def _head(stream: bytes) -> StreamHeader:
    try:
        return jpeg_2000_header(stream)
    except struct.error:
        raise unreadable("the stream's header is cut short") from None


def _values(image: Any, said: StreamHeader, form: PixelFormat) -> Raw | None:
    """What the device answered; None: nothing, another shape or type, or one flat value, as failures look."""
    if image is None:
        return None
    values: NDArray[Any] = np.asarray(image.cpu())
    if values.size != form.rows * form.columns or values.dtype not in (np.uint8, np.uint16):
        return None
    values = values.reshape(form.rows, form.columns)
    if (values == values[0, 0]).all():
        return None
    if said.signed:
        signed = values.astype(np.int32) - (1 << (said.precision - 1))
        if not form.signed and signed.min() < 0:
            return None  # the CPU says why
        values = signed.astype(np.int16)
    return values, min(said.precision, form.bits_stored)


def _same(one: Raw | None, other: Raw) -> bool:
    return one is not None and one[1] == other[1] and np.array_equal(one[0], other[0])
