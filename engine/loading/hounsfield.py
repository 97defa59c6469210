"""
Stored values to Hounsfield units, slice by slice.

Each slice has its own slope and intercept. Padding, where a scanner saw nothing, becomes air; what lies
below air is air.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.errors import SeriesError, UnsupportedSeries
from engine.loading.decode import Raw
from engine.loading.elements import Elements
from engine.loading.frames import Frames, PixelFormat
from engine.loading.tags import Tag
from engine.records import Reason

LOWEST, HIGHEST = -1024, 32767  # HU that are kept: air, and what int16 holds
_TISSUE = (-900.0, 3071.0)
"""HU that a body holds. Padding inside this range can't be told from tissue and is left alone: a file that
names 0 as its padding, with an intercept of 0, would lose its water. Our choice; 3071 is the highest value
of a 12-bit scanner."""

_UNITS = ("", "HU", "US")  # absent means HU in CT; US, unspecified, is what some scanners write for HU


@dataclass(frozen=True, slots=True)
class Rescale:
    """One slice's way to HU."""

    slope: float
    intercept: float
    padding: tuple[int, int] | None  # stored values, first and last, that mean "nothing there"


def rescale_of(elements: Elements) -> Rescale:
    """How a data set's values become HU.

    Raises:
        UnsupportedSeries: it does not say, or says something else than HU.

    Source: DICOM PS3.3 C.8.2.1 (CT image: rescale), C.7.5.1.1.2 (pixel padding).
    """
    slope, intercept = elements.number(Tag.RESCALE_SLOPE), elements.number(Tag.RESCALE_INTERCEPT)
    if slope is None or intercept is None or slope <= 0 or elements.has(Tag.MODALITY_LUT_SEQUENCE):
        raise UnsupportedSeries(Reason.RESCALE_MISSING, "there is no meaningful RescaleSlope and RescaleIntercept")
    if elements.text(Tag.RESCALE_TYPE).upper() not in _UNITS:
        raise UnsupportedSeries(Reason.RESCALE_MISSING, "the rescaled values are not Hounsfield units")
    return Rescale(slope, intercept, _padding(elements, slope, intercept))


def to_hounsfield(raw: Raw, form: PixelFormat, rescale: Rescale, out: NDArray[np.int16]) -> bool:
    """Write one slice in HU.

    Args:
        raw: (J, I) as decoded.
        out: (J, I), contiguous; is overwritten.

    Returns:
        Whether all stored values are the same: no scanner makes such a slice, a decoder that failed in silence does.
    """
    from engine.kernels.stored import to_hounsfield

    values, bits = raw
    if values.dtype.itemsize == 1:
        values = values.astype(np.int16 if values.dtype.kind == "i" else np.uint16)
    return to_hounsfield(
        np.ascontiguousarray(values).view(np.uint16),
        bits,
        form.signed,
        rescale.slope,
        rescale.intercept,
        rescale.padding or (1, 0),
        (LOWEST, HIGHEST),
        out,
    )


def read_hounsfield(slices: Sequence[tuple[Frames, Rescale]], out: NDArray[np.int16]) -> bool:
    """Read slices that lie alike in files of their own, 16 bits as they are, and write them in HU, all in one go.

    Args:
        slices: files of one frame each.
        out: (K, J, I), contiguous; is overwritten.

    Returns:
        Whether they are such slices and nothing is wrong with them. If not, what was written is of no meaning, and
        reading them one by one tells what is wrong.
    """
    from engine.kernels.stored import read_to_hounsfield

    form = slices[0][0].form
    alike = all(_plain(frames.form) and frames.form.kind == form.kind for frames, _ in slices)
    if not alike or out.shape != (len(slices), form.rows, form.columns):
        return False
    try:
        offsets = [frames.place(0) for frames, _ in slices]
    except SeriesError:
        return False
    paths = [os.fsencode(frames.path) + b"\0" for frames, _ in slices]
    return read_to_hounsfield(
        np.frombuffer(b"".join(paths), np.uint8),
        np.cumsum([0, *map(len, paths[:-1])]),
        os.O_RDONLY | os.O_CLOEXEC,
        np.array(offsets, np.int64),
        form.bits_stored,
        form.signed,
        np.array([(one.slope, one.intercept) for _, one in slices]),
        np.array([one.padding or (1, 0) for _, one in slices]),
        (LOWEST, HIGHEST),
        out,
    )


def _plain(form: PixelFormat) -> bool:
    little = sys.byteorder == "little" and not form.big_endian
    return form.as_it_is and little and form.bits_allocated == 16 and form.frames == 1


def _padding(elements: Elements, slope: float, intercept: float) -> tuple[int, int] | None:
    """Read with the sign of the pixels: scanners give it the wrong VR."""
    signed = elements.short(Tag.PIXEL_REPRESENTATION) == 1
    value = elements.short(Tag.PIXEL_PADDING_VALUE, signed)
    if value is None:
        return None
    limit = elements.short(Tag.PIXEL_PADDING_RANGE_LIMIT, signed)
    first, last = sorted((value, value if limit is None else limit))
    below, above = last * slope + intercept < _TISSUE[0], first * slope + intercept > _TISSUE[1]
    return (first, last) if below or above else None
