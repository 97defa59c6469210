"""The best way through slices."""

import numpy as np
from numpy.typing import NDArray

from engine.kernels.compiled import compiled


@compiled
def best_way(evidence: NDArray[np.float32], turn_cost: float, way: NDArray[np.int64]) -> None:
    """The way of the highest sum from the first slice to the last, moving at most one voxel a slice.

    Args:
        evidence: (K, J, I).
        turn_cost: of a voxel's step aside.
        way: (K, 2), is overwritten: row and column in each slice; of equally good ones the first.
    """
    count, rows, columns = evidence.shape
    came = np.zeros(evidence.shape, np.int8)
    best, before = evidence[0].copy(), np.empty((rows, columns), np.float32)
    costs = np.empty(9, np.float32)
    for move in range(9):
        costs[move] = turn_cost * np.hypot(float(move // 3 - 1), float(move % 3 - 1))
    for k in range(1, count):
        before[:] = best
        for j in range(rows):
            for i in range(columns):
                value, taken = np.float32(-np.inf), 0
                for move in range(9):
                    a, b = j + move // 3 - 1, i + move % 3 - 1
                    if 0 <= a < rows and 0 <= b < columns:
                        other = before[a, b] - costs[move]
                        if other > value:
                            value, taken = other, move
                best[j, i] = evidence[k, j, i] + value
                came[k, j, i] = taken
    end = np.argmax(best)
    way[count - 1, 0], way[count - 1, 1] = end // columns, end % columns
    for k in range(count - 1, 0, -1):
        move = came[k, way[k, 0], way[k, 1]]
        way[k - 1, 0], way[k - 1, 1] = way[k, 0] + move // 3 - 1, way[k, 1] + move % 3 - 1
