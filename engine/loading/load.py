"""
Files of a series to one volume in Hounsfield units.

All headers are read and must agree before memory is taken; then slices are decoded side by side,
each straight into its place. A slice is an image, or a frame of an enhanced multi-frame image.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.errors import IncompleteSeries, SeriesError, UndecodableSeries, UnsupportedSeries
from engine.loading.buffers import volume_memory
from engine.loading.decode import Raw, pixel_format
from engine.loading.device_decode import DeviceDecoder, DeviceOptions, unpack_many
from engine.loading.elements import Elements, read_elements
from engine.loading.frames import Frames
from engine.loading.headers import frame_of_reference
from engine.loading.hounsfield import Rescale, rescale_of, to_hounsfield
from engine.loading.isolation import MOST_FRAMES, Decoders, IsolationOptions
from engine.loading.slices import Plane, SliceOptions, Stack, stack
from engine.loading.tags import Tag
from engine.records import InstanceRef, Reason, SeriesRef
from engine.selection import CT_IMAGE, MULTIFRAME_CT
from engine.volume import Volume

_SLICES_A_TASK = MOST_FRAMES  # our choice: a task a slice costs more than the cheap decoders
_SLICES_AT_LAST = 4  # our choice: fewer cost a request more than they even out
_SLICES_A_BATCH = 32  # for a device; our choice: enough to fill it, two a thread cost little memory


class Decoder(StrEnum):
    """Who decodes JPEG 2000 and HTJ2K; everything else the CPU does."""

    CPU = "cpu"
    NVIMAGECODEC = "nvimagecodec"  # on a GPU, checked against the CPU


@dataclass(frozen=True)
class LoadingOptions:
    """Bounds of loading."""

    max_voxels: int = 2**29  # 1 GiB of HU; 512 x 512 x 2048
    max_instances: int = 10_000  # our choice, of frames too: what is kept of their headers stays small
    threads: int = 0  # that decode; 0: as many as this process has cores, at most 8
    decoder: Decoder = Decoder.CPU
    device: DeviceOptions = field(default_factory=DeviceOptions)  # where nvImageCodec decodes
    isolation: IsolationOptions = field(default_factory=IsolationOptions)  # of the CPU's decoders
    slices: SliceOptions = field(default_factory=SliceOptions)

    def __post_init__(self) -> None:
        """Refuse numbers without meaning."""
        if self.max_voxels < 1 or self.max_instances < 1 or self.threads < 0:
            raise ValueError("max_voxels and max_instances must be above 0, threads not below 0")


@dataclass(frozen=True, slots=True)
class _Slice:
    """One image or frame, ready to be decoded."""

    sop_instance_uid: str
    frames: Frames
    number: int  # of the frame, from 0
    plane: Plane
    rescale: Rescale


def load(series: SeriesRef, options: LoadingOptions, decoders: Decoders | None = None) -> Volume:
    """Read a series.

    Localizers and captures that share its UID are left out. Copies of a slice count once.

    Args:
        decoders: processes that decode, as the options want it; None: they are started for this series alone, which
            takes half a second where any are needed.

    Returns:
        HU between -1024 and 32767; k grows along the slice normal.

    Raises:
        SeriesError: the series can't be read as one regular grid of HU; the reason says why.
    """
    _check_count(len(series.instances), options)
    slices = _slices(series, options)
    if len(slices) < options.slices.min_slices:
        raise UnsupportedSeries(Reason.GRID_TOO_SMALL, f"{len(slices)} slices, at least {options.slices.min_slices}")
    found = stack([part.plane for part in slices], options.slices)
    k, j, i = found.geometry.shape
    if k * j * i > options.max_voxels:
        raise UndecodableSeries(Reason.IMAGE_TOO_LARGE, f"{k} x {j} x {i} voxels, at most {options.max_voxels}")
    with nullcontext(decoders) if decoders else Decoders(options.isolation) as those:
        hounsfield = _decode_all(slices, found, options, those)
    firsts = [slices[place[0]] for place in found.places]
    return Volume(
        found.geometry,
        hounsfield,
        series.series_instance_uid,
        tuple(part.sop_instance_uid for part in firsts),
        tuple(part.number + 1 for part in firsts),
    )


def _check_count(count: int, options: LoadingOptions) -> None:
    if count > options.max_instances:
        raise UndecodableSeries(Reason.IMAGE_TOO_LARGE, f"{count} instances, at most {options.max_instances}")


def _slices(series: SeriesRef, options: LoadingOptions) -> list[_Slice]:
    """What may be slices; localizers and captures are left out."""
    images = [instance for instance in series.instances if instance.sop_class_uid in {CT_IMAGE, *MULTIFRAME_CT}]
    if not images:
        raise UnsupportedSeries(Reason.NOT_CT, "there are no CT images")
    whole = [(instance, _elements(instance.path)) for instance in images]
    _check_identity(series, whole)
    _check_count(sum(max(1, len(elements.frames)) for _, elements in whole), options)
    slices: list[_Slice] = []
    for instance, elements in whole:
        slices += _slices_of(instance, elements)
    if not slices:
        raise UnsupportedSeries(Reason.LOCALIZER, "there are only localizers and captures")
    return slices


def _slices_of(instance: InstanceRef, elements: Elements) -> list[_Slice]:
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


def _slice(instance: InstanceRef, elements: Elements, frames: Frames, number: int) -> _Slice:
    plane = Plane(
        rows=frames.form.rows,
        columns=frames.form.columns,
        pixel_spacing=elements.numbers(Tag.PIXEL_SPACING, 2),
        image_orientation_patient=elements.numbers(Tag.IMAGE_ORIENTATION_PATIENT, 6),
        image_position_patient=elements.numbers(Tag.IMAGE_POSITION_PATIENT, 3),
        frame_of_reference_uid=frame_of_reference(elements),
    )
    return _Slice(instance.sop_instance_uid, frames, number, plane, rescale_of(elements))


def _decode_all(
    slices: Sequence[_Slice], found: Stack, options: LoadingOptions, decoders: Decoders
) -> NDArray[np.int16]:
    """(K, J, I) HU."""
    hounsfield = volume_memory(found.geometry.shape)
    threads = options.threads or min(8, len(os.sched_getaffinity(0)))
    count = len(found.places)
    if options.decoder is Decoder.CPU:
        parts = shares(count, _SLICES_A_TASK, threads)
    else:
        parts = [slice(start, start + _SLICES_A_BATCH) for start in range(0, count, _SLICES_A_BATCH)]
    own = threading.local()

    def decode_some(part: slice) -> None:
        places = [[slices[n] for n in place] for place in found.places[part]]
        wanted = [(one.frames, one.number) for place in places for one in place]
        if options.decoder is not Decoder.CPU:
            if not hasattr(own, "decoder"):
                own.decoder = DeviceDecoder(options.device)
            raws = iter(unpack_many(own.decoder, wanted))
        else:
            raws = decoders.unpack(wanted)
        for place, out in zip(places, hounsfield[part], strict=True):
            _finish(place, raws, out)
        next(raws, None)  # the end: what decoded is free again

    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        try:
            for _ in pool.map(decode_some, parts):
                pass
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return hounsfield


def shares(count: int, most: int, threads: int) -> list[slice]:
    """Cut a series into tasks: large ones, then smaller ones, so that no thread has much left when others are done.

    >>> [part.stop - part.start for part in shares(40, 16, 2)]
    [10, 7, 5, 4, 4, 4, 4, 2]
    """
    parts: list[slice] = []
    at = 0
    while at < count:
        size = min(most, max(_SLICES_AT_LAST, (count - at) // (2 * threads)), count - at)
        parts.append(slice(at, at + size))
        at += size
    return parts


def _finish(copies: Sequence[_Slice], raws: Iterator[Raw], out: NDArray[np.int16]) -> None:
    """Rescale what lies at one place; more than one image there must be the same image."""
    first, *others = copies
    _rescale(first, next(raws), out)
    for other in others:
        again = np.empty_like(out)
        _rescale(other, next(raws), again)
        if not np.array_equal(again, out):
            raise IncompleteSeries(Reason.SLICES_DUPLICATED, "different images lie at one position")


def _rescale(one: _Slice, raw: Raw, out: NDArray[np.int16]) -> None:
    if to_hounsfield(raw, one.frames.form, one.rescale, out):
        raise UndecodableSeries(Reason.PIXELS_IMPLAUSIBLE, "a slice is one flat value")
