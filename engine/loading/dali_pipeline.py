"""
Volumes onto a network's grid by DALI: rescale, resample, crop and normalise as one graph; the only door to DALI.

The graph is the same on a GPU and on a CPU, and follows `engine.resampling` step by step: means of whole blocks, then
linear between their centres, air outside. It is for the GPU. On a CPU the compiled kernels of `engine.kernels` are
many times as fast and what runs there; the CPU twin of this graph is how a machine without a GPU proves it.

DALI is fed with volumes that were decoded and checked: its own image decoder rescales CT values in silence, and one
sample that fails takes the whole pipeline with it. Here it takes only itself: the pipeline is made anew and the
others run again.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import BackendUnavailable, SeriesError
from engine.records import Reason
from engine.resampling import AIR
from engine.volume import Box, Geometry

HIGHEST = 32767.0  # HU; as loading keeps them
_FAILED = object()


@dataclass(frozen=True, slots=True)
class DaliOptions:
    """How the graph runs."""

    device: int = -1  # number of the GPU; -1: the CPU
    threads: int = 2
    prefetch: int = 2  # volumes under way at a time: what is held is so many times a volume and its result
    normalise: bool = True  # False: HU

    def __post_init__(self) -> None:
        """Refuse numbers without meaning."""
        if self.device < -1 or self.threads < 1 or self.prefetch < 1:
            raise ValueError("device is at least -1, threads and prefetch at least 1")


@dataclass(frozen=True, eq=False)
class Preparation:
    """One volume, and how a network wants to see it."""

    stored: NDArray[np.int16]  # (K, J, I), contiguous: HU, or values that slope and intercept make HU
    source: Geometry
    target: Geometry  # its axes run along those of `source`, either way
    window: tuple[float, float]  # HU; clipped to it, then -1..1
    slope: NDArray[np.float32] | None = None  # (K,); None: 1
    intercept: NDArray[np.float32] | None = None  # (K,), HU; None: 0


@dataclass(frozen=True, slots=True)
class _Places:
    """Where the graph's steps begin and end, worked out on the host."""

    low: NDArray[np.float32]  # first voxel that is needed, in whole blocks
    high: NDArray[np.float32]
    blocks: NDArray[np.int32]  # (6,): blocks and voxels of one, axis by axis
    start: NDArray[np.float32]  # of the linear step, in blocks
    stop: NDArray[np.float32]
    inside: NDArray[np.float32]  # voxels of the target that lie in the source's field of view
    shift: NDArray[np.int32]  # of the target's first voxel against those
    shape: NDArray[np.int32]  # of the target


def is_along_axes(source: Geometry, target: Geometry) -> bool:
    """Whether the graph can bring one grid onto the other; what lies aslant goes the CPU's way."""
    step = (np.linalg.inv(source.affine) @ target.affine)[:3, :3]
    return bool(np.allclose(step, np.diag(np.diag(step)), rtol=0, atol=1e-6))


def needed(source: Geometry, target: Geometry) -> Box | None:
    """The part of the source that the target sees, in whole blocks; None: nothing."""
    try:
        at = _places(source, target)
    except ValueError:
        return None
    ends = np.minimum(at.high, source.shape).astype(int)
    k, j, i = (slice(int(low), int(high)) for low, high in zip(at.low, ends, strict=True))
    return k, j, i


def prepare(wanted: Iterable[Preparation], options: DaliOptions) -> Iterator[Any | SeriesError]:
    """Bring volumes onto their networks' grids, some of them under way while one is used.

    Yields:
        In order, for each a (K, J, I, 1) float32 tensor where it was computed: hand it on by DLPack
        (`numpy.from_dlpack`, `torch.from_dlpack`), no copy is made. It is the pipeline's memory, and good until the
        next is asked for. Or the error that this one volume brought about.

    Raises:
        BackendUnavailable: DALI is not installed, or the device is not there.
        ValueError: a volume does not lie on its grid, or the target is aslant or sees nothing of it.
    """
    source = iter(wanted)
    while first := list(islice(source, options.prefetch)):
        for one in (yield from _together(first, source, options)):
            for _ in (yield from _together([one], iter(()), options)):  # alone, and failed again
                yield SeriesError(Reason.ANALYSIS_FAILED, "the volume can't be prepared")


def _together(
    first: Sequence[Preparation], more: Iterator[Preparation], options: DaliOptions
) -> Generator[Any, None, list[Preparation]]:
    """Run volumes through one pipeline, as many under way as `first` has.

    Returns:
        Those that were under way when one of them failed: which it was, only running each alone can tell.
    """
    pipeline = _build(options, len(first))
    waiting = deque(first)
    for one in first:
        _feed(pipeline, one, options)
    going = _tried(pipeline.schedule_run) is not _FAILED  # begins as many runs as are under way; from then on one
    while going and waiting:
        outputs = _tried(pipeline.share_outputs)
        if outputs is _FAILED:
            break
        yield outputs[0][0]
        pipeline.release_outputs()
        waiting.popleft()
        if (one_more := next(more, None)) is not None:
            waiting.append(one_more)
            _feed(pipeline, one_more, options)
            going = _tried(pipeline.schedule_run) is not _FAILED
    return list(waiting)


def _tried(step: Callable[[], Any]) -> Any:
    try:
        return step()
    except Exception:  # DALI's operators raise what they like, and the pipeline is of no more use
        return _FAILED


def check_installed() -> None:
    """Raise BackendUnavailable where DALI is not installed."""
    try:
        import nvidia.dali  # noqa: F401
    except ImportError as absent:
        raise BackendUnavailable("DALI is not installed: pip install '.[dali]'") from absent


def _build(options: DaliOptions, depth: int) -> Any:
    check_installed()
    from nvidia.dali import Pipeline

    pipeline = Pipeline(
        batch_size=1,
        num_threads=options.threads,
        device_id=None if options.device < 0 else options.device,
        prefetch_queue_depth=depth,
    )
    with pipeline:
        pipeline.set_outputs(_graph(options))
    try:
        pipeline.build()
    except RuntimeError as bad:
        raise BackendUnavailable(f"DALI can't use device {options.device} ({type(bad).__name__})") from bad
    return pipeline


def _graph(options: DaliOptions) -> Any:
    """The steps, for either device. DALI's linear resize has voxels' centres at halves and clamps at the border."""
    from nvidia.dali import fn, math, types

    def small(name: str, kind: Any, ndim: int) -> Any:
        return fn.external_source(name=name, dtype=kind, ndim=ndim)

    def broadcast(name: str) -> Any:
        given = fn.external_source(name=name, dtype=types.FLOAT, ndim=4, layout="DHWC")
        return given if options.device < 0 else given.gpu()

    stored = fn.external_source(name="stored", dtype=types.INT16, ndim=4, layout="DHWC", no_copy=options.device < 0)
    stored = stored if options.device < 0 else stored.gpu()
    low, high = small("low", types.FLOAT, 1), small("high", types.FLOAT, 1)
    needed = fn.resize(  # nearest, at its own scale: a crop that goes on with the border's values
        stored, size=high - low, roi_start=low, roi_end=high, interp_type=types.INTERP_NN, antialias=False
    )
    hounsfield = math.floor(needed * broadcast("slope") + broadcast("intercept") + 0.5)
    hounsfield = math.clamp(hounsfield, AIR, HIGHEST)
    blocks = fn.reshape(hounsfield, shape=small("blocks", types.INT32, 1))
    means = fn.reductions.mean(blocks, axes=[1, 3, 5], dtype=types.FLOAT)
    means = fn.reshape(means, shape=small("counts", types.INT32, 1), layout="DHWC")
    seen = fn.resize(
        means,
        size=small("inside", types.FLOAT, 1),
        roi_start=small("start", types.FLOAT, 1),
        roi_end=small("stop", types.FLOAT, 1),
        interp_type=types.INTERP_LINEAR,
        antialias=False,
        dtype=types.FLOAT,
    )
    whole = fn.slice(
        seen,
        start=small("shift", types.INT32, 1),
        shape=small("shape", types.INT32, 1),
        axes=[0, 1, 2],
        out_of_bounds_policy="pad",
        fill_values=[AIR],
    )
    if not options.normalise:
        return whole
    window_low, scale = broadcast("window_low"), broadcast("scale")
    scaled = (whole - window_low) * scale
    return math.clamp(scaled, 0.0, 2.0) - 1.0


def _feed(pipeline: Any, one: Preparation, options: DaliOptions) -> None:
    """Give the graph one volume."""
    if one.stored.shape != one.source.shape or one.stored.dtype != np.int16 or not one.stored.flags.c_contiguous:
        raise ValueError("stored values are (K, J, I) int16 on their grid, contiguous")
    at = _places(one.source, one.target)
    low, high = one.window
    inputs: dict[str, NDArray[Any]] = {
        "stored": one.stored[..., None],
        "low": at.low,
        "high": at.high,
        "slope": _column(one.slope, 1.0, at),
        "intercept": _column(one.intercept, 0.0, at),
        "blocks": at.blocks,
        "counts": np.array([*at.blocks[::2], 1], dtype=np.int32),
        "inside": at.inside,
        "start": at.start,
        "stop": at.stop,
        "shift": at.shift,
        "shape": at.shape,
        "window_low": np.full((1, 1, 1, 1), low, dtype=np.float32),
        "scale": np.full((1, 1, 1, 1), 2.0 / (high - low), dtype=np.float32),
    }
    unused = () if options.normalise else ("window_low", "scale")
    for name, value in inputs.items():
        if name not in unused:
            pipeline.feed_input(name, [value])


def _column(given: NDArray[np.float32] | None, otherwise: float, at: _Places) -> NDArray[np.float32]:
    """(K', 1, 1, 1): of the slices that are needed; of one slope for all, (1, 1, 1, 1)."""
    if given is None:
        return np.full((1, 1, 1, 1), otherwise, dtype=np.float32)
    slices = np.clip(np.arange(int(at.low[0]), int(at.high[0])), 0, len(given) - 1)
    return np.ascontiguousarray(given[slices].reshape(-1, 1, 1, 1), dtype=np.float32)


def _places(source: Geometry, target: Geometry) -> _Places:
    """The arithmetic of `engine.resampling`, for grids whose axes run along each other."""
    if not is_along_axes(source, target):
        raise ValueError("the grids lie aslant to each other")
    matrix = np.linalg.inv(source.affine) @ target.affine
    step, offset = np.diag(matrix)[:3], matrix[:3, 3]
    factor = np.maximum(1, np.floor(np.abs(step) + 1e-6)).astype(int)
    first, last = np.empty(3, int), np.empty(3, int)
    for axis in range(3):
        index = step[axis] * np.arange(target.shape[axis]) + offset[axis]
        seen = np.flatnonzero((index >= -0.5 - 1e-6) & (index <= source.shape[axis] - 0.5 + 1e-6))
        if not len(seen):
            raise ValueError("the target sees nothing of the source")
        first[axis], last[axis] = seen[0], seen[-1] + 1
    ends = np.sort([offset + step * first, offset + step * (last - 1)], axis=0)
    counts = -(-np.array(source.shape) // factor)  # whole blocks, the last one filled up
    low = np.clip(np.floor(ends[0] / factor).astype(int) - 1, 0, counts - 1)
    high = np.clip(np.ceil(ends[1] / factor).astype(int) + 2, low + 1, counts)
    place = (offset + step * first - (factor - 1) / 2) / factor - low  # of the first voxel, in blocks
    each = step / factor
    inside = last - first
    start = place + 0.5 - 0.5 * each
    return _Places(
        low=(low * factor).astype(np.float32),
        high=(high * factor).astype(np.float32),
        blocks=np.column_stack([high - low, factor]).reshape(-1).astype(np.int32),
        start=start.astype(np.float32),
        stop=(start + each * inside).astype(np.float32),
        inside=inside.astype(np.float32),
        shift=(-first).astype(np.int32),
        shape=np.array(target.shape, dtype=np.int32),
    )
