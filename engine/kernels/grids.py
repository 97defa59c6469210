"""Loops from grid to grid."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.kernels.compiled import compiled


@compiled
def weigh_axes(
    values: NDArray[Any],
    taps_k: tuple[NDArray[np.int64], NDArray[np.float32]],
    taps_j: tuple[NDArray[np.int64], NDArray[np.float32]],
    taps_i: tuple[NDArray[np.int64], NDArray[np.float32]],
    out: NDArray[np.float32],
    first: int,
    last: int,
) -> None:
    """Slices `first` to `last` of a grid whose axes run along those of `values`; each voxel a weighted sum.

    Args:
        values: (K, J, I), contiguous.
        taps_k: (K', T) indices into axis k, and their weights; likewise for j and i.
        out: (K', J', I'), is overwritten.
    """
    (at_k, weight_k), (at_j, weight_j), (at_i, weight_i) = taps_k, taps_j, taps_i
    low, high = at_i.min(), at_i.max() + 1
    most = at_k.shape[1] * at_j.shape[1] + 3
    rows_k, rows_j, weights = np.empty(most, np.int64), np.empty(most, np.int64), np.empty(most, np.float32)
    width = high - low
    row = np.empty(width, np.float32)
    for k in range(first, last):
        for j in range(out.shape[1]):
            count = 0
            for a in range(at_k.shape[1]):
                for b in range(at_j.shape[1]):
                    weight = weight_k[k, a] * weight_j[j, b]
                    if weight != 0:
                        rows_k[count], rows_j[count], weights[count] = at_k[k, a], at_j[j, b], weight
                        count += 1
            while count % 4:  # four rows at a time; the last ones count nothing
                rows_k[count], rows_j[count], weights[count] = rows_k[0], rows_j[0], 0
                count += 1
            row[:] = 0
            for n in range(0, count, 4):
                p, q = values[rows_k[n], rows_j[n], low:high], values[rows_k[n + 1], rows_j[n + 1], low:high]
                r, s = values[rows_k[n + 2], rows_j[n + 2], low:high], values[rows_k[n + 3], rows_j[n + 3], low:high]
                u, v, w, x = weights[n], weights[n + 1], weights[n + 2], weights[n + 3]
                for i in range(width):
                    row[i] += (u * np.float32(p[i]) + v * np.float32(q[i])) + (
                        w * np.float32(r[i]) + x * np.float32(s[i])
                    )
            if at_i.shape[1] == 2:
                for i in range(out.shape[2]):
                    out[k, j, i] = weight_i[i, 0] * row[at_i[i, 0] - low] + weight_i[i, 1] * row[at_i[i, 1] - low]
                continue
            for i in range(out.shape[2]):
                total = np.float32(0)
                for c in range(at_i.shape[1]):
                    total += weight_i[i, c] * row[at_i[i, c] - low]
                out[k, j, i] = total


@compiled
def turn(
    values: NDArray[Any],
    step: NDArray[np.float64],
    shape: tuple[int, int, int],
    factor: NDArray[np.int64],
    start: NDArray[np.int64],
    outside: float,
    out: NDArray[np.float32],
    first: int,
    last: int,
) -> None:
    """Slices `first` to `last` of a grid that lies anyhow; each voxel is interpolated between eight.

    Args:
        values: (K, J, I), contiguous: means of blocks of `factor` voxels, from voxel `start` of the source.
        step: (4, 4), from target index to source voxel.
        shape: of the source, voxels.
        out: (K', J', I'), is overwritten.
    """
    low = np.empty(3, np.int64)
    part = np.empty(3, np.float64)
    other = np.empty(3, np.int64)
    for k in range(first, last):
        for j in range(out.shape[1]):
            for i in range(out.shape[2]):
                inside = True
                for axis in range(3):
                    index = step[axis, 0] * k + step[axis, 1] * j + step[axis, 2] * i + step[axis, 3]
                    if index < -0.5 - 1e-6 or index > shape[axis] - 0.5 + 1e-6:
                        inside = False
                    index = (index - start[axis] - (factor[axis] - 1) / 2) / factor[axis]
                    index = min(max(index, 0.0), values.shape[axis] - 1.0)
                    low[axis] = int(index)
                    part[axis] = index - low[axis]
                    other[axis] = min(low[axis] + 1, values.shape[axis] - 1)
                if not inside:
                    out[k, j, i] = outside
                    continue
                total = 0.0
                for corner in range(8):
                    weight = 1.0
                    a, b, c = low[0], low[1], low[2]
                    if corner & 4:
                        a, weight = other[0], weight * part[0]
                    else:
                        weight *= 1 - part[0]
                    if corner & 2:
                        b, weight = other[1], weight * part[1]
                    else:
                        weight *= 1 - part[1]
                    if corner & 1:
                        c, weight = other[2], weight * part[2]
                    else:
                        weight *= 1 - part[2]
                    total += weight * values[a, b, c]
                out[k, j, i] = total
