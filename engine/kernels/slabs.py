"""Loops over slabs: runs of slices that are looked at as one."""

import numpy as np
from numpy.typing import NDArray

from engine.kernels.compiled import compiled


@compiled
def coarse_mean(
    values: NDArray[np.int16], labels: NDArray[np.uint8], step: tuple[int, int], out: NDArray[np.float32],
    labelled: NDArray[np.bool_],
) -> None:  # fmt: skip
    """Mean of slices, then of blocks of its pixels.

    Args:
        values, labels: (K, J, I).
        step: rows and columns of a block; what is left over at the far edges is dropped.
        out: (J', I'), is overwritten.
        labelled: (J', I'), is overwritten: whether any voxel of the block bears a label.
    """
    count, pixels = np.float32(len(values)), np.float32(step[0] * step[1])
    rows, columns = out.shape
    totals, marks = np.empty(columns * step[1], np.int32), np.empty(columns * step[1], np.uint8)
    for j in range(rows):
        sums, some = out[j], labelled[j]
        sums[:], some[:] = 0, False
        for b in range(step[0]):
            totals[:], marks[:] = 0, 0
            for k in range(len(values)):
                row, names = values[k, j * step[0] + b], labels[k, j * step[0] + b]
                for i in range(len(totals)):
                    totals[i] += row[i]
                    marks[i] |= names[i]
            for i in range(columns):
                own = np.float32(0)
                for c in range(step[1]):
                    own += np.float32(totals[i * step[1] + c]) / count
                    some[i] = some[i] or marks[i * step[1] + c] > 0
                sums[i] += own
        for i in range(columns):
            sums[i] /= pixels


@compiled
def opened(mask: NDArray[np.bool_], reach: NDArray[np.int64], margin: int) -> NDArray[np.bool_]:
    """A picture without what is too thin to hold a disc.

    Args:
        mask: (J, I).
        reach: (R,) columns to both sides of its middle that each row of the disc has, its middle row the (R // 2)th.
        margin: pixels beyond its edges in which the picture goes on as at them; then there is nothing.

    Returns:
        (J, I), as SciPy's `binary_opening`.
    """
    wide = len(reach) // 2
    rows, columns = mask.shape
    edge = 2 * wide
    padded = np.zeros((rows + 2 * edge, columns + 2 * edge), np.int32)  # set pixels of a row up to each place
    for j in range(padded.shape[0]):
        row = mask[min(max(j - edge, 0), rows - 1)]
        within = -margin <= j - edge < rows + margin
        count = 0
        for i in range(padded.shape[1]):
            if within and -margin <= i - edge < columns + margin:
                count += row[min(max(i - edge, 0), columns - 1)]
            padded[j, i] = count
    out = np.zeros(mask.shape, np.bool_)
    for j in range(wide, padded.shape[0] - wide):
        for i in range(wide, padded.shape[1] - wide):
            fits = True
            for n in range(len(reach)):
                row, left, right = padded[j + n - wide], i - reach[n], i + reach[n]
                if row[right] - (row[left - 1] if left > 0 else 0) < 2 * reach[n] + 1:
                    fits = False
                    break
            if not fits:
                continue
            for n in range(len(reach)):
                at = j + n - wide - edge
                if 0 <= at < rows:
                    first, last = max(0, i - reach[n] - edge), min(columns, i + reach[n] + 1 - edge)
                    if last > first:
                        out[at, first:last] = True
    return out
