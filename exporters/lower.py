"""
A packaged model at a lower precision: made, held against the weights' own answers, and let in only within a bound.

bf16 is the same graph, computed lower by the library; f16 and int8 are graphs of their own, with the types written into
them, as TensorRT wants it. What is compared is what a reader of the results would see: overlap of tissues, mg/cm3,
probabilities.
"""

import math
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.errors import UnusableModel
from engine.runtime.manifest import ModelManifest, ModelPackage, Parity, Variant, open_package
from engine.runtime.onnxruntime_session import OnnxRuntimeSession, library
from engine.runtime.openvino_session import OpenVinoSession
from engine.runtime.session import Session
from exporters.packages import checksum, install_variant
from exporters.parity import stray

BOUNDS = {"logits": ("dice_loss", 0.02), "value": ("max_abs", 1.0), "classes": ("probability", 0.02)}
"""By the kind of output. Our choice: a fiftieth of a structure, as tile borders cost; 1 mg/cm3, where QCT repeats to
some 2; two percent of a probability."""
WIDE = (
    "ReduceMean",
    "GlobalAveragePool",
    "InstanceNormalization",
    "GroupNormalization",
    "LayerNormalization",
    "Softmax",
)
"""What sums over many voxels stays in f32."""


def add_variant(folder: Path, precision: str, images: NDArray[np.float32], bound: float | None = None) -> ModelPackage:
    """Add a lower precision to a package; one of the same precision is replaced.

    Args:
        folder: of the package.
        precision: "bf16", "f16" or "int8".
        images: (N, 1, K, J, I), normalised; what is compared on, and int8 is calibrated on the first half of.
        bound: of the comparison; None: the one for this kind of output.

    Raises:
        UnusableModel: the answers stray beyond the bound; nothing is changed.
        BackendUnavailable: the precision can't be computed here, and so not be compared.
    """
    package = open_package(folder)
    manifest = package.manifest
    metric, usual = BOUNDS[manifest.output]
    limit = usual if bound is None else bound
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as aside:
        made = Path(aside) / f"{package.weights.stem}.{precision}.onnx"
        if precision == "f16":
            to_half(package.weights, made)
        elif precision == "int8":
            to_int8(package.weights, made, images[: max(1, len(images) // 2)])
        elif precision != "bf16":
            raise UnusableModel(f"precision '{precision}' is none of bf16, f16, int8")
        own_file = made.exists()
        variant = Variant(
            precision, Parity(metric, limit, 0.0), made.name if own_file else "", checksum(made) if own_file else ""
        )
        found = _compared(package, variant, made if own_file else None, images, metric)
        if not found <= limit:
            raise UnusableModel(f"'{manifest.name}' in {precision} strays by {found:.3g} ({metric}); at most {limit:g}")
        variant = replace(variant, parity=Parity(metric, limit, found))
        others = tuple(one for one in manifest.variants if one.precision != precision)
        return install_variant(package, replace(manifest, variants=(variant, *others)), made if own_file else None)


def _compared(
    package: ModelPackage, variant: Variant, made: Path | None, images: NDArray[np.float32], metric: str
) -> float:
    """How far the variant's answers are from the weights' own."""
    manifest = replace(package.manifest, variants=(variant,))
    trial = ModelPackage(manifest, package.weights if made is None else made.with_name(package.weights.name))
    with OnnxRuntimeSession(package, precision=package.manifest.precision) as reference:
        expected = reference.infer(images)
    with _session(trial, variant.precision) as session:
        found = session.infer(images)
    return stray(metric, manifest, expected, found)


def _session(package: ModelPackage, precision: str) -> Session:
    """What computes a precision on a CPU; f16 is emulated, with the roundings of its types."""
    if precision == "f16":
        return OnnxRuntimeSession(package, precision=precision)
    return OpenVinoSession(package, precision=precision)


def to_half(source: Path, target: Path) -> None:
    """The same graph in f16, f32 at its ends and in what sums over many voxels."""
    import onnx

    library()
    from onnxruntime.transformers.float16 import convert_float_to_float16

    half = convert_float_to_float16(onnx.load(str(source)), keep_io_types=True, op_block_list=list(WIDE))
    onnx.save(half, str(target))


def to_int8(source: Path, target: Path, images: NDArray[np.float32]) -> None:
    """The same graph with quantised convolutions: Q/DQ pairs, int8, zero point 0, as TensorRT wants them."""
    library()
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, name: str) -> None:
            self._left: Iterator[NDArray[np.float32]] = iter(images)
            self._name = name

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            image = next(self._left, None)
            return None if image is None else {self._name: image[None]}

    quantize_static(
        str(source), str(target), Reader(_input_name(source)), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QInt8, weight_type=QuantType.QInt8, op_types_to_quantize=["Conv"],
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "AddQDQPairToWeight": True,
                       "QuantizeBias": False},
    )  # fmt: skip


def _input_name(path: Path) -> str:
    import onnx

    return str(onnx.load(str(path), load_external_data=False).graph.input[0].name)


def phantom_images(manifest: ModelManifest, count: int, first_seed: int = 930_000) -> NDArray[np.float32]:
    """Normalised inputs (N, 1, K, J, I) around vertebrae of phantoms that no training saw.

    Raises:
        UnusableModel: the model reads something else than a piece of a volume.
    """
    from engine.records import VertebralLevel
    from engine.resampling import centred_grid, resample
    from exporters.reference.scanner import scan, scanner
    from exporters.reference.spine_phantom import draw_phantom, field_of_view, rasterise

    if manifest.output == "classes" or math.prod(manifest.input_shape[:1]) == 1:
        raise UnusableModel(f"'{manifest.name}' reads pictures; give images of your own")
    images = []
    for n in range(count):
        phantom = draw_phantom(first_seed + n)
        geometry = field_of_view(phantom, VertebralLevel.T12, VertebralLevel.L3, pixels=256, pixel_mm=1.3,
                                 slice_mm=2.0, margin_mm=40.0)  # fmt: skip
        key = ("siemens_force", "canon_one", "philips_ict", "uct_780")[n % 4]
        hounsfield, _ = scan(phantom, scanner(key), geometry, seed=n)
        bodies = rasterise(phantom, geometry).bodies
        body = np.argwhere(bodies == np.unique(bodies[bodies > 0])[n % 3]).mean(axis=0)
        x, y, z = (float(value) for value in geometry.to_patient(body))
        grid = centred_grid((x, y, z), manifest.tile, manifest.spacing_mm)
        images.append(manifest.normalise(resample(hounsfield, geometry, grid))[None])
    return np.stack(images)
