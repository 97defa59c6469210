"""
A TensorRT and a CUDA that are there only in name, so that our side of the trade can be run without a device.

Classes, methods, arguments and enums are those of the real bindings, recorded from 10.16 and 11.4; whatever they have
not is refused. Numbers come from ONNX Runtime, device memory is the host's. What this can't show: tactics, types and
speed on a device.
"""

import ctypes
import inspect
import json
import sys
from enum import IntEnum
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

SURFACES = json.loads((Path(__file__).parent / "tensorrt_surface.json").read_text())


def described(surface, kind, name):
    """How a class has a name: "property", its overloads, or None."""
    for one in (kind, *surface["classes"][kind]["bases"]):
        found = surface["classes"].get(one)
        if found and name in found["methods"]:
            return [overload for overload in found["methods"][name] if "*args" not in overload[0]]
        if found and name in found["properties"]:
            return "property"
    return None


def fits(overloads, positional, keywords):
    for names, optional in overloads:
        given = {*names[: len(positional)], *keywords}
        if (
            len(positional) + len(keywords) == len(given)
            and given <= set(names)
            and set(names) - given <= set(optional)
        ):
            return True
    return not overloads


class Named:
    """An object of a recorded class, which refuses what that class has not."""

    def __init__(self, surface, kind, **does):
        self.__dict__.update(_surface=surface, _kind=kind, _does=does)

    def __getattr__(self, name):
        known = described(self._surface, self._kind, name)
        if known is None:
            raise AttributeError(f"{self._kind} has no {name}")
        if known == "property":
            return self._does[name]

        def call(*positional, **keywords):
            assert fits(known, positional, keywords), f"{self._kind}.{name} takes {known}"
            return self._does.get(name, lambda *_, **__: True)(*positional, **keywords)

        return call

    def __setattr__(self, name, value):
        for one in (self._kind, *self._surface["classes"][self._kind]["bases"]):
            if self._surface["classes"].get(one, {}).get("properties", {}).get(name):
                self._does[name] = value
                return
        raise AttributeError(f"{self._kind}.{name} can't be set")


class Cuda:
    """Device memory in the host's; what is captured is done at launch."""

    def __init__(self):
        self.blocks, self.captured, self.launched = {}, None, 0

    def allocate(self, size_bytes, *_):
        block = (ctypes.c_uint8 * size_bytes)()
        self.blocks[ctypes.addressof(block)] = block
        return 0, ctypes.addressof(block)

    def free(self, pointer):
        del self.blocks[pointer]
        return (0,)

    def do(self, work):
        if self.captured is None:
            work()
        else:
            self.captured.append(work)
        return (0,)

    def launch(self, graph, _):
        self.launched += 1
        for work in graph:
            work()
        return (0,)

    def end(self, _):
        graph, self.captured = self.captured, None
        return 0, graph

    def begin(self, *_):
        self.captured = []
        return (0,)

    def module(self):
        """Under the names, and with the numbers of arguments, of the real module."""
        from cuda.bindings import runtime as real

        card = SimpleNamespace(
            name=b"No Card",
            major=9,
            minor=0,
            multiProcessorCount=1,
            totalGlobalMem=1 << 30,
            l2CacheSize=1,
            ECCEnabled=1,
        )
        does = {
            "cudaGetDeviceCount": lambda: (0, 1),
            "cudaGetDeviceProperties": lambda number: (0, card),
            "cudaRuntimeGetVersion": lambda: (0, 13000),
            "cudaDriverGetVersion": lambda: (0, 13000),
            "cudaSetDevice": lambda number: (0,),
            "cudaMalloc": self.allocate,
            "cudaHostAlloc": self.allocate,
            "cudaFree": self.free,
            "cudaFreeHost": self.free,
            "cudaStreamCreateWithFlags": lambda flags: (0, 77),
            "cudaStreamDestroy": lambda stream: (0,),
            "cudaStreamSynchronize": lambda stream: (0,),
            "cudaMemcpyAsync": lambda to, since, size, kind, stream: self.do(lambda: ctypes.memmove(to, since, size)),
            "cudaStreamBeginCapture": self.begin,
            "cudaStreamEndCapture": self.end,
            "cudaGraphInstantiate": lambda graph, flags: (0, graph),
            "cudaGraphDestroy": lambda graph: (0,),
            "cudaGraphExecDestroy": lambda graph: (0,),
            "cudaGraphLaunch": self.launch,
        }
        module = ModuleType("cuda.bindings.runtime")
        for name, work in does.items():
            signature = inspect.getdoc(getattr(real, name)).splitlines()[0].partition("(")[2].rpartition(")")[0]
            count = len([part for part in signature.split(",") if part.strip()])

            def call(*given, _work=work, _count=count, _name=name):
                assert len(given) == _count, f"{_name} takes {_count} arguments"
                return _work(*given)

            setattr(module, name, call)
        for name in ("cudaStreamNonBlocking", "cudaHostAllocDefault", "cudaMemcpyKind", "cudaStreamCaptureMode"):
            setattr(module, name, getattr(real, name))
        for kind, name in (
            (module.cudaMemcpyKind, "cudaMemcpyHostToDevice"),
            (module.cudaStreamCaptureMode, "cudaStreamCaptureModeThreadLocal"),
        ):
            assert hasattr(kind, name)
        for name in vars(card):
            assert hasattr(real.cudaDeviceProp, name)
        return module


class FakeTensorRt:
    """The module, and what it was asked."""

    def __init__(self, version, cuda):
        self.surface, self.cuda, self.builds, self.refuse = SURFACES[version], cuda, [], 0
        self.module = ModuleType("tensorrt")
        self.module.__version__ = version
        for name, members in self.surface["enums"].items():
            setattr(self.module, name, IntEnum(name, {member: n for n, member in enumerate(members)}))
        self.module.float32 = self.module.DataType.FLOAT
        logger = type("Logger", (), {"WARNING": 1, "__init__": lambda self, level: None})
        self.module.Logger = logger
        self.module.Builder = lambda logger: self.builder()
        self.module.OnnxParser = lambda network, logger: self.parser(network)
        self.module.Runtime = lambda logger: self.named("Runtime", deserialize_cuda_engine=self.engine)

    def named(self, kind, **does):
        return Named(self.surface, kind, **does)

    def builder(self):
        return self.named(
            "Builder",
            create_network=lambda flags: self.named(
                "INetworkDefinition", get_input=lambda n: self.named("ITensor", name="x"), flags=flags
            ),
            create_builder_config=self.config,
            create_optimization_profile=lambda: self.named("IOptimizationProfile", set_shape=self.shape),
            build_serialized_network=self.build,
        )

    def config(self):
        def cache(content):
            return self.named("ITimingCache", serialize=lambda: content or b"timings")

        return self.named(
            "IBuilderConfig",
            add_optimization_profile=lambda profile: 0,
            create_timing_cache=cache,
            get_timing_cache=lambda: cache(b""),
        )

    def shape(self, input, min, opt, max):  # noqa: A002
        self.asked = tuple(opt)

    def parser(self, network):
        def parse(path):
            self.onnx = Path(path).read_bytes()
            return True

        return self.named("OnnxParser", parse_from_file=parse)

    def build(self, network, config):
        self.builds.append(self.asked)
        return json.dumps(self.asked).encode() + b"\n" + self.onnx

    def engine(self, plan):
        if self.refuse:
            self.refuse -= 1
            return None
        from engine.runtime import onnxruntime_session

        onnxruntime = onnxruntime_session.library()
        _, _, onnx = plan.partition(b"\n")
        self.session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
        given, made = self.session.get_inputs()[0], self.session.get_outputs()[0]
        mode, context = self.module.TensorIOMode, self.module.ExecutionContextAllocationStrategy
        shapes = {given.name: (-1, *given.shape[1:]), made.name: (-1, *made.shape[1:])}
        return self.named(
            "ICudaEngine",
            num_io_tensors=2,
            get_tensor_name=lambda n: (given.name, made.name)[n],
            get_tensor_mode=lambda name: mode.INPUT if name == given.name else mode.OUTPUT,
            get_tensor_shape=lambda name: shapes[name],
            get_tensor_dtype=lambda name: self.module.float32,
            create_execution_context=lambda strategy: self.context(given.name, made.name, shapes, context(strategy)),
        )

    def context(self, given, made, shapes, strategy):
        at, current = {}, dict(shapes)

        def take(name, shape):
            current[given], current[made] = tuple(shape), (shape[0], *shapes[made][1:])
            return True

        def view(name):
            size = int(np.prod(current[name]))
            return np.frombuffer((ctypes.c_float * size).from_address(at[name]), np.float32).reshape(current[name])

        def run(stream_handle):
            def work():
                view(made)[...] = self.session.run(None, {given: view(given)})[0]

            self.cuda.do(work)
            return True

        return self.named(
            "IExecutionContext",
            set_optimization_profile_async=lambda number, stream: True,
            set_input_shape=take,
            infer_shapes=list,
            get_tensor_shape=lambda name: current[name],
            set_tensor_address=lambda name, pointer: at.update({name: pointer}) is None,
            execute_async_v3=run,
        )


@pytest.fixture(params=sorted(SURFACES))
def tensorrt(request, monkeypatch):
    """TensorRT of a version and CUDA, in name only."""
    pytest.importorskip("cuda.bindings.runtime")
    from engine.runtime import device_memory, tensorrt_session

    cuda = Cuda()
    fake = FakeTensorRt(request.param, cuda)
    runtime = cuda.module()
    bindings = ModuleType("cuda.bindings")
    bindings.runtime = runtime
    monkeypatch.setitem(sys.modules, "tensorrt", fake.module)
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", runtime)
    cached = (tensorrt_session.version, tensorrt_session.why_not, device_memory.why_not)
    for one in cached:
        one.cache_clear()
    yield fake
    for one in cached:
        one.cache_clear()
