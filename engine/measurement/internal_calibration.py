"""
Calibration by the patient's own tissues, without a phantom.

Air, fat, muscle and blood attenuate as physics says at the scanner's effective energy. The energy at which their HU
lie best on one line is taken; it gives HU of a mg/cm3 of mineral. Where they lie on no line at any energy, there is
no calibration.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from engine.measurement.materials import TISSUES, hounsfield_per_mg, tissue_hounsfield
from engine.measurement.surroundings import Sample
from engine.records import Calibration, CalibrationMethod, Quantity, ReferenceMaterial

NEEDED = ("air", "fat", "muscle")  # blood helps where the aorta is found
ENERGIES = np.arange(50.0, 95.5, 0.5)  # keV of clinical tubes at 120 kV lie well inside
LARGEST_ERROR = 12.0  # HU; our choice: fat differs by so much between people
MATERIAL = ReferenceMaterial.HA
_EXPECTED = {name: np.array([tissue_hounsfield(name, float(energy)) for energy in ENERGIES]) for name in TISSUES}


@dataclass(frozen=True, slots=True)
class TissueFit:
    """Where the tissues put the scanner."""

    energy: float  # keV, effective
    scale: float  # HU = scale * (attenuation against water, thousandths) + offset
    offset: float
    error: float  # HU, root mean square over the tissues


def fit_tissues(samples: Mapping[str, Sample]) -> TissueFit | None:
    """The effective energy at which the tissues' HU lie best on a line; None: at none, or a tissue is missing.

    Source:
        The idea of Michalski 2020 (tissues' HU against tabulated attenuation, energy of the best fit), with linear
        attenuation against water, as HU are.
    """
    if not all(tissue in samples for tissue in NEEDED):
        return None
    names = [name for name in TISSUES if name in samples]
    found = np.array([samples[name].hounsfield for name in names])
    against = np.stack([_EXPECTED[name] for name in names])
    centred = against - against.mean(axis=0)
    scale = (centred * found[:, None]).sum(axis=0) / (centred**2).sum(axis=0)
    offset = found.mean() - scale * against.mean(axis=0)
    error = np.sqrt(np.mean((scale * against + offset - found[:, None]) ** 2, axis=0))
    best = int(np.argmin(error))
    if best in (0, len(ENERGIES) - 1) or error[best] > LARGEST_ERROR:
        return None
    return TissueFit(float(ENERGIES[best]), float(scale[best]), float(offset[best]), float(error[best]))


def internal_calibration(samples: Mapping[str, Sample]) -> Calibration | None:
    """The line from HU to mg HA/cm3 that the patient's tissues give, or None."""
    fit = fit_tissues(samples)
    if fit is None:
        return None
    slope = 1 / (fit.scale * hounsfield_per_mg(MATERIAL, fit.energy))
    source = f"air, fat, muscle{', blood' if 'blood' in samples else ''} at {fit.energy:g} keV"
    return Calibration(
        Quantity.CALIBRATED_BMD, CalibrationMethod.INTERNAL, source, MATERIAL, slope, -fit.offset * slope
    )
