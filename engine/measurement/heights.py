"""
How high a vertebral body is in front, in the middle and at the back.

Measured in the body's own frame, which its endplates give: a tilted body is not a wedged one. A height
is the bone over a small area, divided by that area, so that single voxels at a rim don't decide.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.volume import Box, Geometry, Segmentation, places, weighed

MIDDLE_BAND = 0.25  # of the width, to both sides of the middle: where a body is as deep as it gets
ZONES = {"anterior": (0.08, 0.22), "middle": (0.43, 0.57), "posterior": (0.78, 0.92)}  # of the depth, from the front
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
    index = places(bodies.labels[box] == n) + [part.start for part in box]
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
    left, back, up = _frame(up)
    axes, spacing = np.asarray(geometry.direction), np.asarray(geometry.spacing_mm)
    u, v = weighed(cloud, left), weighed(cloud, back)
    half = MIDDLE_BAND * float(np.percentile(u, 99) - np.percentile(u, 1))
    middle = float(np.median(u))
    front, rear = np.percentile(v[np.abs(u - middle) <= half], (0.5, 99.5))
    depth = float(rear - front)
    if depth <= 0 or half <= 0:
        return None
    steps = [float(np.abs(axes @ axis) @ spacing) for axis in (left, back, up)]
    inside = _overlap(u, steps[0], middle - half, middle + half)
    zone = [
        float((inside * _overlap(v, steps[1], front + a * depth, front + b * depth)).sum())
        / ((b - a) * depth * 2 * half)
        for a, b in ZONES.values()
    ]
    bone = geometry.voxel_volume_mm3
    return Heights(zone[0] * bone, zone[1] * bone, zone[2] * bone, float(steps[2]))


def _overlap(at: NDArray[np.float64], step_mm: float, low: float, high: float) -> NDArray[np.float64]:
    """Share of voxels of a width around points that lies between two limits."""
    return np.clip((np.minimum(at + step_mm / 2, high) - np.maximum(at - step_mm / 2, low)) / step_mm, 0, 1)


def _frame(up: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Left, back and up of a body, given its up."""
    back = np.array([0.0, 1.0, 0.0]) - up[1] * up
    back /= np.linalg.norm(back)
    return np.cross(back, up), back, up


def _in_frame(
    cloud: NDArray[np.float64], up: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    left, back, up = _frame(up)
    return weighed(cloud, left), weighed(cloud, back), weighed(cloud, up)


def _endplate_slope(
    u: NDArray[np.float64], v: NDArray[np.float64], w: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """(2,): mean slope of both endplates to the left and to the back; None: there are too few columns."""
    from engine.kernels.shapes import columns_of

    reach = FOOTPRINT * np.percentile(np.abs([u, v]), 99, axis=1)  # whole columns inside it, never slivers of one
    half = (reach / COLUMN_MM).astype(int) + 1
    sums = np.zeros((5, *(2 * half + 1)))
    sums[3], sums[4] = -np.inf, np.inf
    columns_of(u, v, w, COLUMN_MM, reach, sums)
    sizes, left, back, top, bottom = sums[:, sums[0] > 0]
    if len(sizes) < ENOUGH_COLUMNS:
        return None
    at = np.stack([np.ones(len(sizes)), left / sizes, back / sizes], axis=1)
    planes, *_ = np.linalg.lstsq(at, np.stack([top, bottom], axis=1), rcond=None)
    return np.asarray(planes[1:].mean(axis=1))
