"""
One way from grid to grid, the same in training and at night.

Shrinking averages whole blocks of source voxels first (the largest whole factor that fits), then
interpolates linearly; enlarging only interpolates. Without the averaging, noise of thin slices
would alias into a coarse grid. Networks are trained behind this very function.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.buffers import volume_memory
from engine.volume import CANONICAL, Geometry, Shape, Vector, moved

AIR = -1024.0  # HU outside every grid
Resampling = Callable[[NDArray[Any], Geometry, Geometry], NDArray[np.float32]]
"""From values (K, J, I) on one grid to values on another, as `resample` does it."""

_ALONE = 2**19  # voxels that a thread does at once; our choice: to start threads costs more than so many


def canonical_grid(source: Geometry, spacing_mm: Vector) -> Geometry:
    """The smallest grid in canonical directions that covers a source grid's field of view, centred on it.

    Args:
        spacing_mm: step along k, j, i of the new grid.
    """
    corners = np.array([[k, j, i] for k in (-0.5, source.shape[0] - 0.5) for j in (-0.5, source.shape[1] - 0.5)
                        for i in (-0.5, source.shape[2] - 0.5)])  # fmt: skip
    points = source.to_patient(corners)
    low, high = points.min(axis=0), points.max(axis=0)
    step = np.asarray(spacing_mm)[::-1]  # x, y, z
    count = np.maximum(1, np.ceil((high - low) / step - 1e-6)).astype(int)
    origin = low + (high - low - (count - 1) * step) / 2
    i, j, k = (int(n) for n in count)
    x, y, z = (float(value) for value in origin)
    return Geometry((k, j, i), spacing_mm, (x, y, z), CANONICAL, source.frame_of_reference_uid)


def centred_grid(centre_mm: Vector, shape: Shape, spacing_mm: Vector) -> Geometry:
    """A grid in canonical directions around a point of the patient (x, y, z in mm)."""
    half = np.array([(n - 1) / 2 * step for n, step in zip(shape, spacing_mm, strict=True)])[::-1]
    x, y, z = (float(value) for value in np.asarray(centre_mm) - half)
    return Geometry(shape, spacing_mm, (x, y, z), CANONICAL)


def resample(
    values: NDArray[np.generic], source: Geometry, target: Geometry, outside: float = AIR
) -> NDArray[np.float32]:
    """Values of one grid at the voxel centres of another.

    Args:
        values: (K, J, I) on `source`; any number type.
        outside: the value where `target` leaves the source's field of view. Up to half a voxel
            beyond the outermost centres the border's value is continued.

    Returns:
        (K, J, I) float32 on `target`.

    >>> grid = Geometry((1, 1, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), CANONICAL)
    >>> half = Geometry((1, 1, 2), (1.0, 1.0, 2.0), (0.5, 0.0, 0.0), CANONICAL)
    >>> resample(np.array([[[0, 2, 4, 6]]]), grid, half)
    array([[[1., 5.]]], dtype=float32)
    """
    if source.shape != values.shape:
        raise ValueError(f"values of shape {values.shape} do not lie on a grid of {source.shape}")
    step = np.linalg.inv(source.affine) @ target.affine  # target index -> source index
    factor = np.maximum(1, np.floor(np.abs(step[:3, :3]).max(axis=1) + 1e-6)).astype(int)
    block, start = _needed(values, step, target.shape, factor)
    if block is None:
        return np.full(target.shape, outside, dtype=np.float32)
    along_axes = np.allclose(step[:3, :3], np.diag(np.diag(step[:3, :3])), rtol=0, atol=1e-9 * factor.max())
    if along_axes:
        whole = values.flags.c_contiguous and values.dtype in (np.int16, np.float32)
        taken = (values, start) if whole else (_plain(block), np.zeros_like(start))
        return _along_axes(*taken, block.shape, step, source.shape, factor, start, outside, target.shape)
    return _turned(_plain(block), step, source.shape, factor, start, outside, target.shape)


def _needed(
    values: NDArray[np.generic], step: NDArray[np.float64], shape: Shape, factor: NDArray[np.int_]
) -> tuple[NDArray[np.generic] | None, NDArray[np.int_]]:
    """The part of the source that the target can see, in whole blocks, and where it starts."""
    corners = np.array(
        [[k, j, i] for k in (0.0, shape[0] - 1.0) for j in (0.0, shape[1] - 1.0) for i in (0.0, shape[2] - 1.0)]
    )
    seen = moved(corners, step)
    low = np.floor(seen.min(axis=0)).astype(int) - 2 * factor
    high = np.ceil(seen.max(axis=0)).astype(int) + 2 * factor + 1
    low = np.clip(low, 0, None) // factor * factor
    high = np.minimum(high, values.shape)
    if (high <= low).any():
        return None, low
    at = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return values[at], low


def _plain(block: NDArray[np.generic]) -> NDArray[np.generic]:
    """A block as kernels take it: int16 or float32, contiguous; not copied where it is all there is."""
    kind = np.int16 if block.dtype == np.int16 else np.float32
    return np.ascontiguousarray(block, dtype=kind)


def _along_axes(
    values: NDArray[np.generic],
    first_voxel: NDArray[np.int_],
    size: Shape,
    step: NDArray[np.float64],
    shape: Shape,
    factor: NDArray[np.int_],
    start: NDArray[np.int_],
    outside: float,
    target: Shape,
) -> NDArray[np.float32]:
    """The grids' axes run along each other: an axis at a time, means of blocks and interpolation in one.

    Args:
        values: hold the block of voxels that the target can see.
        first_voxel, size: where it begins in `values`, and how many voxels it has.
        start: where it begins in the source.
    """
    from engine.kernels.compiled import share_out
    from engine.kernels.grids import weigh_axes

    taps: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = []
    within: list[slice] = []
    for axis in range(3):
        index = step[axis, axis] * np.arange(target[axis]) + step[axis, 3]
        seen = np.flatnonzero((index >= -0.5 - 1e-6) & (index <= shape[axis] - 0.5 + 1e-6))
        if not len(seen):
            return np.full(target, outside, dtype=np.float32)
        within.append(slice(int(seen[0]), int(seen[-1]) + 1))
        at, weights = _taps(index[within[-1]] - start[axis], size[axis], int(factor[axis]))
        taps.append((at + first_voxel[axis], weights))
    along_k, along_j, along_i = taps
    everywhere = all(part == slice(0, n) for part, n in zip(within, target, strict=True))
    result = volume_memory(target, np.float32)
    if not everywhere:
        result.fill(outside)
    inside = result[tuple(within)]
    share_out(
        inside.shape[0],
        max(1, _ALONE // max(1, inside[0].size)),
        lambda first, last: weigh_axes(values, along_k, along_j, along_i, inside, first, last),
    )
    return result


def _taps(index: NDArray[np.float64], count: int, factor: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Which voxels of an axis make up each point on it, and with which weights.

    Args:
        index: points, in voxels of the axis.
        count: voxels of the axis; a last, partial block is filled up with its border.

    Returns:
        (N, 2 * factor) indices and weights: two blocks of voxels for each point.
    """
    blocks = -(-count // factor)
    place = np.clip((index - (factor - 1) / 2) / factor, 0, blocks - 1)
    low = np.floor(place).astype(np.int64)
    part = (place - low)[:, None]
    voxels = np.arange(factor)
    first = low[:, None] * factor + voxels
    second = np.minimum(low + 1, blocks - 1)[:, None] * factor + voxels
    at = np.minimum(np.hstack([first, second]), count - 1)
    weights = np.hstack([np.repeat((1 - part) / factor, factor, 1), np.repeat(part / factor, factor, 1)])
    return at, weights.astype(np.float32)


def _turned(
    block: NDArray[np.generic],
    step: NDArray[np.float64],
    shape: Shape,
    factor: NDArray[np.int_],
    start: NDArray[np.int_],
    outside: float,
    target: Shape,
) -> NDArray[np.float32]:
    """The grids lie anyhow to each other."""
    from engine.kernels.compiled import share_out
    from engine.kernels.grids import turn

    small = block if (factor == 1).all() else _block_means(block, factor)
    result = volume_memory(target, np.float32)
    share_out(
        target[0],
        max(1, _ALONE // 4 // (target[1] * target[2])),
        lambda first, last: turn(small, step, shape, factor, start, outside, result, first, last),
    )
    return result


def _block_means(values: NDArray[np.generic], factor: NDArray[np.int_]) -> NDArray[np.float32]:
    """Means of whole blocks; a last, partial block is filled up with its border."""
    block = values.astype(np.float32)
    for axis, n in enumerate(int(n) for n in factor):
        if n == 1:
            continue
        short = -block.shape[axis] % n
        if short:
            pad = [(0, 0)] * 3
            pad[axis] = (0, short)
            block = np.pad(block, pad, mode="edge")
        parts = [block[tuple(slice(m, None, n) if a == axis else slice(None) for a in range(3))] for m in range(n)]
        block = sum(parts[1:], start=parts[0].copy()) / np.float32(n)
    return block
