"""Every lossless transfer syntax gives the values that went in; whatever else comes is refused by name."""

import struct
import subprocess
import sys
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders import RLELosslessEncoder

from engine.errors import SeriesError
from engine.loading.decode import DECODERS, decode, read_pixels
from engine.loading.frames import PixelFormat
from engine.loading.walker import PixelData
from engine.records import Reason
from engine.selection import (
    DEFLATED,
    EXPLICIT_BIG_ENDIAN,
    EXPLICIT_LITTLE_ENDIAN,
    HTJ2K,
    IMPLICIT_LITTLE_ENDIAN,
    JPEG_2000,
    JPEG_LOSSLESS,
    JPEG_LS,
    LOSSY_TRANSFER_SYNTAXES,
    NATIVE,
    READABLE_TRANSFER_SYNTAXES,
    RLE,
)


def rle(values: np.ndarray) -> bytes:
    return RLELosslessEncoder.encode(
        values,
        rows=values.shape[0],
        columns=values.shape[1],
        number_of_frames=1,
        samples_per_pixel=1,
        bits_allocated=values.itemsize * 8,
        bits_stored=values.itemsize * 8,
        photometric_interpretation="MONOCHROME2",
        pixel_representation=int(values.dtype.kind == "i"),
        encoding_plugin="pydicom",  # of GDCM, where it is installed, the encoder crashes
    )


def unsigned(values: np.ndarray) -> np.ndarray:
    return values.view(f"u{values.itemsize}")


def masked(values: np.ndarray, bits: int) -> np.ndarray:
    return unsigned(values) & np.array((1 << bits) - 1, unsigned(values).dtype)


ENCODERS = {
    EXPLICIT_LITTLE_ENDIAN: lambda values, bits: values.tobytes(),
    IMPLICIT_LITTLE_ENDIAN: lambda values, bits: values.tobytes(),
    DEFLATED: lambda values, bits: values.tobytes(),  # what is inflated
    EXPLICIT_BIG_ENDIAN: lambda values, bits: values.byteswap().tobytes(),
    RLE: lambda values, bits: rle(values),
    JPEG_LOSSLESS[0]: lambda values, bits: imagecodecs.ljpeg_encode(masked(values, bits), bitspersample=bits),
    JPEG_LOSSLESS[1]: lambda values, bits: imagecodecs.jpeg8_encode(
        masked(values, bits), lossless=True, bitspersample=bits
    ),
    **dict.fromkeys(JPEG_LS, lambda values, bits: imagecodecs.jpegls_encode(masked(values, bits))),
    **dict.fromkeys(
        JPEG_2000,
        lambda values, bits: imagecodecs.jpeg2k_encode(values, level=0, reversible=True, codecformat="j2k"),
    ),
    **dict.fromkeys(HTJ2K, lambda values, bits: imagecodecs.htj2k_encode(values, reversible=True)),
}
CODED = [syntax for syntax in ENCODERS if syntax not in NATIVE and syntax != RLE]


def form(syntax: str, values: np.ndarray, bits: int, signed: bool) -> PixelFormat:
    return PixelFormat(syntax, *values.shape, values.itemsize * 8, bits, signed, PixelData(0, None))


def image(bits: int, signed: bool, edges: tuple[int, int] = (37, 29), seed: int = 0) -> np.ndarray:
    """Smooth ground, noise, and both ends of the range."""
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    noise = np.random.default_rng(seed).normal(size=edges).cumsum(0) * (high - low) / 40
    values = np.clip(noise + (low + high) / 2, low, high).round().astype(np.int64)
    values.flat[:2] = low, high
    return values.astype(np.int16 if signed else np.uint16)


def test_every_readable_transfer_syntax_has_a_decoder_and_no_other_has():
    assert set(DECODERS) == READABLE_TRANSFER_SYNTAXES == set(ENCODERS)
    assert not READABLE_TRANSFER_SYNTAXES & LOSSY_TRANSFER_SYNTAXES


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [9, 12, 13, 16])
@pytest.mark.parametrize("syntax", ENCODERS)
def test_what_went_in_comes_out(syntax, bits, signed):
    values = image(bits, signed)
    found = decode(ENCODERS[syntax](values, bits), form(syntax, values, bits, signed))
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, values)


@given(bits=st.integers(2, 16), signed=st.booleans(), rows=st.integers(1, 9), seed=st.integers(0, 9))
@settings(max_examples=40)
def test_bits_above_those_stored_never_count(bits, signed, rows, seed):
    values = image(bits, signed, (rows, 5), seed)
    above = np.random.default_rng(seed).integers(0, 1 << 16, values.shape).astype(np.uint16) & np.uint16(
        0xFFFF << bits & 0xFFFF
    )
    dirty = masked(values, bits) | above
    found = decode(dirty.tobytes(), form(EXPLICIT_LITTLE_ENDIAN, values, bits, signed))
    np.testing.assert_array_equal(found, values)


def test_eight_bit_pixels_are_read():
    values = image(8, False).astype(np.uint8)
    for syntax in (EXPLICIT_LITTLE_ENDIAN, RLE, JPEG_LOSSLESS[1], JPEG_LS[0], JPEG_2000[0]):
        np.testing.assert_array_equal(decode(ENCODERS[syntax](values, 8), form(syntax, values, 8, False)), values)


@pytest.mark.parametrize("syntax", [JPEG_2000[0], HTJ2K[0]])
def test_signed_pixels_in_an_unsigned_stream_get_their_sign_back(syntax):
    values = image(16, True)
    stream = ENCODERS[syntax](unsigned(values), 16)
    np.testing.assert_array_equal(decode(stream, form(syntax, values, 16, True)), values)


@pytest.mark.parametrize("syntax", [JPEG_2000[0], HTJ2K[0]])
def test_negative_values_where_the_header_has_none_are_refused(syntax):
    values = image(12, True)
    with pytest.raises(SeriesError) as caught:
        decode(ENCODERS[syntax](values, 12), form(syntax, values, 12, False))
    assert caught.value.reason is Reason.PIXELS_IMPLAUSIBLE
    np.testing.assert_array_equal(
        decode(ENCODERS[syntax](abs(values), 12), form(syntax, values, 12, False)), abs(values)
    )


def sof3(values: np.ndarray, precision: int, wrapped: bool, tables_first: bool) -> bytes:
    """Lossless JPEG with predictor 1, written by hand: encoders of scanners may write each difference
    modulo 2^precision in its longer form, and Huffman tables before the frame header (ITU-T T.81 annex H)."""
    bits, full = [], 1 << precision
    wide = values.astype(int)
    for j, i in np.ndindex(wide.shape):
        guess = (full >> 1) if i == j == 0 else wide[j - 1, 0] if i == 0 else wide[j, i - 1]
        difference = int(wide[j, i] - guess)
        if wrapped and difference:
            difference += full if difference < 0 else -full
        size = abs(difference).bit_length()
        bits.append(f"{size:05b}")
        if size:
            bits.append(f"{difference if difference > 0 else difference + (1 << size) - 1:0{size}b}")
    text = "".join(bits)
    text += "1" * (-len(text) % 8)
    scan = int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\0")
    tables = b"\xff\xc4" + struct.pack(">H", 36) + b"\0" + bytes([0] * 4 + [17] + [0] * 11) + bytes(range(17))
    frame = b"\xff\xc3" + struct.pack(">HBHHB", 11, precision, *wide.shape, 1) + bytes([1, 0x11, 0])
    head = tables + frame if tables_first else frame + tables
    return b"\xff\xd8" + head + b"\xff\xda" + struct.pack(">HB", 8, 1) + bytes([1, 0, 1, 0, 0]) + scan + b"\xff\xd9"


@pytest.mark.parametrize("tables_first", [False, True])
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("bits", [12, 14])
def test_lossless_jpeg_as_scanners_write_it(bits, wrapped, tables_first):
    values = image(bits, False, (16, 16))
    stream = sof3(values, bits, wrapped, tables_first)
    np.testing.assert_array_equal(decode(stream, form(JPEG_LOSSLESS[1], values, bits, False)), values)


def refusal(stream: bytes, shape: PixelFormat) -> Reason:
    """Through a file, as loading reads it; anything but a typed refusal fails the test."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pixels"
        path.write_bytes(encapsulate([stream]) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0))
        with pytest.raises(SeriesError) as caught:
            read_pixels(path, shape)
    return caught.value.reason


@pytest.mark.parametrize("syntax", [RLE, *CODED])
def test_a_stream_cut_short_is_refused_wherever_it_is_cut(syntax):
    values = image(12, False)
    stream = ENCODERS[syntax](values, 12)
    for cut in {*range(1, 120, 7), *range(120, len(stream) - 17, 211), len(stream) - 18}:
        assert refusal(stream[:cut], form(syntax, values, 12, False)) is Reason.PIXELS_UNREADABLE


@pytest.mark.parametrize("syntax", [JPEG_LS[0], JPEG_2000[0], *HTJ2K])
def test_a_stream_that_breaks_off_before_its_end_mark_is_refused(syntax):
    values = image(12, False)
    stream = ENCODERS[syntax](values, 12)
    for cut in range(200, len(stream) - 30, 97):
        assert refusal(stream[:cut] + b"\xff\xd9", form(syntax, values, 12, False)) is Reason.PIXELS_UNREADABLE


@pytest.mark.parametrize("syntax", JPEG_LOSSLESS)
def test_lossless_jpeg_shorter_than_a_bit_a_pixel_is_refused(syntax):
    values = image(12, False, (256, 256))
    stream = ENCODERS[syntax](values, 12)[:8000] + b"\xff\xd9"
    assert refusal(stream, form(syntax, values, 12, False)) is Reason.PIXELS_UNREADABLE


@pytest.mark.parametrize("syntax", CODED)
def test_a_stream_of_another_size_is_refused(syntax):
    values = image(12, False)
    stream = ENCODERS[syntax](values, 12)
    for shape in ((29, 37), (36, 29), (37, 30), (4096, 4096)):
        other = PixelFormat(syntax, *shape, 16, 12, False, PixelData(0, None))
        assert refusal(stream, other) is Reason.PIXELS_UNREADABLE


@given(changes=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=6), which=st.data())
@settings(max_examples=120)
def test_damaged_streams_end_in_pixels_or_a_reason(changes, which):
    syntax = which.draw(st.sampled_from([RLE, JPEG_LOSSLESS[1], JPEG_LS[0], JPEG_2000[0], HTJ2K[0]]))
    values = image(12, False, (16, 16))
    stream = bytearray(ENCODERS[syntax](values, 12))
    for at, value in changes:
        stream[at % len(stream)] = value
    shape = form(syntax, values, 12, False)
    try:
        found = decode(bytes(stream), shape)
    except Exception:
        assert refusal(bytes(stream), shape) in Reason
    else:
        assert found.shape == (16, 16)


LYING = {
    "lossy JPEG": (JPEG_LOSSLESS[1], lambda v: imagecodecs.jpeg8_encode((v >> 4).astype(np.uint8), level=80)),
    "lossy 12-bit JPEG": (JPEG_LOSSLESS[0], lambda v: imagecodecs.jpeg8_encode(v, level=80, bitspersample=12)),
    "near-lossless JPEG-LS": (JPEG_LS[0], lambda v: imagecodecs.jpegls_encode(v, level=3)),
    "irreversible JPEG 2000": (
        JPEG_2000[0],
        lambda v: imagecodecs.jpeg2k_encode(v, level=40, reversible=False, codecformat="j2k"),
    ),
    "irreversible HTJ2K": (HTJ2K[0], lambda v: imagecodecs.htj2k_encode(v, level=0.01, reversible=False)),
}


@pytest.mark.parametrize("kind", LYING)
def test_a_lossy_stream_under_a_lossless_name_is_refused(kind):
    syntax, encode = LYING[kind]
    values = image(12, False)
    assert refusal(encode(values), form(syntax, values, 12, False)) is Reason.LOSSY_COMPRESSION


def test_colour_in_the_stream_is_refused():
    values = image(8, False).astype(np.uint8)
    stream = imagecodecs.jpeg2k_encode(np.dstack([values] * 3), level=0, reversible=True, codecformat="j2k")
    assert refusal(stream, form(JPEG_2000[0], values, 8, False)) is Reason.PIXELS_UNREADABLE


def test_a_jp2_file_in_place_of_a_code_stream_is_read():
    values = image(12, False)
    stream = imagecodecs.jpeg2k_encode(values, level=0, reversible=True, codecformat="jp2")
    np.testing.assert_array_equal(decode(stream, form(JPEG_2000[0], values, 12, False)), values)


WORST = """
import resource, sys
from pathlib import Path
import imagecodecs
from engine.errors import SeriesError
from engine.loading.decode import pixel_format, read_pixels
from engine.loading.elements import read_elements
imagecodecs.jpegls_decode, imagecodecs.jpeg2k_decode, imagecodecs.dicomrle_decode, imagecodecs.jpeg8_decode
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
path = Path(sys.argv[1])
try:
    with path.open("rb") as file:
        elements = read_elements(file, path.stat().st_size)
    read_pixels(path, pixel_format(elements))
except SeriesError as bad:
    print(bad.reason, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize("syntax", [EXPLICIT_LITTLE_ENDIAN, RLE, JPEG_LOSSLESS[1], JPEG_LS[0], JPEG_2000[0]])
@pytest.mark.parametrize("claim", [65535, 4096])
def test_claims_of_huge_images_cost_no_memory(ct, syntax, claim):
    """The header and, where it has one, the stream's own header claim the same huge size over few bytes."""

    def lie(dataset, k):
        dataset.Rows = dataset.Columns = claim

    def small_with_a_big_name(values):
        stream = bytearray(ENCODERS[syntax](values, 12))
        size = struct.pack(">HH", *values.shape)
        if syntax in (JPEG_LOSSLESS[1], JPEG_LS[0]):
            at = bytes(stream).index(size)
            stream[at : at + 4] = struct.pack(">HH", claim, claim)
        if syntax == JPEG_2000[0]:
            stream[8:16] = struct.pack(">II", claim, claim)
            stream[24:32] = struct.pack(">II", claim, claim)
        return bytes(stream)

    encode = None if syntax == EXPLICIT_LITTLE_ENDIAN else small_with_a_big_name
    (path,) = ct.write(1, lie, transfer_syntax_uid=syntax, encode=encode)
    done = subprocess.run(
        [sys.executable, "-c", WORST, str(path)], capture_output=True, text=True, timeout=60, check=True
    )
    reason, grown_mib = done.stdout.split()
    assert reason in (Reason.IMAGE_TOO_LARGE, Reason.PIXELS_UNREADABLE)
    assert int(grown_mib) < (40 if claim == 65535 else 200)
