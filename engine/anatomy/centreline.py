"""
Find the spine's course through the bodies and discs, and lay the bones along it.

The course is the smooth way from the topmost to the lowest bone that gathers the most vertebral
tissue, found for all slices at once: a blob in a rib, the breastbone or a hip can't pull it away,
and a missing body does not interrupt it. Along it the spine is straight: each voxel gets its way
along the course and its distance from it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # its parts load at first use
from numpy.typing import NDArray

from engine.volume import Geometry, TissueMap

STEP_MM = 1.0  # between samples of a centreline
BEYOND_MM = 40.0  # a centreline goes on straight this far at both ends, so that tilted bones project onto it
COARSE_MM = 4.0  # grid of the search; our choice: a tenth of a body
GRAIN_MM = 6.0  # sigma of the smoothing that makes bodies into hills; our choice: a third of a small body's depth
TURN_COST = 0.03  # evidence that a sideways step of one coarse voxel costs; our choice: a blob must be large to pay it
SMOOTH_MM = 9.0  # sigma along the course; our choice: half a small vertebra, so that single bodies don't bend it
TUBE_MM = 38.0  # a body's voxels lie this near to the course: half of 52 x 36 mm, osteophytes and a margin


@dataclass(frozen=True, eq=False)
class Centreline:
    """The spine's course, from head to foot."""

    points: NDArray[np.float64]  # (S, 3) mm in the patient, STEP_MM apart

    def project(self, points: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Way along the course and distance from it, mm, of points (N, 3) in the patient."""
        if not (np.diff(self.points[:, 2]) < 0).all():  # a course that turns back, which no spine has
            distance, index = scipy.spatial.cKDTree(self.points).query(points)
            return np.asarray(index * STEP_MM, dtype=np.float64), np.asarray(distance, dtype=np.float64)
        from engine.kernels.sampling import nearest_of

        number, away = np.empty(len(points), dtype=np.int64), np.empty(len(points))
        nearest_of(self.points, np.ascontiguousarray(points, dtype=np.float64), number, away)
        return np.asarray(number * STEP_MM, dtype=np.float64), away

    def at(self, way_mm: NDArray[np.floating]) -> NDArray[np.float64]:
        """Points of the course at ways along it; (N, 3) mm in the patient."""
        index = np.clip(np.round(np.asarray(way_mm) / STEP_MM).astype(int), 0, len(self.points) - 1)
        points: NDArray[np.float64] = self.points[index]
        return points


def find_centreline(tissues: TissueMap) -> Centreline | None:
    """The spine's course, or None where no vertebral body was seen."""
    body, disc = (tissues.labels == tissues.tissues.index(name) for name in ("vertebral_body", "disc"))
    spine = body | disc
    seen = np.flatnonzero(body.any(axis=(1, 2)))
    if not len(seen):
        return None
    first, last = int(seen[0]), int(seen[-1]) + 1
    coarse = _coarse_course(spine[first:last], tissues.geometry)
    rows = _centres(spine, first, coarse, tissues.geometry)
    return Centreline(_sampled(tissues.geometry.to_patient(rows), tissues.geometry.spacing_mm[0]))


def _coarse_course(spine: NDArray[np.bool_], geometry: Geometry) -> NDArray[np.float64]:
    """(K, 2): row and column of the best way through slices of `spine`, one point a slice."""
    from engine.kernels.ways import best_way

    factors = [max(1, round(COARSE_MM / step)) for step in geometry.spacing_mm]
    short = [(0, -n % f) for n, f in zip(spine.shape, factors, strict=True)]
    k = (spine.shape[0] + short[0][1]) // factors[0]
    evidence = _counted(np.pad(spine, short), factors).astype(np.float32) / np.float32(np.prod(factors))
    sigma = [GRAIN_MM / (step * f) for step, f in zip(geometry.spacing_mm, factors, strict=True)]
    evidence = scipy.ndimage.gaussian_filter(evidence, sigma, mode="constant")
    way = np.empty((k, 2), dtype=np.int64)
    best_way(evidence, TURN_COST, way)
    middle = [(f - 1) / 2 for f in factors]
    at = (np.arange(spine.shape[0]) - middle[0]) / factors[0]
    return np.stack([np.interp(at, np.arange(k), way[:, a]) * factors[a + 1] + middle[a + 1] for a in (0, 1)], axis=1)


def _counted(mask: NDArray[np.bool_], factors: Sequence[int]) -> NDArray[np.generic]:
    """How many voxels are set in each block; axes are whole multiples of the blocks."""
    counts: NDArray[np.generic] = mask.astype(np.min_scalar_type(int(np.prod(factors))))
    for axis, n in enumerate(factors):
        at: list[slice] = [slice(None)] * 3
        parts = []
        for first in range(n):
            at[axis] = slice(first, None, n)
            parts.append(counts[tuple(at)])
        counts = sum(parts[1:], start=parts[0])
    return counts


def _centres(
    spine: NDArray[np.bool_], first: int, course: NDArray[np.float64], geometry: Geometry
) -> NDArray[np.float64]:
    """(K', 3): index of the spine's centre in each slice that holds some of it near the coarse course."""
    _, dj, di = geometry.spacing_mm
    reach = TUBE_MM * 0.75
    found = []
    for n, (row, column) in enumerate(course):
        j0, j1 = max(0, int(row - reach / dj)), int(row + reach / dj) + 1
        i0, i1 = max(0, int(column - reach / di)), int(column + reach / di) + 1
        j, i = np.nonzero(spine[first + n, j0:j1, i0:i1])
        if len(j):
            found.append((first + n, j.mean() + j0, i.mean() + i0))
    if not found:  # the coarse course missed thin evidence: take the course itself
        return np.column_stack([first + np.arange(len(course)), course])
    return np.array(found, dtype=float)


def _sampled(points: NDArray[np.float64], slice_mm: float) -> NDArray[np.float64]:
    """Smooth the centres, from head to foot, and sample them evenly, with straight ends."""
    points = points[np.argsort(-points[:, 2])]
    z = np.arange(points[0, 2], points[-1, 2] - slice_mm / 2, -slice_mm)
    even = np.column_stack([np.interp(-z, -points[:, 2], points[:, a]) for a in range(3)])
    even = _straight_ends(even, slice_mm, 3 * SMOOTH_MM)
    smooth = scipy.ndimage.gaussian_filter1d(even, SMOOTH_MM / slice_mm, axis=0, mode="nearest")
    extra = round(3 * SMOOTH_MM / slice_mm)
    smooth = _straight_ends(smooth[extra:-extra], slice_mm, BEYOND_MM)
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(smooth, axis=0), axis=1))])
    steps = np.arange(0.0, along[-1], STEP_MM)
    return np.column_stack([np.interp(steps, along, smooth[:, a]) for a in range(3)])


def _straight_ends(points: NDArray[np.float64], step_mm: float, length_mm: float) -> NDArray[np.float64]:
    """Go on at both ends in the direction of the last 30 mm."""
    count = round(length_mm / step_mm)
    back = min(len(points) - 1, max(1, round(30 / step_mm)))
    away = np.arange(1, count + 1)[:, None]
    if len(points) < 2:
        up = np.array([0.0, 0.0, step_mm])
        return np.concatenate([points[0] + away[::-1] * up, points, points[-1] - away * up])
    top, bottom = (points[0] - points[back]) / back, (points[-1] - points[-1 - back]) / back
    return np.concatenate([points[0] + away[::-1] * top, points, points[-1] + away * bottom])
