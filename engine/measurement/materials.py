"""
How much tissues attenuate X-rays of an energy, and what HU follow from it.

Mass attenuation coefficients of the NIST tables (ICRU-44 tissues, elements for the minerals), interpolated in
logarithms as NIST advises.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from engine.records import ReferenceMaterial

ENERGIES = (40.0, 50.0, 60.0, 80.0, 100.0)  # keV


@dataclass(frozen=True, slots=True)
class Material:
    """A material."""

    density: float  # g/cm3
    attenuation: tuple[float, ...]  # cm2/g at ENERGIES

    def linear(self, energy: float) -> float:
        """Linear attenuation, 1/cm, at an energy in keV."""
        logarithm = np.interp(np.log(energy), np.log(ENERGIES), np.log(self.attenuation))
        return float(np.exp(logarithm)) * self.density


WATER = Material(1.0, (0.2683, 0.2269, 0.2059, 0.1837, 0.1707))
TISSUES: Mapping[str, Material] = {
    "air": Material(0.0012, (0.2485, 0.2080, 0.1875, 0.1662, 0.1541)),
    "fat": Material(0.95, (0.2396, 0.2123, 0.1974, 0.1800, 0.1688)),
    "muscle": Material(1.05, (0.2685, 0.2262, 0.2048, 0.1823, 0.1693)),
    "blood": Material(1.06, (0.2702, 0.2271, 0.2054, 0.1826, 0.1695)),
}
MINERALS: Mapping[ReferenceMaterial, Material] = {
    ReferenceMaterial.HA: Material(3.16, (0.9875, 0.5864, 0.4067, 0.2589, 0.2019)),  # Ca10(PO4)6(OH)2
    ReferenceMaterial.K2HPO4: Material(2.44, (0.9328, 0.5573, 0.3890, 0.2507, 0.1971)),
}


def tissue_hounsfield(tissue: str, energy: float) -> float:
    """HU of a tissue where water has 0.

    >>> [round(tissue_hounsfield(name, 70.0)) for name in ("fat", "muscle", "blood")]
    [-79, 43, 55]
    """
    return 1000 * (TISSUES[tissue].linear(energy) / WATER.linear(energy) - 1)


def hounsfield_per_mg(mineral: ReferenceMaterial, energy: float) -> float:
    """HU of a mg/cm3 of mineral that takes the place of water.

    >>> round(hounsfield_per_mg(ReferenceMaterial.HA, 70.0), 2)
    1.33
    """
    material, water = MINERALS[mineral], WATER.linear(energy)
    return (material.linear(energy) - water) / material.density / water
