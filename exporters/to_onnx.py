"""
From a trained network to an ONNX file, and from an ONNX file to trust in it.

The batch is free, space is fixed or free in whole steps; weights lie inside the one file. The only door
to ONNX, and the only place outside training where torch is met.
"""

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import UnusableModel

OPSET = 20  # the highest that TensorRT 10 and 11 both read
Function = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def export(network: Any, shape: tuple[int, ...], path: Path) -> None:
    """Write a network as ONNX.

    Args:
        network: a torch module in evaluation mode, on the CPU.
        shape: (K, J, I) voxels of its input; one channel, any batch.

    Raises:
        UnusableModel: what was written does not pass ONNX's own check.
    """
    import torch

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of libraries that are not needed
    example = torch.zeros(2, 1, *shape)  # a batch of one would be taken for a constant
    batch = torch.export.Dim("batch", min=1, max=64)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own inner parts
        torch.onnx.export(
            network, (example,), str(path), dynamo=True, opset_version=OPSET, external_data=False, verbose=False,
            input_names=["image"], output_names=["output"], dynamic_shapes=({0: batch},),
        )  # fmt: skip
    _forget_origin(path)
    check(path)


def _forget_origin(path: Path) -> None:
    """Take out what the exporter notes of the source: it holds the paths of the machine that trained."""
    import onnx

    model = onnx.load(str(path))
    for noted in (model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output,
                  *model.graph.value_info, *model.graph.initializer):  # fmt: skip
        noted.ClearField("metadata_props")
        noted.ClearField("doc_string")
    onnx.save(model, str(path))


def as_function(network: Any) -> Function:
    """A network as a function from array to array, in f32 on the CPU."""
    import torch

    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            return np.asarray(network(torch.from_numpy(images)).numpy(), dtype=np.float32)

    return run


def check(path: Path) -> None:
    """Hold a file against the ONNX standard.

    Raises:
        UnusableModel: it can't be read, is not valid, or keeps its weights in another file.
    """
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
        outside = [
            tensor.name for tensor in model.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL
        ]
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # protobuf, checker and shape inference have no common ground
        raise UnusableModel(f"'{path.name}' is no valid ONNX file: {type(error).__name__}") from error
    if outside:
        raise UnusableModel(f"'{path.name}' keeps {len(outside)} weights in another file; export it as one file")
