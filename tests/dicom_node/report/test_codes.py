"""Every word of ours has a code that DICOM can hold, and standard codes are the standard's."""

import pytest
from pydicom.sr.codedict import codes as standard
from pydicom.sr.coding import Code

from dicom_node.report import codes
from engine.records import BoneFinding, Quantity, Reason, VertebralLevel


def all_codes() -> list[Code]:
    quantities = [code for said in codes.QUANTITIES.values() for code in said if code is not None]
    single = [value for value in vars(codes).values() if isinstance(value, Code)]
    reasons = [codes.reason_code(reason) for reason in Reason]
    return [*quantities, *single, *reasons, *codes.FINDINGS.values(), *codes.LEVELS.values()]


def test_every_word_has_a_code():
    assert set(codes.QUANTITIES) == set(Quantity)
    assert set(codes.FINDINGS) == set(BoneFinding)
    assert set(codes.LEVELS) == set(VertebralLevel)
    assert set(codes.REASONS) == set(Reason)


@pytest.mark.parametrize("quantity", Quantity)
def test_a_quantity_is_written_in_its_own_unit(quantity):
    assert codes.QUANTITIES[quantity].unit.value == quantity.ucum


@pytest.mark.parametrize("code", all_codes(), ids=lambda code: code.value)
def test_a_code_fits_into_dicom(code):
    assert 0 < len(code.meaning) <= 64
    assert len(code.scheme_designator) <= 16
    assert code.meaning.isascii()
    assert len(code.value) <= 16 or code.scheme_designator == codes.SCHEME  # a long code value is ours alone


def test_no_two_meanings_share_a_code():
    meanings: dict[tuple[str, str], str] = {}
    for code in all_codes():
        assert meanings.setdefault((code.scheme_designator, code.value), code.meaning) == code.meaning


@pytest.mark.parametrize("level", [level for level in VertebralLevel if level not in ("L6", "S1")])
def test_levels_are_the_standards(level):
    assert codes.LEVELS[level] == getattr(standard.SCT, f"{level.value}Vertebra")


def test_reasons_keep_their_spelling():
    assert codes.reason_code(Reason.NO_ELIGIBLE_LEVEL).value == "no_eligible_level"
