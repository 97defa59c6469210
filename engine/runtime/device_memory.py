"""
Memory, streams and graphs of a CUDA device; the only door to cuda-python.

No torch: what runs at night needs the driver, TensorRT and this. Every call answers with an error code first; it is
looked at here and nowhere else.
"""

import ctypes
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import BackendUnavailable


@dataclass(frozen=True, slots=True)
class Device:
    """What a plan was tuned for; two cards of one name can differ."""

    name: str
    compute_capability: str
    multiprocessors: int
    memory_bytes: int
    l2_bytes: int
    ecc: bool
    runtime_version: int
    driver_version: int


@cache
def why_not() -> str:
    """Why no device can be used here; empty: one can."""
    try:
        from cuda.bindings import runtime as cudart
    except (ImportError, OSError, RuntimeError) as error:
        return f"cuda-python can't be imported: {error}"
    status, count = cudart.cudaGetDeviceCount()
    if int(status):
        return f"CUDA finds no device: {status.name}"
    return "" if count else "CUDA finds no device"


def device() -> Device:
    """The first device."""
    from cuda.bindings import runtime as cudart

    found = _checked(cudart.cudaGetDeviceProperties(0))
    name = found.name.decode(errors="replace") if isinstance(found.name, bytes) else str(found.name)
    return Device(
        name.rstrip("\0"),
        f"{found.major}.{found.minor}",
        int(found.multiProcessorCount),
        int(found.totalGlobalMem),
        int(found.l2CacheSize),
        bool(found.ECCEnabled),
        int(_checked(cudart.cudaRuntimeGetVersion())),
        int(_checked(cudart.cudaDriverGetVersion())),
    )


class DeviceBuffer:
    """A block on the device, and pinned memory of the same size on the host that it is copied from and to."""

    def __init__(self, shape: tuple[int, ...], dtype: type[np.generic]) -> None:
        """Allocate both; `cudaMalloc` aligns to 256 bytes, as TensorRT wants it."""
        from cuda.bindings import runtime as cudart

        count = int(np.prod(shape))
        self.size_bytes = count * np.dtype(dtype).itemsize
        self.pointer = int(_checked(cudart.cudaMalloc(self.size_bytes)))
        self._pinned = int(_checked(cudart.cudaHostAlloc(self.size_bytes, cudart.cudaHostAllocDefault)))
        block = (ctypes.c_uint8 * self.size_bytes).from_address(self._pinned)
        self.host: NDArray[Any] = np.ctypeslib.as_array(block).view(dtype).reshape(shape)

    def to_device(self, stream: "Stream") -> None:
        """Copy host to device, in the stream's order."""
        from cuda.bindings import runtime as cudart

        kind = cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        _checked(cudart.cudaMemcpyAsync(self.pointer, self._pinned, self.size_bytes, kind, stream.handle))

    def to_host(self, stream: "Stream") -> None:
        """Copy device to host, in the stream's order."""
        from cuda.bindings import runtime as cudart

        kind = cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        _checked(cudart.cudaMemcpyAsync(self._pinned, self.pointer, self.size_bytes, kind, stream.handle))

    def free(self) -> None:
        """Give both back; the host array must not be used any more."""
        from cuda.bindings import runtime as cudart

        self.host = np.empty(0)
        _checked(cudart.cudaFree(self.pointer))
        _checked(cudart.cudaFreeHost(self._pinned))


class Stream:
    """A stream of its own: the default one would make the whole device wait."""

    def __init__(self) -> None:
        """Create it on the first device."""
        from cuda.bindings import runtime as cudart

        _checked(cudart.cudaSetDevice(0))
        self._stream: Any = _checked(cudart.cudaStreamCreateWithFlags(cudart.cudaStreamNonBlocking))
        self.handle = int(self._stream)

    def synchronize(self) -> None:
        """Wait for all that was given to it."""
        from cuda.bindings import runtime as cudart

        _checked(cudart.cudaStreamSynchronize(self.handle))

    def begin_capture(self) -> None:
        """Write down what is given to it instead of doing it."""
        from cuda.bindings import runtime as cudart

        mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        _checked(cudart.cudaStreamBeginCapture(self.handle, mode))

    def end_capture(self) -> Any:
        """What was written down, ready to be launched; None: something in it can't be captured."""
        from cuda.bindings import runtime as cudart

        status, graph = cudart.cudaStreamEndCapture(self.handle)
        if int(status) or graph is None:
            return None
        status, ready = cudart.cudaGraphInstantiate(graph, 0)
        _checked(cudart.cudaGraphDestroy(graph))
        return None if int(status) else ready

    def launch(self, graph: Any) -> None:
        """Do what a graph holds."""
        from cuda.bindings import runtime as cudart

        _checked(cudart.cudaGraphLaunch(graph, self.handle))

    def destroy(self, graph: Any) -> None:
        """Give the stream and its graph back."""
        from cuda.bindings import runtime as cudart

        if graph is not None:
            _checked(cudart.cudaGraphExecDestroy(graph))
        _checked(cudart.cudaStreamDestroy(self.handle))


def _checked(answer: tuple[Any, ...]) -> Any:
    """The value of a call, if it has one.

    Raises:
        BackendUnavailable: the device refused; another attempt on it has no prospect.
    """
    status, *values = answer
    if int(status):
        raise BackendUnavailable(f"CUDA refused: {status.name}")
    return values[0] if values else None
