"""Cut each vertebra out on the grid that a prediction model was trained on."""

import numpy as np
import scipy  # its parts load at first use
from numpy.typing import NDArray

from engine.resampling import AIR, Resampling, centred_grid, resample
from engine.volume import Geometry, Segmentation, Shape, Vector, VertebraCrop, Volume, places


def crop_vertebrae(
    volume: Volume, cores: Segmentation, shape: Shape, spacing_mm: Vector, resampling: Resampling = resample
) -> tuple[VertebraCrop, ...]:
    """One crop a level, around the middle of its trabecular core; a level without a core has none.

    Args:
        shape, spacing_mm: (K, J, I) of a crop, in canonical directions.

    Returns:
        Crops in HU, head to foot. Where one leaves the field of view, the nearest voxel in view is continued: air there
        would pass for a body that ends, and the density for less.
    """
    crops = []
    for n, box in enumerate(cores.boxes, start=1):
        level = cores.segments[n - 1]
        if box is None or level is None:
            continue
        index = places(cores.labels[box] == n).mean(axis=0) + [part.start for part in box]
        x, y, z = (float(value) for value in cores.geometry.to_patient(index))
        grid = centred_grid((x, y, z), shape, spacing_mm)
        hounsfield = resampling(volume.hounsfield, volume.geometry, grid)
        crops.append(VertebraCrop(level, grid, _continued(hounsfield, grid, volume.geometry)))
    return tuple(crops)


def _continued(hounsfield: NDArray[np.float32], grid: Geometry, source: Geometry) -> NDArray[np.float32]:
    """Voxels outside the source take the value of the nearest one inside."""
    ends = np.array([[k, j, i] for k in (0, grid.shape[0] - 1) for j in (0, grid.shape[1] - 1)
                     for i in (0, grid.shape[2] - 1)], dtype=float)  # fmt: skip
    if _in_view(source.to_index(grid.to_patient(ends)), source).all():
        return hounsfield
    from engine.kernels.shapes import mark_inside

    inside = np.empty(grid.shape, dtype=np.bool_)
    mark_inside(grid.affine, source.inverse, source.shape, inside)
    if not inside.any():
        return np.full_like(hounsfield, AIR)
    nearest = scipy.ndimage.distance_transform_edt(
        ~inside, sampling=grid.spacing_mm, return_distances=False, return_indices=True
    )
    return np.asarray(hounsfield[tuple(nearest)], dtype=np.float32)


def _in_view(index: NDArray[np.float64], source: Geometry) -> NDArray[np.bool_]:
    seen = (index >= -0.5) & (index <= np.asarray(source.shape) - 0.5)
    return np.asarray(seen.all(axis=-1), dtype=bool)
