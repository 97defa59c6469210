"""
What an exported model promises.

A model package is a folder with `manifest.toml` and one ONNX file. Nothing in it is ever executed
as code or unpickled, and nothing is used whose checksum differs from the manifest's.
"""

import hashlib
import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.errors import UnusableModel
from engine.options import read_options
from engine.records import ReferenceMaterial
from engine.volume import Shape, Vector

PACKAGED_MODELS = Path(__file__).parent.parent / "models"
"""The reference model packages that ship with the engine."""


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What the weights were made from, in plain words and in numbers that remake them."""

    statement: str
    reference_only: bool  # trained on phantoms: not for diagnosis
    recipe: str = ""  # name of the recipe in configs/models
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Parity:
    """How far the exported model may stray from the network that was trained, and how far it did."""

    metric: str  # "argmax_share" | "max_abs" | "dice_loss" | "probability"; see exporters/parity.py
    bound: float
    measured: float


@dataclass(frozen=True, slots=True)
class Variant:
    """The same model at a lower precision, and how far its answers were from the weights' own."""

    precision: str  # "bf16" | "f16" | "int8"
    parity: Parity
    file: str = ""  # of its own graph; empty: the same graph, computed lower by the library
    sha256: str = ""  # of that file


@dataclass(frozen=True, slots=True)
class SagittalCut:
    """How a vertebra's picture from the side is made, for models that read one.

    Source:
        Thickness, field, pixels and the grey scale of eight bits: Yoshida 2023. What the paper leaves open, our choice.
    """

    thickness_mm: float = 5.0
    field_mm: float = 300.0  # edge of the square picture
    pixels: int = 512  # of the reformat
    output_pixels: int = 256  # of the network's input: means of whole blocks
    dilation_mm: float = 2.0  # around the vertebra's mask; the rest is as the window's lower edge
    anterior: str = "left"  # the side that the patient's front is on
    offsets_mm: tuple[float, ...] = (0.0,)  # of the slabs from the middle plane; answers are averaged
    jpeg_quality: int = 0  # 0: no JPEG step

    def __post_init__(self) -> None:
        """Refuse a picture that can't be made."""
        if min(self.thickness_mm, self.field_mm, self.output_pixels) <= 0 or self.dilation_mm < 0:
            raise ValueError("thickness_mm, field_mm and output_pixels must be above 0, dilation_mm at least 0")
        if self.pixels % self.output_pixels or not self.offsets_mm:
            raise ValueError("pixels must be a multiple of output_pixels, and offsets_mm must name some")
        if self.anterior not in ("left", "right") or not 0 <= self.jpeg_quality <= 100:
            raise ValueError("anterior is 'left' or 'right', jpeg_quality from 0 to 100")


@dataclass(frozen=True, slots=True)
class TrainingStatistics:
    """What the training's crops are like, in the numbers of engine.prediction.familiarity."""

    mean: tuple[float, ...]
    inverse_covariance: tuple[float, ...]  # row by row
    limit: float  # of the distance from the mean, in standard deviations; beyond it a crop is like none of them

    def __post_init__(self) -> None:
        """Refuse a matrix that does not fit."""
        if len(self.inverse_covariance) != len(self.mean) ** 2 or self.limit < 0:
            raise ValueError("inverse_covariance must hold the square of mean's count, and limit can't be negative")


@dataclass(frozen=True, slots=True)
class ModelManifest:
    """The contract between weights and engine. Shapes (K, J, I), spacing in mm, window in HU."""

    name: str
    version: str
    task: str  # such as "spine_segmentation", "vertebral_bmd", "vertebral_class", "areal_bmd", "bone_score"
    file: str  # name of the ONNX file in the same folder
    sha256: str  # of that file
    input_shape: tuple[int, ...]  # (K, J, I) voxels of one tile or crop; any batch, one channel
    input_spacing_mm: tuple[float, ...]  # (K, J, I)
    hounsfield_window: tuple[float, ...]  # low, high; clipped, then scaled linearly to -1..1
    output: str  # "logits" (N, C, K, J, I) | "value" (N, 1) | "classes" (N, C), logits
    training_data: TrainingData
    parity: Parity
    labels: tuple[str, ...] = ()  # of the C classes, [0] is "background"
    output_scale: float = 1.0  # value = output * scale + offset, in `output_unit`
    output_offset: float = 0.0
    output_unit: str = ""
    output_range: tuple[float, ...] = ()  # plausible values; outside is withheld
    reference_material: ReferenceMaterial = ReferenceMaterial.HA  # that a density's mg/cm3 are of
    precision: str = "f32"  # of the weights
    variants: tuple[Variant, ...] = ()  # lower precisions that were shown to do, the best first
    multiple_of: int = 1  # a tile's edges may be any multiple of this
    training_statistics: TrainingStatistics | None = None  # without them no crop is called strange
    cut: SagittalCut | None = None  # of models that read a picture from the side; their input is (1, rows, columns)

    @property
    def tile(self) -> Shape:
        """(K, J, I) of the input."""
        k, j, i = self.input_shape
        return k, j, i

    @property
    def spacing_mm(self) -> Vector:
        """(K, J, I) spacing of the input."""
        k, j, i = self.input_spacing_mm
        return k, j, i

    def normalise(self, hounsfield: NDArray[np.float32]) -> NDArray[np.float32]:
        """HU to the network's scale: clipped to the window, then -1..1."""
        low, high = self.hounsfield_window
        scaled = (np.clip(hounsfield, low, high) - low) * (2.0 / (high - low)) - 1.0
        return np.asarray(scaled, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class ModelPackage:
    """A manifest and where its weights lie; the checksum has been checked."""

    manifest: ModelManifest
    weights: Path


def open_package(folder: Path) -> ModelPackage:
    """Read and check one model package.

    Raises:
        UnusableModel: the manifest or the weights are missing, unreadable, or the checksum differs.
    """
    try:
        table = tomllib.loads((folder / "manifest.toml").read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UnusableModel(f"model package '{folder.name}' has no readable manifest.toml: {error}") from error
    manifest = read_options(ModelManifest, table, f"model {folder.name}")
    _check(manifest, folder.name)
    _check_sum(folder, manifest.file, manifest.sha256)
    for variant in manifest.variants:
        if variant.file:
            _check_sum(folder, variant.file, variant.sha256)
    return ModelPackage(manifest, folder / manifest.file)


def _check_sum(folder: Path, file: str, sha256: str) -> None:
    if Path(file).name != file:
        raise UnusableModel(f"model package '{folder.name}': file '{file}' is not a plain name")
    try:
        found = hashlib.sha256((folder / file).read_bytes()).hexdigest()
    except OSError as error:
        raise UnusableModel(f"model package '{folder.name}' has no weights '{file}'") from error
    if found != sha256:
        raise UnusableModel(
            f"model package '{folder.name}': '{file}' has checksum {found[:12]}..., "
            f"its manifest says {sha256[:12]}...; restore the file or export the model again"
        )


def find_package(models: Path, task: str) -> ModelPackage:
    """The one package in a model folder that serves a task.

    Raises:
        UnusableModel: none or several do, or it is damaged.
    """
    package = find_optional(models, task)
    if package is None:
        raise UnusableModel(f"model folder must hold exactly one package for '{task}'; it holds: none")
    return package


def find_optional(models: Path, task: str) -> ModelPackage | None:
    """The package in a model folder that serves a task that a site may do without, or None.

    Raises:
        UnusableModel: several do, or a package is damaged.
    """
    packages = [open_package(path.parent) for path in sorted(models.glob("*/manifest.toml"))]
    serving = [package for package in packages if package.manifest.task == task]
    if len(serving) > 1:
        names = ", ".join(package.manifest.name for package in serving)
        raise UnusableModel(f"model folder must hold exactly one package for '{task}'; it holds: {names}")
    return serving[0] if serving else None


def _check(manifest: ModelManifest, name: str) -> None:
    for what, values, count in (
        ("input_shape", manifest.input_shape, 3),
        ("input_spacing_mm", manifest.input_spacing_mm, 3),
        ("hounsfield_window", manifest.hounsfield_window, 2),
    ):
        if len(values) != count:
            raise UnusableModel(f"model package '{name}': {what} needs {count} values, has {len(values)}")
    if min(manifest.input_shape) < 1 or min(manifest.input_spacing_mm) <= 0:
        raise UnusableModel(f"model package '{name}': input_shape and input_spacing_mm must be positive")
    if manifest.hounsfield_window[0] >= manifest.hounsfield_window[1]:
        raise UnusableModel(f"model package '{name}': hounsfield_window is empty")
    if manifest.cut and manifest.input_shape != (1, manifest.cut.output_pixels, manifest.cut.output_pixels):
        raise UnusableModel(f"model package '{name}': input_shape is not one picture of its cut")
