"""
A model run by OpenVINO on the CPU; the only door to OpenVINO.

Left to itself, OpenVINO computes in bfloat16 on processors that have it and in float32 on others, so
the same series would get another number on another machine. The precision is therefore always
pinned to one that the manifest allows, read back, and recorded.
"""

import os
import sys
from functools import cache
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from engine.errors import BackendUnavailable, UnusableModel
from engine.runtime.graph import Dimensions, check_graph
from engine.runtime.manifest import ModelPackage
from engine.runtime.precision import choose
from engine.runtime.session import in_streams

NAME = "openvino"
SMALL = 2**18
"""Voxels of an input; our choice. Threads that share a small one spend more on meeting than they save: two took 1.1 to
2 times the processor time of one for the same answer, so each takes an input of its own."""

MOST_STREAMS = 4  # our choice; each holds the memory of one input's layers


def library() -> Any:
    """OpenVINO, kept from telling anybody that it is used.

    At each import it would send an event to Google Analytics, and keep a number for this account in its home folder, by
    a package `openvino_telemetry` that comes with it. Where that can't be imported it does neither.

    Raises:
        ImportError, OSError: it is not installed, or can't be loaded here.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None: can't be imported
    import openvino

    return openvino


@cache
def version() -> str:
    """The library's version; empty where it can't be imported."""
    try:
        openvino = library()
    except (ImportError, OSError):
        return ""
    return str(openvino.__version__).split("-", maxsplit=1)[0]


@cache
def why_not() -> str:
    """Why this backend can't run here; empty: it can."""
    try:
        openvino = library()
    except (ImportError, OSError) as error:
        return f"openvino can't be imported: {error}"
    if "CPU" not in openvino.Core().available_devices:
        return "OpenVINO finds no CPU plug-in that can run here"
    return ""


class OpenVinoSession:
    """A compiled model. Use it in a `with`; one thread at a time."""

    def __init__(self, package: ModelPackage, threads: int = 0, batch: int = 0, precision: str = "auto") -> None:
        """Compile a package's model.

        Args:
            threads: how many it may use; 0: as many as the machine has.
            batch: inputs in one run; 0: one, as more gained nothing on a CPU.
            precision: see `engine.runtime.precision.choose`.

        Raises:
            UnusableModel: the ONNX file is damaged, or not what its manifest says.
            BackendUnavailable: the precision is not to be had here.
        """
        core = library().Core()
        self.manifest = package.manifest
        choice = choose(package, precision, _native(core), NAME)
        wanted = "f32" if choice.precision == "int8" else choice.precision  # what is not quantised
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": wanted, "PERFORMANCE_HINT": "LATENCY"}
        if prod(self.manifest.input_shape) < SMALL:
            threads = min(MOST_STREAMS, threads or len(os.sched_getaffinity(0)))
            settings["NUM_STREAMS"] = threads
        if threads:
            settings["INFERENCE_NUM_THREADS"] = threads
        graph = _read(self.manifest.name, choice.weights)
        check_graph(self.manifest, _shapes(graph.inputs), _shapes(graph.outputs))
        self.batch = batch or 1
        graph.reshape([self.batch, 1, *self.manifest.input_shape])  # of one size: kernels are chosen once
        compiled = core.compile_model(graph, "CPU", settings)
        used = str(compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name())
        if used != wanted:
            raise BackendUnavailable(f"model '{self.manifest.name}' needs {wanted}; OpenVINO would compute in {used}")
        self.model = choice.named(self.manifest, f"{NAME} {version()}")
        streams = int(settings.get("NUM_STREAMS", 1))
        self._requests: list[Any] = [compiled.create_infer_request() for _ in range(streams)]

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the network.

        Args:
            batch: (N, 1, K, J, I) float32, already normalised as the manifest says; any N.

        Returns:
            (N, ...) float32, the manifest's one output; the caller may keep it.
        """
        return in_streams(batch, self.batch, len(self._requests), self._run)

    def _run(self, runs: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """A run for each stream at most, side by side."""
        some = self._requests[: len(runs)]
        # The input is copied: sharing the caller's memory saves a thousandth of the time and has crashed.
        for request, inputs in zip(some, runs, strict=True):
            request.start_async({0: inputs}, share_inputs=False)
        for request in some:
            request.wait()
        return [request.get_output_tensor(0).data for request in some]

    def __enter__(self) -> Self:
        """Open."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give memory and threads back."""
        self._requests = []


def _native(core: Any) -> list[str]:
    """What the processor has instructions for; bf16 without them would be slower than f32."""
    capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ["f32", *(name for name, sign in (("bf16", "BF16"), ("int8", "INT8")) if sign in capabilities)]


def _read(name: str, weights: Path) -> Any:
    """The graph of a file, read as ONNX and as nothing else: `read_model` would try other formats too."""
    reader = library().frontend.FrontEndManager().load_by_framework("onnx")
    try:
        return reader.convert(reader.load(str(weights)))
    except Exception as error:  # the library's failures have no common ground below Exception
        what = type(error).__name__
        raise UnusableModel(f"model '{name}' can't be read as ONNX by OpenVINO: {what}") from error


def _shapes(tensors: Any) -> list[Dimensions]:
    shapes: list[Dimensions] = []
    for tensor in tensors:
        sizes = list(tensor.partial_shape)
        shapes.append([None if size.is_dynamic else int(size.get_length()) for size in sizes])
    return shapes
