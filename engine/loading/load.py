"""
Files of a series to one volume in Hounsfield units.

All headers are read and must agree before memory is taken; then slices are decoded side by side,
each straight into its place.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.errors import IncompleteSeries, SeriesError, UndecodableSeries, UnsupportedSeries
from engine.loading.decode import PixelFormat, pixel_format, read_pixels
from engine.loading.elements import Elements, read_elements
from engine.loading.headers import frame_of_reference
from engine.loading.hounsfield import Rescale, rescale_of, to_hounsfield
from engine.loading.slices import Plane, SliceOptions, Stack, stack
from engine.loading.tags import Tag
from engine.records import InstanceRef, Reason, SeriesRef
from engine.selection import CT_IMAGE, MULTIFRAME_CT
from engine.volume import Volume

_SLICES_A_TASK = 8  # our choice: a task a slice costs more than the cheap decoders


@dataclass(frozen=True)
class LoadingOptions:
    """Bounds of loading."""

    max_voxels: int = 2**29  # 1 GiB of HU; 512 x 512 x 2048
    max_instances: int = 10_000  # our choice: what is kept of their headers stays small
    threads: int = 0  # that decode; 0: as many as this process has cores, at most 8
    slices: SliceOptions = field(default_factory=SliceOptions)

    def __post_init__(self) -> None:
        """Refuse numbers without meaning."""
        if self.max_voxels < 1 or self.max_instances < 1 or self.threads < 0:
            raise ValueError("max_voxels and max_instances must be above 0, threads not below 0")


@dataclass(frozen=True, slots=True)
class _Slice:
    """One image, ready to be decoded."""

    path: Path
    sop_instance_uid: str
    plane: Plane
    form: PixelFormat
    rescale: Rescale


def load(series: SeriesRef, options: LoadingOptions) -> Volume:
    """Read a series.

    Localizers and captures that share its UID are left out. Copies of a slice count once.

    Returns:
        HU between -1024 and 32767; k grows along the slice normal.

    Raises:
        SeriesError: the series can't be read as one regular grid of HU; the reason says why.
    """
    if len(series.instances) > options.max_instances:
        raise UndecodableSeries(
            Reason.IMAGE_TOO_LARGE, f"{len(series.instances)} instances, at most {options.max_instances}"
        )
    members = _images(series)
    if len(members) < options.slices.min_slices:
        raise UnsupportedSeries(Reason.GRID_TOO_SMALL, f"{len(members)} slices, at least {options.slices.min_slices}")
    slices = [_slice(path, instance, elements) for path, instance, elements in members]
    found = stack([part.plane for part in slices], options.slices)
    k, j, i = found.geometry.shape
    if k * j * i > options.max_voxels:
        raise UndecodableSeries(Reason.IMAGE_TOO_LARGE, f"{k} x {j} x {i} voxels, at most {options.max_voxels}")
    hounsfield = _decode_all(slices, found, options)
    firsts = tuple(slices[place[0]].sop_instance_uid for place in found.places)
    return Volume(found.geometry, hounsfield, series.series_instance_uid, firsts)


def _images(series: SeriesRef) -> list[tuple[Path, InstanceRef, Elements]]:
    """The headers of what may be slices; localizers and captures are left out."""
    images = [instance for instance in series.instances if instance.sop_class_uid == CT_IMAGE]
    if any(instance.sop_class_uid in MULTIFRAME_CT for instance in series.instances):
        raise UnsupportedSeries(Reason.MULTIFRAME_UNSUPPORTED, "enhanced multi-frame CT is not read yet")
    if not images:
        raise UnsupportedSeries(Reason.NOT_CT, "there are no CT images")
    whole = [(Path(instance.path), instance, _elements(Path(instance.path))) for instance in images]
    _check_identity(series, [(instance, elements) for _, instance, elements in whole])
    if any((elements.integer(Tag.NUMBER_OF_FRAMES) or 1) > 1 for _, _, elements in whole):
        raise UnsupportedSeries(Reason.MULTIFRAME_UNSUPPORTED, "an image has several frames")
    kept = [item for item in whole if not {"LOCALIZER", "SECONDARY"} & set(item[2].texts(Tag.IMAGE_TYPE))]
    if not kept:
        raise UnsupportedSeries(Reason.LOCALIZER, "there are only localizers and captures")
    return kept


def _elements(path: Path) -> Elements:
    try:
        with path.open("rb") as file:
            return read_elements(file, os.fstat(file.fileno()).st_size)
    except SeriesError:
        raise
    except FileNotFoundError:
        raise UndecodableSeries(Reason.FILE_MISSING, "a file is no longer there") from None
    except Exception as bad:  # whatever hostile bytes bring about
        raise UndecodableSeries(Reason.HEADER_UNREADABLE, f"a header breaks off with {type(bad).__name__}") from None


def _check_identity(series: SeriesRef, members: Sequence[tuple[InstanceRef, Elements]]) -> None:
    """The files are still those that the series was made of, and all of one patient."""
    for instance, elements in members:
        said = tuple(
            elements.text(tag) for tag in (Tag.STUDY_INSTANCE_UID, Tag.SERIES_INSTANCE_UID, Tag.SOP_INSTANCE_UID)
        )
        if said != (series.study_instance_uid, series.series_instance_uid, instance.sop_instance_uid):
            raise IncompleteSeries(Reason.SLICES_INCONSISTENT, "a file holds another instance than was registered")
    patients = {
        tuple(elements.raw(tag) for tag in (Tag.PATIENT_ID, Tag.ISSUER_OF_PATIENT_ID)) for _, elements in members
    }
    if len(patients) > 1:
        raise IncompleteSeries(Reason.SLICES_INCONSISTENT, "images of different patients share one series")


def _slice(path: Path, instance: InstanceRef, elements: Elements) -> _Slice:
    form = pixel_format(elements)
    plane = Plane(
        rows=form.rows,
        columns=form.columns,
        pixel_spacing=elements.numbers(Tag.PIXEL_SPACING, 2),
        image_orientation_patient=elements.numbers(Tag.IMAGE_ORIENTATION_PATIENT, 6),
        image_position_patient=elements.numbers(Tag.IMAGE_POSITION_PATIENT, 3),
        frame_of_reference_uid=frame_of_reference(elements),
    )
    return _Slice(path, instance.sop_instance_uid, plane, form, rescale_of(elements))


def _decode_all(slices: Sequence[_Slice], found: Stack, options: LoadingOptions) -> NDArray[np.int16]:
    """(K, J, I) HU."""
    hounsfield = np.empty(found.geometry.shape, dtype=np.int16)
    threads = options.threads or min(8, len(os.sched_getaffinity(0)))
    starts = range(0, len(found.places), _SLICES_A_TASK)

    def decode_some(start: int) -> bool:
        """Whether anything is to be seen in these slices."""
        seen = False
        for k in range(start, min(start + _SLICES_A_TASK, len(found.places))):
            _decode_place([slices[n] for n in found.places[k]], hounsfield[k])
            seen |= bool((hounsfield[k] != hounsfield[k, 0, 0]).any())
        return seen

    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        try:
            anything = list(pool.map(decode_some, starts))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if not any(anything):
        raise UndecodableSeries(Reason.PIXELS_IMPLAUSIBLE, "every slice is one flat value")
    return hounsfield


def _decode_place(copies: Sequence[_Slice], out: NDArray[np.int16]) -> None:
    """Decode what lies at one place; more than one image there must be the same image."""
    first, *others = copies
    to_hounsfield(read_pixels(first.path, first.form), first.rescale, out)
    for other in others:
        again = np.empty_like(out)
        to_hounsfield(read_pixels(other.path, other.form), other.rescale, again)
        if not np.array_equal(again, out):
            raise IncompleteSeries(Reason.SLICES_DUPLICATED, "different images lie at one position")
