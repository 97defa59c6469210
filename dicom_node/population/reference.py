"""
A site's reference measurements, as a CSV: who was measured when, and what came out.

Each row names whom by `accession_number`, `study_instance_uid` or `patient_id` (with `issuer_of_patient_id` where the
archive has issuers), and holds numbers in columns that bear their unit. Identifiers become keyed hashes as the row is
read, and no message quotes one. A table that could be misread is refused as a whole: a reference is either right or of
no use.
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from math import isfinite
from pathlib import Path
from statistics import median

from db.scanners import study_day
from engine.errors import BadOption
from engine.loading.headers import accession_pseudonym, pseudonym

KEYS = ("accession_number", "study_instance_uid", "patient_id")
VALUES = {  # column: lowest and highest median that its unit can have (our choice, wide)
    "volumetric_bmd_mg_cm3": (20.0, 400.0),
    "areal_bmd_g_cm2": (0.3, 2.5),
    "trabecular_bone_score": (0.6, 2.0),
}
OTHERS = ("issuer_of_patient_id", "date", "kind")
LONGEST_ROW = 100_000  # characters; our choice


@dataclass(frozen=True, slots=True)
class Reference:
    """One reference measurement; whom it is of stands in exactly one of the three keys."""

    line: int
    patient_key: str | None
    accession_key: str | None
    study_instance_uid: str | None
    day: int | None  # days since 1970-01-01
    kind: str
    values: Mapping[str, float]  # by column

    @property
    def whom(self) -> tuple[str | None, str | None, str | None]:
        """The keys."""
        return self.patient_key, self.accession_key, self.study_instance_uid


def read_references(path: Path, site_key: bytes) -> tuple[Reference, ...]:
    """The rows of a CSV of reference values.

    Rows that say the same twice are one row.

    Raises:
        BadOption: the file can't be read, a column is missing, unknown or without a unit, a number can't be one or is
            of another unit, or two rows contradict each other. Names lines, never identifiers.
    """
    columns, rows = _rows(path)
    values = [name for name in columns if name in VALUES]
    if not values:
        raise BadOption(f"'{path.name}' has no column of reference values; known are {', '.join(VALUES)}")
    found = tuple(_reference(path, line, row, values, site_key) for line, row in rows)
    if not found:
        raise BadOption(f"'{path.name}' has no rows")
    for name in values:
        _check_unit(path, name, [row.values[name] for row in found if name in row.values])
    return _without_repeats(path, found)


def read_examinations(path: Path, site_key: bytes) -> tuple[tuple[str, int, str, str], ...]:
    """Who had a bone densitometry when, of a CSV with `patient_id`, `date` and perhaps `kind`.

    Returns:
        (patient key, day, YYYYMMDD, kind) each.

    Raises:
        BadOption: as `read_references`.
    """
    columns, rows = _rows(path)
    if not {"patient_id", "date"} <= set(columns):
        raise BadOption(f"'{path.name}' must have the columns patient_id and date")
    found = []
    for line, row in rows:
        reference = _reference(path, line, row, (), site_key)
        if reference.day is None or reference.patient_key is None:
            raise BadOption(f"'{path.name}', line {line}: patient_id and date must both be there")
        said = date.fromordinal(reference.day + date(1970, 1, 1).toordinal()).strftime("%Y%m%d")
        found.append((reference.patient_key, reference.day, said, reference.kind or "DXA"))
    return tuple(found)


def _rows(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as bad:
        raise BadOption(f"'{path.name}' can't be read: {bad.strerror}") from None
    except UnicodeDecodeError:
        raise BadOption(f"'{path.name}' is no UTF-8 text") from None
    lines = text.splitlines()
    if not lines or not lines[0].strip():
        raise BadOption(f"'{path.name}' is empty")
    separator = max(",;\t", key=lines[0].count)  # what spreadsheets write, by their language
    try:
        table = list(_table(lines, separator))
    except csv.Error:
        raise BadOption(f"'{path.name}' is no CSV") from None
    columns = [name.strip().lower().replace(" ", "_") for name in table[0][1]]
    _check_columns(path, columns)
    rows = []
    for line, cells in table[1:]:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(columns):
            raise BadOption(f"'{path.name}', line {line}: {len(cells)} cells under {len(columns)} columns")
        rows.append((line, {name: cell.strip() for name, cell in zip(columns, cells, strict=True)}))
    return columns, rows


def _table(lines: Sequence[str], separator: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader((line[:LONGEST_ROW] for line in lines), delimiter=separator, strict=True)
    for cells in reader:
        yield reader.line_num, cells


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    doubled = sorted({name for name in columns if columns.count(name) > 1})
    if doubled:
        raise BadOption(f"'{path.name}' has a column twice: {', '.join(doubled)}")
    known = {*KEYS, *VALUES, *OTHERS}
    for name in columns:
        close = [value for value in VALUES if value.startswith(re.sub(r"[\W_].*", "", name) or " ")]
        if name not in known and close:
            raise BadOption(f"'{path.name}': column '{name}' names no unit that is known here; expected {close[0]}")
    if not set(columns) & set(KEYS):
        raise BadOption(f"'{path.name}' names nobody: it needs a column {', '.join(KEYS[:-1])} or {KEYS[-1]}")


def _reference(path: Path, line: int, row: Mapping[str, str], values: Sequence[str], site_key: bytes) -> Reference:
    accession, study, patient = (row.get(name, "") for name in KEYS)
    if not (accession or study or patient):
        raise BadOption(f"'{path.name}', line {line} names nobody")
    if accession:
        study = patient = ""
    elif study:
        patient = ""
    return Reference(
        line=line,
        patient_key=pseudonym(site_key, patient, row.get("issuer_of_patient_id", "")) if patient else None,
        accession_key=accession_pseudonym(site_key, accession) if accession else None,
        study_instance_uid=study or None,
        day=_day(path, line, row.get("date", "")),
        kind=row.get("kind", "")[:16],
        values={name: _number(path, line, name, row[name]) for name in values if row[name]},
    )


def _day(path: Path, line: int, text: str) -> int | None:
    if not text:
        return None
    day = study_day(text.replace("-", "") if re.fullmatch(r"\d{4}-\d\d-\d\d", text) else text)
    if day is None:
        raise BadOption(f"'{path.name}', line {line}: a date must be YYYY-MM-DD or YYYYMMDD")
    return day


def _number(path: Path, line: int, column: str, text: str) -> float:
    plain = text.replace(",", ".") if text.count(",") == 1 and "." not in text else text
    try:
        value = float(plain)
    except ValueError:
        value = float("nan")
    if not isfinite(value):
        raise BadOption(f"'{path.name}', line {line}: {column} is no number")
    return value


def _check_unit(path: Path, column: str, values: Sequence[float]) -> None:
    """A wrong unit moves the middle by a factor; single values may be odd."""
    low, high = VALUES[column]
    if values and not low <= median(values) <= high:
        raise BadOption(
            f"'{path.name}': the median of {column} is {median(values):g};"
            f" in that unit it lies between {low:g} and {high:g}"
        )


def _without_repeats(path: Path, found: Sequence[Reference]) -> tuple[Reference, ...]:
    kept: dict[tuple[object, ...], Reference] = {}
    for row in found:
        before = kept.setdefault((*row.whom, row.day), row)
        if before.values != row.values:
            raise BadOption(
                f"'{path.name}', lines {before.line} and {row.line} contradict each other about one patient"
            )
    return tuple(kept.values())
