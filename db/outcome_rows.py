"""
How an outcome's numbers lie in columns: which column each measure, finding, model and policy has.
"""

from dataclasses import fields
from typing import Any

from db.schema import result, vertebra
from engine.records import CLASSES, Calibration, Quantity, ScreeningResult, VertebralLevel

LEVELS = tuple(VertebralLevel)
CALIBRATION = tuple(field.name for field in fields(Calibration))
_OF_LEVEL = tuple(quantity for quantity in Quantity if quantity in vertebra.c)  # the others: extra_measurement
_OF_PATIENT = tuple(quantity for quantity in Quantity if quantity in result.c)
JUDGED = {  # quantities that are called something, with the column of what
    Quantity.VOLUMETRIC_BMD: "finding",
    Quantity.CALIBRATED_BMD: "calibrated_bmd_finding",
    Quantity.AREAL_BMD: "areal_bmd_finding",
    Quantity.TRABECULAR_BONE_SCORE: "trabecular_bone_score_finding",
}
POLICIES = {quantity: column.replace("finding", "policy") for quantity, column in JUDGED.items()}
_MODEL_COLUMNS = {  # every other: attenuation_model
    Quantity.VOLUMETRIC_BMD: "density_model",
    Quantity.CALIBRATED_BMD: "calibrated_bmd_model",
    Quantity.AREAL_BMD: "areal_bmd_model",
    Quantity.TRABECULAR_BONE_SCORE: "trabecular_bone_score_model",
}
LEVEL_MARKS = {  # vertebrae that went into the patient's values, by column
    "aggregated": "aggregated_levels",
    "calibrated_aggregated": "calibrated_levels",
    "areal_aggregated": "areal_levels",
}


def numbers_of(outcome: ScreeningResult, level: VertebralLevel | None) -> dict[str, Any]:
    """Measures, findings and probabilities at a level (None: the patient), by column."""
    measures: dict[str, Any] = {quantity.value: outcome.value(quantity, level) for quantity in _columns(level)}
    findings = {column: outcome.finding(level, quantity) for quantity, column in JUDGED.items()}
    return measures | findings | {f"probability_{one}": outcome.probability(one, level) for one in CLASSES}


def extras_of(outcome: ScreeningResult) -> list[dict[str, Any]]:
    """Measurements whose quantity has no column there."""
    return [
        {
            "ordinal": ordinal,
            "finding_site": each.finding_site,
            "quantity": each.quantity,
            "value": each.value,
            "model": each.model,
        }
        for ordinal, each in enumerate(outcome.measurements)
        if each.quantity not in _columns(each.finding_site)
    ]


def vertebra_of(outcome: ScreeningResult, level: VertebralLevel) -> dict[str, Any]:
    """The row of a vertebra, but for whose it is."""
    withholding = [flag.reason for flag in outcome.flags(level) if flag.withholds]
    return {
        "level": level,
        **numbers_of(outcome, level),
        "reason": withholding[0] if withholding else None,
        **{mark: level in getattr(outcome, name) for mark, name in LEVEL_MARKS.items()},
    }


def models_of(outcome: ScreeningResult) -> dict[str, str | None]:
    """The model of each measure, by its column."""
    columns: dict[str, str | None] = {model_column(quantity): None for quantity in _OF_LEVEL}
    measured = [each for each in outcome.measurements if each.quantity in _columns(each.finding_site)]
    columns["class_model"] = next((each.model for each in outcome.class_probabilities), None)
    return columns | {model_column(each.quantity): each.model for each in reversed(measured)}


def _columns(level: VertebralLevel | None) -> tuple[Quantity, ...]:
    return _OF_PATIENT if level is None else _OF_LEVEL


def model_column(quantity: Quantity) -> str:
    """The column of `result` that names a quantity's model."""
    return _MODEL_COLUMNS.get(quantity, "attenuation_model")


def model_of(row: Any, quantity: Quantity) -> str:
    """The model of a quantity in a row of `result`."""
    return str(getattr(row, model_column(quantity)))
