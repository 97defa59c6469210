"""
What TensorRT's parser takes, held against a graph before anybody waits for a device.

Source:
    The operator table of TensorRT's ONNX parser (onnx-tensorrt, docs/operators.md, 10.x and 11.x): operators, ranks and
    types. It lists what is parsed; that a fast kernel exists, only a device can tell.
"""

from pathlib import Path
from typing import Any

LOWEST_OPSET, HIGHEST_OPSET = 9, 20  # read by 10.0 and by 11.x alike
WORDS = """
    Abs Add And ArgMax AveragePool BatchNormalization Cast Clip Concat Constant ConstantOfShape Conv
    ConvTranspose DequantizeLinear Div Elu Equal Erf Exp Expand Flatten Floor Gather GatherElements GatherND
    Gemm GlobalAveragePool GlobalMaxPool Greater GroupNormalization HardSigmoid Identity
    InstanceNormalization LayerNormalization LeakyRelu Less Log LogSoftmax MatMul Max MaxPool Min Mul Neg
    PRelu Pad Pow QuantizeLinear ReduceMax ReduceMean ReduceSum Relu Reshape Resize Shape Sigmoid Slice
    Softmax Softplus Split Sqrt Squeeze Sub Tanh Tile Transpose Unsqueeze Upsample Where
"""
OPERATORS = frozenset(WORDS.split())


def refused(path: Path) -> list[str]:
    """Why TensorRT would not take a graph; nothing: it would."""
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    graph = model.graph
    opset = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 0)
    said = [] if LOWEST_OPSET <= opset <= HIGHEST_OPSET else [f"opset {opset}"]
    strange = sorted({one.domain for one in model.opset_import} - {"", "ai.onnx"} - _unused_domains(model))
    said += [f"operators of {domain}" for domain in strange]
    said += [f"operator {kind}" for kind in sorted({node.op_type for node in graph.node} - OPERATORS)]
    ranks = {one.name: len(one.dims) for one in graph.initializer}
    constants = {one.name: one for one in graph.initializer}
    for node in graph.node:
        if node.op_type in ("Conv", "ConvTranspose") and ranks.get(node.input[1], 5) not in (4, 5):
            said.append(f"{node.op_type} that is neither 2-D nor 3-D")
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            said += _quantisation(node, constants)
        if node.op_type == "AveragePool" and any(n != 1 for n in _numbers(node, "dilations")):
            said.append("AveragePool with dilations")
    for one in graph.initializer:
        if one.data_type in (onnx.TensorProto.DOUBLE, onnx.TensorProto.COMPLEX64, onnx.TensorProto.STRING):
            said.append(f"weights of type {onnx.TensorProto.DataType.Name(one.data_type)}")
        if one.data_location == onnx.TensorProto.EXTERNAL:
            said.append("weights in another file")
    bf16 = {one.name for one in graph.initializer if one.data_type == onnx.TensorProto.BFLOAT16}
    if any(node.op_type == "ConvTranspose" and bf16 & set(node.input) for node in graph.node):
        said.append("ConvTranspose in bf16: no tactic")
    said += [f"free size in '{one.name}' beyond its batch" for one in graph.input if _free(one)]
    return list(dict.fromkeys(said))


def _unused_domains(model: Any) -> set[str]:
    used = {node.domain for node in model.graph.node}
    return {one.domain for one in model.opset_import} - used


def _quantisation(node: Any, constants: dict[str, Any]) -> list[str]:
    """Symmetric int8 only."""
    import onnx
    from onnx import numpy_helper

    if len(node.input) < 3:
        return []
    zero = constants.get(node.input[2])
    if zero is None:
        return [f"{node.op_type} whose zero point is computed"]
    if zero.data_type != onnx.TensorProto.INT8 or numpy_helper.to_array(zero).any():
        return [f"{node.op_type} that is not int8 with zero point 0"]
    return []


def _numbers(node: Any, name: str) -> list[int]:
    return [int(n) for one in node.attribute if one.name == name for n in one.ints]


def _free(value: Any) -> bool:
    return any(not size.dim_value for size in value.type.tensor_type.shape.dim[1:])
