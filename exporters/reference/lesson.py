"""What a training loop needs to know of a task: batches, a loss, and a judge of held-out patients."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

Batch = tuple[NDArray[np.float32], NDArray[np.generic]]
"""Images (N, 1, ...) on the network's scale, and what it should answer."""


@dataclass(frozen=True)
class Lesson:
    """A task as the loop sees it."""

    batch: Callable[[int], Batch]  # of a step; the same step, the same batch
    loss: Callable[[Tensor, Tensor], Tensor]
    judge: Callable[[nn.Module, str], float] | None  # the error on held-out patients, on a device; less is better


def normalise(hounsfield: NDArray[np.float32], low: float, high: float) -> NDArray[np.float32]:
    """HU to -1..1, as the manifest's own method does."""
    return np.asarray((np.clip(hounsfield, low, high) - low) * (2.0 / (high - low)) - 1.0, dtype=np.float32)
