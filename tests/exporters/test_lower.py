"""A lower precision is let in only where answers stay within a bound, in numbers that matter."""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engine.errors import UnusableModel
from engine.runtime.backends import RuntimeOptions, open_session
from engine.runtime.manifest import PACKAGED_MODELS, ModelManifest, Parity, TrainingData, open_package
from exporters.lower import add_variant
from exporters.packages import adopt, manifest_text
from exporters.parity import stray
from exporters.tensorrt_rules import refused

SHAPE = (8, 16, 16)
LABELS = ("background", "vertebral_body", "disc")


def write_package(folder: Path, gain: float = 3.0) -> Path:
    """Two convolutions with a rectifier between; answers of three classes."""
    folder.mkdir()
    random = np.random.default_rng(1)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "a"], ["h"], pads=[1] * 6),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("Conv", ["r", "b"], ["y"]),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, *SHAPE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, *SHAPE])],
        [
            numpy_helper.from_array(random.normal(0, 1, (8, 1, 3, 3, 3)).astype(np.float32), "a"),
            numpy_helper.from_array(gain * random.normal(0, 1, (3, 8, 1, 1, 1)).astype(np.float32), "b"),
        ],
    )
    path = folder / "weights.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))
    manifest = ModelManifest(
        name=folder.name, version="1", task="spine_segmentation", file=path.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(), input_shape=SHAPE, input_spacing_mm=(2.0, 2.0, 2.0),
        hounsfield_window=(-200.0, 800.0), output="logits", training_data=TrainingData("random numbers", True),
        parity=Parity("argmax_share", 1e-3, 0.0), labels=LABELS,
    )  # fmt: skip
    (folder / "manifest.toml").write_text(manifest_text(manifest))
    return folder


def images(count: int = 3) -> np.ndarray:
    return np.random.default_rng(5).uniform(-1, 1, (count, 1, *SHAPE)).astype(np.float32)


@pytest.mark.parametrize("precision", ["f16", "int8"])
def test_a_variant_has_a_graph_of_its_own_that_tensorrt_takes(tmp_path, precision):
    package = add_variant(write_package(tmp_path / "net"), precision, images(), bound=0.5)
    (variant,) = package.manifest.variants
    assert (variant.precision, variant.parity.metric) == (precision, "dice_loss")
    assert 0 <= variant.parity.measured <= 0.5
    assert refused(tmp_path / "net" / variant.file) == []
    with open_session(package, RuntimeOptions(backend="onnxruntime", precision=precision)) as session:
        assert (session.model.precision, session.model.sha256) == (precision, variant.sha256)
    assert variant.sha256 != package.manifest.sha256
    assert open_package(tmp_path / "net") == package
    files = {path.name for path in (tmp_path / "net").iterdir()}
    assert files == {"manifest.toml", "weights.onnx", f"weights.{precision}.onnx"}


def test_a_variant_beyond_its_bound_is_refused_and_changes_nothing(tmp_path):
    folder = write_package(tmp_path / "net")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UnusableModel, match=r"strays by .* \(dice_loss\); at most 1e-09"):
        add_variant(folder, "int8", images(), bound=1e-9)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_each_precision_stands_once(tmp_path):
    folder = write_package(tmp_path / "net")
    for precision in ("f16", "int8", "f16"):
        add_variant(folder, precision, images(), bound=0.5)
    assert [one.precision for one in open_package(folder).manifest.variants] == ["f16", "int8"]


def test_what_is_compared_is_what_matters(tmp_path):
    manifest = open_package(write_package(tmp_path / "net")).manifest
    expected = np.zeros((1, 3, 10, 10, 10), np.float32)
    expected[:, 1, :, :, :8] = 1.0
    found = expected.copy()
    assert stray("dice_loss", manifest, expected, found) == 0
    found[:, 2, :, :, 4:8] = 2.0  # half of the class is lost
    assert stray("dice_loss", manifest, expected, found) == pytest.approx(1 - 2 * 400 / 1200)
    assert stray("argmax_share", manifest, expected, found) == pytest.approx(0.4)
    assert stray("probability", manifest, np.zeros((1, 2), np.float32), np.array([[0, 10]], np.float32)) > 0.49
    assert stray("max_abs", manifest, expected, np.full_like(expected, np.nan)) == float("inf")
    with pytest.raises(UnusableModel, match="metric"):
        stray("beauty", manifest, expected, found)


@pytest.mark.parametrize("name", sorted(path.parent.name for path in PACKAGED_MODELS.glob("*/manifest.toml")))
def test_tensorrt_takes_the_packaged_models(name):
    package = open_package(PACKAGED_MODELS / name)
    assert refused(package.weights) == []


def test_what_tensorrt_does_not_take_is_told(tmp_path):
    value = helper.make_tensor_value_info
    zero = numpy_helper.from_array(np.array(3, dtype=np.uint8), "z")
    scale = numpy_helper.from_array(np.array(0.1, dtype=np.float32), "s")
    graph = helper.make_graph(
        [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]), helper.make_node("NonZero", ["q"], ["y"])],
        "net",
        [value("x", TensorProto.FLOAT, ["n", 1, "depth"])],
        [value("y", TensorProto.INT64, [3, "found"])],
        [scale, zero],
    )
    path = tmp_path / "odd.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10), str(path))
    assert refused(path) == [
        "opset 22",
        "operator NonZero",
        "QuantizeLinear that is not int8 with zero point 0",
        "free size in 'x' beyond its batch",
    ]


MANIFEST = """
name = "own"
version = "1"
task = "spine_segmentation"
input_shape = [16, 16, 16]
input_spacing_mm = [2.0, 2.0, 2.0]
hounsfield_window = [-200.0, 800.0]
output = "logits"
labels = ["background", "vertebral_body", "disc"]
[training_data]
statement = "nothing"
reference_only = true
[parity]
metric = "argmax_share"
bound = 0.001
measured = 0.0
"""
UNET = {
    "_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": "@classes", "channels": [4, 8],
    "strides": [2], "norm": "BATCH",
}  # fmt: skip


@pytest.mark.slow
def test_a_bundle_of_monai_is_adopted_with_one_command(tmp_path):
    torch = pytest.importorskip("torch")
    nets = pytest.importorskip("monai.networks.nets")
    torch.manual_seed(0)
    network = nets.UNet(
        spatial_dims=3, in_channels=1, out_channels=3, channels=[4, 8], strides=[2], norm="BATCH"
    ).eval()
    bundle = tmp_path / "bundle"
    for folder in ("configs", "models"):
        (bundle / folder).mkdir(parents=True)
    torch.save(network.state_dict(), bundle / "models" / "model.pt")
    (bundle / "configs" / "inference.json").write_text(
        json.dumps({"imports": ["$import os"], "classes": 3, "network_def": UNET})
    )
    (tmp_path / "own.toml").write_text(MANIFEST)
    package = adopt(bundle, tmp_path / "own.toml", tmp_path / "models")
    assert package.manifest.parity.measured <= 0.001
    image = np.random.default_rng(1).uniform(-1, 1, (1, 1, 16, 16, 16)).astype(np.float32)
    with open_session(package, RuntimeOptions(backend="onnxruntime")) as session, torch.no_grad():
        assert np.abs(session.infer(image) - network(torch.from_numpy(image)).numpy()).max() < 1e-4


@pytest.mark.parametrize(
    ("told", "word"),
    [
        ({"network_def": UNET | {"out_channels": "$__import__('os').getpid()"}}, "computes"),
        ({"network_def": UNET | {"_target_": "os.system"}}, "none of MONAI's"),
        ({"network_def": UNET | {"_target_": "monai.networks.nets.NoSuchNet"}}, "no network"),
        ({"network_def": UNET | {"act": {"_target_": "torch.nn.ReLU"}}}, "other objects"),
        ({"network_def": UNET | {"_desc_": "x"}}, "more than its class"),
        ({"classes": 3}, "describes no network"),
    ],
)
def test_a_description_that_is_a_program_is_not_run(tmp_path, told, word):
    pytest.importorskip("torch")
    pytest.importorskip("monai")
    (tmp_path / "net.json").write_text(json.dumps({"classes": 3} | told))
    (tmp_path / "own.pt").write_bytes(b"")
    (tmp_path / "own.toml").write_text(MANIFEST)
    with pytest.raises(UnusableModel, match=word):
        adopt(tmp_path / "own.pt", tmp_path / "own.toml", tmp_path / "models", tmp_path / "net.json")


def test_a_checkpoint_that_is_more_than_numbers_is_not_opened(tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("monai")
    torch.save({"state_dict": Path("x")}, tmp_path / "own.pt")
    (tmp_path / "net.json").write_text(json.dumps(UNET | {"out_channels": 3}))
    (tmp_path / "own.toml").write_text(MANIFEST)
    with pytest.raises(UnusableModel, match="weights alone"):
        adopt(tmp_path / "own.pt", tmp_path / "own.toml", tmp_path / "models", tmp_path / "net.json")
