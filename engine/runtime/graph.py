"""
What a model file must look like, held against its manifest.

A graph whose input or output differs from the manifest's words is refused when it is opened: the
wrong network would answer every question without a murmur.
"""

from collections.abc import Sequence

from engine.errors import UnusableModel
from engine.runtime.manifest import ModelManifest

Dimensions = Sequence[int | None]
"""A tensor's shape as the graph states it; None: any size."""


def check_graph(manifest: ModelManifest, inputs: Sequence[Dimensions], outputs: Sequence[Dimensions]) -> None:
    """Hold a graph's tensors against what its manifest promises.

    Args:
        inputs: the shape of each input of the graph.
        outputs: the shape of each output of the graph.

    Raises:
        UnusableModel: they differ.
    """
    name = f"model '{manifest.name}'"
    if len(inputs) != 1 or len(outputs) != 1:
        raise UnusableModel(f"{name}: needs one input and one output, has {len(inputs)} and {len(outputs)}")
    _check_tensor(f"{name}: input", inputs[0], (None, 1, *manifest.input_shape))
    promised = {"logits": (None, len(manifest.labels), *manifest.input_shape), "classes": (None, len(manifest.labels)),
                "value": (None, 1)}.get(manifest.output)  # fmt: skip
    if promised is None:
        raise UnusableModel(f"{name}: output '{manifest.output}' is none of 'logits', 'classes', 'value'")
    if manifest.output != "value" and len(manifest.labels) < 2:
        raise UnusableModel(f"{name}: output '{manifest.output}' needs labels, has {len(manifest.labels)}")
    _check_tensor(f"{name}: output", outputs[0], promised)


def _check_tensor(what: str, found: Dimensions, promised: Dimensions) -> None:
    """A fixed size must be the promised one; the batch must be free."""
    fits = len(found) == len(promised) and found[0] is None
    if not fits or any(have not in (None, want) for have, want in zip(found[1:], promised[1:], strict=True)):
        raise UnusableModel(f"{what} is {_text(found)}, its manifest promises {_text(promised)}")


def _text(dimensions: Dimensions) -> str:
    return "(" + ", ".join("any" if size is None else str(size) for size in dimensions) + ")"
