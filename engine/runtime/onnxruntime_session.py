"""
A model run by ONNX Runtime on the CPU; the only door to ONNX Runtime.

The second choice by speed, and the reference that other backends are held against: it computes in
float32, whatever the processor.
"""

import os
from functools import cache
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from engine.errors import UnusableModel
from engine.runtime.graph import Dimensions, check_graph
from engine.runtime.manifest import ModelPackage
from engine.runtime.precision import choose
from engine.runtime.session import in_runs

NAME = "onnxruntime"
PROVIDER = "CPUExecutionProvider"


def library() -> Any:
    """ONNX Runtime, kept from telling Microsoft of each session, and from keeping a number for this account (1.29 on).

    Raises:
        ImportError, OSError: it is not installed, or can't be loaded here.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read as it is imported
    import onnxruntime

    return onnxruntime


@cache
def version() -> str:
    """The library's version; empty where it can't be imported."""
    try:
        onnxruntime = library()
    except (ImportError, OSError):
        return ""
    return str(onnxruntime.__version__)


@cache
def why_not() -> str:
    """Why this backend can't run here; empty: it can."""
    try:
        onnxruntime = library()
    except (ImportError, OSError) as error:
        return f"onnxruntime can't be imported: {error}"
    if PROVIDER not in onnxruntime.get_available_providers():
        return f"ONNX Runtime was built without its {PROVIDER}"
    return ""


class OnnxRuntimeSession:
    """An opened model. Use it in a `with`; one thread at a time."""

    def __init__(self, package: ModelPackage, threads: int = 0, batch: int = 0, precision: str = "auto") -> None:
        """Open a package's model.

        Args:
            threads: how many it may use; 0: as many as the machine has.
            batch: inputs in one run; 0: one, as more gained nothing on a CPU.
            precision: see `engine.runtime.precision.choose`; int8 and f16 only where they are asked
                for: the first is slower than f32, the second emulated.

        Raises:
            UnusableModel: the ONNX file is damaged, or not what its manifest says.
            BackendUnavailable: the precision is not to be had here.
        """
        onnxruntime = library()
        self.manifest = package.manifest
        choice = choose(package, precision, ("f32", *{precision} & {"int8", "f16"}), NAME)
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads
        settings.log_severity_level = 3  # errors only; they are raised as well
        try:
            opened = onnxruntime.InferenceSession(str(choice.weights), settings, providers=[PROVIDER])
        except Exception as error:  # the library has a dozen classes for this, without a common ground
            what = type(error).__name__
            raise UnusableModel(f"model '{self.manifest.name}' can't be opened by ONNX Runtime: {what}") from error
        check_graph(self.manifest, _shapes(opened.get_inputs()), _shapes(opened.get_outputs()))
        if opened.get_inputs()[0].type != "tensor(float)":
            raise UnusableModel(f"model '{self.manifest.name}': its input is no float32 tensor")
        self._input = opened.get_inputs()[0].name
        self._session: Any = opened
        self.batch = batch or 1
        self.model = choice.named(self.manifest, f"{NAME} {version()}")

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the network.

        Args:
            batch: (N, 1, K, J, I) float32, already normalised as the manifest says; any N.

        Returns:
            (N, ...) float32, the manifest's one output; the caller may keep it.
        """
        return in_runs(batch, self.batch, self._run)

    def _run(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        (output,) = self._session.run(None, {self._input: inputs})
        return np.asarray(output, dtype=np.float32)

    def __enter__(self) -> Self:
        """Open."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give memory and threads back."""
        self._session = None


def _shapes(tensors: Any) -> list[Dimensions]:
    return [[size if isinstance(size, int) else None for size in tensor.shape] for tensor in tensors]
