"""How dense the trabecular cores look: Hounsfield units of the original voxels."""

import numpy as np

from engine.records import Measurement, Quantity
from engine.volume import Segmentation, Volume


def measure_attenuation(volume: Volume, cores: Segmentation, model: str) -> tuple[Measurement, ...]:
    """Mean, median and spread of HU in each core, and its size; without a core or a name there is none.

    Args:
        model: "name@version" of the network that found the bodies.
    """
    measurements = []
    for n, box in enumerate(cores.boxes, start=1):
        level = cores.segments[n - 1]
        if box is None or level is None:  # a number without a level would pass for the patient's
            continue
        hounsfield = volume.hounsfield[box][cores.labels[box] == n].astype(np.float64)
        for quantity, value in (
            (Quantity.ATTENUATION_MEAN, hounsfield.mean()),
            (Quantity.ATTENUATION_MEDIAN, np.median(hounsfield)),
            (Quantity.ATTENUATION_SD, hounsfield.std()),
            (Quantity.CORE_VOLUME, hounsfield.size * cores.geometry.voxel_volume_mm3 / 1000),
        ):
            measurements.append(Measurement(quantity, float(value), level, model))
    return tuple(measurements)
