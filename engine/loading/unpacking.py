"""
Slices unpacked side by side, each straight into its place in the volume.

Most series list a slice a file, in order, all of one size. As long as a series goes like that, its pixels are unpacked
while further headers are still walked, so that no core waits; once all headers are known the guess is held
against them, and where it was wrong nothing of it counts.
"""

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from math import prod
from typing import Self

import numpy as np
from numpy.typing import NDArray

from engine.buffers import volume_memory
from engine.errors import IncompleteSeries, UndecodableSeries
from engine.loading.decode import Raw
from engine.loading.device_decode import DeviceDecoder, unpack_many
from engine.loading.hounsfield import read_hounsfield, to_hounsfield
from engine.loading.isolation import MOST_FRAMES, Decoders
from engine.loading.members import Slice
from engine.loading.options import Decoder, LoadingOptions
from engine.loading.slices import Stack
from engine.records import Reason
from engine.selection import JPEG_2000, RLE

_SLICES_A_TASK = MOST_FRAMES  # our choice: a task a slice costs more than the cheap decoders
_SLICES_AT_LAST = 4  # our choice: fewer cost a request more than they even out
_SLICES_A_BATCH = 32  # for a device; our choice: enough to fill it, two a thread cost little memory


@dataclass(frozen=True, slots=True)
class _Task:
    """Neighbouring places of a volume."""

    places: Sequence[Sequence[Slice]]  # each with the slices that lie there
    hounsfield: NDArray[np.int16]
    done: Future[None]


class Unpacking:
    """The pixels of one series on their way. Used by one thread, in a `with`."""

    def __init__(self, options: LoadingOptions, decoders: Decoders, images: int) -> None:
        """Nothing is read yet.

        Args:
            images: files that will be offered, if all goes well.
        """
        self._options, self._decoders, self._images = options, decoders, images
        helpers = options.threads_here - 1  # the thread that walks headers unpacks too, once it has walked them
        self._pool = ThreadPoolExecutor(helpers, thread_name_prefix="decode") if helpers else None
        self._own = threading.local()
        self._guessing = self._pool is not None and images >= options.slices.min_slices
        self._guessed: list[Slice] = []
        self._due = deque(self._parts(images))
        self._ahead: NDArray[np.int16] | None = None
        self._tasks: list[_Task] = []

    def offer(self, some: Sequence[Slice]) -> None:
        """Take what one file holds; files come in the order in which the series lists them."""
        if not self._guessing:
            return
        hounsfield = self._room(some[0]) if len(some) == 1 else None
        if hounsfield is None:
            self._forget()
            return
        self._guessed += some
        while self._due and self._due[0].stop <= len(self._guessed):
            part = self._due.popleft()
            self._begin([[one] for one in self._guessed[part]], hounsfield[part])

    def volume(self, slices: Sequence[Slice], found: Stack) -> NDArray[np.int16]:
        """(K, J, I) HU of all that was offered, once it is known where it lies.

        Raises:
            SeriesError: pixels can't be had, or are none.
        """
        hounsfield = self._ahead
        if hounsfield is None or found.places != tuple((n,) for n in range(self._images)):
            self._forget()
            hounsfield = volume_memory(found.geometry.shape, np.int16)
            for part in self._parts(len(found.places)):
                self._begin([[slices[n] for n in place] for place in found.places[part]], hounsfield[part])
        self._join()
        return hounsfield

    def _begin(self, places: Sequence[Sequence[Slice]], hounsfield: NDArray[np.int16]) -> None:
        done: Future[None] = self._pool.submit(self._unpack, places, hounsfield) if self._pool else Future()
        self._tasks.append(_Task(places, hounsfield, done))

    def _join(self) -> None:
        """Do what nobody has begun yet, and wait for the rest; of several errors the first slice's is raised."""
        others: list[Future[None]] = []
        for task in self._tasks:
            if not task.done.cancel():
                others.append(task.done)
                continue
            try:
                self._unpack(task.places, task.hounsfield)
            except Exception:
                _check(others)
                raise
        _check(others)

    def _room(self, one: Slice) -> NDArray[np.int16] | None:
        """Where slices go that all are like this one; None: it is unlike others, or not worth a guess.

        A series that is refused by its headers has then cost some tasks for nothing; JPEG 2000 is too dear for that.
        RLE is unpacked in many short calls, which would wait for the interpreter's lock, and the headers for them.
        """
        form = one.frames.form
        if form.transfer_syntax_uid in (*JPEG_2000, RLE):
            return None
        shape = (self._images, form.rows, form.columns)
        if self._ahead is None and prod(shape) <= self._options.max_voxels:
            self._ahead = volume_memory(shape, np.int16)
        return self._ahead if self._ahead is not None and self._ahead.shape == shape else None

    def _forget(self) -> None:
        """Guess no more; what is under way ends first, so that its memory serves again."""
        wait([task.done for task in self._tasks if not task.done.cancel()])
        self._guessing, self._ahead, self._tasks = False, None, []

    def _parts(self, count: int) -> list[slice]:
        if self._options.decoder is Decoder.CPU:
            return shares(count, _SLICES_A_TASK, self._options.threads_here)
        return [slice(start, start + _SLICES_A_BATCH) for start in range(0, count, _SLICES_A_BATCH)]

    def _unpack(self, places: Sequence[Sequence[Slice]], hounsfield: NDArray[np.int16]) -> None:
        singles = [place[0] for place in places if len(place) == 1]
        if len(singles) == len(places) and read_hounsfield([(one.frames, one.rescale) for one in singles], hounsfield):
            return
        wanted = [(one.frames, one.number) for place in places for one in place]
        if self._options.decoder is not Decoder.CPU:
            if not hasattr(self._own, "decoder"):
                self._own.decoder = DeviceDecoder(self._options.device)
            raws = iter(unpack_many(self._own.decoder, wanted))
        else:
            raws = self._decoders.unpack(wanted)
        for place, out in zip(places, hounsfield, strict=True):
            _finish(place, raws, out)
        next(raws, None)  # the end: what decoded is free again

    def __enter__(self) -> Self:
        """Open."""
        return self

    def __exit__(self, *_: object) -> None:
        """What has not begun never will."""
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)


def _check(tasks: Iterable[Future[None]]) -> None:
    for task in tasks:
        task.result()


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


def _finish(copies: Sequence[Slice], raws: Iterator[Raw], out: NDArray[np.int16]) -> None:
    """Rescale what lies at one place; more than one image there must be the same image."""
    first, *others = copies
    _rescale(first, next(raws), out)
    for other in others:
        again = np.empty_like(out)
        _rescale(other, next(raws), again)
        if not np.array_equal(again, out):
            raise IncompleteSeries(Reason.SLICES_DUPLICATED, "different images lie at one position")


def _rescale(one: Slice, raw: Raw, out: NDArray[np.int16]) -> None:
    if to_hounsfield(raw, one.frames.form, one.rescale, out):
        raise UndecodableSeries(Reason.PIXELS_IMPLAUSIBLE, "a slice is one flat value")
