"""Pixels as whole files hold them: what header and pixels say must fit, and all of a frame is found."""

import warnings
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_files
from pydicom.encaps import encapsulate

from engine.errors import SeriesError
from engine.loading.decode import pixel_format, read_pixels
from engine.loading.elements import read_elements
from engine.records import Reason
from engine.selection import (
    EXPLICIT_LITTLE_ENDIAN,
    IMPLICIT_LITTLE_ENDIAN,
    JPEG_2000,
    JPEG_LS,
    LOSSY_TRANSFER_SYNTAXES,
    MAYBE_LOSSY_TRANSFER_SYNTAXES,
    RLE,
)


def elements_of(path: Path):
    with path.open("rb") as file:
        return read_elements(file, path.stat().st_size)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"Rows": 65535, "Columns": 65535}, Reason.IMAGE_TOO_LARGE),
        ({"Rows": 4096, "Columns": 4096}, Reason.PIXELS_UNREADABLE),
        ({"Rows": 0}, Reason.PIXELS_UNREADABLE),
        ({"Columns": 8}, Reason.PIXELS_UNREADABLE),
        ({"BitsStored": 17}, Reason.TRANSFER_SYNTAX_UNSUPPORTED),
        ({"BitsStored": 0}, Reason.TRANSFER_SYNTAX_UNSUPPORTED),
        ({"BitsAllocated": 32}, Reason.TRANSFER_SYNTAX_UNSUPPORTED),
        ({"HighBit": 15}, Reason.TRANSFER_SYNTAX_UNSUPPORTED),
        ({"PixelRepresentation": 2}, Reason.PIXELS_UNREADABLE),
        ({"SamplesPerPixel": 3}, Reason.NOT_PRIMARY),
        ({"PhotometricInterpretation": "MONOCHROME1"}, Reason.NOT_PRIMARY),
        ({"LossyImageCompression": "01"}, Reason.LOSSY_COMPRESSION),
        ({"PixelData": b""}, Reason.PIXELS_UNREADABLE),
        ({"PixelData": b"12"}, Reason.PIXELS_UNREADABLE),
    ],
)
def test_a_header_that_does_not_fit_its_pixels_is_refused(ct, change, reason):
    def lie(dataset, k):
        for keyword, value in change.items():
            setattr(dataset, keyword, value)

    (path,) = ct.write(1, lie)
    with pytest.raises(SeriesError) as caught:
        read_pixels(path, pixel_format(elements_of(path)))
    assert caught.value.reason is reason


PIXELS = {
    (0x28, 0x10): (b"US", b"\4\0"),
    (0x28, 0x11): (b"US", b"\4\0"),
    (0x28, 0x100): (b"US", b"\x10\0"),
    (0x28, 0x101): (b"US", b"\x0c\0"),
    (0x28, 0x103): (b"US", b"\0\0"),
}


@pytest.mark.parametrize(
    ("syntaxes", "reason"),
    [
        (sorted(LOSSY_TRANSFER_SYNTAXES | MAYBE_LOSSY_TRANSFER_SYNTAXES), Reason.LOSSY_COMPRESSION),
        (["1.2.840.113619.5.2", "1.2.840.10008.1.2.4.110", "1.2.3"], Reason.TRANSFER_SYNTAX_UNSUPPORTED),
    ],
)
def test_other_transfer_syntaxes_are_refused_by_name(raw, syntaxes, reason):
    path = raw.folder / "other.dcm"
    for syntax in syntaxes:
        name = syntax.encode() + b"\0" * (len(syntax) % 2)
        path.write_bytes(raw.part10(raw.body_of(raw.IDENTITY | PIXELS), name))
        with pytest.raises(SeriesError) as caught:
            pixel_format(elements_of(path))
        assert caught.value.reason is reason


def test_a_frame_in_many_fragments_is_put_together(ct):
    (path,) = ct.write(1, transfer_syntax_uid=JPEG_LS[0], encode=lambda v: imagecodecs.jpegls_encode(v))
    whole = read_pixels(path, pixel_format(elements_of(path)))
    dataset = pydicom.dcmread(path)
    stream = next(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1))
    dataset.PixelData = encapsulate([stream], fragments_per_frame=5, has_bot=False)
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)
    np.testing.assert_array_equal(read_pixels(path, pixel_format(elements_of(path))), whole)


def test_a_little_padding_behind_the_pixels_is_allowed_and_a_lot_is_not(ct):
    for extra, fine in ((1, True), (18, True), (19, False)):

        def pad(dataset, k, extra=extra):
            dataset.PixelData += b"\0" * extra

        (path,) = ct.write(1, pad)
        found = None
        try:
            found = read_pixels(path, pixel_format(elements_of(path)))
        except SeriesError:
            assert not fine
        assert (found is not None) is fine


def test_pixels_agree_with_pydicoms_on_its_own_files():
    compared = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in (Path(name) for name in get_testdata_files()):
            try:
                shape = pixel_format(elements_of(path))
                found = read_pixels(path, shape)
            except (SeriesError, OSError):
                continue
            try:
                expected = pydicom.dcmread(path).pixel_array
            except Exception:  # pydicom lacks a decoder or an attribute
                continue
            np.testing.assert_array_equal(found, expected, err_msg=path.name)
            compared.append(shape.transfer_syntax_uid)
    assert len(compared) >= 30
    assert {EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN, RLE, JPEG_LS[0], JPEG_2000[0]} <= set(compared)


@pytest.mark.real_data
def test_real_jpeg_2000_slices_decode_exactly(real_data):
    for path in sorted((real_data / "ct_abdomen_j2k_empty_uids").iterdir())[::5]:
        found = read_pixels(path, pixel_format(elements_of(path)))
        np.testing.assert_array_equal(found, pydicom.dcmread(path).pixel_array)
