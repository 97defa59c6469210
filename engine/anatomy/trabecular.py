"""
The trabecular core of each vertebral body: what lies deep enough below its surface.

Depth is measured from a voxel's centre to the nearest face of a voxel that is not this body's bone, in
millimetres, so that 3 mm are 3 mm at any slice thickness. What lies outside the volume is not known
and counts as not bone: a body at the border keeps its distance from there too.
"""

import numpy as np
from numpy.typing import NDArray

from engine.volume import Segmentation, Vector


def trabecular_core(bodies: Segmentation, erosion_mm: float) -> Segmentation:
    """Erode each body.

    Returns:
        Same grid, same segments; a body that is nowhere deep enough, or has no name, has no voxels.

    Source:
        Peng 2023: vertebral bodies eroded by 3 mm in all directions give the trabecular region.
    """
    cores = np.zeros(bodies.labels.shape, dtype=np.uint8)  # pages that nobody writes to cost nothing
    for n, box in enumerate(bodies.boxes, start=1):
        if box is not None and bodies.segments[n - 1] is not None:
            cores[box][eroded(bodies.labels[box] == n, bodies.geometry.spacing_mm, erosion_mm)] = n
    return Segmentation(bodies.geometry, cores, bodies.segments, bodies.boxes)


def eroded(mask: NDArray[np.bool_], spacing_mm: Vector, erosion_mm: float) -> NDArray[np.bool_]:
    """What lies at least so deep in a mask.

    The square of the distance to a voxel's nearest face is a sum over the axes, so its minimum over all
    outer voxels is found axis by axis.

    Args:
        mask: (K, J, I); outside of it nothing is.

    Returns:
        (K, J, I).

    >>> eroded(np.ones((1, 1, 7), dtype=bool), (100.0, 100.0, 1.0), 2.0).astype(int)
    array([[[0, 0, 1, 1, 1, 0, 0]]])
    """
    if erosion_mm <= 0:
        return mask.copy()
    from engine.kernels.shapes import least_along

    far = np.float32(4 * erosion_mm**2)  # any number above the limit
    margin = [int(np.ceil(erosion_mm / step + 0.5)) for step in spacing_mm]
    padded = np.pad(mask, [(n, n) for n in margin])
    squared: NDArray[np.float32] = np.where(padded, far, np.float32(0))
    for axis, (step, reach) in enumerate(zip(spacing_mm, margin, strict=True)):
        added = ((np.arange(1, reach + 1) - 0.5) * step) ** 2
        before, squared = squared, np.empty_like(squared)
        least_along(before, axis, added.astype(np.float32)[added < far], squared)
    inner = tuple(slice(n, -n) for n in margin)
    deep: NDArray[np.bool_] = squared[inner] >= np.float32(erosion_mm**2 * (1 - 1e-5))
    return deep
