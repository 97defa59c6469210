"""Cut each vertebra out on the grid that a prediction model was trained on."""

import numpy as np

from engine.resampling import centred_grid, resample
from engine.volume import Segmentation, Shape, Vector, VertebraCrop, Volume


def crop_vertebrae(volume: Volume, cores: Segmentation, shape: Shape, spacing_mm: Vector) -> tuple[VertebraCrop, ...]:
    """One crop a level, around the middle of its trabecular core; a level without a core has none.

    Args:
        shape, spacing_mm: (K, J, I) of a crop, in canonical directions.

    Returns:
        Crops in HU, head to foot; air where one leaves the field of view.
    """
    crops = []
    for n, box in enumerate(cores.boxes, start=1):
        level = cores.segments[n - 1]
        if box is None or level is None:
            continue
        index = np.argwhere(cores.labels[box] == n).mean(axis=0) + [part.start for part in box]
        x, y, z = (float(value) for value in cores.geometry.to_patient(index))
        grid = centred_grid((x, y, z), shape, spacing_mm)
        crops.append(VertebraCrop(level, grid, resample(volume.hounsfield, volume.geometry, grid)))
    return tuple(crops)
