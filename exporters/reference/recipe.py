"""
A recipe remakes a model: its data, its network, its training, its manifest. All numbers, all seeds.

Recipes are TOML files in configs/models; an unknown key is refused with its name.
"""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from engine.errors import BadOption
from engine.options import read_options
from engine.runtime.manifest import SagittalCut

TASKS = ("spine_segmentation", "vertebral_bmd", "vertebral_class", "areal_bmd", "bone_score")


@dataclass(frozen=True, slots=True)
class DataRecipe:
    """Phantoms to learn from."""

    cases: int = 200
    first_seed: int = 100_000  # of the phantoms; tests and evaluations use others
    fine_share: float = 0.2  # scanned as a machine would, then brought to the network's grid as the engine does
    finding_share: float = 0.0  # of the patients have fractures, metal, cement and islands far more often than in life
    scanners: tuple[str, ...] = ("siemens_force", "canon_one", "philips_ict", "uct_780", "siemens_lung")
    cohort: str = ""  # "peng" or "yoshida": patients, machines and splits of a paper, in the place of all the above


@dataclass(frozen=True, slots=True)
class NetworkRecipe:
    """Size of the network."""

    widths: tuple[int, ...] = (8, 32, 64, 96)  # channels of each stage (VB-Net), or of the stem alone (DenseNet)
    blocks: tuple[int, ...] = (0, 1, 2, 3)  # bottleneck blocks (VB-Net) or dense layers (DenseNet) of each stage
    growth: int = 12  # of dense layers
    smooth: float = 0.0  # SD in voxels of a Gaussian that a crop passes first (DenseNet); 0: none
    crop: tuple[int, ...] = ()  # (row, column, rows, columns) of a picture that the graph reads; the rest is background
    stem_stride: int = 2  # of the first convolution (ResNet)
    bands: tuple[float, ...] = ()  # SD of Gaussians in pixels; the network is handed the grain between them too
    grain_box: tuple[int, ...] = ()  # (row, column, rows, columns) inside a picture's body: grain is measured there


@dataclass(frozen=True, slots=True)
class TrainingRecipe:
    """How long and how fast."""

    steps: int = 4000
    batch: int = 2
    patch: tuple[int, ...] = (64, 72, 72)  # (K, J, I) voxels
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    bfloat16: bool = True  # arithmetic of the convolutions in training; weights and export stay f32
    average: float = 0.998  # of the weights' moving average, which is what is exported
    folds: int = 1  # networks, each with another fifth held out; the package is their mean in one graph
    check_every: int = 0  # steps between looks at the held-out patients; the best checkpoint is kept. 0: the last one
    focus: float = 2.0  # exponent of the focal loss


@dataclass(frozen=True, slots=True)
class ManifestRecipe:
    """What the engine is promised; see engine.runtime.manifest."""

    input_shape: tuple[int, ...]
    input_spacing_mm: tuple[float, ...]
    hounsfield_window: tuple[float, ...]
    statement: str
    parity_metric: str
    parity_bound: float
    labels: tuple[str, ...] = ()
    output_scale: float = 1.0
    output_offset: float = 0.0
    output_unit: str = ""
    output_range: tuple[float, ...] = ()
    multiple_of: int = 1
    cut: SagittalCut | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(K, J, I) of the input."""
        k, j, i = self.input_shape
        return k, j, i

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """(K, J, I) spacing of the input."""
        k, j, i = self.input_spacing_mm
        return k, j, i


@dataclass(frozen=True, slots=True)
class EvaluationRecipe:
    """Phantoms that no training ever sees."""

    cases: int = 12
    first_seed: int = 900_000
    unseen_scanner: str = "ge_revolution"  # its dialect is not among the training's


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that makes one model."""

    name: str
    version: str
    task: str  # one of TASKS
    manifest: ManifestRecipe
    seed: int = 1
    data: DataRecipe = field(default_factory=DataRecipe)
    network: NetworkRecipe = field(default_factory=NetworkRecipe)
    training: TrainingRecipe = field(default_factory=TrainingRecipe)
    evaluation: EvaluationRecipe = field(default_factory=EvaluationRecipe)

    def __post_init__(self) -> None:
        """Refuse a task that nobody knows how to train, and an evaluation that the training has seen."""
        if self.task not in TASKS:
            raise ValueError(f"task '{self.task}' is none of {', '.join(TASKS)}")
        if (self.task != "spine_segmentation") != bool(self.data.cohort):
            raise ValueError(f"data.cohort is for the models of vertebrae, and needed there: '{self.data.cohort}'")
        if self.evaluation.unseen_scanner in self.data.scanners:
            raise ValueError(f"unseen_scanner '{self.evaluation.unseen_scanner}' is among the training's")


def read_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        BadOption: it can't be read, or a key is unknown, missing or of the wrong type.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        what = error.strerror if isinstance(error, OSError) else error
        raise BadOption(f"recipe '{path.name}' can't be read: {what}") from error
    return read_options(Recipe, table, path.stem)
