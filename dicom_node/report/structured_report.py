"""
The result as a DICOM structured report: Comprehensive 3D SR, template TID 1500.

Who observed, which procedure, one image a level in the library, and the groups of `measurement_groups`.
The reader's warning stands in the document itself.

Source: PS3.16 TID 1500, 1004, 1600; IHE AI Results for procedure, equipment and flags.
"""

from collections.abc import Sequence
from typing import Any

from pydicom import Dataset

from dicom_node.report import codes
from dicom_node.report.equipment import is_research_only, model_name, object_attributes
from dicom_node.report.measurement_groups import groups
from dicom_node.report.options import MANUFACTURER, RESEARCH_ONLY, ReportOptions
from dicom_node.report.segmentation_object import MeasuredCores
from dicom_node.report.source_headers import UTF8, SourceHeaders, lay_identity, middle
from dicom_node.report.uids import device_uid
from engine.records import ObjectUids, ScreeningResult
from engine.volume import Analysis


def build_report(
    analysis: Analysis,
    cores: MeasuredCores,
    segmentation: Dataset | None,
    source: SourceHeaders,
    options: ReportOptions,
    predecessor: ObjectUids | None = None,
) -> Dataset:
    """The report document.

    Args:
        segmentation: the object that holds `cores`; None where there is none to refer to.
        source: with the middle slice of each core.
        predecessor: the document of the same study that this one replaces.
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
        previous_versions=_previous(analysis, predecessor),
        **object_attributes("sr", analysis.series, result, source, options),
    )
    report.CodingSchemeIdentificationSequence = [_our_scheme()]
    lay_identity(report, source, result.analysed_at)
    return report


def _content(
    analysis: Analysis,
    cores: MeasuredCores,
    segmentation: Dataset | None,
    source: SourceHeaders,
    options: ReportOptions,
) -> Any:
    from highdicom.sr import MeasurementReport

    result = analysis.result
    measured, pointed_at = groups(analysis, cores, segmentation, source)
    places = [middle(cores.slices[level]) for level in pointed_at] or [min(source.slices)]
    shown = [source.slices[k] for k in places]
    content = MeasurementReport(
        observation_context=_observer(result, options),
        procedure_reported=source.procedure,
        imaging_measurements=measured,
        title=codes.IMAGING_MEASUREMENT_REPORT,
        referenced_images=[_with_thickness(image) for image in shown],
    )
    if not all(image.get("SliceThickness") for image in shown):
        _drop_thickness(content[0])
    if source.frames:
        _name_frames(content[0], [source.frames[k] for k in places])
    if is_research_only(result):
        content[0].ContentSequence.append(_remark(RESEARCH_ONLY))
    return content


def _name_frames(root: Dataset, frames: list[int]) -> None:
    """Say which frames the library's images are, in place; the library knows whole instances only."""
    library = next(item for item in root.ContentSequence if item.ConceptNameCodeSequence[0] == codes.IMAGE_LIBRARY)
    images = [item for group in library.ContentSequence for item in group.ContentSequence if item.ValueType == "IMAGE"]
    for image, number in zip(images, frames, strict=True):
        image.ReferencedSOPSequence[0].ReferencedFrameNumber = number


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


def _previous(analysis: Analysis, predecessor: ObjectUids | None) -> list[Dataset] | None:
    """What Predecessor Documents Sequence (PS3.3 C.17.2) names."""
    if predecessor is None:
        return None
    former = Dataset()
    former.StudyInstanceUID = analysis.series.study_instance_uid
    former.SeriesInstanceUID = predecessor.series_instance_uid
    former.SOPClassUID, former.SOPInstanceUID = predecessor.sop_class_uid, predecessor.sop_instance_uid
    return [former]


def _our_scheme() -> Dataset:
    """Source: PS3.3 C.12.1.1.7: a private scheme is identified; it has no UID."""
    scheme = Dataset()
    scheme.CodingSchemeDesignator = codes.SCHEME
    scheme.CodingSchemeName = codes.SCHEME_NAME
    scheme.CodingSchemeResponsibleOrganization = MANUFACTURER
    return scheme
