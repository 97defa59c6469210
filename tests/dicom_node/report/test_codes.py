"""The words of records, reports, SQL and documentation are one table."""

from pathlib import Path

import pytest
from pydicom.sr.coding import Code

from dicom_node.report import codes
from dicom_node.report.code_page import page
from engine.records import BoneFinding, CalibrationMethod, Quantity, Reason, VertebralLevel

ROOT = Path(__file__).parents[3]


def said() -> list[Code]:
    tables = (codes.FINDINGS, codes.LEVELS, codes.CLASSES, codes.PROBABILITIES, codes.CALIBRATION_METHODS)
    headings = [one for one in vars(codes).values() if isinstance(one, Code)]
    return [
        *headings,
        *(code for table in tables for code in table.values()),
        *(one.concept for one in codes.QUANTITIES.values()),
        *(codes.reason_code(reason) for reason in Reason),
    ]


def test_the_page_is_what_the_table_says():
    assert (ROOT / "docs" / "codes.md").read_text() == page(), "python -m dicom_node.report.code_page > docs/codes.md"


@pytest.mark.parametrize(
    ("words", "table"),
    [
        (Quantity, codes.QUANTITIES),
        (BoneFinding, codes.FINDINGS),
        (VertebralLevel, codes.LEVELS),
        (Reason, codes.REASONS),
        (CalibrationMethod, codes.CALIBRATION_METHODS),
    ],
)
def test_every_word_of_the_records_has_its_code(words, table):
    assert set(words) == set(table)


def test_a_private_code_has_one_meaning_and_fits_its_element():
    """PS3.5: SH holds 16 characters, a Long Code Value more; LO 64."""
    meanings: dict[str, set[str]] = {}
    for code in said():
        if code.scheme_designator == codes.SCHEME:
            meanings.setdefault(code.value, set()).add(code.meaning)
        assert len(code.meaning) <= 64
        assert code.meaning.isascii()
    assert {value: words for value, words in meanings.items() if len(words) > 1} == {}


def test_units_are_the_quantities_own():
    assert {q: codes.QUANTITIES[q].unit.value for q in Quantity} == {q: q.ucum for q in Quantity}
