"""
A made-up archive of any size as rows of the schema: patients who age, scanners that differ, results, flags.

A measurement is one number of one quantity at one vertebra: HU mean, median and SD, core volume, density. 160 000
patients give 476 000 results of seven vertebrae, 3.3 million rows and 16.7 million measurements.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

LEVELS = ("T11", "T12", "L1", "L2", "L3", "L4", "L5")
QUANTITIES = 5
STUDIES_PER_PATIENT = 2.976
SCANNERS = 12
NOW = datetime(2026, 3, 1, tzinfo=UTC)
FIRST_DAY = 16_436  # 2015-01-01
WITHHELD = ("contrast", "kvp", "sharp_kernel", "no_eligible_level")
HEAD = ("localizer", "slices_too_thick", "better_series")


@dataclass(frozen=True)
class Archive:
    """How large it is; the same size gives the same rows."""

    patients: int

    @property
    def studies(self) -> int:
        """Studies, each with one series that serves and one that does not."""
        return round(self.patients * STUDIES_PER_PATIENT)

    def fixed(self) -> dict[str, list[dict[str, Any]]]:
        """Rows that all the others point to."""
        scanners = [
            {
                "id": n + 1,
                "label": f"Maker {n % 4} | Scanner {n} | CT{n} | K{n % 3} | 120 kV",
                "manufacturer": f"Maker {n % 4}",
                "manufacturer_model_name": f"Scanner {n}",
                "station_name": f"CT{n}",
                "convolution_kernel": (f"K{n % 3}",),
                "kvp": 120.0,
            }
            for n in range(SCANNERS)
        ]
        models = [
            {"id": 1, "name": "spine", "version": "1", "sha256": "a" * 64, "reference_only": False},
            {"id": 2, "name": "bmd", "version": "1", "sha256": "b" * 64, "reference_only": False},
        ]
        run = {"owner": "bench", "program": "vertebral", "engine_version": "0.1.0", "results": 0}
        times = {"first_result_at": NOW, "last_result_at": NOW}
        rng = np.random.default_rng(3)
        known = rng.choice(self.patients, self.patients // 20, replace=False)
        days = rng.integers(FIRST_DAY, FIRST_DAY + 4000, len(known))
        dates = _dates(days)
        return {
            "scanner": scanners,
            "model": models,
            "run": [{"id": 1, **run, **times}],
            "policy": [{"id": 1, "name": "qct-80-120@1", "first_used_at": NOW}],
            "densitometry": [
                {
                    "patient_key": _patient(int(patient)),
                    "examination_day": int(day),
                    "kind": "DXA",
                    "examination_date": date,
                    "origin": "table",
                }
                for patient, day, date in zip(known, days, dates, strict=True)
            ],
        }

    def batches(self, size: int, begin: int = 0, end: int | None = None) -> Iterator[dict[str, list[dict[str, Any]]]]:
        """Rows by table, some studies at a time, in the order of the tables' references."""
        last = self.studies if end is None else end
        for start in range(begin, last, size):
            yield self._batch(start, min(start + size, last))

    def _batch(self, start: int, end: int) -> dict[str, list[dict[str, Any]]]:
        numbers = np.arange(start, end)
        rng = np.random.default_rng((7, start))
        patients = numbers % self.patients  # each patient's studies lie far apart
        visit = numbers // self.patients
        person = np.random.default_rng(11)
        age0 = person.integers(30, 88, self.patients)[patients]
        soon = (visit == 1) & (patients % 20 == 0)  # one in twenty came again within two months
        day0 = FIRST_DAY + person.integers(0, 700, self.patients)[patients]
        day = day0 + np.where(soon, 0, visit * 900) + rng.integers(0, 60, len(numbers))
        female = person.random(self.patients)[patients] < 0.55
        level0 = person.normal(0.0, 28.0, self.patients)[patients]
        age = age0 + (visit * 900) // 365
        density = 195.0 - 1.9 * (age - 20) * np.where(female, 1.1, 0.9) + level0 + rng.normal(0.0, 4.0, len(numbers))
        density = np.clip(density, 5.0, 320.0)
        fate = rng.random(len(numbers))  # below 0.03: no result; below 0.12: no density
        scanner = 1 + (patients * 7 + np.where(soon, 0, visit)) % SCANNERS
        dates = _dates(day)
        tables: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
        for n in range(len(numbers)):
            self._study(tables, int(numbers[n]), int(patients[n]), dates[n], int(day[n]), int(age[n]), bool(female[n]),
                        int(scanner[n]), float(density[n]), float(fate[n]))  # fmt: skip
        offsets = rng.normal(0.0, 6.0, (len(numbers), len(LEVELS)))
        for at, row in enumerate(tables["result"]):
            number = row["id"] - 1 - start
            self._vertebrae(tables, row, float(density[number]), offsets[at], float(fate[number]))
        return tables

    def _study(
        self, tables: dict[str, list[dict[str, Any]]], number: int, patient: int, date: str, day: int, age: int,
        female: bool, scanner: int, density: float, fate: float,
    ) -> None:  # fmt: skip
        key = number + 1
        uid = f"1.2.826.0.1.3680043.10.543.{number:010d}"
        tables["study"].append({
            "id": key, "study_instance_uid": uid, "patient_key": _patient(patient), "state": "closed", "revision": 1,
            "opened_at": NOW, "last_received_at": NOW, "closed_at": NOW,
        })  # fmt: skip
        for which in (1, 2):
            tables["series"].append({
                "id": 2 * number + which, "study_id": key, "series_instance_uid": f"{uid}.{which}", "revision": 1,
                "instance_count": 240, "patient_sex": "F" if female else "M", "patient_age": age, "study_date": date,
                "study_day": day, "acquisition_date": date, "scanner_id": scanner, "modality": "CT",
                "manufacturer": f"Maker {(scanner - 1) % 4}", "manufacturer_model_name": f"Scanner {scanner - 1}",
                "slice_thickness": 1.25 if which == 1 else 5.0, "kvp": 120.0,
            })  # fmt: skip
        lost = fate < 0.03
        place = {"series_id": 2 * number + 1, "program": "vertebral", "selected": True, "detail": ""}
        tables["screening"] += [
            place | {"state": "set_aside" if lost else "done", "reason": "no_vertebra" if lost else None},
            place | {"series_id": 2 * number + 2, "selected": False, "state": "set_aside",
                     "reason": HEAD[number % len(HEAD)]},
        ]  # fmt: skip
        tables["job"].append({
            "id": key, "series_id": 2 * number + 1, "program": "vertebral", "revision": 1, "state": "done",
            "priority": 0, "attempts": 1, "token": 1, "not_before": NOW, "detail": "", "created_at": NOW,
        })  # fmt: skip
        if lost:
            return
        given = fate >= 0.12
        tables["result"].append({
            "id": key, "series_id": 2 * number + 1, "job_id": key, "run_id": 1, "program": "vertebral", "revision": 1,
            "is_current": True, "volumetric_bmd": density if given else None,
            "finding": _finding(density) if given else None,
            "reason": None if given else WITHHELD[number % len(WITHHELD)],
            "attenuation_model": "spine@1", "density_model": "bmd@1", "policy": "qct-80-120@1",
            "engine_version": "0.1.0", "analysed_at": NOW, "recorded_at": NOW, "stage_seconds": [],
        })  # fmt: skip
        tables["result_model"] += [
            {"result_id": key, "ordinal": n, "model_id": n + 1, "precision": "f32", "backend": "openvino"}
            for n in (0, 1)
        ]

    def _vertebrae(
        self, tables: dict[str, list[dict[str, Any]]], row: dict[str, Any], density: float, offsets: Any, fate: float
    ) -> None:
        mean, given = density + 20.0, row["volumetric_bmd"]
        for level, offset in zip(LEVELS, offsets.tolist(), strict=True):
            tables["vertebra"].append({
                "result_id": row["id"], "level": level, "attenuation_mean": mean + offset,
                "attenuation_median": mean + offset - 1.5, "attenuation_sd": 31.0 + 0.1 * offset,
                "core_volume": 9.0 + 0.05 * offset, "volumetric_bmd": None if given is None else given + offset,
                "aggregated": given is not None and level in ("L1", "L2", "L3"),
            })  # fmt: skip
        if fate > 0.8:
            tables["quality_flag"].append({
                "result_id": row["id"], "ordinal": 0, "reason": "dense_focus", "level": "L4", "withholds": True,
                "detail": "",
            })  # fmt: skip


TABLES = ("study", "series", "screening", "job", "result", "result_model", "vertebra", "quality_flag")


def _patient(number: int) -> str:
    return f"{number * 2654435761 % 2**32:08x}{number:024x}"


def _finding(density: float) -> str:
    return "osteoporosis" if density <= 80 else "osteopenia" if density < 120 else "normal"


def _dates(days: Any) -> list[str]:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    known = {int(day): (epoch + timedelta(days=int(day))).strftime("%Y%m%d") for day in np.unique(days)}
    return [known[int(day)] for day in days]
