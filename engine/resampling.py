"""
One way from grid to grid, the same in training and at night.

Shrinking averages whole blocks of source voxels first (the largest whole factor that fits), then
interpolates linearly; enlarging only interpolates. Without the averaging, noise of thin slices
would alias into a coarse grid. Networks are trained behind this very function.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from engine.volume import CANONICAL, Geometry, Shape, Vector

AIR = -1024.0  # HU outside every grid


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
    block, shift = _needed(values, step, target.shape, factor)
    if block is None:
        return np.full(target.shape, outside, dtype=np.float32)
    small = _block_means(block, factor)
    matrix = step[:3, :3] / factor[:, None]
    offset = (step[:3, 3] - shift - (factor - 1) / 2) / factor
    if np.allclose(matrix, np.diag(np.diag(matrix)), atol=1e-9):
        result = ndimage.affine_transform(small, np.diag(matrix), offset, target.shape, order=1, mode="nearest")
    else:
        result = ndimage.affine_transform(small, matrix, offset, target.shape, order=1, mode="nearest")
    _mask_outside(result, step, source.shape, outside)
    return np.asarray(result, dtype=np.float32)


def _needed(
    values: NDArray[np.generic], step: NDArray[np.float64], shape: Shape, factor: NDArray[np.int_]
) -> tuple[NDArray[np.generic] | None, NDArray[np.float64]]:
    """The part of the source that the target can see, in whole blocks, and where it starts."""
    corners = np.array(
        [[k, j, i, 1.0] for k in (0, shape[0] - 1) for j in (0, shape[1] - 1) for i in (0, shape[2] - 1)]
    )
    seen = (corners @ step.T)[:, :3]
    low = np.floor(seen.min(axis=0)).astype(int) - 2 * factor
    high = np.ceil(seen.max(axis=0)).astype(int) + 2 * factor + 1
    low = np.clip(low, 0, None) // factor * factor
    high = np.minimum(high, values.shape)
    if (high <= low).any():
        return None, low.astype(float)
    at = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return values[at], low.astype(float)


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


def _mask_outside(result: NDArray[np.float32], step: NDArray[np.float64], shape: Shape, outside: float) -> None:
    """Set what lies more than half a voxel outside the source, in place."""
    grids = np.ogrid[tuple(slice(0, n) for n in result.shape)]
    for axis in range(3):
        index = step[axis, 3] + sum(step[axis, a] * grids[a] for a in range(3) if step[axis, a] != 0)
        gone = (index < -0.5 - 1e-6) | (index > shape[axis] - 0.5 + 1e-6)
        if np.any(gone):
            result[np.broadcast_to(gone, result.shape)] = outside
