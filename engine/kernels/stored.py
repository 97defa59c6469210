"""Loops over stored pixels."""

import numpy as np
from numpy.typing import NDArray

from engine.kernels.compiled import close_file, compiled, open_file, read_at


@compiled
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


@compiled
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
        file = open_file(paths[names[k] :].ctypes, flags)
        if file < 0:
            return False
        count = read_at(file, stored.ctypes, size, offsets[k])
        close_file(file)
        if count != 2 * stored.size:
            return False
        padding = (paddings[k, 0], paddings[k, 1])
        if to_hounsfield(stored, bits, signed, rescales[k, 0], rescales[k, 1], padding, limits, out[k].reshape(-1)):
            return False
    return True
