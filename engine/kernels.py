"""
Loops over voxels that NumPy would walk several times, compiled; the only door to Numba.

A kernel frees the interpreter's lock and runs on the thread that called it: who calls cuts the work into parts
and shares them out (`share_out`). Machine code is kept beside this file, else in the user's cache; only the first call
on a machine waits for the compiler. Import this module where it is used, not at the top: Numba takes half a
second to come up, and not all that imports the engine looks at voxels.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numba
import numpy as np
from numba import types
from numba.core.types import ExternalFunction
from numpy.typing import NDArray

# The system's own, called without the interpreter's lock.
_open: Any = ExternalFunction("open", types.intc(types.voidptr, types.intc))
_pread: Any = ExternalFunction("pread", types.intp(types.intc, types.voidptr, types.uintp, types.int64))
_close: Any = ExternalFunction("close", types.intc(types.intc))
Function = TypeVar("Function", bound=Callable[..., Any])

MOST_THREADS = 8  # our choice: beyond it memory is the limit, not arithmetic


def _compiled(function: Function) -> Function:
    """Compile at the first call. Where no folder can be written the code is kept for this process only."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        made: Function = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # "no locator available": a read-only installation and a user without a home
        made = numba.njit(**options)(function)
    return made


def share_out(count: int, least: int, work: Callable[[int, int], object], threads: int = 0) -> None:
    """Call `work(first, last)` for parts of range(count), side by side.

    Args:
        least: no part is smaller; below twice as much everything is done at once, on this thread.
        threads: 0: as many as this process has cores, at most MOST_THREADS.
    """
    threads = threads or min(MOST_THREADS, len(os.sched_getaffinity(0)))
    parts = min(2 * threads if threads > 1 else 1, count // max(1, least))
    if parts <= 1:
        work(0, count)
        return
    edges = [count * n // parts for n in range(parts + 1)]
    with ThreadPoolExecutor(threads, thread_name_prefix="kernel") as pool:
        for _ in pool.map(work, edges[:-1], edges[1:]):
            pass


@_compiled
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


@_compiled
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


@_compiled
def to_hounsfield(
    stored: NDArray[np.uint16],
    bits: int,
    signed: bool,
    slope: float,
    intercept: float,
    padding: tuple[int, int],
    limits: tuple[int, int],
    out: NDArray[np.int16],
) -> bool:
    """Rescale one slice; returns whether all its stored values are the same.

    Args:
        stored: of any shape, contiguous; the lowest `bits` count, the highest of them is the sign if `signed`.
        padding: first and last stored value that mean air; none, where the first is above the last.
        limits: HU beyond which values are cut off; the lower one is air.
        out: of the same shape, contiguous, and other memory; is overwritten.
    """
    source, target = stored.reshape(-1), out.reshape(-1)
    mask = np.uint16((1 << bits) - 1)
    sign = np.int32(1 << (bits - 1)) if signed else np.int32(0)
    first, last = np.int32(padding[0]), np.int32(padding[1])
    low, high = np.int32(limits[0]), np.int32(limits[1])
    lowest, highest = np.int32(2**30), np.int32(-(2**30))
    if slope == 1.0 and intercept == np.rint(intercept) and abs(intercept) < 2**24:
        add = np.int32(intercept)
        for n in range(source.size):
            value = np.int32((np.int32(source[n] & mask) ^ sign) - sign)
            lowest, highest = min(lowest, value), max(highest, value)
            result = np.int32(value + add)
            if first <= value <= last:
                result = low
            target[n] = np.int16(min(max(result, low), high))
    else:
        for n in range(source.size):
            value = np.int32((np.int32(source[n] & mask) ^ sign) - sign)
            lowest, highest = min(lowest, value), max(highest, value)
            exact = np.rint(np.float64(value) * slope + intercept)
            result = np.int32(min(max(exact, np.float64(low)), np.float64(high)))
            if first <= value <= last:
                result = low
            target[n] = np.int16(result)
    return bool(lowest == highest)


@_compiled
def read_to_hounsfield(
    paths: NDArray[np.uint8],
    names: NDArray[np.int64],
    flags: int,
    offsets: NDArray[np.int64],
    bits: int,
    signed: bool,
    rescales: NDArray[np.float64],
    paddings: NDArray[np.int64],
    limits: tuple[int, int],
    out: NDArray[np.int16],
) -> bool:
    """Slices as they lie in their files, little-endian numbers of 16 bits, to HU; as `to_hounsfield` does one.

    All in one call: while some cores read, the interpreter's lock is free for whole tasks, and not taken and given
    at each file.

    Args:
        paths: each ends with a 0.
        names: (K,) where each path begins.
        flags: to open files with.
        offsets: (K,) bytes.
        rescales, paddings: (K, 2) slope and intercept; first and last.
        out: (K, J, I), contiguous, is overwritten.

    Returns:
        Whether all was there, and no slice is one flat value; else what was written is of no meaning.
    """
    stored = np.empty(out[0].size, np.uint16)
    size = np.uintp(2 * stored.size)
    for k in range(names.size):
        file = _open(paths[names[k] :].ctypes, flags)
        if file < 0:
            return False
        count = _pread(file, stored.ctypes, size, offsets[k])
        _close(file)
        if count != 2 * stored.size:
            return False
        padding = (paddings[k, 0], paddings[k, 1])
        if to_hounsfield(stored, bits, signed, rescales[k, 0], rescales[k, 1], padding, limits, out[k].reshape(-1)):
            return False
    return True


@_compiled
def blend_tile(
    logits: NDArray[np.float32],
    weights: NDArray[np.float32],
    scores: NDArray[np.float32],
    total: NDArray[np.float32],
    start: tuple[int, int, int],
    likeliest: NDArray[np.uint8],
) -> None:
    """Add a tile's weighted logits to a grid's scores, and tell its likeliest classes (the first of equals).

    Args:
        logits: (C, K, J, I) of the tile.
        weights: (K, J, I) of the tile.
        scores, total: (C, ...) and (...) of the grid, are added to; `start` is where the tile lies in it.
        likeliest: (K, J, I) of the tile, is overwritten.
    """
    classes, depth, rows, columns = logits.shape
    k0, j0, i0 = start
    best = np.empty(columns, np.float32)
    for k in range(depth):
        for j in range(rows):
            weight, label = weights[k, j], likeliest[k, j]
            whole = total[k0 + k, j0 + j, i0 : i0 + columns]
            for i in range(columns):
                best[i] = logits[0, k, j, i]
                label[i] = 0
                whole[i] += weight[i]
            for c in range(classes):
                row, score = logits[c, k, j], scores[c, k0 + k, j0 + j, i0 : i0 + columns]
                for i in range(columns):
                    score[i] += row[i] * weight[i]
                    if row[i] > best[i]:
                        best[i] = row[i]
                        label[i] = c


@_compiled
def settle(
    scores: NDArray[np.float32],
    total: NDArray[np.float32],
    wanted: int,
    labels: NDArray[np.uint8],
    share: NDArray[np.float32],
) -> None:
    """The likeliest class of each voxel, and the softmax of one; where no tile was, nothing is written.

    Args:
        scores, total: (C, K, J, I) and (K, J, I): weighted sums, and their weights.
        wanted: the class whose softmax is told.
        labels, share: (K, J, I), written.
    """
    classes = scores.shape[0]
    for k in range(total.shape[0]):
        for j in range(total.shape[1]):
            for i in range(total.shape[2]):
                weight = total[k, j, i]
                if weight > 0:
                    best, label = scores[0, k, j, i] / weight, 0
                    for c in range(1, classes):
                        value = scores[c, k, j, i] / weight
                        if value > best:
                            best, label = value, c
                    powers, own = np.float32(0), np.float32(0)
                    for c in range(classes):
                        power = np.exp(scores[c, k, j, i] / weight - best)
                        powers += power
                        if c == wanted:
                            own = power
                    labels[k, j, i] = label
                    share[k, j, i] = own / powers
