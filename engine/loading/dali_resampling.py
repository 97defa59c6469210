"""
The program's way through DALI's graph: one volume at a time, through pipelines that stay.

The graph computes; what it can't do, grids aslant to each other, goes through `engine.resampling`. Results are copied
to the host, as sessions take arrays of the host.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import SeriesError
from engine.loading.dali_pipeline import DaliOptions, Preparation, check_installed, is_along_axes, needed, prepare
from engine.resampling import resample
from engine.volume import Geometry, Volume


class Resampler(StrEnum):
    """Who brings volumes onto the networks' grids."""

    KERNELS = "kernels"  # compiled loops on the CPU
    DALI = "dali"


@dataclass(frozen=True, slots=True)
class ResamplingOptions:
    """How volumes come onto the networks' grids."""

    by: Resampler = Resampler.KERNELS
    device: int = 0  # number of the GPU that DALI uses; -1: its CPU twin, which is slower than the kernels
    threads: int = 2  # of DALI's, on the CPU

    def __post_init__(self) -> None:
        """Refuse numbers without meaning."""
        if self.device < -1 or self.threads < 1:
            raise ValueError("device is at least -1, threads at least 1")


class DaliResampler:
    """Two pipelines, for networks' images and for HU. One thread may use each at a time."""

    def __init__(self, options: ResamplingOptions) -> None:
        """Nothing is built yet.

        Raises:
            BackendUnavailable: DALI is not installed.
        """
        check_installed()
        self._images = _Graph(DaliOptions(options.device, options.threads, prefetch=1))
        self._hounsfield = _Graph(DaliOptions(options.device, options.threads, prefetch=1, normalise=False))

    def image(self, volume: Volume, target: Geometry, window: tuple[float, float]) -> NDArray[np.float32] | None:
        """A volume as a network wants to see it, (K, J, I) on `target`, -1..1; None: the grids lie aslant.

        Raises:
            SeriesError: DALI gave this volume up.
            BackendUnavailable: the device is not there.
        """
        if not is_along_axes(volume.geometry, target):
            return None
        stored = np.ascontiguousarray(volume.hounsfield)
        return self._images.run(Preparation(stored, volume.geometry, target, window))

    def resample(self, values: NDArray[np.int16], source: Geometry, target: Geometry) -> NDArray[np.float32]:
        """As `engine.resampling.resample`; only the part of the source that the target sees goes to the device.

        Raises:
            as `image`.
        """
        box = needed(source, target) if is_along_axes(source, target) else None
        if box is None:
            return resample(values, source, target)
        part = np.ascontiguousarray(values[box])
        return self._hounsfield.run(Preparation(part, source.box(box), target, (0.0, 1.0)))


class _Graph:
    """One pipeline, asked volume by volume."""

    def __init__(self, options: DaliOptions) -> None:
        self._options = options
        self._asked: deque[Preparation] = deque()
        self._answers: Iterator[Any] | None = None

    def run(self, one: Preparation) -> NDArray[np.float32]:
        if self._answers is None:
            self._answers = prepare(self._questions(), self._options)
        self._asked.append(one)
        try:
            answer = next(self._answers)
        except BaseException:
            self._answers = None  # a generator that has raised is at its end
            self._asked.clear()
            raise
        if isinstance(answer, SeriesError):
            raise answer
        host = answer if self._options.device < 0 else answer.as_cpu()
        return np.array(np.from_dlpack(host)[..., 0], dtype=np.float32)

    def _questions(self) -> Iterator[Preparation]:
        while self._asked:
            yield self._asked.popleft()
