"""
What the files of a series say: the slices that they hold, each ready to be unpacked.

Only headers are read. They must be those of the files that the series was made of, and of one patient.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.errors import IncompleteSeries, SeriesError, UndecodableSeries, UnsupportedSeries
from engine.loading.decode import pixel_format
from engine.loading.elements import Elements, read_elements
from engine.loading.frames import Frames
from engine.loading.headers import frame_of_reference
from engine.loading.hounsfield import Rescale, rescale_of
from engine.loading.slices import Plane
from engine.loading.tags import Tag
from engine.records import InstanceRef, Reason, SeriesRef
from engine.selection import CT_IMAGE, MULTIFRAME_CT


@dataclass(frozen=True, slots=True)
class Slice:
    """One image or frame, ready to be unpacked."""

    sop_instance_uid: str
    frames: Frames
    number: int  # of the frame, from 0
    plane: Plane
    rescale: Rescale


def images_of(series: SeriesRef, most: int) -> list[InstanceRef]:
    """The instances that may hold slices.

    Raises:
        SeriesError: there are none, or more than `most`.
    """
    _check_count(len(series.instances), most)
    images = [instance for instance in series.instances if instance.sop_class_uid in {CT_IMAGE, *MULTIFRAME_CT}]
    if not images:
        raise UnsupportedSeries(Reason.NOT_CT, "there are no CT images")
    return images


def members(series: SeriesRef, images: Iterable[InstanceRef], most: int) -> Iterator[list[Slice]]:
    """The slices of each image, as headers are walked; localizers and captures are left out.

    Args:
        images: of the series, as `images_of` finds them.
        most: images and frames.

    Raises:
        SeriesError: a file is gone, unreadable, another one than was registered, or of another kind than is read.
    """
    patients: set[tuple[bytes | str, ...]] = set()
    count = 0
    for instance in images:
        elements = _elements(instance.path)
        _check_identity(series, instance, elements)
        patients.add(tuple(elements.raw(tag) for tag in (Tag.PATIENT_ID, Tag.ISSUER_OF_PATIENT_ID)))
        if len(patients) > 1:
            raise IncompleteSeries(Reason.SLICES_INCONSISTENT, "images of different patients share one series")
        count += max(1, len(elements.frames))
        _check_count(count, most)
        yield _slices_of(instance, elements)


def _check_count(count: int, most: int) -> None:
    if count > most:
        raise UndecodableSeries(Reason.IMAGE_TOO_LARGE, f"{count} instances, at most {most}")


def _check_identity(series: SeriesRef, instance: InstanceRef, elements: Elements) -> None:
    """A file is still the one that the series was made of."""
    said = tuple(elements.text(tag) for tag in (Tag.STUDY_INSTANCE_UID, Tag.SERIES_INSTANCE_UID, Tag.SOP_INSTANCE_UID))
    if said != (series.study_instance_uid, series.series_instance_uid, instance.sop_instance_uid):
        raise IncompleteSeries(Reason.SLICES_INCONSISTENT, "a file holds another instance than was registered")


def _slices_of(instance: InstanceRef, elements: Elements) -> list[Slice]:
    """Those of one file."""
    if not elements.frames:
        if (elements.integer(Tag.NUMBER_OF_FRAMES) or 1) > 1 or instance.sop_class_uid in MULTIFRAME_CT:
            raise UnsupportedSeries(Reason.MULTIFRAME_UNSUPPORTED, "an image has frames that do not say where they lie")
        if not _is_slice(elements, Tag.IMAGE_TYPE):
            return []
        frames = Frames(Path(instance.path), pixel_format(elements))
        return [_slice(instance, elements, frames, 0)]
    if len(elements.frames) != elements.integer(Tag.NUMBER_OF_FRAMES):
        raise IncompleteSeries(
            Reason.SLICES_INCONSISTENT, f"{len(elements.frames)} frames are described, NumberOfFrames says otherwise"
        )
    frames = Frames(Path(instance.path), pixel_format(elements))
    each = [elements.frame(n) for n in range(len(elements.frames))]
    kind = Tag.FRAME_TYPE if elements.has(Tag.FRAME_TYPE) or each[0].has(Tag.FRAME_TYPE) else Tag.IMAGE_TYPE
    return [_slice(instance, said, frames, n) for n, said in enumerate(each) if _is_slice(said, kind)]


def _is_slice(elements: Elements, kind: Tag) -> bool:
    return not {"LOCALIZER", "SECONDARY"} & set(elements.texts(kind))


def _elements(path: str) -> Elements:
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - as often as there are slices
            return read_elements(file, os.fstat(file.fileno()).st_size)
    except SeriesError:
        raise
    except FileNotFoundError:
        raise UndecodableSeries(Reason.FILE_MISSING, "a file is no longer there") from None
    except Exception as bad:  # whatever hostile bytes bring about
        raise UndecodableSeries(Reason.HEADER_UNREADABLE, f"a header breaks off with {type(bad).__name__}") from None


def _slice(instance: InstanceRef, elements: Elements, frames: Frames, number: int) -> Slice:
    plane = Plane(
        rows=frames.form.rows,
        columns=frames.form.columns,
        pixel_spacing=elements.numbers(Tag.PIXEL_SPACING, 2),
        image_orientation_patient=elements.numbers(Tag.IMAGE_ORIENTATION_PATIENT, 6),
        image_position_patient=elements.numbers(Tag.IMAGE_POSITION_PATIENT, 3),
        frame_of_reference_uid=frame_of_reference(elements),
    )
    return Slice(instance.sop_instance_uid, frames, number, plane, rescale_of(elements))
