"""
What is computed on: voxel grids, and where they lie in the patient.

Arrays are indexed (k, j, i): slice, row, column. Patient coordinates are DICOM's:
x to the left, y to the back, z to the head (LPS), in mm.
"""

from dataclasses import dataclass
from functools import cached_property
from math import isfinite

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from engine.errors import UnsupportedSeries
from engine.records import Reason, ScreeningResult, SeriesRef, VertebralLevel

Vector = tuple[float, float, float]
Shape = tuple[int, int, int]
Box = tuple[slice, slice, slice]

CANONICAL: tuple[Vector, Vector, Vector] = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))
"""Directions of the grid that networks see: slices to the head, rows to the back, columns to the left."""


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
        points: NDArray[np.float64] = index @ self.affine[:3, :3].T + self.affine[:3, 3]
        return points

    def to_index(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Inverse of `to_patient`.

        Args:
            points: (..., 3), mm in the patient (x, y, z).

        Returns:
            (..., 3) float64, as (k, j, i); may lie outside the grid.
        """
        inverse = np.linalg.inv(self.affine)
        index: NDArray[np.float64] = points @ inverse[:3, :3].T + inverse[:3, 3]
        return index

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

    @cached_property
    def boxes(self) -> tuple[Box | None, ...]:
        """The smallest box around each segment, in their order; None: it has no voxel."""
        found: list[Box | None] = ndimage.find_objects(self.labels, max_label=len(self.segments))  # type: ignore[assignment]
        return tuple(found)


@dataclass(frozen=True, eq=False)
class TissueMap:
    """What the spine network saw, on the network's own grid (canonical directions)."""

    geometry: Geometry
    labels: NDArray[np.uint8]  # (K, J, I), index into `tissues`
    body_probability: NDArray[np.float32]  # (K, J, I), of "vertebral_body", 0..1
    tissues: tuple[str, ...]  # names of the labels, [0] is "background"
    looked: tuple[Box, ...] = ()  # what the network was shown; the rest is background unseen. Empty: everything

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
