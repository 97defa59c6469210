"""
The least that a machine could take: bytes over its measured rates, operations over its measured peak.

Peaks are the best rates that this machine sustained just now: a large convolution through the same session for
arithmetic, copies for memory, a cold read for the disk. A network's floor is taken layer by layer: whichever is longer,
its operations at the peak or its tensors through memory, with activations fused into the convolution before them.

What the library can't do is not taken off: that a layer of eight channels fills a part of the processor's tiles, that a
concatenation is a pass of its own, that threads wait for each other. All that is in the gap, not in the floor; what the
library takes for the networks' passes alone stands beside it in the figures. What a stage computes without a network
counts as the bytes that it must touch once. It may lie too high where a cache holds
what never has to pass through memory; where that cache is large, the copies measured here stay in it too.
"""

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from threading import Thread
from typing import Any

import numpy as np

from engine.runtime.manifest import ModelPackage
from engine.runtime.openvino_session import library

BYTES = {"f32": 4, "bf16": 2, "f16": 2, "int8": 1}


@dataclass(frozen=True)
class Rates:
    """What a machine sustains."""

    memory_bytes_per_s: float
    disk_bytes_per_s: float
    operations_per_s: float  # multiplications and additions, in the network's precision


def measured_rates(precision: str, threads: int) -> Rates:
    """Of this machine, now."""
    return Rates(memory_rate(threads), disk_rate(), peak(precision, threads))


def memory_rate(threads: int) -> float:
    """Bytes read and written a second by copies that no cache holds."""
    size = 64 << 20
    pairs = [(np.ones(size, np.uint8), np.empty(size, np.uint8)) for _ in range(threads)]

    def copy(pair: Any) -> None:
        for _ in range(4):
            np.copyto(pair[1], pair[0])

    def run() -> None:
        workers = [Thread(target=copy, args=(pair,)) for pair in pairs]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    run()
    return 2 * 4 * size * threads / best(run, 5)


def disk_rate(size: int = 128 << 20) -> float:
    """Bytes a second that are read from a file which the page cache has forgotten."""
    with tempfile.NamedTemporaryFile(dir=".") as file:
        file.write(os.urandom(1 << 20) * (size >> 20))
        file.flush()
        os.fsync(file.fileno())

        def run() -> None:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            with Path(file.name).open("rb", buffering=0) as opened:
                while opened.read(4 << 20):
                    pass

        return size / best(run, 3)


def peak(precision: str, threads: int) -> float:
    """Operations a second of the convolution that suits OpenVINO best, in a precision."""
    openvino = library()
    from openvino import opset13 as ops

    best_rate = 0.0
    for channels, edge in ((128, 24), (256, 16)):
        image = ops.parameter([1, channels, edge, edge, edge], np.float32)
        weights = ops.constant(
            np.random.default_rng(0).normal(0, 0.01, (channels, channels, 3, 3, 3)).astype(np.float32)
        )
        convolved = ops.convolution(image, weights, [1] * 3, [1] * 3, [1] * 3, [1] * 3)
        settings = {"INFERENCE_PRECISION_HINT": "f32" if precision == "int8" else precision,
                    "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}  # fmt: skip
        compiled = openvino.Core().compile_model(openvino.Model([convolved], [image]), "CPU", settings)
        request, data = compiled.create_infer_request(), np.ones((1, channels, edge, edge, edge), np.float32)
        request.infer({0: data})
        seconds = best(lambda request=request, data=data: request.infer({0: data}), 8)
        best_rate = max(best_rate, 2 * 27 * channels**2 * edge**3 / seconds)
    return best_rate


def best(work: Callable[[], object], times: int) -> float:
    """Seconds of the fastest of some runs: a floor is no median."""
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


@dataclass(frozen=True)
class Layer:
    """One convolution or product of a network, for one input."""

    operations: float
    elements: float  # of its inputs, weights and outputs


def layers(package: ModelPackage) -> list[Layer]:
    """The layers of a packaged network that can't be fused into others."""
    import onnx

    model = onnx.load(str(package.weights))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    sizes = {one.name: list(one.dims) for one in graph.initializer}
    for value in (*graph.value_info, *graph.input, *graph.output):
        sizes[value.name] = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
    found = []
    for node in graph.node:
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            continue
        out, weights = sizes[node.output[0]], sizes[node.input[1]]
        given = sizes[node.input[0]]
        if node.op_type == "ConvTranspose":
            operations = 2 * np.prod(given[2:]) * np.prod(weights)
        else:
            operations = 2 * np.prod(out[2:] or [1]) * np.prod(weights)
        found.append(Layer(float(operations), float(np.prod(given) + np.prod(weights) + np.prod(out))))
    return found


def network_floor(package: ModelPackage, precision: str, rates: Rates) -> float:
    """Seconds for one input."""
    size = BYTES[precision]
    return sum(
        max(layer.operations / rates.operations_per_s, layer.elements * size / rates.memory_bytes_per_s)
        for layer in layers(package)
    )


def middle(values: list[float]) -> float:
    """Median, of one value too."""
    return float(median(values))
