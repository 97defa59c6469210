"""What a network's answers to overlapping tiles say together: loops over logits, once through."""

import numpy as np
from numpy.typing import NDArray

from engine.kernels.compiled import compiled

LARGEST = np.finfo(np.float32).max


@compiled
def mark_blocks(
    logits: NDArray[np.float32],
    wanted: NDArray[np.bool_],
    start: tuple[int, int, int],
    block: int,
    marks: NDArray[np.bool_],
) -> bool:
    """Mark the blocks of a grid in which a voxel's likeliest class (the first of equals) is wanted.

    Args:
        logits: (C, K, J, I) of a tile that lies at `start` in the grid.
        wanted: (M, C), of each of M kinds of tissue.
        block: voxels along each edge of a block.
        marks: (M, ...) of the grid's blocks, set where something is found.

    Returns:
        whether all logits are finite numbers.
    """
    classes, depth, rows, columns = logits.shape
    best, label = np.empty(columns, np.float32), np.empty(columns, np.int32)
    odd = np.zeros(columns, np.int32)
    any_wanted = np.zeros(classes, np.bool_)
    for kind in range(len(wanted)):
        any_wanted |= wanted[kind]
    for k in range(depth):
        for j in range(rows):
            row = logits[0, k, j]
            for i in range(columns):
                best[i] = row[i]
                label[i] = 0
                odd[i] |= np.int32(not abs(row[i]) <= LARGEST)
            for c in range(1, classes):
                row = logits[c, k, j]
                for i in range(columns):
                    more = row[i] > best[i]
                    best[i] = row[i] if more else best[i]
                    label[i] = np.int32(c) if more else label[i]
                    odd[i] |= np.int32(not abs(row[i]) <= LARGEST)
            for i in range(columns):
                if any_wanted[label[i]]:
                    for kind in range(len(wanted)):
                        if wanted[kind, label[i]]:
                            marks[kind, (start[0] + k) // block, (start[1] + j) // block, (start[2] + i) // block] = (
                                True
                            )
    return not odd.any()


@compiled
def add_weighed(
    logits: NDArray[np.float32],
    weights: NDArray[np.float32],
    start: tuple[int, int],
    sums: NDArray[np.float32],
    total: NDArray[np.float32],
) -> None:
    """Add some slices of a tile to weighted sums.

    Args:
        logits, weights: (C, K, J, I) and (K, J, I), of the same slices.
        start: row and column of the tile in the sums.
        sums, total: (C, K, ...) and (K, ...), are added to.
    """
    classes, depth, rows, columns = logits.shape
    j0, i0 = start
    for k in range(depth):
        for j in range(rows):
            weight, whole = weights[k, j], total[k, j0 + j, i0 : i0 + columns]
            for i in range(columns):
                whole[i] += weight[i]
            for c in range(classes):
                row, own = logits[c, k, j], sums[c, k, j0 + j, i0 : i0 + columns]
                for i in range(columns):
                    own[i] += row[i] * weight[i]


@compiled
def likeliest(sums: NDArray[np.float32], total: NDArray[np.float32], labels: NDArray[np.uint8]) -> None:
    """The likeliest class of each voxel (the first of equals); where no tile was, nothing is written.

    Args:
        sums, total: (C, K, J, I) and (K, J, I): weighted sums, and their weights.
        labels: (K, J, I).
    """
    classes, depth, rows, columns = sums.shape
    best, label = np.empty(columns, np.float32), np.empty(columns, np.int32)
    for k in range(depth):
        for j in range(rows):
            weight = total[k, j]
            for i in range(columns):
                best[i] = sums[0, k, j, i] / weight[i]
                label[i] = 0
            for c in range(1, classes):
                row = sums[c, k, j]
                for i in range(columns):
                    value = row[i] / weight[i]
                    more = value > best[i]
                    best[i] = value if more else best[i]
                    label[i] = np.int32(c) if more else label[i]
            for i in range(columns):
                if weight[i] > 0:
                    labels[k, j, i] = label[i]


@compiled
def mark_near(labels: NDArray[np.uint8], wanted: int, reach: tuple[int, int, int], near: NDArray[np.bool_]) -> None:
    """Mark all voxels in a block around each voxel of a class.

    Args:
        labels, near: (K, J, I); `near` is set where something is.
        reach: voxels to both sides along each axis.
    """
    depth, rows, columns = labels.shape
    for k in range(depth):
        for j in range(rows):
            until = 0  # of this row is marked already
            for i in range(columns):
                if labels[k, j, i] != wanted:
                    continue
                first, last = max(until, i - reach[2]), min(columns, i + reach[2] + 1)
                for a in range(max(0, k - reach[0]), min(depth, k + reach[0] + 1)):
                    for b in range(max(0, j - reach[1]), min(rows, j + reach[1] + 1)):
                        near[a, b, first:last] = True
                until = last


@compiled
def add_at(
    logits: NDArray[np.float32],
    weights: NDArray[np.float32],
    start: tuple[int, int, int],
    places: NDArray[np.int64],
    sums: NDArray[np.float32],
    total: NDArray[np.float32],
) -> None:
    """Add a tile to the weighted sums of single voxels.

    Args:
        logits, weights: (C, K, J, I) and (K, J, I) of a tile that lies at `start` in the grid.
        places: (N, 3) indices into the grid.
        sums, total: (N, C) and (N,), are added to.
    """
    classes, depth, rows, columns = logits.shape
    for n in range(len(places)):
        k, j, i = places[n, 0] - start[0], places[n, 1] - start[1], places[n, 2] - start[2]
        if 0 <= k < depth and 0 <= j < rows and 0 <= i < columns:
            weight = weights[k, j, i]
            total[n] += weight
            for c in range(classes):
                sums[n, c] += logits[c, k, j, i] * weight


@compiled
def share_of(sums: NDArray[np.float32], total: NDArray[np.float32], wanted: int, share: NDArray[np.float32]) -> None:
    """The softmax of one class.

    Args:
        sums, total: (N, C) and (N,): weighted sums, and their weights.
        share: (N,), is overwritten.
    """
    for n in range(len(total)):
        weight = total[n]
        best = sums[n, 0] / weight
        for c in range(1, sums.shape[1]):
            best = max(best, sums[n, c] / weight)
        powers, own = np.float32(0), np.float32(0)
        for c in range(sums.shape[1]):
            power = np.exp(sums[n, c] / weight - best)
            powers += power
            if c == wanted:
                own = power
        share[n] = own / powers
