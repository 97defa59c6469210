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
    """How far apart two outputs are, by the manifest's metric.

    Returns:
        for "argmax_share" the share of voxels whose class differs; for "max_abs" the largest difference, in the
        output's unit.

    Raises:
        UnusableModel: the metric is not known.
    """
    if manifest.parity.metric == "argmax_share":
        return float(np.mean(expected.argmax(axis=1) != found.argmax(axis=1)))
    if manifest.parity.metric == "max_abs":
        return float(np.max(np.abs(expected - found)) * abs(manifest.output_scale))
    raise UnusableModel(f"parity metric '{manifest.parity.metric}' is neither 'argmax_share' nor 'max_abs'")
