"""Density of each vertebra's trabecular bone, as a network estimates it from the original image."""

from collections.abc import Sequence

import numpy as np

from engine.records import Measurement, QualityFlag, Quantity, Reason
from engine.runtime.session import Session
from engine.volume import VertebraCrop

BATCH = 4  # crops in one call; our choice: a spine has some five levels that count, and memory stays small


def predict_density(
    crops: Sequence[VertebraCrop], session: Session
) -> tuple[tuple[Measurement, ...], tuple[QualityFlag, ...]]:
    """Volumetric BMD in mg/cm3 of each crop's level.

    Args:
        crops: on the grid that the session's manifest states.

    Returns:
        measurements, and a flag for each level whose value lies outside the model's plausible range and
        is therefore not given.
    """
    manifest = session.manifest
    measurements, flags = [], []
    for n in range(0, len(crops), BATCH):
        some = crops[n : n + BATCH]
        answers = session.infer(np.stack([manifest.normalise(crop.hounsfield)[None] for crop in some]))
        for crop, answer in zip(some, answers, strict=True):
            value = float(answer[0]) * manifest.output_scale + manifest.output_offset
            if _plausible(value, manifest.output_range):
                measurements.append(Measurement(Quantity.VOLUMETRIC_BMD, value, crop.level, str(session.model)))
            else:
                detail = f"{value:.0f} mg/cm3 lies outside the model's range"
                flags.append(QualityFlag(Reason.DENSITY_IMPLAUSIBLE, crop.level, withholds=True, detail=detail))
    return tuple(measurements), tuple(flags)


def _plausible(value: float, bounds: Sequence[float]) -> bool:
    if not np.isfinite(value):
        return False
    return not bounds or bounds[0] <= value <= bounds[1]
