"""Density of each vertebra's trabecular bone, as a network estimates it from the original image."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.prediction.familiarity import strangeness
from engine.records import Measurement, QualityFlag, Quantity, Reason
from engine.runtime.manifest import ModelManifest
from engine.runtime.session import Session
from engine.runtime.sharing import Asking, ask
from engine.volume import VertebraCrop

Densities = tuple[tuple[Measurement, ...], tuple[QualityFlag, ...]]
"""Measurements; a flag for each level whose value lies outside the model's plausible range and is not given, and for
each whose crop is unlike those of the training."""


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
    images = [manifest.normalise(crop.hounsfield) for crop in crops]
    answers = yield np.stack(images)[:, None]
    measurements, flags = [], _strange(crops, images, manifest)
    for crop, answer in zip(crops, answers, strict=True):
        value = float(answer[0]) * manifest.output_scale + manifest.output_offset
        if _plausible(value, manifest.output_range):
            measurements.append(Measurement(Quantity.VOLUMETRIC_BMD, value, crop.level, model))
        else:
            detail = f"{value:.0f} mg/cm3 lies outside the model's range"
            flags.append(QualityFlag(Reason.DENSITY_IMPLAUSIBLE, crop.level, withholds=True, detail=detail))
    return tuple(measurements), tuple(flags)


def _strange(
    crops: Sequence[VertebraCrop], images: Sequence[NDArray[np.float32]], manifest: ModelManifest
) -> list[QualityFlag]:
    """A flag for each level whose crop is unlike those of the training."""
    training = manifest.training_statistics
    if training is None:
        return []
    away = {crop.level: strangeness(image, training) for crop, image in zip(crops, images, strict=True)}
    return [
        QualityFlag(Reason.UNLIKE_TRAINING, level, withholds=False,
                    detail=f"{found:.1f} SD from the training's crops, limit {training.limit:.1f}")
        for level, found in away.items() if found > training.limit
    ]  # fmt: skip


def _plausible(value: float, bounds: Sequence[float]) -> bool:
    if not np.isfinite(value):
        return False
    return not bounds or bounds[0] <= value <= bounds[1]
