"""
What was found and measured, as a DICOM segmentation on the source's own slices.

A segment a level for its trabecular core, numbered as in the report, then a segment a level for its
vertebral body. Frames without a voxel are left out, and only the slices between the first and the last
segment are handed on, so that a long series costs no more than its spine. Binary by default: a body holds
its core. As a labelmap, by option, a voxel has one label: a body is what lies around its core, and the
object is a tenth of the size; validators and viewers of before 2024 do not know it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless

from dicom_node.report import codes
from dicom_node.report.equipment import object_attributes
from dicom_node.report.options import MANUFACTURER, ReportOptions, SegmentationForm
from dicom_node.report.source_headers import SourceHeaders, lay_identity
from dicom_node.report.uids import report_uid
from engine.records import Quantity, ScreeningResult, VertebralLevel
from engine.volume import Analysis, Segmentation

_REPLACED = ("SOPClassUID", "SOPInstanceUID")
_STAND_IN = "2.25.0"
"""Stem of UIDs that never leave this file."""


@dataclass(frozen=True, eq=False)
class MeasuredCores:
    """Which cores and bodies hold voxels: two dense label maps over a run of slices."""

    levels: tuple[VertebralLevel, ...]  # segment n is levels[n - 1]
    labels: NDArray[np.uint8]  # (K', J, I), 0 or segment number
    start: int  # slice k of the volume that labels[0] lies on
    slices: dict[VertebralLevel, tuple[int, ...]]  # k of the volume, ascending
    bodies: tuple[VertebralLevel, ...]  # segment len(levels) + m is bodies[m - 1]
    body_labels: NDArray[np.uint8]  # (K', J, I), 0 or m


def measured_cores(analysis: Analysis, with_bodies: bool = True) -> MeasuredCores:
    """The named cores and bodies that are not empty, head to foot, numbered from 1 without gaps."""
    named = analysis.result.levels
    cores, bodies = analysis.trabecular, analysis.bodies
    slices = _slices_with(cores)
    levels = tuple(level for level in named if slices.get(level))
    shown = _slices_with(bodies) if with_bodies else {}
    found = tuple(level for level in named if shown.get(level))
    ends = [part[level] for part, those in ((slices, levels), (shown, found)) for level in those]
    start, stop = min((ks[0] for ks in ends), default=0), max((ks[-1] + 1 for ks in ends), default=0)
    return MeasuredCores(
        levels,
        _renumbered(cores, levels, start, stop),
        start,
        {level: slices[level] for level in levels},
        found,
        _renumbered(bodies, found, start, stop),
    )


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
        cores: at least one core or body.
        source: with all slices that `cores.labels` covers.
    """
    from highdicom.seg import Segmentation, SegmentationTypeValues

    result = analysis.result
    images = [_stand_in(source.slices[cores.start + k], k, analysis) for k in range(len(cores.labels))]
    as_labelmap = options.segmentation is SegmentationForm.LABELMAP
    segmentation = Segmentation(
        source_images=images,
        pixel_array=_one_label_a_voxel(cores),
        segmentation_type=SegmentationTypeValues.LABELMAP if as_labelmap else SegmentationTypeValues.BINARY,
        segment_descriptions=_descriptions(analysis, cores, as_labelmap),
        transfer_syntax_uid=RLELossless if as_labelmap else ExplicitVRLittleEndian,
        content_label="VERTEBRAE",
        content_description="Vertebral bodies found and trabecular cores measured",
        content_creator_name=f"{MANUFACTURER}^",
        **object_attributes("seg", analysis.series, result, source, options),
    )
    if not as_labelmap and cores.levels and cores.bodies:
        _fill_bodies(segmentation, cores)
    _name_sources(segmentation, cores.start, source)
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


def _slices_with(part: Segmentation) -> dict[VertebralLevel, tuple[int, ...]]:
    """The slices k that each named segment has voxels on, ascending."""
    present = {}
    for number, (level, box) in enumerate(zip(part.segments, part.boxes, strict=False), start=1):
        if level is not None and box is not None:
            filled = (part.labels[box] == number).any(axis=(1, 2))
            present[level] = tuple(int(k) + box[0].start for k in np.flatnonzero(filled))
    return present


def _renumbered(part: Segmentation, levels: tuple[VertebralLevel, ...], start: int, stop: int) -> NDArray[np.uint8]:
    """The labels of some levels on a run of slices, numbered in their order."""
    numbers = np.zeros(256, dtype=np.uint8)
    for number, level in enumerate(levels, start=1):
        numbers[part.segments.index(level) + 1] = number
    renumbered: NDArray[np.uint8] = numbers[part.labels[start:stop]]
    return renumbered


def _one_label_a_voxel(cores: MeasuredCores) -> NDArray[np.uint8]:
    """Cores by their segment numbers; around them the rest of the bodies by theirs."""
    labels = cores.body_labels.copy()
    labels[labels > 0] += len(cores.levels)
    np.copyto(labels, cores.labels, where=cores.labels > 0)
    return labels


def _fill_bodies(segmentation: Dataset, cores: MeasuredCores) -> None:
    """Put the cores back into their bodies' frames: in a binary object segments may overlap, and a body is whole."""
    size = (int(segmentation.Rows), int(segmentation.Columns))
    frames = np.unpackbits(np.frombuffer(segmentation.PixelData, np.uint8), bitorder="little")
    bits = frames[: int(segmentation.NumberOfFrames) * size[0] * size[1]].reshape(-1, *size)
    for index, frame in enumerate(segmentation.PerFrameFunctionalGroupsSequence):
        number = int(frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber) - len(cores.levels)
        if number > 0:
            (image,) = frame.DerivationImageSequence[0].SourceImageSequence
            bits[index] = cores.body_labels[_stood_for(image)] == number
    packed = np.packbits(frames, bitorder="little").tobytes()
    segmentation.PixelData = packed + b"\0" * (len(packed) % 2)


def _descriptions(analysis: Analysis, cores: MeasuredCores, as_labelmap: bool) -> list[Dataset]:
    body = "vertebral body around its core" if as_labelmap else "vertebral body"
    named = [(level, tracking_name(level), level.value) for level in cores.levels]
    named += [(level, f"{level.value} {body}", f"{level.value} body") for level in cores.bodies]
    return [_describe(n, level, label, place, analysis) for n, (level, label, place) in enumerate(named, start=1)]


def _describe(number: int, level: VertebralLevel, label: str, place: str, analysis: Analysis) -> Dataset:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentAlgorithmTypeValues, SegmentDescription

    name, version = algorithm_of(analysis.result)
    return SegmentDescription(
        segment_number=number,
        segment_label=label,
        segmented_property_category=codes.ANATOMICAL_STRUCTURE,
        segmented_property_type=codes.LEVELS[level],
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=AlgorithmIdentificationSequence(
            name=name, family=codes.ARTIFICIAL_INTELLIGENCE, version=version, source=MANUFACTURER
        ),
        tracking_uid=report_uid(f"tracking {place}", analysis.series, analysis.result),
        tracking_id=label,
    )


def _stand_in(image: Dataset, k: int, analysis: Analysis) -> Dataset:
    """A slice as the library wants it: an instance of its own, with the spacing that its masks are written with.

    A segmentation states how thick its frames are; where the source does not, the step between slices is all
    that is known. The UID tells the slice's index; `_name_sources` puts the source's own in its place.
    """
    alone = Dataset()
    alone.update({element.tag: element for element in image if element.keyword not in _REPLACED})  # elements are shared
    alone.SOPClassUID, alone.SOPInstanceUID = CTImageStorage, f"{_STAND_IN}.{k + 1}"
    alone.SpacingBetweenSlices = f"{analysis.volume.geometry.spacing_mm[0]:.8g}"
    if not image.get("SliceThickness"):
        alone.SliceThickness = alone.SpacingBetweenSlices
    return alone


def _stood_for(reference: Dataset) -> int:
    """The index in `MeasuredCores.labels` that a stand-in's UID tells."""
    return int(reference.ReferencedSOPInstanceUID.rpartition(".")[2]) - 1


def _name_sources(segmentation: Dataset, start: int, source: SourceHeaders) -> None:
    """Refer to the source's instances, and to their frames where they have many, instead of to the stand-ins."""
    for frame in segmentation.PerFrameFunctionalGroupsSequence:
        for derivation in frame.DerivationImageSequence:
            for image in derivation.SourceImageSequence:
                _refer(image, start, source, with_frame=True)
    for series in segmentation.ReferencedSeriesSequence:
        referred: dict[str, Dataset] = {}
        for item in series.ReferencedInstanceSequence:
            _refer(item, start, source, with_frame=False)
            referred.setdefault(item.ReferencedSOPInstanceUID, item)
        series.ReferencedInstanceSequence = list(referred.values())


def _refer(reference: Dataset, start: int, source: SourceHeaders, with_frame: bool) -> None:
    """Put a source in a stand-in's place; frames of several segments share one reference, which is done once."""
    if not reference.ReferencedSOPInstanceUID.startswith(f"{_STAND_IN}."):
        return
    k = start + _stood_for(reference)
    image = source.slices[k]
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    if with_frame and k in source.frames:
        reference.ReferencedFrameNumber = source.frames[k]


def _fix_dimension_uid(segmentation: Dataset, uid: str) -> None:
    """The library draws one at random; ours follows from the input."""
    for item in (*segmentation.DimensionOrganizationSequence, *segmentation.DimensionIndexSequence):
        item.DimensionOrganizationUID = uid
