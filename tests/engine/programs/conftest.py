"""
A series and models that say exactly what is there: tissue is written into the Hounsfield units.

So the whole program can be held to the truth without trained weights: a network of one voxel's sight
reads the tissue back, and the density network is a mean.
"""

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from engine.loading.headers import read_header
from engine.records import SeriesRef, VertebralLevel
from engine.series import series_of
from exporters.reference.spine_phantom import (
    PLAIN,
    Raster,
    SpinePhantom,
    draw_phantom,
    field_of_view,
    rasterise,
)

LABELS = ("background", "vertebral_body", "posterior_elements", "disc", "rib", "sacrum")
CODES = np.array([-500, 120, 320, -100, 520, 700])  # HU of each tissue; a body may lie between 10 and 220
TILE = (32, 80, 80)
MG_PER_HU = 0.75
DENSITY = {
    VertebralLevel.T12: 116, VertebralLevel.L1: 112, VertebralLevel.L2: 108, VertebralLevel.L3: 104,
    VertebralLevel.L4: 100, VertebralLevel.L5: 96,
}  # fmt: skip
"""HU of bodies; others have the tissue's code."""

MANIFEST = """
name = "{name}"
version = "1"
task = "{task}"
file = "weights.onnx"
sha256 = "{sha256}"
input_shape = {shape}
input_spacing_mm = [{step}, {step}, {step}]
hounsfield_window = [-1000.0, 1000.0]
output = "{output}"
labels = {labels}
output_scale = {scale}
output_unit = "mg/cm3"
output_range = {bounds}
[training_data]
statement = "nothing"
reference_only = true
[parity]
metric = "max_abs"
bound = 1e-4
measured = 0.0
"""


def _write_package(folder: Path, nodes: list, constants: dict, shape: tuple, answer: list, **manifest: object) -> None:
    folder.mkdir(parents=True)
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", *answer])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, str(folder / "weights.onnx"))
    sha256 = hashlib.sha256((folder / "weights.onnx").read_bytes()).hexdigest()
    (folder / "manifest.toml").write_text(MANIFEST.format(sha256=sha256, shape=list(shape), **manifest))


@pytest.fixture(scope="session")
def honest_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of model packages that read the codes: the nearest code wins, a density is a mean."""
    models = tmp_path_factory.mktemp("models")
    code = CODES.astype(np.float32) / 1000
    _write_package(
        models / "spine",
        [helper.make_node("Conv", ["x", "w", "b"], ["y"])],
        {"w": (2000 * code).reshape(-1, 1, 1, 1, 1), "b": -1000 * code**2},
        TILE,
        [len(LABELS), *TILE],
        name="coded-spine", task="spine_segmentation", step=2.0, output="logits", labels=list(LABELS), scale=1.0,
        bounds=[],
    )  # fmt: skip
    _write_package(
        models / "density",
        [helper.make_node("GlobalAveragePool", ["x"], ["m"]), helper.make_node("Reshape", ["m", "s"], ["y"])],
        {"s": np.array([-1, 1], dtype=np.int64)},
        (8, 8, 8),
        [1],
        name="mean-density", task="vertebral_bmd", step=1.0, output="value", labels=[], scale=1000 * MG_PER_HU,
        bounds=[20.0, 160.0],
    )  # fmt: skip
    return models


@pytest.fixture(scope="session", params=["nan", "inf"])
def failing_models(
    request: pytest.FixtureRequest, honest_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The honest models, but beyond 900 HU the spine network answers with what is no finite number."""
    models = tmp_path_factory.mktemp("failing")
    (models / "density").symlink_to(honest_models / "density")
    code = CODES.astype(np.float32) / 1000
    breaks = {
        "nan": [helper.make_node("Sub", ["edge", "x"], ["below"]), helper.make_node("Sqrt", ["below"], ["odd"])],
        "inf": [helper.make_node("Mul", ["x", "steep"], ["above"]), helper.make_node("Exp", ["above"], ["odd"])],
    }[request.param]
    _write_package(
        models / "spine",
        [
            helper.make_node("Conv", ["x", "w", "b"], ["c"]), *breaks,
            helper.make_node("Mul", ["odd", "little"], ["o"]), helper.make_node("Add", ["c", "o"], ["y"]),
        ],
        {"w": (2000 * code).reshape(-1, 1, 1, 1, 1), "b": -1000 * code**2, "edge": np.float32(0.9),
         "steep": np.float32(98), "little": np.float32(1e-35)},
        TILE, [len(LABELS), *TILE],
        name="failing-spine", task="spine_segmentation", step=2.0, output="logits", labels=list(LABELS), scale=1.0,
        bounds=[],
    )  # fmt: skip
    return models


@pytest.fixture(scope="session")
def full_models(honest_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The honest models, a classifier that doubts, and models from the side that tell the mean of the picture."""
    models = tmp_path_factory.mktemp("full")
    for package in honest_models.iterdir():
        (models / package.name).symlink_to(package)
    pool = helper.make_node("GlobalAveragePool", ["x"], ["m"])
    flat = helper.make_node("Reshape", ["m", "s"], ["f"])
    _write_package(
        models / "class", [pool, flat, helper.make_node("Gemm", ["f", "w", "b"], ["y"])],
        {"s": np.array([-1, 1], dtype=np.int64), "w": np.array([[8.0, 0.0, -8.0]], np.float32),
         "b": np.array([-0.8, 0.0, 0.8], np.float32)},
        (8, 8, 8), [3], name="doubting-class", task="vertebral_class", step=1.0, output="classes",
        labels=["normal", "osteopenia", "osteoporosis"], scale=1.0, bounds=[],
    )  # fmt: skip
    for task, scale in (("areal_bmd", 2.0), ("bone_score", 3.0)):
        _write_package(
            models / task, [pool, helper.make_node("Reshape", ["m", "s"], ["y"])],
            {"s": np.array([-1, 1], dtype=np.int64)}, (1, 256, 256), [1],
            name=f"mean-{task}", task=task, step=1.0, output="value", labels=[], scale=scale, bounds=[-10.0, 10.0],
        )  # fmt: skip
        with (models / task / "manifest.toml").open("a") as file:
            file.write("[cut]\nthickness_mm = 5.0\n")
    return models


@cache
def drawn(top: VertebralLevel) -> tuple[SpinePhantom, Raster]:
    """A patient from some level to the sacrum, 2 mm a voxel."""
    phantom = draw_phantom(5, options=PLAIN)
    grid = field_of_view(
        phantom, top, VertebralLevel.L5, pixels=104, pixel_mm=2.0, slice_mm=2.0, margin_mm=30.0, offset_mm=(0.0, -10.0)
    )
    return phantom, rasterise(phantom, grid)


class CodedSeries:
    """The truth of a phantom, written as a CT series whose HU are codes."""

    def __init__(self, top: VertebralLevel = VertebralLevel.T10) -> None:
        self.phantom, raster = drawn(top)
        self.geometry, self.bodies = raster.geometry, raster.bodies
        self.hounsfield = CODES[raster.labels]
        for level, value in DENSITY.items():
            self.hounsfield[self.body(level)] = value

    def body(self, level: VertebralLevel) -> np.ndarray:
        return self.bodies == self.phantom.levels.index(level) + 1

    def write(self, folder: Path, first: int = 0, stop: int | None = None, **header: object) -> SeriesRef:
        """Some of its slices, counted from the foot."""
        folder.mkdir(parents=True, exist_ok=True)
        for k in range(first, len(self.hounsfield) if stop is None else stop):
            self._slice(k, header).save_as(folder / f"{k:03}.dcm", enforce_file_format=True)
        files = sorted(folder.glob("*.dcm"))
        (series,) = series_of((read_header(path, b"a secret of the site"), str(path)) for path in files)
        return series

    def _slice(self, k: int, header: dict[str, object]) -> Dataset:
        values = self.hounsfield[k].astype("<i2")
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID = CTImageStorage
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.826.0.1.1", "1.2.826.0.1.2"
        dataset.SOPInstanceUID, dataset.FrameOfReferenceUID = f"1.2.826.0.1.3.{k + 1}", "1.2.826.0.1.4"
        dataset.Modality, dataset.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.PatientID, dataset.PatientName = "P-1", "Doe^Jane"
        dataset.Manufacturer, dataset.ConvolutionKernel = "SIEMENS", "Br40f"
        dataset.KVP, dataset.SliceThickness, dataset.InstanceNumber = 120, 2, k + 1
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        position = self.geometry.to_patient(np.array([float(k), 0.0, 0.0]))
        dataset.ImagePositionPatient = [f"{value:.9g}" for value in position]
        dataset.PixelSpacing = [2, 2]
        dataset.Rows, dataset.Columns = values.shape
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
        dataset.PixelData = values.tobytes()
        for keyword, value in header.items():
            setattr(dataset, keyword, value)
        return dataset


@pytest.fixture
def coded() -> Callable[..., CodedSeries]:
    return CodedSeries
