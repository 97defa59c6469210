"""
Order the slices of a series and find the grid that they make.

Slices are ordered by where they lie along their common normal, never by number or name. What is
computed later stands on equal steps at right angles, so a stack that is not such a grid is refused
with what was found: slices missing or doubled, steps uneven, the stack leaning as with a tilted gantry.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.errors import IncompleteSeries, SeriesError, UnsupportedSeries
from engine.records import Reason
from engine.volume import Geometry, Vector

_LEAST_PIXEL_MM, _LARGEST_PIXEL_MM = 0.01, 20.0  # our choice: from a microscope to beyond any CT


@dataclass(frozen=True)
class SliceOptions:
    """How far slices may be from a perfect grid."""

    min_slices: int = 10  # our choice: fewer hold no vertebra at any step allowed
    step_tolerance: float = 0.01  # share of the step
    position_tolerance_mm: float = 0.02  # our choice: positions are often printed in hundredths
    gap_factor: float = 1.5  # a gap beyond this many steps is a missing slice
    max_drift_mm: float = 0.5
    """How far slice origins may stray sideways. Our choice: well below a voxel of any network's grid;
    a tilt of one degree drifts this far within 30 mm."""
    max_cosine_difference: float = 2e-3  # between slices; our choice: 0.1 degrees

    def __post_init__(self) -> None:
        """Refuse numbers without meaning."""
        if self.min_slices < 2:
            raise ValueError("min_slices must be at least 2")
        if not 0 < self.step_tolerance < 0.5 or not self.position_tolerance_mm > 0:
            raise ValueError("step_tolerance must lie between 0 and 0.5, position_tolerance_mm above 0")
        if not self.gap_factor > 1:
            raise ValueError("gap_factor must be above 1")


@dataclass(frozen=True, slots=True)
class Plane:
    """Where one image lies, as its header says; None: it does not say."""

    rows: int
    columns: int
    pixel_spacing: tuple[float, ...] | None  # mm between rows, between columns
    image_orientation_patient: tuple[float, ...] | None  # cosines along a row, along a column
    image_position_patient: tuple[float, ...] | None  # mm, centre of the first pixel
    frame_of_reference_uid: str | None


@dataclass(frozen=True)
class Stack:
    """The order of planes, and their grid."""

    geometry: Geometry  # k grows along the normal: row direction x column direction
    places: tuple[tuple[int, ...], ...]  # K of them: indices of the planes at each place, mostly one


def stack(planes: Sequence[Plane], options: SliceOptions) -> Stack:
    """Find the grid of a series.

    Args:
        planes: in any order; the grid does not depend on it.

    Returns:
        Planes at one place stand together in `places`; whether they are copies, their pixels must tell.

    Raises:
        IncompleteSeries: slices are missing, or contradict each other.
        UnsupportedSeries: the stack leans, or is too short.

    Source: DICOM PS3.3 C.7.6.2.1.1 (image plane: position, orientation, spacing).
    """
    if len(planes) < options.min_slices:
        raise _too_small(len(planes), options)
    _check_alike(planes, options)
    axes = _axes(planes[0])
    positions = np.array([plane.image_position_patient for plane in planes], dtype=np.float64) @ axes.T  # along k, j, i
    places = _places(positions[:, 0], options)
    if len(places) < options.min_slices:
        raise _too_small(len(places), options)
    heights = np.array([positions[list(place), 0].mean() for place in places])
    step = _step(heights, options)
    _check_drift(positions, options)
    origin = axes.T @ np.array([heights[0], *positions[:, 1:].mean(axis=0)])
    assert planes[0].pixel_spacing is not None  # _check_alike
    between_rows, between_columns = planes[0].pixel_spacing
    along_k, along_j, along_i = (_vector(axis) for axis in axes)
    geometry = Geometry(
        shape=(len(places), planes[0].rows, planes[0].columns),
        spacing_mm=(step, between_rows, between_columns),
        origin_mm=_vector(origin),
        direction=(along_k, along_j, along_i),
        frame_of_reference_uid=planes[0].frame_of_reference_uid or "",
    )
    return Stack(geometry, places)


def _check_alike(planes: Sequence[Plane], options: SliceOptions) -> None:
    """All say where they lie, and all lie parallel on equal pixel grids."""
    if any(plane.image_position_patient is None or plane.image_orientation_patient is None for plane in planes):
        raise _inconsistent("an image does not say where it lies")
    first = planes[0]
    if len({(plane.rows, plane.columns) for plane in planes}) > 1:
        raise _inconsistent("images differ in their rows and columns")
    if len({plane.frame_of_reference_uid for plane in planes}) > 1:
        raise _inconsistent("images lie in different frames of reference")
    spacings = [plane.pixel_spacing for plane in planes if plane.pixel_spacing is not None]
    if len(spacings) < len(planes) or not all(
        _LEAST_PIXEL_MM <= value <= _LARGEST_PIXEL_MM for spacing in spacings for value in spacing
    ):
        raise _inconsistent("an image has no meaningful PixelSpacing")
    if not np.allclose(spacings, spacings[0], rtol=1e-3, atol=0):
        raise _inconsistent("images differ in their PixelSpacing")
    cosines = np.array([plane.image_orientation_patient for plane in planes], dtype=np.float64)
    if np.abs(cosines - np.array(first.image_orientation_patient)).max() > options.max_cosine_difference:
        raise _inconsistent("images are not parallel")


def _axes(plane: Plane) -> NDArray[np.float64]:
    """(3, 3): unit vectors along k, j and i, at right angles.

    Cosines may be rounded; what is off by more than a hundredth is no rounding.
    """
    cosines = np.array(plane.image_orientation_patient, dtype=np.float64).reshape(2, 3)
    if not np.allclose(cosines @ cosines.T, np.eye(2), rtol=0, atol=0.01):
        raise _inconsistent("the image orientation is not two unit vectors at a right angle")
    along_i = cosines[0] / np.linalg.norm(cosines[0])
    along_j = cosines[1] - (cosines[1] @ along_i) * along_i
    along_j /= np.linalg.norm(along_j)
    return np.array([np.cross(along_i, along_j), along_j, along_i])


def _places(heights: NDArray[np.float64], options: SliceOptions) -> tuple[tuple[int, ...], ...]:
    """Indices in order of height; those within the position tolerance of the one before share a place."""
    order = [int(n) for n in np.argsort(heights, kind="stable")]
    places: list[list[int]] = []
    for n in order:
        if places and heights[n] - heights[places[-1][0]] <= options.position_tolerance_mm:
            places[-1].append(n)
        else:
            places.append([n])
    return tuple(tuple(sorted(place)) for place in places)


def _step(heights: NDArray[np.float64], options: SliceOptions) -> float:
    """The one step between slices, mm."""
    gaps = np.diff(heights)
    usual = float(np.median(gaps))
    wide = gaps > options.gap_factor * usual
    if wide.any():
        missing = int(np.maximum(1, np.round(gaps[wide] / usual) - 1).sum())
        raise IncompleteSeries(
            Reason.SLICES_MISSING,
            f"about {missing} of {len(heights) + missing} slices are missing: gaps up to {gaps.max():.2f} mm "
            f"where the step is {usual:.2f} mm",
        )
    step = float(heights[-1] - heights[0]) / (len(heights) - 1)
    tolerance = max(options.step_tolerance * step, options.position_tolerance_mm)
    if np.abs(gaps - step).max() > tolerance:
        raise _inconsistent(f"steps between slices are uneven: {gaps.min():.3f} to {gaps.max():.3f} mm")
    return step


def _check_drift(positions: NDArray[np.float64], options: SliceOptions) -> None:
    """Slice origins may not wander sideways: steadily is a leaning stack, otherwise a contradiction."""
    heights, sideways = positions[:, 0], positions[:, 1:]
    strays = np.abs(sideways - sideways.mean(axis=0)).max()
    if strays <= options.max_drift_mm / 2:
        return
    centred = heights - heights.mean()
    slope = centred @ (sideways - sideways.mean(axis=0)) / (centred @ centred)
    rest = np.abs(sideways - sideways.mean(axis=0) - centred[:, None] * slope).max()
    if rest <= options.max_drift_mm / 2:
        angle = float(np.degrees(np.arctan(np.hypot(*slope))))
        raise UnsupportedSeries(
            Reason.GRID_SHEARED,
            f"the stack leans by {angle:.1f} degrees against its slices, as a tilted gantry makes it",
        )
    raise _inconsistent(f"slice origins wander sideways by up to {strays:.1f} mm")


def _too_small(count: int, options: SliceOptions) -> SeriesError:
    return UnsupportedSeries(Reason.GRID_TOO_SMALL, f"{count} slices, at least {options.min_slices}")


def _inconsistent(message: str) -> SeriesError:
    return IncompleteSeries(Reason.SLICES_INCONSISTENT, message)


def _vector(values: NDArray[np.float64]) -> Vector:
    x, y, z = (float(value) + 0.0 for value in values)
    return x, y, z
