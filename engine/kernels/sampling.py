"""Loops that look values up at points of the patient, to the bit as NumPy and SciPy would, a voxel at a time."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.kernels.compiled import compiled


@compiled
def moved_along(affine: NDArray[np.float64], axis: int, x: float, y: float, z: float) -> float:
    """One coordinate of a point through an affine (4, 4), as `engine.volume.moved` adds it up."""
    total = x * affine[axis, 0]
    if affine[axis, 1] != 0:
        total += y * affine[axis, 1]
    if affine[axis, 2] != 0:
        total += z * affine[axis, 2]
    return float(total + affine[axis, 3])


@compiled
def linear(values: NDArray[Any], at_k: float, at_j: float, at_i: float, outside: float) -> np.float32:
    """Linear interpolation at a place, as SciPy's `map_coordinates` of order 1 with a constant beyond the borders.

    Args:
        values: (K, J, I).
    """
    depth, rows, columns = values.shape
    if not (0 <= at_k <= depth - 1 and 0 <= at_j <= rows - 1 and 0 <= at_i <= columns - 1):
        return np.float32(outside)
    k, j, i = int(at_k), int(at_j), int(at_i)
    before_k, before_j, before_i = 1.0 - (at_k - k), 1.0 - (at_j - j), 1.0 - (at_i - i)
    total = 0.0
    for a in range(2):
        weight_k = before_k if a == 0 else 1.0 - before_k
        for b in range(2):
            weight_j = before_j if b == 0 else 1.0 - before_j
            for c in range(2):
                weight_i = before_i if c == 0 else 1.0 - before_i
                value = float(values[min(k + a, depth - 1), min(j + b, rows - 1), min(i + c, columns - 1)])
                total += value * weight_k * weight_j * weight_i
    return np.float32(total)


@compiled
def add_sheets(
    values: NDArray[np.int16],
    to_values: NDArray[np.float64],
    distance: NDArray[np.float32],
    to_distance: NDArray[np.float64],
    start: NDArray[np.float64],
    middle: NDArray[np.float64],
    axes: NDArray[np.float64],
    down: NDArray[np.float64],
    back: NDArray[np.float64],
    aside: NDArray[np.float64],
    limits: tuple[float, float, float, float],
    total: NDArray[np.float32],
) -> None:
    """Add up parallel sheets through a volume, of which what lies too far from a shape is as dark as can be.

    Args:
        values, to_values: of the volume, (K, J, I), and from the patient to its indices, (4, 4).
        distance, to_distance: the same of the distance to the shape; the block begins at index `start`, (3,).
        middle, axes: of the sheets, (3,) mm and (3, 3): to the left, the back and the head.
        down, back, aside: (rows,), (columns,) and (sheets,) mm from the middle along these axes, `down` to the head.
        limits: largest distance, distance beyond the block, darkest and brightest value.
        total: (rows, columns), is added to.
    """
    reach, beyond = np.float32(limits[0]), limits[1]
    low, high = np.float32(limits[2]), np.float32(limits[3])
    index = np.empty(3, np.float64)
    point = np.empty(3, np.float64)
    for a in range(len(aside)):
        for r in range(len(down)):
            for c in range(len(back)):
                for n in range(3):
                    flat = middle[n] + down[r] * axes[2, n] + back[c] * axes[1, n]
                    point[n] = flat + aside[a] * axes[0, n]
                for n in range(3):
                    index[n] = moved_along(to_distance, n, point[0], point[1], point[2]) - start[n]
                value = low
                if linear(distance, index[0], index[1], index[2], beyond) <= reach:
                    for n in range(3):
                        index[n] = moved_along(to_values, n, point[0], point[1], point[2])
                    value = linear(values, index[0], index[1], index[2], limits[2])
                total[r, c] += min(max(value, low), high)


@compiled
def put_under(
    labels: NDArray[np.uint8],
    wanted: int,
    to_index: NDArray[np.float64],
    to_patient: NDArray[np.float64],
    low: NDArray[np.int64],
    high: NDArray[np.int64],
    out: NDArray[np.uint8],
) -> None:
    """Set a label where a grid's voxel centre lies in a voxel of that label.

    Args:
        labels, to_index: (K, J, I), and from the patient to its indices, (4, 4).
        to_patient: (4, 4), of the grid of `out`.
        low, high: (3,) first voxel of that grid to look at, and the one after the last.
        out: set to `wanted` there, else left as it is.
    """
    index = np.empty(3, np.int64)
    for k in range(low[0], high[0]):
        for j in range(low[1], high[1]):
            for i in range(low[2], high[2]):
                x = moved_along(to_patient, 0, k, j, i)
                y = moved_along(to_patient, 1, k, j, i)
                z = moved_along(to_patient, 2, k, j, i)
                inside = True
                for n in range(3):
                    index[n] = int(np.rint(moved_along(to_index, n, x, y, z)))
                    inside = inside and 0 <= index[n] < labels.shape[n]
                if inside and labels[index[0], index[1], index[2]] == wanted:
                    out[k, j, i] = wanted


@compiled
def nearest(values: NDArray[np.int16], step: NDArray[np.float64], outside: np.int16, out: NDArray[np.int16]) -> None:
    """The nearest voxel, as SciPy's `affine_transform` of order 0 with a constant beyond the borders.

    Args:
        values: (K, J, I).
        step: (4, 4), from an index of `out` to one of `values`.
        out: (K', J', I'), is overwritten.
    """
    index = np.empty(3, np.int64)
    for k in range(out.shape[0]):
        for j in range(out.shape[1]):
            for i in range(out.shape[2]):
                inside = True
                for axis in range(3):
                    at = step[axis, 3] + k * step[axis, 0] + j * step[axis, 1] + i * step[axis, 2]
                    inside = inside and 0 <= at <= values.shape[axis] - 1
                    index[axis] = int(np.floor(at + 0.5)) if inside else 0
                out[k, j, i] = values[index[0], index[1], index[2]] if inside else outside


@compiled
def nearest_of(
    course: NDArray[np.float64], points: NDArray[np.float64], number: NDArray[np.int64], distance: NDArray[np.float64]
) -> None:
    """The nearest point of a course that falls steadily, and how far away it is.

    Args:
        course: (S, 3), the last coordinate falling from one to the next.
        points: (N, 3).
        number, distance: (N,), are overwritten; of equally near ones the first.
    """
    last = len(course) - 1
    for n in range(len(points)):
        x, y, z = points[n, 0], points[n, 1], points[n, 2]
        low, high = 0, last  # the first of the course that is not above the point
        while low < high:
            middle = (low + high) // 2
            if course[middle, 2] > z:
                low = middle + 1
            else:
                high = middle
        best, found = np.inf, 0
        for s in range(low, last + 1):
            away = course[s, 2] - z
            if away * away > best:
                break
            square = (x - course[s, 0]) * (x - course[s, 0]) + (y - course[s, 1]) * (y - course[s, 1]) + away * away
            if square < best:
                best, found = square, s
        for s in range(low - 1, -1, -1):
            away = course[s, 2] - z
            if away * away > best:
                break
            square = (x - course[s, 0]) * (x - course[s, 0]) + (y - course[s, 1]) * (y - course[s, 1]) + away * away
            if square <= best:
                best, found = square, s
        number[n], distance[n] = found, np.sqrt(best)
