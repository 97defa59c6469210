"""What a model looks like to the stages, whichever library runs it."""

from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from engine.records import ModelRef
from engine.runtime.manifest import ModelManifest


class Session(Protocol):
    """An opened model. Use it in a `with`; one thread at a time."""

    manifest: ModelManifest
    model: ModelRef  # with the precision that the library really uses
    batch: int  # inputs that it computes in one run

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the network.

        Args:
            batch: (N, C, K, J, I) float32, C contiguous, already normalised as the manifest says; any N. An input's
                answer is the same to the bit whatever the others are.

        Returns:
            (N, ...) float32, the manifest's one output; the caller may keep it.
        """
        ...

    def __enter__(self) -> Self:
        """Open."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give memory and threads back."""
        ...


def in_runs(
    inputs: NDArray[np.float32], size: int, run: Callable[[NDArray[np.float32]], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Compute any number of inputs in runs of one size.

    A library may choose another algorithm for another size, and so another rounding. With one size, the last run
    filled up with zeros, an input's answer does not depend on how many others there are.

    Args:
        inputs: (N, ...) float32.
        run: computes exactly `size` inputs; what it returns is copied at once.

    Returns:
        (N, ...) float32, the caller's own.
    """
    return in_streams(inputs, size, 1, lambda runs: [run(one) for one in runs])


def in_streams(
    inputs: NDArray[np.float32],
    size: int,
    streams: int,
    run: Callable[[list[NDArray[np.float32]]], list[NDArray[np.float32]]],
) -> NDArray[np.float32]:
    """The same for a library that computes several runs side by side.

    Args:
        streams: runs at a time, at most; each is of `size` inputs.
        run: computes so many runs or fewer; what it returns is copied at once.
    """
    answers: NDArray[np.float32] | None = None
    starts = range(0, len(inputs), size)
    for turn in range(0, len(starts), streams):
        firsts = starts[turn : turn + streams]
        for first, found in zip(firsts, run([_filled(inputs[n : n + size], size) for n in firsts]), strict=True):
            if answers is None:
                answers = np.empty((len(inputs), *found.shape[1:]), dtype=np.float32)
            part = answers[first : first + size]
            part[:] = found[: len(part)]
    if answers is None:
        raise ValueError("a batch needs at least one input")
    return answers


def _filled(some: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Inputs, contiguous, filled up with zeros to a run's size."""
    short = size - len(some)
    if short:
        some = np.concatenate([some, np.zeros((short, *some.shape[1:]), dtype=np.float32)])
    return np.ascontiguousarray(some, dtype=np.float32)
