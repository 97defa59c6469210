"""What a model looks like to the stages, whichever library runs it."""

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

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the network.

        Args:
            batch: (N, C, K, J, I) float32, C contiguous, already normalised as the manifest says.

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
