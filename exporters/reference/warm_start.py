"""
Begin a training with the weights of an exported network.

An export has folded each batch normalisation into the convolution before it. To train on, the
normalisation is put back: its statistics are measured on images, and its scale and shift are set so that
the network says what the export said.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import UnusableModel


def take_weights(network: nn.Module, path: Path, images: Tensor) -> None:
    """Give a fresh network the weights of an export of the same shape.

    Args:
        images: (N, 1, K, J, I) normalised, to measure the statistics on.

    Raises:
        UnusableModel: a weight is missing or has another shape.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(path)).graph
    kept = {one.name: torch.tensor(numpy_helper.to_array(one)) for one in graph.initializer}
    pairs = _pairs(network)
    with torch.no_grad():
        for name, convolution, norm in pairs:
            bias = f"{name}.weight_bias" if norm is not None else f"{name}.bias"
            for want, parameter in ((f"{name}.weight", convolution.weight), (bias, norm and norm.bias)):
                into = convolution.bias if parameter is None else parameter
                if want not in kept or kept[want].shape != into.shape:
                    raise UnusableModel(f"'{path.name}' has no '{want}' of shape {tuple(into.shape)}")
                into.copy_(kept[want])
            if norm is not None:
                norm.weight.fill_(1.0)
                norm.running_mean.zero_()
                norm.running_var.fill_(1.0 - norm.eps)
        _put_back(network, [norm for *_, norm in pairs if norm is not None], images)


def _pairs(network: nn.Module) -> list[tuple[str, Any, Any]]:
    """Each convolution with its name and the normalisation that follows it, if one does."""
    modules = list(network.named_modules())
    leaves = [(name, module) for name, module in modules if not list(module.children())]
    found = []
    for n, (name, module) in enumerate(leaves):
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            after = leaves[n + 1][1] if n + 1 < len(leaves) else None
            found.append((name, module, after if isinstance(after, nn.BatchNorm3d) else None))
    return found


def _put_back(network: nn.Module, norms: list[Any], images: Tensor) -> None:
    """Set statistics, scale and shift of each normalisation; the outputs stay."""
    sums: dict[int, tuple[Tensor, Tensor]] = {}

    def seen(module: Any, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].double()
        sums[id(module)] = (x.mean(dim=(0, 2, 3, 4)), x.var(dim=(0, 2, 3, 4)))

    hooks = [norm.register_forward_pre_hook(seen) for norm in norms]
    was = network.training
    network.eval()(images)
    network.train(was)
    for hook in hooks:
        hook.remove()
    for norm in norms:
        mean, variance = (value.to(norm.bias.dtype) for value in sums[id(norm)])
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.weight.copy_(torch.sqrt(variance + norm.eps))
        norm.bias.add_(mean)
