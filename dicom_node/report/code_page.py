"""
The private codes as a page for people who read our reports: `python -m dicom_node.report.code_page > docs/codes.md`.

Codes, SQL words and this page come from the same enumerations, so none can drift from the others.
"""

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from pydicom.sr.coding import Code

from dicom_node.report import codes
from engine.records import Quantity, Reason

HEAD = f"""# Codes in our reports

Where a standard code says what we mean, it is used (SNOMED CT, DCM, UCUM, LOINC). What none says is coded in the
private scheme `{codes.SCHEME}` ("{codes.SCHEME_NAME}"), which every report identifies in its Coding Scheme
Identification Sequence. A code value is never used for another meaning. The word in SQL (and in `result.json`) is
the same enumeration's own.
"""


def page() -> str:
    """The page, in Markdown."""
    parts = [HEAD]
    parts += _table("Measurements", ("SQL", "code", "scheme", "meaning", "unit (UCUM)"), _measurements())
    parts += _table("Findings", ("SQL", "code", "scheme", "meaning"), _coded(codes.FINDINGS))
    parts += _table("What is judged", ("of", "code", "scheme", "meaning"), _coded(codes.CLASSES))
    parts += _table("Probabilities", ("of", "code", "scheme", "meaning"), _coded(codes.PROBABILITIES))
    parts += _table("Calibration methods", ("SQL", "code", "scheme", "meaning"), _coded(codes.CALIBRATION_METHODS))
    parts += _table("Levels", ("SQL", "code", "scheme", "meaning"), _coded(codes.LEVELS))
    parts += _table("Headings", ("code", "scheme", "meaning"), ([*_words(one)] for one in HEADINGS))
    reasons = ([*_words(codes.reason_code(reason))] for reason in Reason)
    parts += _table("Reasons", ("code = SQL", "scheme", "meaning"), reasons)
    return "\n".join(parts) + "\nEach reason in plain words: [reasons.md](reasons.md).\n"


HEADINGS = (
    codes.BONE_DENSITY,
    codes.CALIBRATED_BONE,
    codes.AREAL_BONE,
    codes.DENSITY_WITHHELD,
    codes.POLICY,
    codes.NUMBERING,
    codes.CALIBRATION,
    codes.QUALITY_FINDING,
)


def _measurements() -> Iterator[list[str]]:
    for quantity in Quantity:
        said = codes.QUANTITIES[quantity]
        derived = f", {said.derivation.meaning}" if said.derivation else ""
        value, scheme, meaning = _words(said.concept)
        yield [quantity.value, value, scheme, meaning + derived, f"`{said.unit.value}`"]


def _coded(table: Mapping[Any, Code]) -> Iterator[list[str]]:
    for word, code in table.items():
        yield [str(word), *_words(code)]


def _words(code: Code) -> tuple[str, str, str]:
    return code.value, code.scheme_designator, code.meaning


def _table(title: str, columns: tuple[str, ...], rows: Iterator[list[str]]) -> list[str]:
    lines = ["", f"## {title}", "", f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


if __name__ == "__main__":
    sys.stdout.write(page())
