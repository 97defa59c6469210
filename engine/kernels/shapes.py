"""Loops over the voxels of one vertebra."""

import numpy as np
from numpy.typing import NDArray

from engine.kernels.compiled import compiled
from engine.kernels.sampling import moved_along


@compiled
def least_along(squared: NDArray[np.float32], axis: int, added: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """The least of what lies along an axis, each with what so many planes away add.

    Args:
        squared, out: (K, J, I); `out` is overwritten.
        added: (R,), of the next plane and those after it, rising.
    """
    depth, rows, columns = squared.shape
    for k in range(depth):
        for j in range(rows):
            own = out[k, j]
            own[:] = squared[k, j]
            for n in range(len(added)):
                apart, more = n + 1, added[n]
                if axis == 2:
                    row = squared[k, j]
                    for i in range(columns - apart):
                        own[i] = min(own[i], row[i + apart] + more)
                    for i in range(apart, columns):
                        own[i] = min(own[i], row[i - apart] + more)
                    continue
                for side in (-apart, apart):
                    a, b = (k + side, j) if axis == 0 else (k, j + side)
                    if 0 <= a < depth and 0 <= b < rows:
                        other = squared[a, b]
                        for i in range(columns):
                            own[i] = min(own[i], other[i] + more)


@compiled
def columns_of(
    u: NDArray[np.float64],
    v: NDArray[np.float64],
    w: NDArray[np.float64],
    side: float,
    reach: NDArray[np.float64],
    sums: NDArray[np.float64],
) -> None:
    """Gather points in upright columns of a square base.

    Args:
        u, v, w: (N,) to the left, to the back and up.
        side: of a column.
        reach: (2,) farthest middle of a column, to the left and to the back.
        sums: (5, A, B), the middle column in the middle: how many, sums of u and v, highest and lowest w; set to 0,
            0, 0, less than any and more than any before.
    """
    left, back = sums.shape[1] // 2, sums.shape[2] // 2
    for n in range(len(u)):
        a, b = np.rint(u[n] / side), np.rint(v[n] / side)
        if abs(a) * side <= reach[0] and abs(b) * side <= reach[1]:
            own = sums[:, int(a) + left, int(b) + back]
            own[0] += 1
            own[1] += u[n]
            own[2] += v[n]
            own[3] = max(own[3], w[n])
            own[4] = min(own[4], w[n])


@compiled
def mark_inside(
    to_patient: NDArray[np.float64], to_index: NDArray[np.float64], shape: tuple[int, int, int], out: NDArray[np.bool_]
) -> None:
    """Which voxel centres of a grid lie in another grid's voxels.

    Args:
        to_patient: (4, 4), of the grid of `out`.
        to_index: (4, 4), from the patient to the other grid, of so many voxels.
        out: (K, J, I), is overwritten.
    """
    for k in range(out.shape[0]):
        for j in range(out.shape[1]):
            for i in range(out.shape[2]):
                x = moved_along(to_patient, 0, k, j, i)
                y = moved_along(to_patient, 1, k, j, i)
                z = moved_along(to_patient, 2, k, j, i)
                inside = True
                for n in range(3):
                    inside = inside and -0.5 <= moved_along(to_index, n, x, y, z) <= shape[n] - 0.5
                out[k, j, i] = inside
