"""
What is computed on: voxel grids, and where they lie in the patient.

Arrays are indexed (k, j, i): slice, row, column. Patient coordinates are DICOM's:
x to the left, y to the back, z to the head (LPS), in mm.
"""

from dataclasses import dataclass
from functools import cached_property
from math import isfinite

import numpy as np
import scipy  # its parts load at first use
from numpy.typing import NDArray

from engine.errors import UnsupportedSeries
from engine.records import Reason, ScreeningResult, SeriesRef, VertebralLevel

Vector = tuple[float, float, float]
Shape = tuple[int, int, int]
Box = tuple[slice, slice, slice]

CANONICAL: tuple[Vector, Vector, Vector] = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))
"""Directions of the grid that networks see: slices to the head, rows to the back, columns to the left."""
BESIDE_BODY_MM = 3.0
"""How far around voxels of a vertebral body its probability is told; bone probability farther off belongs to something
else."""


def moved(points: NDArray[np.floating], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points (..., 3) through an affine (4, 4), a coordinate at a time.

    A product of a long matrix with a tiny one wakes all of BLAS's threads, which then wait busily for more; where
    series share the processor that costs many times what is computed.
    """
    found = np.empty(points.shape, dtype=np.float64)
    for axis in range(3):
        found[..., axis] = weighed(points, affine[axis, :3])
        found[..., axis] += affine[axis, 3]
    return found


def weighed(points: NDArray[np.floating], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far points (..., 3) lie along a vector (3,): their products with it, without BLAS, as in `moved`."""
    total: NDArray[np.float64] = points[..., 0] * weights[0]
    for axis in (1, 2):
        if weights[axis] != 0:
            total = total + points[..., axis] * weights[axis]
    return total


def places(mask: NDArray[np.bool_]) -> NDArray[np.int_]:
    """(N, 3) indices of what is set, in memory order: NumPy's `argwhere`, in a fraction of its time."""
    return np.stack(np.unravel_index(np.flatnonzero(mask), mask.shape), axis=1)


@dataclass(frozen=True)
class Geometry:
    """A regular voxel grid in the patient; equal grids compare equal."""

    shape: Shape  # (K, J, I) voxels
    spacing_mm: Vector  # one step along k, j, i
    origin_mm: Vector  # centre of voxel (0, 0, 0)
    direction: tuple[Vector, Vector, Vector]  # unit vectors of the steps along k, j, i
    frame_of_reference_uid: str = ""

    def __post_init__(self) -> None:
        """Refuse axes that are not at right angles, and steps that lead nowhere.

        Raises:
            UnsupportedSeries: the axes are sheared, as a tilted gantry makes them, or a step is no length.
        """
        if not all(isfinite(step) and step > 0 for step in self.spacing_mm):
            raise UnsupportedSeries(Reason.SLICES_INCONSISTENT, "a step of the grid is no length")
        axes = np.asarray(self.direction)
        if not np.allclose(axes @ axes.T, np.eye(3), atol=1e-3):
            raise UnsupportedSeries(Reason.GRID_SHEARED, "the axes of the grid are not at right angles")

    @cached_property
    def affine(self) -> NDArray[np.float64]:
        """(4, 4) float64, from (k, j, i, 1) to patient mm."""
        matrix = np.eye(4)
        matrix[:3, :3] = (np.asarray(self.direction) * np.asarray(self.spacing_mm)[:, None]).T
        matrix[:3, 3] = self.origin_mm
        matrix.setflags(write=False)  # kept and shared
        return matrix

    @cached_property
    def inverse(self) -> NDArray[np.float64]:
        """(4, 4) float64, from patient mm (x, y, z, 1) to (k, j, i)."""
        matrix = np.asarray(np.linalg.inv(self.affine), dtype=np.float64)
        matrix.setflags(write=False)  # kept and shared
        return matrix

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel, mm3."""
        return float(np.prod(self.spacing_mm))

    def to_patient(self, index: NDArray[np.floating]) -> NDArray[np.float64]:
        """Where voxel centres lie.

        Args:
            index: (..., 3), as (k, j, i); fractions are points between centres.

        Returns:
            (..., 3) float64, mm in the patient (x, y, z).
        """
        return moved(index, self.affine)

    def to_index(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Inverse of `to_patient`.

        Args:
            points: (..., 3), mm in the patient (x, y, z).

        Returns:
            (..., 3) float64, as (k, j, i); may lie outside the grid.
        """
        return moved(points, self.inverse)

    def box(self, at: Box) -> "Geometry":
        """The grid of a box cut out of this one; the box must lie inside.

        >>> whole = Geometry((4, 4, 4), (2.0, 1.0, 1.0), (0.0, 0.0, 0.0), CANONICAL)
        >>> whole.box((slice(1, 3), slice(0, 4), slice(2, 4))).origin_mm
        (2.0, 0.0, 2.0)
        """
        start = np.array([part.start for part in at], dtype=float)
        x, y, z = (float(value) for value in self.to_patient(start))
        k, j, i = (part.stop - part.start for part in at)
        return Geometry((k, j, i), self.spacing_mm, (x, y, z), self.direction, self.frame_of_reference_uid)


@dataclass(frozen=True, eq=False)
class Volume:
    """A CT series as one block of voxels."""

    geometry: Geometry
    hounsfield: NDArray[np.int16]  # (K, J, I), HU; host memory
    series_instance_uid: str
    sop_instance_uids: tuple[str, ...]  # K of them: which instance each slice k came from
    frame_numbers: tuple[int, ...] = ()  # likewise: which frame of it, from 1; empty: each instance has one


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A label map on a grid: 0 is background, n is segments[n - 1]."""

    geometry: Geometry
    labels: NDArray[np.uint8]  # (K, J, I)
    segments: tuple[VertebralLevel | None, ...]  # None: found, not yet named
    near: tuple[Box | None, ...] = ()  # boxes that surely hold each segment, known to who made them; empty: not known

    @cached_property
    def boxes(self) -> tuple[Box | None, ...]:
        """The smallest box around each segment, in their order; None: it has no voxel."""
        if self.near:
            return tuple(box and _smallest(self.labels, n, box) for n, box in enumerate(self.near, start=1))
        found: list[Box | None] = scipy.ndimage.find_objects(self.labels, max_label=len(self.segments))  # type: ignore[assignment]
        return tuple(found)


def _smallest(labels: NDArray[np.uint8], n: int, near: Box) -> Box | None:
    """The smallest box around a label that lies in a box."""
    mine = labels[near] == n
    (found,) = scipy.ndimage.find_objects(mine.view(np.uint8)) or (None,)
    if found is None:
        return None
    k, j, i = (slice(a.start + b.start, a.stop + b.start) for a, b in zip(found, near, strict=True))
    return k, j, i


@dataclass(frozen=True, eq=False)
class TissueMap:
    """What the spine network saw, on the network's own grid (canonical directions)."""

    geometry: Geometry
    labels: NDArray[np.uint8]  # (K, J, I), index into `tissues`
    body_probability: NDArray[np.float32]  # (K, J, I), of "vertebral_body", 0..1; may be 0 beyond BESIDE_BODY_MM of it
    tissues: tuple[str, ...]  # names of the labels, [0] is "background"
    looked: tuple[Box, ...] = ()  # what the network was shown; the rest is background unseen. Empty: everything

    def voxels(self, tissue: str) -> NDArray[np.int_]:
        """(N, 3) indices of a tissue, in memory order; nothing is sought where nobody looked."""
        k, j, i = self._around_looked
        found = places(self.labels[k, j, i] == self.tissues.index(tissue))
        found += (k.start, j.start, i.start)
        return found

    @cached_property
    def _around_looked(self) -> Box:
        """The smallest box around what was looked at."""
        boxes = self.looked or (tuple(slice(0, n) for n in self.labels.shape),)
        k, j, i = (slice(min(box[a].start for box in boxes), max(box[a].stop for box in boxes)) for a in range(3))
        return k, j, i

    def on_side(self, voxels: NDArray[np.int_]) -> NDArray[np.bool_]:
        """Which voxels lie on the side border of what was looked at: what is there may go on beyond.

        Args:
            voxels: (N, 3) indices.

        Returns:
            (N,).
        """
        shape = np.array(self.labels.shape)
        border = ((voxels == 0) | (voxels == shape - 1))[:, 1:].any(axis=1)
        if self.looked and len(voxels):
            seen = np.zeros(shape, dtype=bool)
            for at in self.looked:
                seen[at] = True
            for axis, step in ((1, -1), (1, 1), (2, -1), (2, 1)):
                beside = voxels.copy()
                beside[:, axis] = np.clip(beside[:, axis] + step, 0, shape[axis] - 1)
                border |= ~seen[tuple(beside.T)]
        return np.asarray(border)


@dataclass(frozen=True, eq=False)
class VertebraCrop:
    """One vertebra cut out on the grid that a prediction model was trained on."""

    level: VertebralLevel
    geometry: Geometry
    hounsfield: NDArray[np.float32]  # (K, J, I), HU


@dataclass(frozen=True, eq=False)
class VertebraCut:
    """One vertebra in a picture from the side: rows to the foot, nothing else in it."""

    level: VertebralLevel
    offset_mm: float  # of the slab's middle from the vertebra's, to its left
    grey: NDArray[np.float32]  # (rows, columns), 0..255; 0 is the window's lower edge, and the background


@dataclass(frozen=True, eq=False)
class Analysis:
    """One series' whole yield: the record to keep, and the arrays that its report is drawn from."""

    series: SeriesRef
    volume: Volume
    bodies: Segmentation  # named vertebral bodies, on the volume's grid
    trabecular: Segmentation  # their eroded cores, same grid, same segments
    result: ScreeningResult
