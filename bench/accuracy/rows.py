"""Predictions as they are kept: rows of text beside what made them; and how cases are put together."""

import csv
import gzip
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, is_dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PREDICTIONS = Path(__file__).parent.parent / "results" / "predictions"
KINDS = {
    "vertebrae": "python -m exporters evaluate, for each model of vertebrae",
    "bodies": "python -m exporters bodies",
    "flags": "python -m bench.accuracy.flag_cases",
}
"""The files, and what writes them."""

Row = dict[str, str]


def read_rows(kind: str, folder: Path = PREDICTIONS) -> list[Row]:
    """Rows of one kind; none where they were not made."""
    file = folder / f"{kind}.csv.gz"
    if not file.exists():
        return []
    with gzip.open(file, "rt", encoding="utf-8", newline="") as text:
        return list(csv.DictReader(text))


def about(folder: Path = PREDICTIONS) -> dict[str, Any]:
    """What the rows came from: models, seeds and versions as told beside them, and the rows' own checksums."""
    told: dict[str, Any] = {}
    for kind in KINDS:
        beside, rows = folder / f"{kind}.json", folder / f"{kind}.csv.gz"
        told[kind] = {
            "sha256": hashlib.sha256(rows.read_bytes()).hexdigest() if rows.exists() else None,
            **(json.loads(beside.read_text(encoding="utf-8")) if beside.exists() else {}),
        }
    return told


def column(rows: Sequence[Row], name: str) -> NDArray[np.float64]:
    """Numbers of a column."""
    return np.array([float(row[name]) for row in rows])


def having(rows: Sequence[Row], *names: str) -> list[Row]:
    """Rows that hold something in each column."""
    return [row for row in rows if all(row.get(name) for name in names)]


def patients(rows: Sequence[Row], names: Sequence[str]) -> list[Row]:
    """One row a patient: numbers are means over the levels, the rest is the first row's."""
    together: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        together.setdefault((row["cohort"], row["patient"]), []).append(row)
    merged = []
    for own in together.values():
        means = {name: repr(float(np.mean(column(own, name)))) for name in names if all(row.get(name) for row in own)}
        merged.append(own[0] | dict.fromkeys(names, "") | means)
    return merged


def where(rows: Sequence[Row], test: Callable[[Row], bool]) -> list[Row]:
    """Some rows."""
    return [row for row in rows if test(row)]


def plain(value: Any) -> Any:
    """Tables as JSON holds them: records as objects, with what they derive; numbers to six digits."""
    if is_dataclass(value) and not isinstance(value, type):
        derived = {
            name: getattr(value, name)
            for name, kind in vars(type(value)).items()
            if isinstance(kind, property) and not name.startswith("_")
        }
        return plain({**asdict(value), **derived})
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return float(f"{value:.6g}") if isfinite(value) else None
    return value
