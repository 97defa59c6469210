"""A result as `result.json` holds it; docs/result.md tells its form."""

from dataclasses import asdict
from typing import Any

from engine.records import Measurement, ModelRef, Numbering, QualityFlag, ScreeningResult, VertebralLevel


def result_table(result: ScreeningResult) -> dict[str, Any]:
    """A result in plain words and numbers. A change of its form raises RESULT_VERSION."""
    return {
        "program": str(result.program),
        "reason": result.reason and str(result.reason),
        "patient": _site(result, None),
        "levels": [{"level": str(level)} | _site(result, level) for level in result.levels],
        "aggregated_levels": [str(level) for level in result.aggregated_levels],
        "numberings": [_numbering(result, one) for one in result.numberings],
        "areal_levels": [str(level) for level in result.areal_levels],
        "calibrated_levels": [str(level) for level in result.calibrated_levels],
        "calibrations": [asdict(one) | {"corrections": list(one.corrections)} for one in result.calibrations],
        "quality_flags": [_flag(flag) for flag in result.flags(None)],
        "models": [_model(model) for model in result.models],
        "reference_only": any(model.reference_only for model in result.models),
        "policy": result.policy,
        "engine_version": result.engine_version,
        "analysed_at": result.analysed_at.isoformat(timespec="seconds"),
        "stage_seconds": {name: round(seconds, 3) for name, seconds in result.stage_seconds},
    }


def _site(result: ScreeningResult, level: VertebralLevel | None) -> dict[str, Any]:
    finding = result.finding(level)
    measurements = [_measurement(one) for one in result.measurements if one.finding_site == level]
    site: dict[str, Any] = {
        "measurements": {name: value for measurement in measurements for name, value in measurement.items()},
        "finding": finding and str(finding),
        "findings": {str(one.quantity): {"finding": str(one.finding), "policy": one.policy}
                     for one in result.evaluations if one.finding_site == level},
        "class_probabilities": {str(one.finding): one.value
                                for one in result.class_probabilities if one.finding_site == level},
    }  # fmt: skip
    return site if level is None else site | {"quality_flags": [_flag(flag) for flag in result.flags(level)]}


def _numbering(result: ScreeningResult, numbering: Numbering) -> dict[str, Any]:
    """An anchor, and what its count calls each of the result's levels."""
    names = [numbering.name(level) for level in result.levels]
    return {"anchor": str(numbering.anchor), "shift": numbering.shift,
            "levels": [name and str(name) for name in names]}  # fmt: skip


def _measurement(measurement: Measurement) -> dict[str, Any]:
    quantity = measurement.quantity
    return {str(quantity): {"value": measurement.value, "unit": quantity.ucum, "model": measurement.model}}


def _flag(flag: QualityFlag) -> dict[str, Any]:
    return {"reason": str(flag.reason), "withholds": flag.withholds, "detail": flag.detail}


def _model(model: ModelRef) -> dict[str, Any]:
    return {
        "name": model.name,
        "version": model.version,
        "sha256": model.sha256,
        "reference_only": model.reference_only,
        "precision": model.precision,
        "backend": model.backend,
    }
