"""
Which calibrations a series' densities stand on, and what is withheld without one.

Two densities may stand side by side: the network's (VOLUMETRIC_BMD) and one from the core's HU by a line
(CALIBRATED_BMD). Each names its calibration; none borrows the other's.
"""

from collections.abc import Sequence
from pathlib import Path

from engine.measurement.calibration import (
    CORRECTIONS,
    KVP_TOLERANCE,
    CalibrationOptions,
    SiteTable,
    Uncalibrated,
    network_calibration,
    read_site_table,
    site_calibration,
)
from engine.measurement.internal_calibration import internal_calibration
from engine.measurement.surroundings import Slab, tissue_samples
from engine.records import Calibration, CalibrationMethod, QualityFlag, Reason, SeriesRef, VertebralLevel
from engine.runtime.manifest import ModelManifest

KVP = 120.0  # that tissues' effective energies are told at


class Calibrator:
    """A site's table and what it says of a series."""

    def __init__(self, options: CalibrationOptions) -> None:
        """Read the table.

        Raises:
            BadOption: it can't be read, or an entry makes no line.
        """
        self._options = options
        self._table = read_site_table(Path(options.table)) if options.table else SiteTable()

    @property
    def table_sha256(self) -> str:
        """Of the site's table; empty: there is none."""
        return self._table.sha256

    def hounsfield(self, series: SeriesRef, flags: Sequence[QualityFlag], around: Sequence[Slab]) -> Calibration | None:
        """The line from a core's HU to mg/cm3, or None.

        Args:
            flags: that are known of the series.
            around: slabs through the bodies.
        """
        contrast = any(flag.reason is Reason.CONTRAST for flag in flags)
        found = site_calibration(self._table, series, contrast, self._options)
        usual = series.kvp is not None and abs(series.kvp - KVP) <= KVP_TOLERANCE
        if found is None and self._options.internal and usual and not contrast:
            return internal_calibration(tissue_samples(around))
        return found

    def network(self, series: SeriesRef, manifest: ModelManifest) -> tuple[Calibration, tuple[QualityFlag, ...]]:
        """What a network's densities stand on; a flag where nobody vouches for the scanner."""
        version = f"{manifest.name}@{manifest.version}"
        found, vouched = network_calibration(self._table, series, manifest.name, version, manifest.reference_material)
        if vouched:
            return found, ()
        withholds = self._options.uncalibrated is Uncalibrated.WITHHOLD
        detail = "the network's mg/cm3 are those of its training; the site has not compared them on this scanner"
        return found, (QualityFlag(Reason.UNCALIBRATED_SCANNER, None, withholds=withholds, detail=detail),)


def without_line(line: Calibration, flags: Sequence[QualityFlag]) -> set[VertebralLevel | None]:
    """Levels that get no density from a line (None: none does).

    What speaks against the network's answer alone does not count: another tube voltage, where the line was made for
    it; contrast, where it is corrected; a scanner that the network does not know.
    """
    causes = {CORRECTIONS[name].cause for name in line.corrections}
    forgiven = {Reason.UNCALIBRATED_SCANNER}
    if line.method is not CalibrationMethod.INTERNAL:
        forgiven.add(Reason.KVP)  # an entry holds for its voltage, or names its correction
    if "contrast" in causes:
        forgiven.add(Reason.CONTRAST)
    return {flag.finding_site for flag in flags if flag.withholds and flag.reason not in forgiven}
