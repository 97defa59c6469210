"""
A voxel grid that anatomy is painted on, structure by structure.

A structure is a signed distance in mm (negative inside) over a small box of the grid. Voxels that a
surface cuts take their share of each side, so a painted grid already has partial volume; a cortical
shell is a surface density that is spread over one voxel, because no CT voxel is as thin as a cortex.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.resampling import AIR
from engine.volume import Box, Geometry, Vector

CORTEX = 900.0  # mg/cm3 of compact bone (Silva 1994)
DENSEST = 1100.0  # mg/cm3 that a shell adds up to: surfaces that meet in a voxel are still bone, no metal
Field = NDArray[np.float32]
Number = float | NDArray[np.floating]


@dataclass(frozen=True)
class Region:
    """A box of the grid and where its voxels lie; x, y, z broadcast to the box's shape."""

    at: Box
    x: Field
    y: Field
    z: Field


class Canvas:
    """What a CT sees, as two fields that a scanner turns into HU, and the truth beside them."""

    def __init__(self, geometry: Geometry, densest: float = DENSEST) -> None:
        """Start with air.

        Args:
            densest: mg/cm3 that a shell adds up to at most; inf where mass must be kept whatever the grid.
        """
        self.geometry = geometry
        self._densest = np.float32(densest)
        self.soft = np.full(geometry.shape, AIR, dtype=np.float32)  # HU of everything but mineral, at 120 kV
        self.mineral = np.zeros(geometry.shape, dtype=np.float32)  # mg hydroxyapatite / cm3
        self.labels = np.zeros(geometry.shape, dtype=np.uint8)  # tissue
        self.levels = np.zeros(geometry.shape, dtype=np.uint8)  # vertebral bodies, 1 + index into the phantom's levels
        self._any_mineral = False
        self.edge_mm = float(np.prod(geometry.spacing_mm) ** (1 / 3))  # over which a surface is spread

    def region(self, low: Sequence[float], high: Sequence[float]) -> Region | None:
        """The part of the grid inside a box of the patient (x, y, z in mm), or None."""
        corners = np.array([[x, y, z] for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])])
        index = self.geometry.to_index(corners)
        start = np.maximum(np.floor(index.min(axis=0)).astype(int), 0)
        stop = np.minimum(np.ceil(index.max(axis=0)).astype(int) + 1, self.geometry.shape)
        if (stop <= start).any():
            return None
        return self._region([slice(int(a), int(b)) for a, b in zip(start, stop, strict=True)])

    def around(self, points: Sequence[Vector] | NDArray[np.floating], reach_mm: float) -> Region | None:
        """The part of the grid within reach of points of the patient, or None."""
        cloud = np.atleast_2d(np.asarray(points, dtype=float))
        return self.region(list(cloud.min(axis=0) - reach_mm), list(cloud.max(axis=0) + reach_mm))

    def slabs(self, thickness: int = 12) -> Iterator[Region]:
        """The whole grid in slabs of a few slices, small enough for a processor's cache."""
        k, j, i = self.geometry.shape
        for start in range(0, k, thickness):
            yield self._region([slice(start, min(start + thickness, k)), slice(0, j), slice(0, i)])

    def _region(self, at: list[slice]) -> Region:
        affine = self.geometry.affine
        grids = np.ogrid[tuple(at)]
        x, y, z = (_coordinate(affine[row], grids) for row in range(3))
        return Region((at[0], at[1], at[2]), x, y, z)

    def paint(
        self,
        region: Region,
        distance: Field,
        soft: float | Field,
        mineral: float | Field = 0.0,
        shell: float | Field = 0.0,
        label: int | None = None,
        level: int = 0,
    ) -> None:
        """Put one structure over what is there.

        Args:
            distance: signed, mm, of the region's shape; negative inside.
            soft: HU without mineral.
            mineral: mg/cm3 inside.
            shell: mineral of the surface, mg/cm2.
            label: tissue of the inside; None leaves the labels as they are.
            level: number of the vertebral body; 0 is none.
        """
        at = region.at
        share = distance * np.float32(-1.0 / self.edge_mm)
        share += np.float32(0.5)
        np.clip(share, 0.0, 1.0, out=share)
        _blend(self.soft[at], soft, share)
        bare = np.isscalar(mineral) and mineral == 0
        if self._any_mineral or not bare:
            _blend(self.mineral[at], mineral, share)
        if not np.isscalar(shell) or shell:
            middle = shell * np.float32(5.0 / CORTEX)  # mm below the surface: half the cortex's thickness
            near = np.clip(1.5 - 2.0 * np.abs(distance + middle) / self.edge_mm, 0.0, 1.0)  # its integral is edge_mm
            below = self.mineral[at]
            more = below + near * (shell * np.float32(10.0 / self.edge_mm))  # mg/cm2 over mm -> mg/cm3
            self.mineral[at] = np.maximum(below, np.minimum(more, self._densest))
            bare = False
        self._any_mineral = self._any_mineral or not bare
        if label is not None:
            inside = distance < 0
            self.labels[at][inside] = label
            self.levels[at][inside] = level


def _blend(below: Field, value: float | Field, share: Field) -> None:
    """Let a value take its share of what lies below, in place."""
    change = value - below
    change *= share
    below += change


def _coordinate(row: NDArray[np.float64], grids: Sequence[NDArray[np.int_]]) -> Field:
    """One patient coordinate over a box, as small as broadcasting allows."""
    total = np.full((1, 1, 1), row[3])
    for axis in range(3):
        if abs(row[axis]) > 1e-9:
            total = total + row[axis] * grids[axis]
    return np.asarray(total, dtype=np.float32)


def capsule(x: Field, y: Field, z: Field, a: Sequence[float], b: Sequence[float], radius: float) -> Field:
    """Signed distance to a rod with round ends, between points a and b."""
    ax, ay, az = (float(value) for value in a)
    dx, dy, dz = float(b[0]) - ax, float(b[1]) - ay, float(b[2]) - az
    length = dx * dx + dy * dy + dz * dz + 1e-9
    along = np.clip(((x - ax) * dx + (y - ay) * dy + (z - az) * dz) / length, 0.0, 1.0)
    squared = (x - ax - along * dx) ** 2 + (y - ay - along * dy) ** 2 + (z - az - along * dz) ** 2
    return np.asarray(np.sqrt(squared) - radius, dtype=np.float32)


def ellipsoid(x: Field, y: Field, z: Field, centre: Sequence[float], radii: Sequence[float]) -> Field:
    """About the signed distance to an ellipsoid with axes along x, y, z."""
    u, v, w = x - float(centre[0]), y - float(centre[1]), z - float(centre[2])
    q = np.sqrt((u / float(radii[0])) ** 2 + (v / float(radii[1])) ** 2 + (w / float(radii[2])) ** 2) + 1e-6
    return np.asarray((q - 1.0) * min(float(value) for value in radii), dtype=np.float32)


def rounded_box(x: Field, y: Field, z: Field, half: Sequence[float], radius: float) -> Field:
    """Signed distance to a box around the origin with rounded edges; `half` includes the rounding."""
    qx, qy, qz = np.abs(x) - (half[0] - radius), np.abs(y) - (half[1] - radius), np.abs(z) - (half[2] - radius)
    outside = np.sqrt(np.maximum(qx, 0) ** 2 + np.maximum(qy, 0) ** 2 + np.maximum(qz, 0) ** 2)
    inside = np.minimum(np.maximum(np.maximum(qx, qy), qz), 0.0)
    return np.asarray(outside + inside - radius, dtype=np.float32)


def ring(u: Number, v: Number, a: Number, b: Number, square: float = 0.0) -> tuple[Field, Field]:
    """An ellipse in a plane, drawn out towards its corners by `square` (0: an ellipse, 1: nearly a box).

    Returns:
        how far out a point lies (1 on the curve), and about its signed distance in mm.
    """
    x, y = (u / a) ** 2, (v / b) ** 2
    out = np.sqrt(x + y)
    if square:
        out = (1 - square) * out + square * np.sqrt(np.sqrt(x * x + y * y))
    out = np.maximum(out, np.float32(1e-3))
    distance = np.sqrt(u * u + v * v) * (1 - 1 / out)
    inner = (out - 1) * np.minimum(a, b)  # near the centre the direction is lost
    distance = np.where(out < 0.2, inner, distance)
    return np.asarray(out, dtype=np.float32), np.asarray(distance, dtype=np.float32)
