"""
From Hounsfield units to mg/cm3: which line holds for a series, and who says so.

A site keeps a table, one entry a scanner, tube voltage, kernel and span of days, as its phantom measurements gave
it. No entry, no line: HU stand alone then, with a reason. Each line bears its name and its reference material.
"""

import hashlib
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

import numpy as np

from engine.errors import BadOption
from engine.options import read_options
from engine.records import Calibration, CalibrationMethod, Quantity, ReferenceMaterial, SeriesRef
from engine.selection import kernel_class

HOUNSFIELD = "hounsfield"
"""What an entry is a line of, where it is not a model's answers."""

KVP_TOLERANCE = 1.0


class Uncalibrated(StrEnum):
    """What becomes of a network's density on a scanner that the site's table does not name."""

    FLAG = "flag"  # given as the network was trained, and said so
    WITHHOLD = "withhold"  # not given


@dataclass(frozen=True, slots=True)
class CalibrationOptions:
    """Where lines come from, and what is done without one."""

    table: str = ""  # the site's table, a TOML file; empty: none
    uncalibrated: Uncalibrated = Uncalibrated.FLAG
    internal: bool = False  # without an entry: from the patient's own air, fat, muscle and blood
    corrections: tuple[str, ...] = ()  # named policies of CORRECTIONS; none is applied without its name here

    def __post_init__(self) -> None:
        """Refuse corrections that nobody published, and two for one cause."""
        if unknown := [name for name in self.corrections if name not in CORRECTIONS]:
            raise ValueError(f"no correction '{unknown[0]}'; known are: {', '.join(CORRECTIONS)}")
        causes = [CORRECTIONS[name].cause for name in self.corrections]
        if len(set(causes)) != len(causes):
            raise ValueError("corrections holds two for one cause")


@dataclass(frozen=True, slots=True)
class Correction:
    """A published change of a core's HU to what a native scan at 120 kV would show."""

    cause: str  # "contrast", or the tube voltage in kV
    factor: float
    offset: float  # HU, after the factor


CORRECTIONS = {
    "kvp-100-aapm-2026": Correction("100", 0.927, 0.0),
    "kvp-140-aapm-2026": Correction("140", 1.053, 0.0),
    "contrast-arterial-pompe-2015": Correction("contrast", 1.0, -13.5),
    "contrast-venous-pompe-2015": Correction("contrast", 1.0, -18.2),
}
"""By the name that a site writes into its configuration and a result repeats. Means of groups: they mend a mean, not a
patient; a network's input is never corrected. Source: AAPM 2026 (148 -> 137 and 131 -> 138 HU); Pompe 2015 (L1)."""


@dataclass(frozen=True, slots=True)
class SiteCalibration:
    """One entry of a site's table: for which series it holds, and a line, or the rods that it is fitted to."""

    name: str
    manufacturer: str
    manufacturer_model_name: str
    kvp: float
    kernels: tuple[str, ...]  # names as in ConvolutionKernel, or "soft", "medium", "sharp"
    valid_from: str  # YYYYMMDD
    reference_material: ReferenceMaterial
    of: str = HOUNSFIELD  # or the name of the model whose answers it corrects
    station_name: str = ""  # empty: every one of the kind
    valid_to: str = ""  # the last day; empty: until now
    slope: float | None = None  # mg/cm3 per HU, or per mg/cm3 of a model's answer
    intercept: float = 0.0  # mg/cm3
    rods: tuple[tuple[float, float, float], ...] = ()  # HU, water and K2HPO4 in mg/cm3 of each rod of the phantom

    def __post_init__(self) -> None:
        """Refuse what gives no line, or could hold for anything."""
        if not (self.name and self.manufacturer and self.manufacturer_model_name and self.kernels):
            raise ValueError("a calibration needs a name, a manufacturer, a model name and kernels")
        for day in (self.valid_from, self.valid_to or self.valid_from):
            if len(day) != 8 or not day.isdecimal():
                raise ValueError(f"'{self.name}': '{day}' is no day, YYYYMMDD")
        if (self.slope is None) == (not self.rods):
            raise ValueError(f"'{self.name}' needs either a slope or rods")
        if self.slope is not None and self.slope <= 0:
            raise ValueError(f"'{self.name}': a slope is above 0")
        if self.rods and (self.of != HOUNSFIELD or self.reference_material is not ReferenceMaterial.K2HPO4):
            raise ValueError(f"'{self.name}': rods hold K2HPO4 and calibrate HU")
        if self.rods:
            mindways_line(self.rods)

    @property
    def line(self) -> tuple[float, float]:
        """Slope and intercept."""
        if self.slope is not None:
            return self.slope, self.intercept
        return mindways_line(self.rods)

    def holds_for(self, series: SeriesRef) -> bool:
        """Whether a series comes from this scanner, at this voltage, with such a kernel, in this span of days."""
        day = series.acquisition_date or series.study_date
        first = series.convolution_kernel[0].casefold() if series.convolution_kernel else ""
        kernel = kernel_class(series)
        named = {name.casefold() for name in self.kernels}
        return (
            _same(series.manufacturer, self.manufacturer)
            and _same(series.manufacturer_model_name, self.manufacturer_model_name)
            and (not self.station_name or _same(series.station_name, self.station_name))
            and series.kvp is not None
            and abs(series.kvp - self.kvp) <= KVP_TOLERANCE
            and (first in named or (kernel is not None and kernel.value in named))
            and day is not None
            and self.valid_from <= day <= (self.valid_to or "99999999")
        )


@dataclass(frozen=True, slots=True)
class SiteTable:
    """A site's calibrations."""

    calibrations: tuple[SiteCalibration, ...] = ()
    sha256: str = field(default="", compare=False)  # of the file; stands in the version of what it made

    def find(self, series: SeriesRef, of: str) -> SiteCalibration | None:
        """The entry for a series: of several, one of its own station first, then the one that began last."""
        fitting = [one for one in self.calibrations if one.of == of and one.holds_for(series)]
        return max(fitting, key=lambda one: (bool(one.station_name), one.valid_from, one.name), default=None)


def read_site_table(path: Path) -> SiteTable:
    """Read a site's table.

    Raises:
        BadOption: the file can't be read, is no TOML, or an entry makes no line.
    """
    try:
        content = path.read_bytes()
        table = tomllib.loads(content.decode("utf-8"))
    except OSError as bad:
        raise BadOption(f"the calibration table '{path.name}' can't be read: {bad.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as bad:
        raise BadOption(f"the calibration table '{path.name}' is no TOML: {bad}") from None
    if "sha256" in table:
        raise BadOption(f"the calibration table '{path.name}' can't state its own checksum")
    read = read_options(SiteTable, table, f"calibration table {path.name}")
    names = [one.name for one in read.calibrations]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BadOption(f"the calibration table '{path.name}' has two entries '{twice[0]}'")
    return replace(read, sha256=hashlib.sha256(content).hexdigest())


def mindways_line(rods: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    """Slope and intercept of mg K2HPO4/cm3 over HU from the rods of a Mindways phantom.

    Args:
        rods: HU, water and K2HPO4 in mg/cm3 of each; at least three with different K2HPO4.

    Source:
        The phantom's own form: HU = water + sigma_ref K2HPO4 + beta_ref over the rods; of the patient, where the
        salt displaces water, sigma = sigma_ref - 0.2174 and beta = beta_ref + 999.6.

    Raises:
        ValueError: the rods give no rising line.
    """
    measured = np.asarray(rods, dtype=np.float64)
    if measured.ndim != 2 or len(measured) < 3 or np.ptp(measured[:, 2]) <= 0:
        raise ValueError("a phantom needs three rods with different densities")
    sigma_ref, beta_ref = np.polyfit(measured[:, 2], measured[:, 0] - measured[:, 1], 1)
    sigma, beta = float(sigma_ref) - 0.2174, float(beta_ref) + 999.6
    if sigma <= 0:
        raise ValueError("the rods' HU do not rise with their density")
    return 1 / sigma, -beta / sigma


def site_calibration(
    table: SiteTable, series: SeriesRef, contrast: bool, options: CalibrationOptions
) -> Calibration | None:
    """The line from a core's HU to mg/cm3 for a series, or None.

    A tube voltage that no entry was made for is corrected to 120 kV, and contrast to none, where a named
    correction of the options does that; never otherwise.
    """
    wanted = [CORRECTIONS[name].cause for name in options.corrections]
    applied = []
    if contrast:
        if "contrast" not in wanted:
            return None
        applied.append(options.corrections[wanted.index("contrast")])
    entry = table.find(series, HOUNSFIELD)
    if entry is None and series.kvp is not None and f"{series.kvp:g}" in wanted:
        applied.append(options.corrections[wanted.index(f"{series.kvp:g}")])
        entry = table.find(replace(series, kvp=120.0), HOUNSFIELD)
    if entry is None:
        return None
    method = CalibrationMethod.PHANTOM if entry.rods else CalibrationMethod.SITE_TABLE
    slope, intercept = entry.line
    for name in applied:  # from the line backwards: HU are mended for their voltage first, then for the agent
        slope, intercept = _after(CORRECTIONS[name], slope, intercept)
    return Calibration(
        Quantity.CALIBRATED_BMD, method, entry.name, entry.reference_material, slope, intercept, tuple(applied[::-1])
    )


def network_calibration(
    table: SiteTable, series: SeriesRef, model: str, version: str, material: ReferenceMaterial
) -> tuple[Calibration, bool]:
    """What a network's mg/cm3 mean on a series' scanner, and whether the site's table vouches for it.

    Args:
        version: "name@version" of the model; without an entry its training is the calibration.
        material: that its training densities are of.
    """
    entry = table.find(series, model)
    if entry is None:
        return Calibration(Quantity.VOLUMETRIC_BMD, CalibrationMethod.NETWORK, version, material, 1.0, 0.0), False
    slope, intercept = entry.line
    return Calibration(
        Quantity.VOLUMETRIC_BMD, CalibrationMethod.SITE_TABLE, entry.name, entry.reference_material, slope, intercept
    ), True


def _after(correction: Correction, slope: float, intercept: float) -> tuple[float, float]:
    """The line over uncorrected HU that gives what another gives over corrected ones."""
    return slope * correction.factor, intercept + slope * correction.offset


def _same(found: str | None, stated: str) -> bool:
    return found is not None and " ".join(found.split()).casefold() == " ".join(stated.split()).casefold()
