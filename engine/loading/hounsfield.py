"""
Stored values to Hounsfield units, slice by slice.

Each slice has its own slope and intercept. Padding, where a scanner saw nothing, becomes air; what lies
below air is air.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.errors import UnsupportedSeries
from engine.loading.decode import Raw
from engine.loading.elements import Elements
from engine.loading.frames import PixelFormat
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
    from engine import kernels

    values, bits = raw
    if values.dtype.itemsize == 1:
        values = values.astype(np.int16 if values.dtype.kind == "i" else np.uint16)
    return kernels.to_hounsfield(
        np.ascontiguousarray(values).view(np.uint16),
        bits,
        form.signed,
        rescale.slope,
        rescale.intercept,
        rescale.padding or (1, 0),
        (LOWEST, HIGHEST),
        out,
    )


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
