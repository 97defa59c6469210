"""What the engine, the node and the models set out to reach, figure by figure."""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any


@dataclass(frozen=True)
class Target:
    """A bound of one figure, or of the worst of several."""

    file: str  # of bench/results
    figure: str  # key; may hold *
    words: str
    bound: float
    least: bool = True  # False: at most
    must: bool = True  # False: an aim

    def found(self, figures: Mapping[str, Any]) -> float | None:
        """The measured figure; the worst of several; None: it was not measured."""
        values = [value for name, value in figures.items() if fnmatch(name, self.figure) and _is_number(value)]
        return (min if self.least else max)(values) if values else None

    def held(self, value: float) -> bool:
        """Whether a measured figure keeps to the bound."""
        return value >= self.bound if self.least else value <= self.bound


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


SYNTAXES = {"evle": "uncompressed", "rle": "RLE", "jpegll": "JPEG lossless", "jpegls": "JPEG-LS", "htj2k": "HTJ2K",
            "j2k": "JPEG 2000"}  # fmt: skip
PYDICOM = {"evle": 5.0, "rle": 8.0, "jpegll": 3.5, "jpegls": 3.0, "htj2k": 2.0, "j2k": 1.4}
RECEIVERS = {"orthanc": ("Orthanc, tuned", 1.5), "pynetdicom": ("pynetdicom's best", 2.5)}

TARGETS = (
    *(Target("loader", f"ratio_pydicom_{name}", f"{word}: faster than pydicom, times", PYDICOM[name])
      for name, word in SYNTAXES.items()),
    *(Target("loader", f"ratio_simpleitk_{name}", f"{word}: faster than SimpleITK's series reader, times",
             1.5 if name == "j2k" else 2.0) for name, word in SYNTAXES.items()),
    Target("loader", "ratio_headers_pydicom", "headers alone: faster than pydicom, times", 3.0),
    Target("loader", "ratio_resample_simpleitk", "to 1.5 mm: faster than SimpleITK's linear, times", 6.0),
    Target("loader", "resample_error_hounsfield", "to 1.5 mm: error against double precision, HU", 0.05, least=False),
    Target("throughput", "ratio_peer_way", "whole program: faster than the peers' way, times", 10.0),
    Target("throughput", "fraction_of_floor", "share of what the machine could do at best", 0.6),
    Target("throughput", "cost_growth_16x", "cost of a series in an archive of 16 times the size, times", 1.05,
           least=False),
    Target("throughput", "memory_growth_16x", "peak memory there, times", 1.05, least=False),
    *(Target("receive", f"ratio_{name}_{n}", f"{n} association{'s' * (n > 1)}: faster than {word}, times", bound)
      for name, (word, bound) in RECEIVERS.items() for n in (1, 2, 4)),
    *(Target("receive", f"ratio_raw_sync_{n}",
             f"{n} association{'s' * (n > 1)}: share of the speed of a raw socket that syncs", 0.95, must=False)
      for n in (1, 2, 4)),
    Target("receive", "memory_mb_32_associations", "memory with 32 associations, MB", 200.0, least=False),
    *(Target("database", f"view_s_{name}_*", f"slowest view, {name}, s", 2.0, least=False)
      for name in ("sqlite", "postgresql", "duckdb")),
    *(Target("database", f"lookup_ms_{name}_*", f"slowest look-up, {name}, ms", 50.0, least=False)
      for name in ("sqlite", "postgresql")),
    *(Target("database", f"growth_{name}_*", f"time of a view against its rows as they grow, worst, {name}", 1.0,
             least=False) for name in ("sqlite", "postgresql")),
    Target("accuracy", "dice_body_seen", "Dice of vertebral bodies, scanners of the training", 0.93),
    Target("accuracy", "dice_body_unseen", "Dice of vertebral bodies, unseen scanner", 0.90),
    Target("accuracy", "level_accuracy", "levels named right, share", 0.98),
    Target("accuracy", "vbmd_mae_test", "density: mean absolute error, test, mg/cm3", 6.3, least=False),
    Target("accuracy", "vbmd_mae_independent", "density: mean absolute error, independent, mg/cm3", 10.3, least=False),
    Target("accuracy", "vbmd_r_test", "density: r, test", 0.981),
    Target("accuracy", "vbmd_r_independent", "density: r, independent", 0.94),
    Target("accuracy", "auc_test", "three classes: macro AUC, test", 0.970),
    Target("accuracy", "auc_independent", "three classes: macro AUC, independent", 0.933),
    Target("accuracy", "abmd_r", "areal density: r per vertebra", 0.85),
    Target("accuracy", "tbs_r", "bone score: r per vertebra", 0.50),
    Target("accuracy", "flag_sensitivity_min", "quality flags: sensitivity of the worst", 0.90),
    Target("accuracy", "flag_false_alarm_max", "quality flags: false alarms of the worst, share", 0.05, least=False),
    Target("gpu", "series_per_hour", "one GPU, end to end: CT an hour", 2000.0),
)  # fmt: skip
