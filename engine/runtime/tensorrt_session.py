"""
A model run by TensorRT on a CUDA device; with plans.py the only door to TensorRT.

Written for 11.x, where a network's types are the graph's; 10.12 and later take the same calls. One context, one stream,
one shape and fixed buffers: so a run is recorded once as a CUDA graph and then costs a single launch.
"""

from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from engine.errors import BackendUnavailable, UnusableModel
from engine.runtime import device_memory, plans
from engine.runtime.device_memory import DeviceBuffer, Stream
from engine.runtime.graph import check_graph
from engine.runtime.manifest import ModelPackage
from engine.runtime.precision import choose
from engine.runtime.session import in_runs

NAME = "tensorrt"
OLDEST = (10, 12)  # below, strongly typed networks lack what we use
NATIVE = ("int8", "f16", "f32")  # bf16 has no tactic for transposed convolutions
LARGE = 1 << 17  # voxels of an input from which few fill the device; our choice
BATCH_LARGE, BATCH_SMALL = 8, 32


@cache
def version() -> str:
    """The library's version; empty where it can't be imported."""
    try:
        import tensorrt as trt
    except (ImportError, OSError):
        return ""
    return str(trt.__version__)


@cache
def why_not() -> str:
    """Why this backend can't run here; empty: it can."""
    try:
        import tensorrt as trt
    except (ImportError, OSError) as error:
        return f"tensorrt can't be imported: {error}"
    numbers = tuple(int(part) for part in str(trt.__version__).split(".")[:2])
    if numbers < OLDEST:
        return f"tensorrt {trt.__version__} is older than {OLDEST[0]}.{OLDEST[1]}"
    return device_memory.why_not()


class TensorRtSession:
    """A plan with its context, stream and buffers. Use it in a `with`; one thread at a time."""

    def __init__(self, package: ModelPackage, plan_folder: Path, batch: int = 0, precision: str = "auto") -> None:
        """Open a package's model; the first time on a device its plan is built, which takes minutes.

        Args:
            plan_folder: where plans are kept.
            batch: inputs in one run; 0: what fills a device.
            precision: see `engine.runtime.precision.choose`.

        Raises:
            UnusableModel: TensorRT can't run the graph, or it is not what its manifest says.
            BackendUnavailable: the precision is not to be had, or the device refuses.
        """
        import tensorrt as trt

        self.manifest = manifest = package.manifest
        choice = choose(package, precision, NATIVE, NAME)
        self.batch = batch or (BATCH_LARGE if int(np.prod(manifest.input_shape)) >= LARGE else BATCH_SMALL)
        shape = (self.batch, 1, *manifest.input_shape)
        self._stream = Stream()
        key = plans.PlanKey(version(), choice.sha256, device_memory.device(), shape, choice.precision)
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))  # must outlive its engine
        engine = self._engine(key, choice.weights, plan_folder)
        self._check(engine, trt)
        context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.STATIC)
        if context is None or not context.set_optimization_profile_async(0, self._stream.handle):
            raise BackendUnavailable(f"model '{manifest.name}': TensorRT has no memory for a context")
        if not context.set_input_shape(self._input, shape) or context.infer_shapes():
            raise UnusableModel(f"model '{manifest.name}': its plan does not take the shape {shape}")
        self._in = DeviceBuffer(shape, np.float32)
        self._out = DeviceBuffer(tuple(context.get_tensor_shape(self._output)), np.float32)
        for name, buffer in ((self._input, self._in), (self._output, self._out)):
            if not context.set_tensor_address(name, buffer.pointer):
                raise BackendUnavailable(f"model '{manifest.name}': TensorRT refuses a buffer")
        self._context, self._engine_held = context, engine
        self._graph = self._recorded()
        self.model = choice.named(manifest, f"{NAME} {version()}")

    def _engine(self, key: plans.PlanKey, onnx: Path, folder: Path) -> Any:
        """The opened plan; one that TensorRT refuses is built once more."""
        for _ in range(2):
            plan = plans.plan_for(key, onnx, folder, plans.build_plan)
            engine = self._runtime.deserialize_cuda_engine(plan)
            if engine is not None:
                return engine
            plans.forget(key, folder)
        raise UnusableModel(f"model '{self.manifest.name}': TensorRT refuses the plan that it has just built")

    def _check(self, engine: Any, trt: Any) -> None:
        """Hold the plan's tensors against the manifest, and note their names."""
        names = [engine.get_tensor_name(n) for n in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        outputs = [name for name in names if name not in inputs]
        shapes = {name: [None, *tuple(engine.get_tensor_shape(name))[1:]] for name in names}
        check_graph(self.manifest, [shapes[name] for name in inputs], [shapes[name] for name in outputs])
        self._input, self._output = inputs[0], outputs[0]
        if any(engine.get_tensor_dtype(name) != trt.float32 for name in names):
            raise UnusableModel(
                f"model '{self.manifest.name}': input and output must be float32, whatever lies between"
            )

    def _recorded(self) -> Any:
        """One run as a CUDA graph, with its copies; None: the plan holds something that can't be recorded."""
        self._enqueue()  # once before, so that what is set up at the first run is not recorded
        self._stream.synchronize()
        self._stream.begin_capture()
        try:
            self._enqueue()
        except BackendUnavailable:
            self._stream.end_capture()
            return None
        return self._stream.end_capture()

    def _enqueue(self) -> None:
        context = self._context
        self._in.to_device(self._stream)
        if not context.execute_async_v3(self._stream.handle):
            raise BackendUnavailable(f"model '{self.manifest.name}': TensorRT could not run it")
        self._out.to_host(self._stream)

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the network.

        Args:
            batch: (N, 1, K, J, I) float32, already normalised as the manifest says; any N.

        Returns:
            (N, ...) float32, the manifest's one output; the caller may keep it.
        """
        return in_runs(batch, self.batch, self._run)

    def _run(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        self._in.host[...] = inputs
        if self._graph is None:
            self._enqueue()
        else:
            self._stream.launch(self._graph)
        self._stream.synchronize()
        output: NDArray[np.float32] = self._out.host
        return output

    def __enter__(self) -> Self:
        """Open."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the device's memory back, in the order that TensorRT wants: context, engine, runtime."""
        self._stream.synchronize()
        self._stream.destroy(self._graph)
        self._context = self._engine_held = self._runtime = None
        self._in.free()
        self._out.free()
