"""What a device decodes is what the CPU decodes; whoever differs is found out and not asked again."""

import importlib.util

import imagecodecs
import numpy as np
import pytest

from engine.errors import BackendUnavailable, SeriesError
from engine.loading.decode import decode
from engine.loading.device_decode import DeviceDecoder, DeviceOptions
from engine.loading.frames import PixelFormat
from engine.loading.load import Decoder, LoadingOptions, load
from engine.loading.walker import PixelData
from engine.records import Reason
from engine.selection import HTJ2K, JPEG_2000, JPEG_LS

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("nvidia.nvimgcodec") is None, reason="nvImageCodec is not installed"
)


def images(count: int, bits: int, signed: bool) -> list[np.ndarray]:
    chance = np.random.default_rng(bits)
    low, high = (-(1 << bits - 1), 1 << bits - 1) if signed else (0, 1 << bits)
    return [chance.integers(low, high, (24, 20)).astype(np.int16 if signed else np.uint16) for _ in range(count)]


def form(syntax: str, bits: int, signed: bool) -> PixelFormat:
    return PixelFormat(syntax, 24, 20, 16, bits, signed, PixelData(0, None))


def encoded(values: np.ndarray, syntax: str, bits: int) -> bytes:
    if syntax in HTJ2K:
        return imagecodecs.htj2k_encode(values, reversible=True)
    how = {"bitspersample": bits} if values.dtype.kind == "u" else {}
    return imagecodecs.jpeg2k_encode(values, level=0, reversible=True, codecformat="j2k", **how)


def values_of(raw, shape: PixelFormat) -> np.ndarray:
    values, bits = raw
    wide = values.astype(np.int64) & ((1 << bits) - 1)
    return np.where(wide >= 1 << (bits - 1), wide - (1 << bits), wide) if shape.signed else wide


@pytest.mark.parametrize("syntax", [JPEG_2000[0], HTJ2K[0]])
@pytest.mark.parametrize(("bits", "signed"), [(12, False), (16, False), (16, True), (12, True)])
def test_a_batch_is_decoded_exactly(syntax, bits, signed):
    frames, shape = images(5, bits, signed), form(syntax, bits, signed)
    streams = [encoded(values, syntax, bits) for values in frames]
    decoder = DeviceDecoder(DeviceOptions(-1, check_every=1))
    for values, raw in zip(frames, decoder.decode(streams, shape), strict=True):
        np.testing.assert_array_equal(values_of(raw, shape), values)
    assert decoder.trusted


def test_other_syntaxes_go_to_the_cpu():
    (values,), shape = images(1, 12, False), form(JPEG_LS[0], 12, False)
    ((found, _),) = DeviceDecoder(DeviceOptions(-1)).decode([imagecodecs.jpegls_encode(values)], shape)
    np.testing.assert_array_equal(found, values)


class Wrong:
    """A device that answers wrong values, as one that scales them does."""

    def __init__(self, values: np.ndarray | None) -> None:
        self.values = values

    def decode(self, streams, params):
        return [None if self.values is None else self for _ in streams]

    def cpu(self) -> np.ndarray:
        return self.values


@pytest.mark.parametrize(
    ("answer", "trusted"),
    [
        (None, True),  # it gives up
        (np.zeros((24, 20, 1), np.uint16), True),  # zeros
        (np.zeros((5, 5, 1), np.uint16), True),  # another shape
        (np.arange(480, dtype=np.uint16).reshape(24, 20, 1), False),  # plausible, and wrong
    ],
)
def test_a_device_that_answers_wrongly_is_found_out(answer, trusted):
    frames, shape = images(5, 12, False), form(JPEG_2000[0], 12, False)
    streams = [encoded(values, JPEG_2000[0], 12) for values in frames]
    decoder = DeviceDecoder(DeviceOptions(-1))
    decoder._decoder = Wrong(answer)
    for values, (found, _) in zip(frames, decoder.decode(streams, shape), strict=True):
        np.testing.assert_array_equal(found, values)
    assert decoder.trusted is trusted


def test_damaged_and_lossy_streams_are_refused_as_on_the_cpu():
    (values,), shape = images(1, 12, False), form(JPEG_2000[0], 12, False)
    good = encoded(values, JPEG_2000[0], 12)
    lossy = imagecodecs.jpeg2k_encode(values, level=40, reversible=False, codecformat="j2k")
    decoder = DeviceDecoder(DeviceOptions(-1))
    for bad in (good[:200], good[: len(good) // 2] + b"\xff\xd9", lossy):
        with pytest.raises(SeriesError) as here:
            decoder.decode([good, bad], shape)
        with pytest.raises(Exception) as there:  # noqa: PT011 - decoders raise what they like
            decode(bad, shape)
        assert here.value.reason is getattr(there.value, "reason", Reason.PIXELS_UNREADABLE)


def test_a_device_that_is_not_there_is_named():
    with pytest.raises(BackendUnavailable, match="63"):
        DeviceDecoder(DeviceOptions(device=63))


def test_a_decoder_stays_with_its_thread():
    from concurrent.futures import ThreadPoolExecutor

    decoder = DeviceDecoder(DeviceOptions(-1))
    with ThreadPoolExecutor(1) as pool, pytest.raises(RuntimeError, match="thread"):
        pool.submit(decoder.decode, [], form(JPEG_2000[0], 12, False)).result()


def test_a_series_loads_by_a_device_as_by_the_cpu(ct):
    def encode(values):
        return encoded(values, JPEG_2000[0], 12)

    ct.write(30, transfer_syntax_uid=JPEG_2000[0], encode=encode)
    series = ct.series()
    by_device = load(series, LoadingOptions(threads=2, decoder=Decoder.NVIMAGECODEC, device=DeviceOptions(-1)))
    by_cpu = load(series, LoadingOptions(threads=2))
    np.testing.assert_array_equal(by_device.hounsfield, by_cpu.hounsfield)
    assert by_device.geometry == by_cpu.geometry
