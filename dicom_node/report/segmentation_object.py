"""
The voxels that were measured, as a DICOM segmentation on the source's own slices.

One binary segment a level: its trabecular core. Frames without a voxel are left out, and only the
slices between the first and the last core are handed on, so that a long series costs no more than
its spine.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from scipy import ndimage

from dicom_node.report import codes
from dicom_node.report.equipment import object_attributes
from dicom_node.report.options import MANUFACTURER, ReportOptions
from dicom_node.report.source_headers import SourceHeaders, lay_identity
from dicom_node.report.uids import report_uid
from engine.records import Quantity, ScreeningResult, VertebralLevel
from engine.volume import Analysis


@dataclass(frozen=True, eq=False)
class MeasuredCores:
    """Which cores hold voxels: a dense label map over a run of slices."""

    levels: tuple[VertebralLevel, ...]  # segment n is levels[n - 1]
    labels: NDArray[np.uint8]  # (K', J, I), 0 or segment number
    start: int  # slice k of the volume that labels[0] lies on
    slices: dict[VertebralLevel, tuple[int, ...]]  # k of the volume, ascending


def measured_cores(analysis: Analysis) -> MeasuredCores:
    """The named cores that are not empty, head to foot, numbered from 1 without gaps."""
    cores = analysis.trabecular
    numbers = {level: n for n, level in enumerate(cores.segments, start=1) if level is not None}
    present = _slices_with(cores.labels, numbers)
    levels = tuple(level for level in analysis.result.levels if present.get(level))
    if not levels:
        return MeasuredCores((), np.zeros((0, *cores.labels.shape[1:]), np.uint8), 0, {})
    start = min(present[level][0] for level in levels)
    stop = max(present[level][-1] for level in levels) + 1
    renumber = np.zeros(256, dtype=np.uint8)
    for segment, level in enumerate(levels, start=1):
        renumber[numbers[level]] = segment
    return MeasuredCores(levels, renumber[cores.labels[start:stop]], start, {level: present[level] for level in levels})


def tracking_name(level: VertebralLevel) -> str:
    """What a core is called in segmentation and report.

    >>> tracking_name(VertebralLevel.L1)
    'L1 trabecular core'
    """
    return f"{level.value} trabecular core"


def build_segmentation(
    analysis: Analysis, cores: MeasuredCores, source: SourceHeaders, options: ReportOptions
) -> Dataset:
    """The segmentation object.

    Args:
        cores: at least one.
        source: with all slices that `cores.labels` covers.
    """
    from highdicom.seg import Segmentation, SegmentationTypeValues

    result = analysis.result
    images = [_spaced(source.slices[cores.start + k], analysis) for k in range(len(cores.labels))]
    attributes = object_attributes("seg", analysis.series, result, source, options)
    segmentation = Segmentation(
        source_images=images,
        pixel_array=cores.labels,
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[_describe(n, level, analysis) for n, level in enumerate(cores.levels, start=1)],
        content_label="TRABECULAR_CORES",
        content_description="Trabecular cores of the vertebral bodies that were measured",
        content_creator_name=f"{MANUFACTURER}^",
        **attributes,
    )
    _fix_dimension_uid(segmentation, report_uid("seg dimensions", analysis.series, result))
    lay_identity(segmentation, source, result.analysed_at)
    return segmentation


def algorithm_of(result: ScreeningResult) -> tuple[str, str]:
    """Name and version of the model that found the bodies: the one that attenuation is credited to."""
    for measurement in result.measurements:
        if measurement.quantity is Quantity.ATTENUATION_MEAN:
            return split_model(measurement.model)
    return split_model(str(result.models[0])) if result.models else (MANUFACTURER, result.engine_version)


def split_model(model: str) -> tuple[str, str]:
    """Name and version.

    >>> split_model("spine@1.2")
    ('spine', '1.2')
    """
    name, _, version = model.rpartition("@")
    return (name, version) if name and version else (model or MANUFACTURER, "unknown")


def _slices_with(
    labels: NDArray[np.uint8], numbers: dict[VertebralLevel, int]
) -> dict[VertebralLevel, tuple[int, ...]]:
    boxes = ndimage.find_objects(labels)
    present = {}
    for level, number in numbers.items():
        box = boxes[number - 1] if number <= len(boxes) else None
        if box is not None:
            filled = (labels[box] == number).any(axis=(1, 2))
            present[level] = tuple(int(k) + box[0].start for k in np.flatnonzero(filled))
    return present


def _describe(number: int, level: VertebralLevel, analysis: Analysis) -> Dataset:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentAlgorithmTypeValues, SegmentDescription

    name, version = algorithm_of(analysis.result)
    return SegmentDescription(
        segment_number=number,
        segment_label=tracking_name(level),
        segmented_property_category=codes.ANATOMICAL_STRUCTURE,
        segmented_property_type=codes.LEVELS[level],
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=AlgorithmIdentificationSequence(
            name=name, family=codes.ARTIFICIAL_INTELLIGENCE, version=version, source=MANUFACTURER
        ),
        tracking_uid=report_uid(f"tracking {level.value}", analysis.series, analysis.result),
        tracking_id=tracking_name(level),
    )


def _spaced(image: Dataset, analysis: Analysis) -> Dataset:
    """The slice with the spacing that its masks are written with.

    A segmentation states how thick its frames are; where the source does not, the step between
    slices is all that is known.
    """
    spaced = Dataset()
    spaced.update(image)
    spaced.SpacingBetweenSlices = f"{analysis.volume.geometry.spacing_mm[0]:.8g}"
    if not image.get("SliceThickness"):
        spaced.SliceThickness = spaced.SpacingBetweenSlices
    return spaced


def _fix_dimension_uid(segmentation: Dataset, uid: str) -> None:
    """The library draws one at random; ours follows from the input."""
    for item in (*segmentation.DimensionOrganizationSequence, *segmentation.DimensionIndexSequence):
        item.DimensionOrganizationUID = uid
