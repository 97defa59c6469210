"""Density of each vertebra's trabecular bone, as a network estimates it from the original image."""

from collections.abc import Sequence

import numpy as np

from engine.records import Measurement, QualityFlag, Quantity, Reason
from engine.runtime.manifest import ModelManifest
from engine.runtime.session import Session
from engine.runtime.sharing import Asking, ask
from engine.volume import VertebraCrop

Densities = tuple[tuple[Measurement, ...], tuple[QualityFlag, ...]]
"""Measurements, and a flag for each level whose value lies outside the model's plausible range and is not given."""


def predict_density(crops: Sequence[VertebraCrop], session: Session) -> Densities:
    """Volumetric BMD in mg/cm3 of each crop's level.

    Args:
        crops: on the grid that the session's manifest states.
    """
    return ask(predicting_density(crops, session.manifest, str(session.model)), session)


def predicting_density(crops: Sequence[VertebraCrop], manifest: ModelManifest, model: str) -> Asking[Densities]:
    """The same as questions to the network, which other series may share.

    Args:
        model: "name@version", for the measurements.
    """
    if not crops:
        return (), ()
    answers = yield np.stack([manifest.normalise(crop.hounsfield)[None] for crop in crops])
    measurements, flags = [], []
    for crop, answer in zip(crops, answers, strict=True):
        value = float(answer[0]) * manifest.output_scale + manifest.output_offset
        if _plausible(value, manifest.output_range):
            measurements.append(Measurement(Quantity.VOLUMETRIC_BMD, value, crop.level, model))
        else:
            detail = f"{value:.0f} mg/cm3 lies outside the model's range"
            flags.append(QualityFlag(Reason.DENSITY_IMPLAUSIBLE, crop.level, withholds=True, detail=detail))
    return tuple(measurements), tuple(flags)


def _plausible(value: float, bounds: Sequence[float]) -> bool:
    if not np.isfinite(value):
        return False
    return not bounds or bounds[0] <= value <= bounds[1]
