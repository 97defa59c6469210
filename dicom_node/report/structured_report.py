"""
The result as a DICOM structured report: Comprehensive 3D SR, template TID 1500.

A group a level with its numbers, tied to the segment that was measured; a group for the patient
with the mean, its class, the policy and the levels that went in. A number that is withheld is not
there; why is. The reader's warning stands in the document itself.

Source: PS3.16 TID 1500, 1411, 1501, 300, 4019; IHE AI Results for procedure, equipment and flags.
"""

from collections.abc import Sequence
from typing import Any

from pydicom import Dataset

from dicom_node.report import codes
from dicom_node.report.equipment import is_research_only, model_name, object_attributes
from dicom_node.report.options import MANUFACTURER, RESEARCH_ONLY, ReportOptions
from dicom_node.report.segmentation_object import MeasuredCores, split_model, tracking_name
from dicom_node.report.source_headers import UTF8, SourceHeaders, lay_identity, middle
from dicom_node.report.uids import device_uid, report_uid
from engine.records import Measurement, Quantity, Reason, ScreeningResult, VertebralLevel
from engine.volume import Analysis

DIGITS = 2
"""Decimals of a number in the report. Our choice: a tenth of what repeated scans tell apart, and no false precision."""


def build_report(
    analysis: Analysis,
    cores: MeasuredCores,
    segmentation: Dataset | None,
    source: SourceHeaders,
    options: ReportOptions,
) -> Dataset:
    """The report document.

    Args:
        segmentation: the object that holds `cores`; None where there is none to refer to.
        source: with the middle slice of each core.
    """
    from highdicom.sr import Comprehensive3DSR

    result = analysis.result
    evidence = [source.first, *_instances(analysis), *([segmentation] if segmentation is not None else [])]
    report = Comprehensive3DSR(
        evidence=evidence,
        content=_content(analysis, cores, segmentation, source, options)[0],
        is_complete=True,
        is_final=False,
        is_verified=False,
        specific_character_set=UTF8,
        **object_attributes("sr", analysis.series, result, source, options),
    )
    report.CodingSchemeIdentificationSequence = [_our_scheme()]
    lay_identity(report, source, result.analysed_at)
    return report


def why_withheld(result: ScreeningResult, level: VertebralLevel | None) -> tuple[Reason, ...]:
    """Why there is no density at a level (None: for the patient); empty where there is one, or nobody asked."""
    if result.value(Quantity.VOLUMETRIC_BMD, level) is not None:
        return ()
    whole = [flag.reason for flag in result.flags(None) if flag.withholds]
    if level is None:
        reasons = [*whole, *([result.reason] if result.reason else [])]
    else:
        reasons = [*(flag.reason for flag in result.flags(level) if flag.withholds), *whole]
    return tuple(dict.fromkeys(reasons))


def _content(
    analysis: Analysis,
    cores: MeasuredCores,
    segmentation: Dataset | None,
    source: SourceHeaders,
    options: ReportOptions,
) -> Any:
    from highdicom.sr import MeasurementReport

    result = analysis.result
    with_segment = [level for level in result.levels if segmentation is not None and level in cores.levels]
    without = [level for level in result.levels if level not in with_segment]
    groups = [_segment_group(analysis, level, cores, segmentation) for level in with_segment]
    groups += [_plain_group(analysis, level) for level in without]
    groups.append(_patient_group(analysis))
    shown = [source.slices[middle(cores.slices[level])] for level in with_segment] or [source.first]
    content = MeasurementReport(
        observation_context=_observer(result, options),
        procedure_reported=source.procedure,
        imaging_measurements=groups,
        title=codes.IMAGING_MEASUREMENT_REPORT,
        referenced_images=[_with_thickness(image) for image in shown],
    )
    if not all(image.get("SliceThickness") for image in shown):
        _drop_thickness(content[0])
    if is_research_only(result):
        content[0].ContentSequence.append(_remark(RESEARCH_ONLY))
    return content


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
        measurements=_measurements(result, level),
        qualitative_evaluations=_evaluations(result, level),
    )


def _plain_group(analysis: Analysis, level: VertebralLevel) -> Any:
    """TID 1501: a level that was named, but has no voxels to refer to."""
    from highdicom.sr import FindingSite, MeasurementsAndQualitativeEvaluations

    result = analysis.result
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(analysis, level.value, f"{level.value} vertebra"),
        finding_type=codes.VERTEBRA,
        finding_sites=[FindingSite(codes.LEVELS[level])],
        measurements=_measurements(result, level),
        qualitative_evaluations=_evaluations(result, level),
    )


def _patient_group(analysis: Analysis) -> Any:
    """TID 1501: what is said of the patient; its finding sites are the levels that went in."""
    from highdicom.sr import FindingSite, MeasurementsAndQualitativeEvaluations, TextContentItem

    result = analysis.result
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(analysis, "patient", "Bone density of the patient"),
        finding_type=codes.BONE_DENSITY,
        finding_sites=[FindingSite(codes.LEVELS[level]) for level in result.aggregated_levels] or None,
        measurements=_measurements(result, None),
        qualitative_evaluations=_evaluations(result, None),
    )
    group[0].ContentSequence.append(
        TextContentItem(name=codes.POLICY, value=result.policy, relationship_type="CONTAINS")
    )
    return group


def _measurements(result: ScreeningResult, level: VertebralLevel | None) -> list[Any]:
    """TID 300 for each number at a place, with the model that made it."""
    return [_measurement(one, level) for one in result.measurements if one.finding_site == level]


def _measurement(measurement: Measurement, level: VertebralLevel | None) -> Any:
    from highdicom.sr import AlgorithmIdentification
    from highdicom.sr import Measurement as NumberItem

    said = codes.QUANTITIES[measurement.quantity]
    is_density, is_mean = measurement.quantity is Quantity.VOLUMETRIC_BMD, level is None
    name, version = split_model(measurement.model)
    return NumberItem(
        name=said.concept,
        value=round(float(measurement.value), DIGITS),
        unit=said.unit,
        derivation=codes.MEAN if is_density and is_mean else said.derivation,
        method=codes.NETWORK_PREDICTION if is_density and not is_mean else None,
        algorithm_id=AlgorithmIdentification(name=name, version=version),
    )


def _evaluations(result: ScreeningResult, level: VertebralLevel | None) -> list[Any]:
    """Class, reasons for what is missing, and flags at a place, each once."""
    from highdicom.sr import QualitativeEvaluation

    finding = result.finding(level)
    said = [(codes.DENSITY_CLASS, codes.FINDINGS[finding])] if finding else []
    withheld = why_withheld(result, level)
    said += [(codes.DENSITY_WITHHELD, codes.reason_code(reason)) for reason in withheld]
    flags = dict.fromkeys(flag.reason for flag in result.flags(level) if flag.reason not in withheld)
    said += [(codes.QUALITY_FINDING, codes.reason_code(reason)) for reason in flags]
    return [QualitativeEvaluation(name=name, value=value) for name, value in said]


def _tracking(analysis: Analysis, place: str, name: str) -> Any:
    from highdicom.sr import TrackingIdentifier

    return TrackingIdentifier(uid=report_uid(f"tracking {place}", analysis.series, analysis.result), identifier=name)


def _observer(result: ScreeningResult, options: ReportOptions) -> Any:
    """TID 1004: the software; its UID is another one when a model is."""
    from highdicom.sr import DeviceObserverIdentifyingAttributes, ObservationContext, ObserverContext

    return ObservationContext(
        observer_device_context=ObserverContext(
            observer_type=codes.DEVICE,
            observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
                uid=device_uid(result),
                name=MANUFACTURER,
                manufacturer_name=MANUFACTURER,
                model_name=model_name(result),
                serial_number=options.device_serial_number or None,
            ),
        )
    )


def _remark(text: str) -> Any:
    """A container of TID 1500 that is not about a region, with one comment."""
    from highdicom.sr import ContainerContentItem, ContentSequence, TextContentItem

    container = ContainerContentItem(name=codes.QUALITATIVE_EVALUATIONS, relationship_type="CONTAINS")
    container.ContentSequence = ContentSequence(
        [TextContentItem(name=codes.COMMENT, value=text, relationship_type="CONTAINS")]
    )
    return container


def _with_thickness(image: Dataset) -> Dataset:
    """The library's template asks for a thickness; a stand-in of 0 is taken out again."""
    whole = Dataset()
    whole.update(image)
    if not image.get("SliceThickness"):
        whole.SliceThickness = 0
    return whole


def _drop_thickness(item: Dataset) -> None:
    """Take the stand-ins out of a tree, in place."""
    children: Any = item.get("ContentSequence") or []
    for index in reversed(range(len(children))):
        child = children[index]
        if child.ConceptNameCodeSequence[0].CodeValue == codes.SLICE_THICKNESS.value and child.ValueType == "NUM":
            del children[index]
        else:
            _drop_thickness(child)


def _instances(analysis: Analysis) -> Sequence[Dataset]:
    """Every analysed image, as evidence: its UIDs are all that is asked for."""
    classes = {instance.sop_instance_uid: instance.sop_class_uid for instance in analysis.series.instances}
    evidence = []
    for uid in dict.fromkeys(analysis.volume.sop_instance_uids):
        image = Dataset()
        image.SOPClassUID, image.SOPInstanceUID = classes[uid], uid
        image.StudyInstanceUID = analysis.series.study_instance_uid
        image.SeriesInstanceUID = analysis.series.series_instance_uid
        evidence.append(image)
    return evidence


def _our_scheme() -> Dataset:
    """Source: PS3.3 C.12.1.1.7: a private scheme is identified; it has no UID."""
    scheme = Dataset()
    scheme.CodingSchemeDesignator = codes.SCHEME
    scheme.CodingSchemeName = codes.SCHEME_NAME
    scheme.CodingSchemeResponsibleOrganization = MANUFACTURER
    return scheme
