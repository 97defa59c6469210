"""
A sagittal and a coronal cut that follow the spine.

A flat plane leaves a curved spine; these cuts bend with the line through the centres of the bodies,
so that every vertebra is cut through its middle. They are sampled in the patient's axes with one
scale along both, whatever the slices' order, tilt or thickness.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import scipy  # its parts load at first use
from numpy.typing import NDArray

from engine.volume import Analysis, Geometry, Segmentation

SLAB_MM = (-2.0, -1.0, 0.0, 1.0, 2.0)
"""Offsets from the cut that are averaged: 5 mm quieten the noise and keep the discs apart. Our choice."""

ABOVE_MM = 22.0  # shown beyond the first and last body
MORE_MM = 45.0  # shown more on each side at most, where there is room
FINE = 2  # outlines are drawn this many times finer than the picture

_AIR = -1024.0


class Plane(StrEnum):
    """How the spine is cut."""

    SAGITTAL = "sagittal"
    CORONAL = "coronal"


_BESIDE_MM = {Plane.SAGITTAL: (52.0, 72.0), Plane.CORONAL: (62.0, 62.0)}
"""Shown left and right of the spine's line: in front and behind; to the right and left of the patient."""

_ACROSS = {Plane.SAGITTAL: 1, Plane.CORONAL: 0}
"""The patient's axis that runs along a cut's columns: y to the back, x to the left."""


@dataclass(frozen=True, eq=False)
class SpineCurve:
    """The line through the bodies' centres, by height."""

    numbers: tuple[int, ...]  # the bodies' segment numbers
    centres: NDArray[np.float64]  # (N, 3), mm in the patient (x, y, z)
    low_mm: float  # lowest and highest z of a body
    high_mm: float

    def at(self, height_mm: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        """x (axis 0) or y (axis 1) of the line at some heights."""
        order = np.argsort(self.centres[:, 2])
        line: NDArray[np.float64] = np.interp(height_mm, self.centres[order, 2], self.centres[order, axis])
        return line


@dataclass(frozen=True)
class Frame:
    """What the cuts show, in mm of the patient; one scale and one height for all."""

    mm_per_pixel: float
    low_mm: float
    high_mm: float
    sides: dict[Plane, tuple[float, float]]  # first and last column

    def shape(self, plane: Plane) -> tuple[int, int]:
        """Rows and columns of a cut."""
        left, right = self.sides[plane]
        return int((self.high_mm - self.low_mm) / self.mm_per_pixel), int((right - left) / self.mm_per_pixel)


@dataclass(frozen=True, eq=False)
class SpineCut:
    """One cut; rows from head to foot. Outlines are FINE times finer than the grey image."""

    hounsfield: NDArray[np.float32]  # (H, W)
    bodies: NDArray[np.uint8]  # (H * FINE, W * FINE), segment numbers
    cores: NDArray[np.uint8]  # the same
    anchors: dict[int, tuple[int, int]]  # row and column (H, W) of each body's centre, by segment number


def trace_spine(bodies: Segmentation) -> SpineCurve:
    """The spine's line, from the bodies that were found, named or not."""
    numbers, centres, heights = [], [], []
    for number, box in enumerate(bodies.boxes, start=1):
        if box is None:
            continue
        inside = np.argwhere(bodies.labels[box] == number) + [part.start for part in box]
        points = bodies.geometry.to_patient(inside.astype(float))
        numbers.append(number)
        centres.append(points.mean(axis=0))
        heights += [points[:, 2].min(), points[:, 2].max()]
    if not numbers:
        middle = bodies.geometry.to_patient((np.asarray(bodies.geometry.shape) - 1) / 2)
        return SpineCurve((), middle[None], *_extent(bodies.geometry))
    return SpineCurve(tuple(numbers), np.array(centres), min(heights), max(heights))


def frame_spine(curve: SpineCurve, geometry: Geometry, height: int, width: int) -> Frame:
    """The largest scale at which all cuts fit side by side; what room is left shows more around the spine.

    Args:
        geometry: of the volume; nothing is shown above or below it.
        height, width: pixels for all cuts together.
    """
    bottom, top = _extent(geometry)
    low, high = max(bottom, curve.low_mm - ABOVE_MM), min(top, curve.high_mm + ABOVE_MM)
    sides = {}
    for plane in Plane:
        along, (before, behind) = curve.centres[:, _ACROSS[plane]], _BESIDE_MM[plane]
        sides[plane] = (float(along.min()) - before, float(along.max()) + behind)
    across = sum(right - left for left, right in sides.values())
    scale = max((high - low) / height, across / width)
    more = min(MORE_MM, (width * scale - across) / 2 / len(sides))
    taller = (height * scale - (high - low)) / 2
    return Frame(
        scale,
        max(bottom, low - taller),
        min(top, high + taller),
        {plane: (left - more, right + more) for plane, (left, right) in sides.items()},
    )


def cut_spine(analysis: Analysis, curve: SpineCurve, frame: Frame, plane: Plane) -> SpineCut:
    """Cut along the spine."""
    across, scale, shape = _ACROSS[plane], frame.mm_per_pixel, frame.shape(plane)
    left = frame.sides[plane][0]

    def points(step: float, rows: int, columns: int, offset_mm: float = 0.0) -> NDArray[np.float64]:
        z: NDArray[np.float64] = frame.high_mm - (np.arange(rows, dtype=np.float64) + 0.5) * step
        grid = np.empty((rows, columns, 3))
        grid[..., across] = left + (np.arange(columns) + 0.5) * step
        grid[..., 1 - across] = (curve.at(z, 1 - across) + offset_mm)[:, None]
        grid[..., 2] = z[:, None]
        return grid

    volume = analysis.volume
    grey = np.zeros(shape, dtype=np.float32)
    for offset in SLAB_MM:
        index = np.moveaxis(volume.geometry.to_index(points(scale, *shape, offset)), -1, 0)
        grey += scipy.ndimage.map_coordinates(volume.hounsfield, index, np.float32, order=1, mode="constant", cval=_AIR)
    grey /= len(SLAB_MM)
    fine = points(scale / FINE, shape[0] * FINE, shape[1] * FINE)
    softness = _voxel_mm(volume.geometry, 2) / scale * FINE, _voxel_mm(volume.geometry, across) / scale * FINE
    bodies, cores = (_labels(part, fine, softness) for part in (analysis.bodies, analysis.trabecular))
    anchors = {
        number: (int((frame.high_mm - centre[2]) / scale), int((centre[across] - left) / scale))
        for number, centre in zip(curve.numbers, curve.centres, strict=False)
    }
    return SpineCut(grey, bodies, cores, anchors)


def _labels(part: Segmentation, points: NDArray[np.float64], softness: tuple[float, float]) -> NDArray[np.uint8]:
    """Segment numbers on a cut, with the steps of voxels rounded off."""
    index = np.rint(part.geometry.to_index(points)).astype(np.intp)
    inside = ((index >= 0) & (index < part.geometry.shape)).all(axis=-1)
    stepped = np.zeros(points.shape[:2], dtype=np.uint8)
    stepped[inside] = part.labels[tuple(index[inside].T)]
    sigma = tuple(0.4 * size for size in softness)  # of a voxel: rounds corners, moves no edge
    smooth = np.zeros_like(stepped)
    for number, box in enumerate(scipy.ndimage.find_objects(stepped), start=1):
        if box is None:
            continue
        margin = [int(3 * s) + 2 for s in sigma]
        wide = tuple(slice(max(0, b.start - m), b.stop + m) for b, m in zip(box, margin, strict=True))
        mask = scipy.ndimage.gaussian_filter((stepped[wide] == number).astype(np.float32), sigma) > 0.5
        smooth[wide][mask] = number
    return smooth


def _extent(geometry: Geometry) -> tuple[float, float]:
    """Lowest and highest z of the voxels' centres."""
    corners = [(k, j, i) for k in (0, geometry.shape[0] - 1) for j in (0, geometry.shape[1] - 1)
               for i in (0, geometry.shape[2] - 1)]  # fmt: skip
    heights = geometry.to_patient(np.array(corners, dtype=float))[:, 2]
    return float(heights.min()), float(heights.max())


def _voxel_mm(geometry: Geometry, axis: int) -> float:
    """How long a voxel is along one axis of the patient."""
    return float(np.max(np.abs(np.asarray(geometry.direction)[:, axis]) * np.asarray(geometry.spacing_mm)))
