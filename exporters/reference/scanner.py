"""
Scanner dialects: how the same patient looks on different machines.

A scanner turns mineral into HU (its effective energy), blurs (its kernel), adds noise of a certain
strength and grain, and averages over its slice. The differences are data, not code.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from engine.errors import BadOption
from engine.volume import Geometry
from exporters.reference.spine_phantom import Raster, SpinePhantom, rasterise

FWHM = 2.3548  # of a Gaussian with SD 1
FINEST_Z_MM = 1.5  # a slice thicker than this is painted in thinner sheets and averaged


# HU per mg/cm3 of hydroxyapatite that displaces water, and HU of fat over its HU at 70 keV (NIST tables)
ENERGY_KEV = (65.0, 70.0, 75.0)
HU_PER_MG = (1.48, 1.33, 1.20)
FAT_SHARE = (1.063, 1.0, 0.937)
KVP_FACTOR = {80.0: 1.22, 100.0: 1 / 0.927, 120.0: 1.0, 140.0: 1 / 1.053}
"""HU of bone over those at 120 kV: 100 and 140 as published (AAPM 2026), 80 our choice in their line."""
HARDENING = 0.002  # share of bone's HU that each kg/m2 above a BMI of 22 takes away; our choice


@dataclass(frozen=True, slots=True)
class Scanner:
    """One machine with one reconstruction. Headers speak its dialect."""

    key: str
    manufacturer: str
    model: str
    kernel: tuple[str, ...]
    effective_kev: float  # at 120 kV
    psf_mm: float  # FWHM in the plane; 8.04 / f10 for a 10 % MTF of f10 lp/cm
    noise_hu: float  # SD at 3 mm thickness, routine dose
    grain_mm: float  # FWHM of the noise's texture
    slice_mm: float  # usual thickness
    spacing_mm: float  # usual distance of slices
    field_mm: tuple[float, float]  # usual fields of view
    ramp: float = 0.5  # share of the coarse noise that the filter takes out; iterative reconstruction leaves more
    dose: float = 1.0  # usual one, relative to routine
    mas: int = 120
    table: float | None = None  # HU of the table's shell; None: as the phantom has it
    signed: bool = True
    padding: int | None = None  # HU outside the circle of reconstruction, where the machine writes one
    filter_type: str = ""  # as the header says

    @property
    def hu_per_mg(self) -> float:
        """HU per mg/cm3 of hydroxyapatite at 120 kV."""
        return float(np.interp(self.effective_kev, ENERGY_KEV, HU_PER_MG))

    @property
    def fat_share(self) -> float:
        """HU of fat over its HU at 70 keV."""
        return float(np.interp(self.effective_kev, ENERGY_KEV, FAT_SHARE))


# Kernels, thicknesses and fields: the three vendors of Yoshida 2023, table 3, and the four machines of Peng 2023
# (uCT 550 with low-dose chests of 50-70 mA; LightSpeed VCT; Revolution CT; uCT 780). Noise of 9-11 HU at 3 mm was
# measured on a routine soft-kernel CT. Effective energies, PSF and grain: within published ranges, our choice.
SCANNERS: tuple[Scanner, ...] = (
    Scanner("siemens_force", "SIEMENS", "SOMATOM Force", ("Br40d", "3"), 69.0, 1.25, 9.0, 1.3, 1.0, 1.0,
            (350.0, 500.0), ramp=0.4, table=-120.0, filter_type="0"),
    Scanner("canon_one", "TOSHIBA", "Aquilion ONE", ("FC18",), 71.2, 1.15, 10.0, 1.2, 1.0, 0.8, (349.2, 497.7),
            ramp=0.3, table=-300.0, padding=-2048),
    Scanner("canon_one_fc03", "TOSHIBA", "Aquilion ONE", ("FC03",), 71.2, 1.40, 8.5, 1.6, 1.0, 0.8, (349.2, 497.7),
            ramp=0.3, table=-300.0, padding=-2048),
    Scanner("philips_ict", "Philips", "Brilliance iCT", ("B",), 68.0, 1.35, 9.0, 1.5, 1.0, 0.9, (350.0, 500.0),
            ramp=0.4, signed=False, filter_type="B"),
    Scanner("philips_ict_c", "Philips", "Brilliance iCT", ("C",), 68.0, 1.20, 11.0, 1.2, 1.0, 0.9, (350.0, 500.0),
            ramp=0.5, signed=False, filter_type="B"),
    Scanner("uct_550", "UIH", "uCT 550", ("B_SOFT_B",), 69.7, 1.30, 11.0, 1.4, 1.5, 1.25, (350.0, 500.0)),
    Scanner("uct_550_chest", "UIH", "uCT 550", ("B_SOFT_C",), 69.7, 1.20, 11.0, 1.3, 1.25, 1.0, (330.0, 420.0),
            dose=0.25, mas=30),
    Scanner("uct_780", "UIH", "uCT 780", ("B_SOFT_B",), 70.4, 1.25, 11.0, 1.4, 1.5, 1.25, (350.0, 500.0)),
    Scanner("ge_lightspeed", "GE MEDICAL SYSTEMS", "LightSpeed VCT", ("STANDARD",), 68.6, 1.30, 12.5, 1.4, 2.5, 2.5,
            (360.0, 500.0), ramp=0.7, table=60.0, padding=-2000, filter_type="BODY FILTER"),
    Scanner("ge_revolution", "GE MEDICAL SYSTEMS", "Revolution CT", ("STANDARD",), 72.3, 1.20, 11.0, 1.25, 2.5, 2.5,
            (360.0, 500.0), ramp=0.4, table=60.0, padding=-2000, filter_type="BODY FILTER"),
    Scanner("siemens_lung", "SIEMENS", "SOMATOM Force", ("Bl57d", "3"), 69.0, 0.75, 26.0, 0.7, 1.0, 1.0,
            (300.0, 400.0), ramp=0.6, table=-120.0, filter_type="0"),
)  # fmt: skip
UNSEEN = ("ge_revolution", "ge_lightspeed")
"""Machines that no reference model is trained on."""
UNSEEN_KERNEL = "canon_one_fc03"
"""A known machine with a kernel that no reference model is trained on."""


def scanner(key: str) -> Scanner:
    """A scanner by its key.

    Raises:
        BadOption: there is none of that name.
    """
    known = {one.key: one for one in SCANNERS}
    if key not in known:
        raise BadOption(f"no scanner '{key}'; known are: {', '.join(known)}")
    return known[key]


def scan(
    phantom: SpinePhantom, machine: Scanner, geometry: Geometry, *, seed: int = 0, dose: float = 1.0,
    thickness_mm: float | None = None, contrast: str | None = None, kvp: float = 120.0,
) -> tuple[NDArray[np.int16], Raster]:  # fmt: skip
    """Scan a phantom.

    Args:
        seed: of the noise; another seed is another scan of the same patient.
        dose: relative to the machine's usual one; noise goes with its inverse root.
        thickness_mm: of a slice; the geometry's k step when None.
        contrast: None, "arterial" or "venous".
        kvp: tube voltage; what bone is worth in HU goes with it.

    Returns:
        (K, J, I) int16 HU, and what lies under it on the same grid.
    """
    step = geometry.spacing_mm[0]
    thickness = step if thickness_mm is None else thickness_mm
    sheets = max(1, int(np.ceil(step / FINEST_Z_MM - 1e-6)))
    if machine.table is not None and phantom.trunk.table:
        phantom = replace(phantom, trunk=replace(phantom.trunk, table=machine.table))
    raster = rasterise(phantom, _sheets(geometry, sheets), contrast=contrast)
    slope = machine.hu_per_mg * (1 - HARDENING * (phantom.bmi - 22))
    slope *= float(np.interp(kvp, list(KVP_FACTOR), list(KVP_FACTOR.values())))
    fat = (raster.soft < 0) & (raster.soft > -300)
    hounsfield = np.where(fat, np.float32(machine.fat_share) * raster.soft, raster.soft)
    hounsfield += np.float32(slope) * raster.mineral
    if sheets > 1:
        hounsfield = hounsfield.reshape(-1, sheets, *geometry.shape[1:]).mean(axis=1)
        raster = rasterise_at(raster, geometry, sheets)
    blur = [machine.psf_mm / FWHM / mm for mm in geometry.spacing_mm[1:]]
    beyond = max(0.0, thickness - step) / np.sqrt(12) / step  # overlapping slices average over more than their step
    hounsfield = ndimage.gaussian_filter(hounsfield, [beyond, *blur], truncate=3.0)
    hounsfield += noise(geometry, machine, seed, thickness, dose)
    if machine.padding is not None:
        _pad(hounsfield, machine.padding)
    low = -1024 if machine.padding is None else min(-1024, machine.padding)
    return np.clip(np.rint(hounsfield), low, 3071).astype(np.int16), raster


def noise(geometry: Geometry, machine: Scanner, seed: int, thickness_mm: float, dose: float) -> NDArray[np.float32]:
    """Correlated noise on a grid, (K, J, I) float32 HU; voxels larger than its grain average it."""
    rng = np.random.default_rng([seed, 23])
    white = rng.standard_normal(geometry.shape, dtype=np.float32)
    grain = [machine.grain_mm / FWHM / mm for mm in geometry.spacing_mm[1:]]
    white = ndimage.gaussian_filter(white, [0.0, *grain], truncate=3.0)
    white -= np.float32(machine.ramp) * ndimage.gaussian_filter(white, [0.0, *(2 * g for g in grain)], truncate=2.5)
    strength = machine.noise_hu * np.sqrt(3.0 / thickness_mm / (dose * machine.dose))
    area = geometry.spacing_mm[1] * geometry.spacing_mm[2]
    strength *= min(1.0, 1.3 * machine.grain_mm / np.sqrt(area))
    return np.asarray(white * (strength / (white.std() + 1e-6)), dtype=np.float32)


def rasterise_at(raster: Raster, geometry: Geometry, sheets: int) -> Raster:
    """The truth of the middle sheet of each slice; mineral and soft tissue are averaged."""

    def mean(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(values.reshape(-1, sheets, *geometry.shape[1:]).mean(axis=1), dtype=np.float32)

    middle = sheets // 2
    return Raster(geometry, mean(raster.soft), mean(raster.mineral), raster.labels[middle::sheets],
                  raster.bodies[middle::sheets])  # fmt: skip


def _sheets(geometry: Geometry, count: int) -> Geometry:
    """The same block with each slice cut into `count` sheets."""
    if count == 1:
        return geometry
    k, j, i = geometry.shape
    step = geometry.spacing_mm[0] / count
    first = np.array([-(count - 1) / 2 / count, 0.0, 0.0])
    x, y, z = (float(value) for value in geometry.to_patient(first))
    return replace(geometry, shape=(k * count, j, i), spacing_mm=(step, *geometry.spacing_mm[1:]), origin_mm=(x, y, z))


def _pad(hounsfield: NDArray[np.float32], padding: int) -> None:
    """Write the padding value outside the circle of reconstruction, in place."""
    _, rows, columns = hounsfield.shape
    y, x = np.ogrid[:rows, :columns]
    outside = ((y - (rows - 1) / 2) / (rows / 2)) ** 2 + ((x - (columns - 1) / 2) / (columns / 2)) ** 2 > 1.0
    hounsfield[:, outside] = padding
