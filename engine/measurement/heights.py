"""
How high a vertebral body is in front, in the middle and at the back.

Measured in the body's own frame, which its endplates give: a tilted body is not a wedged one. A height
is the bone over a small area, divided by that area, so that single voxels at a rim don't decide.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.volume import Box, Geometry, Segmentation

MIDDLE_BAND = 0.25  # of the width, to both sides of the middle: where a body is as deep as it gets
ZONES = {"anterior": (0.1, 0.3), "middle": (0.4, 0.6), "posterior": (0.7, 0.9)}  # of the depth, from the front
FOOTPRINT = 0.7  # of half width and half depth: where columns end on the endplates, not on the waist
COLUMN_MM = 3.0  # side of the columns whose ends are fitted by planes
FITS = 2  # rounds of fitting; our choice: the second moves the frame by less than a degree
ENOUGH_COLUMNS = 12  # fewer don't hold a plane


@dataclass(frozen=True, slots=True)
class Heights:
    """Heights of one body, mm."""

    anterior: float
    middle: float
    posterior: float
    step_mm: float  # how far apart slices lie along the body's height: what a height can't be told below

    @property
    def lowest(self) -> float:
        """The lowest of the three."""
        return min(self.anterior, self.middle, self.posterior)

    @property
    def highest(self) -> float:
        """The highest of the three."""
        return max(self.anterior, self.middle, self.posterior)


def body_heights(bodies: Segmentation) -> Mapping[int, Heights]:
    """Heights of each body, by its label; bodies that are too small for it have none."""
    points = {n: _points(bodies, n, box) for n, box in enumerate(bodies.boxes, start=1) if box is not None}
    centres = {n: cloud.mean(axis=0) for n, cloud in points.items()}
    found = {}
    for n, cloud in points.items():
        above, below = centres.get(n - 1, centres[n]), centres.get(n + 1, centres[n])
        up = above - below if (above != below).any() else np.array([0.0, 0.0, 1.0])
        heights = _heights(cloud - centres[n], up / np.linalg.norm(up), bodies.geometry)
        if heights is not None:
            found[n] = heights
    return found


def _points(bodies: Segmentation, n: int, box: Box) -> NDArray[np.float64]:
    """(N, 3): a body's voxels in the patient, mm."""
    index = np.argwhere(bodies.labels[box] == n) + [part.start for part in box]
    return bodies.geometry.to_patient(index.astype(float))


def _heights(cloud: NDArray[np.float64], up: NDArray[np.float64], geometry: Geometry) -> Heights | None:
    for _ in range(FITS):
        u, v, w = _in_frame(cloud, up)
        slope = _endplate_slope(u, v, w)
        if slope is None:
            return None
        left, back, up = _frame(up)
        up = up - slope[0] * left - slope[1] * back
        up /= np.linalg.norm(up)
    u, v, w = _in_frame(cloud, up)
    band = np.abs(u - np.median(u)) <= MIDDLE_BAND * (np.percentile(u, 99) - np.percentile(u, 1))
    front, rear = np.percentile(v[band], (0.5, 99.5))
    depth, width = rear - front, 2 * MIDDLE_BAND * (np.percentile(u, 99) - np.percentile(u, 1))
    if depth <= 0 or width <= 0:
        return None
    bone = geometry.voxel_volume_mm3
    share = (v[band] - front) / depth
    zone = [np.count_nonzero((share >= a) & (share < b)) * bone / ((b - a) * depth * width) for a, b in ZONES.values()]
    step = max(
        abs(float(np.dot(up, axis))) * mm for axis, mm in zip(geometry.direction, geometry.spacing_mm, strict=True)
    )
    return Heights(float(zone[0]), float(zone[1]), float(zone[2]), step)


def _frame(up: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Left, back and up of a body, given its up."""
    back = np.array([0.0, 1.0, 0.0]) - up[1] * up
    back /= np.linalg.norm(back)
    return np.cross(back, up), back, up


def _in_frame(
    cloud: NDArray[np.float64], up: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    left, back, up = _frame(up)
    return cloud @ left, cloud @ back, cloud @ up


def _endplate_slope(
    u: NDArray[np.float64], v: NDArray[np.float64], w: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """(2,): mean slope of both endplates to the left and to the back; None: there are too few columns."""
    inner = (np.abs(u) <= FOOTPRINT * np.percentile(np.abs(u), 99)) & (
        np.abs(v) <= FOOTPRINT * np.percentile(np.abs(v), 99)
    )
    column = np.round(np.stack([u[inner], v[inner]]) / COLUMN_MM).astype(int)
    _, number = np.unique(column, axis=1, return_inverse=True)
    count = int(number.max(initial=-1)) + 1
    if count < ENOUGH_COLUMNS:
        return None
    sizes = np.bincount(number)
    at = np.stack(
        [np.ones(count), np.bincount(number, u[inner]) / sizes, np.bincount(number, v[inner]) / sizes], axis=1
    )
    top, bottom = np.full(count, -np.inf), np.full(count, np.inf)
    np.maximum.at(top, number, w[inner])
    np.minimum.at(bottom, number, w[inner])
    planes, *_ = np.linalg.lstsq(at, np.stack([top, bottom], axis=1), rcond=None)
    return np.asarray(planes[1:].mean(axis=1))
