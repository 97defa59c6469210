"""
The groups of a report: what is said at each level and of the patient.

A level whose core was measured has two groups: one tied to its segment, with all numbers (TID 1411), and
one with the core's outline on its middle slice and the leading numbers, which viewers draw (TID 1410). A level
without voxels and the patient have groups without a region (TID 1501). A number that is withheld is not
there; why is.

Source: PS3.16 TID 1410, 1411, 1501, 300, 4019.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from contourpy import LineType, contour_generator
from numpy.typing import NDArray
from pydicom import Dataset

from dicom_node.report import codes
from dicom_node.report.segmentation_object import MeasuredCores, split_model, tracking_name
from dicom_node.report.source_headers import SourceHeaders, middle
from dicom_node.report.uids import report_uid
from engine.records import (
    Calibration,
    ClassProbability,
    Measurement,
    Numbering,
    Quantity,
    Reason,
    ScreeningResult,
    VertebralLevel,
)
from engine.volume import Analysis

DIGITS = {Quantity.AREAL_BMD: 3, Quantity.TRABECULAR_BONE_SCORE: 3}
"""Decimals of a number in the report, 2 where not named. Our choice: a tenth of what repeated scans tell apart."""

LEADING = (Quantity.VOLUMETRIC_BMD, Quantity.CALIBRATED_BMD, Quantity.ATTENUATION_MEAN)
"""What stands beside an outline that a viewer draws."""

PROJECTED = (Quantity.AREAL_BMD, Quantity.TRABECULAR_BONE_SCORE)
"""What the sagittal networks predict; a patient's values have levels of their own (Yoshida 2023: L1-L4)."""

_OF_NETWORK = tuple(one for one in Quantity if one not in (Quantity.CALIBRATED_BMD, *PROJECTED))
_PREDICTED = (Quantity.VOLUMETRIC_BMD, *PROJECTED)
_DENSITIES = (Quantity.VOLUMETRIC_BMD, Quantity.CALIBRATED_BMD)


def groups(
    analysis: Analysis, cores: MeasuredCores, segmentation: Dataset | None, source: SourceHeaders
) -> tuple[list[Any], list[VertebralLevel]]:
    """All groups of a report, and the levels whose core it points at.

    Args:
        segmentation: the object that holds `cores`; None where there is none to refer to.
        source: with the middle slice of each core.
    """
    levels = analysis.result.levels
    pointed_at = [level for level in levels if segmentation is not None and level in cores.levels]
    volumes = [_segment_group(analysis, level, cores, segmentation) for level in pointed_at]
    outlines = [_outline_group(analysis, level, cores, source) for level in pointed_at]
    plain = [_plain_group(analysis, level) for level in levels if level not in pointed_at]
    return [*volumes, *outlines, *plain, *_patient_groups(analysis)], pointed_at


def why_withheld(result: ScreeningResult, level: VertebralLevel | None) -> tuple[Reason, ...]:
    """Why there is no density at a level (None: for the patient); empty where there is one, or nobody asked."""
    if any(result.value(quantity, level) is not None for quantity in _DENSITIES):
        return ()
    whole = [flag.reason for flag in result.flags(None) if flag.withholds]
    if level is None:
        reasons = [*whole, *([result.reason] if result.reason else [])]
    else:
        reasons = [*(flag.reason for flag in result.flags(level) if flag.withholds), *whole]
    return tuple(dict.fromkeys(reasons))


def outline(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The longest contour around a mask.

    Returns:
        (N, 2) float64, closed; column and row in pixels from the image's upper left corner, so that the
        first pixel's centre is (0.5, 0.5) (PS3.3 C.18.6.1.2).
    """
    contours = contour_generator(z=np.pad(mask, 1).astype(np.float64), line_type=LineType.Separate).lines(0.5)
    longest = max((np.asarray(line, dtype=np.float64) for line in contours), key=len) - 0.5
    if not np.array_equal(longest[0], longest[-1]):
        longest = np.vstack([longest, longest[:1]])
    closed: NDArray[np.float64] = longest
    return closed


def _segment_group(analysis: Analysis, level: VertebralLevel, cores: MeasuredCores, segmentation: Any) -> Any:
    """TID 1411: a level whose core lies in the segmentation."""
    from highdicom.sr import (
        FindingSite,
        ReferencedSegment,
        SourceSeriesForSegmentation,
        VolumetricROIMeasurementsAndQualitativeEvaluations,
    )

    result = analysis.result
    return VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(analysis, level.value, tracking_name(level)),
        referenced_segment=ReferencedSegment(
            sop_class_uid=segmentation.SOPClassUID,
            sop_instance_uid=segmentation.SOPInstanceUID,
            segment_number=cores.levels.index(level) + 1,
            source_series=SourceSeriesForSegmentation(analysis.series.series_instance_uid),
        ),
        finding_type=codes.VERTEBRA,
        finding_sites=[FindingSite(codes.LEVELS[level])],
        measurements=_numbers(result, level),
        qualitative_evaluations=_evaluations(result, level),
    )


def _outline_group(analysis: Analysis, level: VertebralLevel, cores: MeasuredCores, source: SourceHeaders) -> Any:
    """TID 1410: the core's outline on its middle slice, with the numbers that a reader looks for."""
    from highdicom.sr import (
        FindingSite,
        GraphicTypeValues,
        ImageRegion,
        PlanarROIMeasurementsAndQualitativeEvaluations,
        SourceImageForRegion,
    )

    k = middle(cores.slices[level])
    image = source.slices[k]
    region = ImageRegion(
        graphic_type=GraphicTypeValues.POLYLINE,
        graphic_data=outline(cores.labels[k - cores.start] == cores.levels.index(level) + 1),
        source_image=SourceImageForRegion(image.SOPClassUID, image.SOPInstanceUID, source.frame_numbers(k)),
    )
    numbers = [one for one in analysis.result.measurements if one.finding_site == level and one.quantity in LEADING]
    return PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(
            analysis, f"{level.value} outline", f"{level.value} trabecular core, middle slice"
        ),
        referenced_region=region,
        finding_type=codes.VERTEBRA,
        finding_sites=[FindingSite(codes.LEVELS[level])],
        measurements=[_measurement(one, analysis.result) for one in numbers],
        qualitative_evaluations=_evaluations(analysis.result, level),
    )


def _plain_group(analysis: Analysis, level: VertebralLevel) -> Any:
    """TID 1501: a level that was named, but has no voxels to refer to."""
    from highdicom.sr import FindingSite, MeasurementsAndQualitativeEvaluations

    result = analysis.result
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(analysis, level.value, f"{level.value} vertebra"),
        finding_type=codes.VERTEBRA,
        finding_sites=[FindingSite(codes.LEVELS[level])],
        measurements=_numbers(result, level),
        qualitative_evaluations=_evaluations(result, level),
    )


def _patient_groups(analysis: Analysis) -> list[Any]:
    """TID 1501: what is said of the patient, a group for each set of levels that went in."""
    result = analysis.result
    about = [
        ("patient", "Bone density of the patient", codes.BONE_DENSITY, result.aggregated_levels, _OF_NETWORK),
        ("patient calibrated", "Calibrated bone density of the patient", codes.CALIBRATED_BONE,
         result.calibrated_levels, (Quantity.CALIBRATED_BMD,)),
        ("patient areal", "Areal bone density and bone score of the patient", codes.AREAL_BONE, result.areal_levels,
         PROJECTED),
    ]  # fmt: skip
    return [
        _patient_group(_tracking(analysis, place, name), finding, levels, result, quantities)
        for place, name, finding, levels, quantities in about
        if place == "patient" or any(result.value(quantity, None) is not None for quantity in quantities)
    ]


def _patient_group(
    tracking: Any, finding: Any, levels: tuple[VertebralLevel, ...], result: ScreeningResult,
    quantities: tuple[Quantity, ...],
) -> Any:  # fmt: skip
    from highdicom.sr import FindingSite, MeasurementsAndQualitativeEvaluations

    leading = finding == codes.BONE_DENSITY
    said = [one for one in result.measurements if one.finding_site is None and one.quantity in quantities]
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=tracking,
        finding_type=finding,
        finding_sites=[FindingSite(codes.LEVELS[level]) for level in levels] or None,
        measurements=[*(_measurement(one, result) for one in said), *(_probabilities(result, None) if leading else ())],
        qualitative_evaluations=_classes(result, None, quantities) + (_remarks(result, None) if leading else []),
    )
    judged = dict.fromkeys(one.policy for one in result.evaluations if one.quantity in quantities)
    for policy in [result.policy] if leading else judged:
        _append(group, codes.POLICY, policy)
    for numbering in result.numberings if leading and result.levels else ():
        _append(group, codes.NUMBERING, _counted(numbering, result.levels))
    for calibration in result.calibrations:
        if calibration.quantity in quantities:
            _append(group, codes.CALIBRATION, _said_of(calibration))
    return group


def _append(group: Any, name: Any, text: str) -> None:
    from highdicom.sr import TextContentItem

    group[0].ContentSequence.append(TextContentItem(name=name, value=text, relationship_type="CONTAINS"))


def _counted(numbering: Numbering, levels: tuple[VertebralLevel, ...]) -> str:
    """What a count calls the first and the last vertebra, as in "sacrum: T11 to L5"."""
    first, last = (numbering.name(level) or "no name" for level in (levels[0], levels[-1]))
    return f"{numbering.anchor}: {first} to {last}"


def _said_of(calibration: Calibration) -> str:
    """A calibration in words."""
    corrected = f"; corrected for {', '.join(calibration.corrections)}" if calibration.corrections else ""
    line = f"{calibration.slope:.6g} x + {calibration.intercept:.6g} mg/cm3"
    said = f"{calibration.quantity.value}: {calibration.method.value} {calibration.source}"
    return f"{said}; reference material {calibration.reference_material.value}; {line}{corrected}"


def _numbers(result: ScreeningResult, level: VertebralLevel) -> list[Any]:
    """TID 300 for each number at a level, with the model that made it."""
    measured = [_measurement(one, result) for one in result.measurements if one.finding_site == level]
    return measured + _probabilities(result, level)


def _measurement(measurement: Measurement, result: ScreeningResult) -> Any:
    said = codes.QUANTITIES[measurement.quantity]
    is_mean = measurement.finding_site is None and measurement.quantity in (*_PREDICTED, *_DENSITIES)
    method = None
    if measurement.quantity in _PREDICTED and not is_mean:
        method = codes.NETWORK_PREDICTION
    elif measurement.quantity is Quantity.CALIBRATED_BMD and not is_mean:
        used = [one.method for one in result.calibrations if one.quantity is measurement.quantity]
        method = codes.CALIBRATION_METHODS[used[0]] if used else None
    return _item(
        said.concept,
        round(float(measurement.value), DIGITS.get(measurement.quantity, 2)),
        said.unit,
        measurement.model,
        derivation=codes.MEAN if is_mean else said.derivation,
        method=method,
    )


def _probabilities(result: ScreeningResult, level: VertebralLevel | None) -> list[Any]:
    """What the classifier says of each class."""
    said: Iterable[ClassProbability] = (one for one in result.class_probabilities if one.finding_site == level)
    unit = codes.NO_UNITS
    return [_item(codes.PROBABILITIES[one.finding], round(float(one.value), 4), unit, one.model) for one in said]


def _item(concept: Any, value: float, unit: Any, model: str, **more: Any) -> Any:
    from highdicom.sr import AlgorithmIdentification
    from highdicom.sr import Measurement as NumberItem

    name, version = split_model(model)
    identified = AlgorithmIdentification(name=name, version=version)
    return NumberItem(name=concept, value=value, unit=unit, algorithm_id=identified, **more)


def _evaluations(result: ScreeningResult, level: VertebralLevel) -> list[Any]:
    """Classes, reasons for what is missing, and flags at a level."""
    return _classes(result, level, (*_DENSITIES, *PROJECTED)) + _remarks(result, level)


def _remarks(result: ScreeningResult, level: VertebralLevel | None) -> list[Any]:
    """Reasons for what is missing, and flags at a place, each once."""
    from highdicom.sr import QualitativeEvaluation

    withheld = why_withheld(result, level)
    said = [(codes.DENSITY_WITHHELD, codes.reason_code(reason)) for reason in withheld]
    flags = dict.fromkeys(flag.reason for flag in result.flags(level) if flag.reason not in withheld)
    said += [(codes.QUALITY_FINDING, codes.reason_code(reason)) for reason in flags]
    return [QualitativeEvaluation(name=name, value=value) for name, value in said]


def _classes(result: ScreeningResult, level: VertebralLevel | None, judged: tuple[Quantity, ...]) -> list[Any]:
    """What policies make of the numbers."""
    from highdicom.sr import QualitativeEvaluation

    findings = [
        (codes.CLASSES[quantity], result.finding(level, quantity)) for quantity in judged if quantity in codes.CLASSES
    ]
    return [QualitativeEvaluation(name=name, value=codes.FINDINGS[found]) for name, found in findings if found]


def _tracking(analysis: Analysis, place: str, name: str) -> Any:
    from highdicom.sr import TrackingIdentifier

    return TrackingIdentifier(uid=report_uid(f"tracking {place}", analysis.series, analysis.result), identifier=name)
