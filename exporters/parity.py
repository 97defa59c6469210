"""
Is the exported model still the network that was trained?

ONNX Runtime computes both sides' comparison in float32; beyond the recipe's bound no package is made.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.errors import UnusableModel
from engine.runtime.manifest import ModelManifest, ModelPackage, Parity
from engine.runtime.onnxruntime_session import OnnxRuntimeSession
from exporters.to_onnx import Function

SPECK = 500  # voxels of a class, below which a single voxel would weigh too much; 4 cm3 at 2 mm


def measure_parity(manifest: ModelManifest, weights: Path, reference: Function, images: NDArray[np.float32]) -> Parity:
    """Run network and export on the same images and compare.

    Args:
        reference: the trained network.
        images: (N, 1, K, J, I), normalised.

    Raises:
        UnusableModel: they differ by more than the manifest's bound.
    """
    with OnnxRuntimeSession(ModelPackage(manifest, weights)) as session:
        exported = np.concatenate([session.infer(images[n : n + 1]) for n in range(len(images))])
    expected = np.concatenate([reference(images[n : n + 1]) for n in range(len(images))])
    found = difference(manifest, expected, exported)
    bound = manifest.parity.bound
    if not found <= bound:
        raise UnusableModel(
            f"the export of '{manifest.name}' strays by {found:.3g} ({manifest.parity.metric}); at most {bound:g}"
        )
    return Parity(manifest.parity.metric, bound, found)


def difference(manifest: ModelManifest, expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """How far apart two outputs are, by the manifest's metric; see `stray`."""
    return stray(manifest.parity.metric, manifest, expected, found)


def stray(metric: str, manifest: ModelManifest, expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """How far apart two outputs are, in a number that matters.

    Returns:
        for "argmax_share" the share of voxels whose class differs; for "dice_loss" one less the Dice of the class that
        fares worst; for "max_abs" the largest difference in the output's unit; for "probability" the largest
        difference of a class's probability. Not finite, where an answer is not.

    Raises:
        UnusableModel: the metric is not known.
    """
    if not np.isfinite(found).all():
        return float("inf")
    if metric == "argmax_share":
        return float(np.mean(expected.argmax(axis=1) != found.argmax(axis=1)))
    if metric == "dice_loss":
        return _dice_loss(expected.argmax(axis=1), found.argmax(axis=1), range(1, expected.shape[1]))
    if metric == "max_abs":
        return float(np.max(np.abs(expected - found)) * abs(manifest.output_scale))
    if metric == "probability":
        return float(np.max(np.abs(_softmax(expected) - _softmax(found))))
    raise UnusableModel(f"parity metric '{metric}' is none of argmax_share, dice_loss, max_abs, probability")


def _dice_loss(expected: NDArray[np.intp], found: NDArray[np.intp], classes: range) -> float:
    worst = 1.0
    for n in classes:
        one, other = expected == n, found == n
        size = np.count_nonzero(one) + np.count_nonzero(other)
        if np.count_nonzero(one) >= SPECK:
            worst = min(worst, 2 * np.count_nonzero(one & other) / size)
        elif np.count_nonzero(other) >= 2 * SPECK:  # invented
            return 1.0
    return float(1 - worst)


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
