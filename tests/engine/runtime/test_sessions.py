"""A model runs alike on every backend, in the precision its manifest names, or is refused."""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engine.errors import BackendUnavailable, UnusableModel
from engine.options import read_options
from engine.runtime import backends
from engine.runtime.backends import RuntimeOptions, backend_statuses, open_session
from engine.runtime.manifest import ModelManifest, ModelPackage, Parity, TrainingData, Variant, open_package
from engine.runtime.openvino_session import library
from engine.runtime.sharing import ask, ask_together

SHAPE = (8, 12, 16)
BACKENDS = ("openvino", "onnxruntime")


def write_model(folder: Path, *, classes: int = 3, batch: object = "n", shape=SHAPE, inputs: int = 1) -> Path:
    """A random 3-D convolution with `classes` outputs, as ONNX."""
    random = np.random.default_rng(1)
    weights = random.normal(0, 0.3, (classes, 1, 3, 3, 3)).astype(np.float32)
    bias = random.normal(0, 0.3, classes).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], pads=[1] * 6)
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 1, *shape])]
    given += [helper.make_tensor_value_info(f"x{n}", TensorProto.FLOAT, [1]) for n in range(1, inputs)]
    made = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, classes, *shape])]
    constants = [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(bias, "b")]
    graph = helper.make_graph([node], "net", given, made, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path = folder / "weights.onnx"
    onnx.save(model, str(path))
    return path


def package_of(path: Path, **changes: object) -> ModelPackage:
    manifest = ModelManifest(
        name="net",
        version="1",
        task="spine_segmentation",
        file=path.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        input_shape=SHAPE,
        input_spacing_mm=(2.0, 2.0, 2.0),
        hounsfield_window=(-200.0, 800.0),
        output="logits",
        training_data=TrainingData("random numbers", reference_only=True),
        parity=Parity("max_abs", 1e-4, 0.0),
        labels=("background", "vertebral_body", "disc"),
    )
    return ModelPackage(replace(manifest, **changes), path)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_precision_is_pinned_read_back_and_recorded(tmp_path, backend):
    with open_session(package_of(write_model(tmp_path)), RuntimeOptions(backend=backend)) as session:
        assert session.model.precision == "f32"
        assert session.model.backend.startswith(f"{backend} ")
        assert session.model.backend.removeprefix(f"{backend} ")[0].isdigit()
        assert session.model.reference_only
        assert session.model.sha256 == session.manifest.sha256


@pytest.mark.parametrize("count", [1, 2, 5])
def test_backends_agree_for_any_batch(tmp_path, count):
    batch = np.random.default_rng(2).normal(0, 1, (count, 1, *SHAPE)).astype(np.float32)
    answers = []
    for backend in BACKENDS:
        with open_session(package_of(write_model(tmp_path)), RuntimeOptions(backend=backend, threads=1)) as session:
            answers.append(session.infer(batch))
    assert answers[0].shape == (count, 3, *SHAPE)
    assert np.abs(answers[0] - answers[1]).max() < 1e-5


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_caller_may_keep_an_answer(tmp_path, backend):
    random = np.random.default_rng(3)
    first, second = (random.normal(0, 1, (1, 1, *SHAPE)).astype(np.float32) for _ in range(2))
    with open_session(package_of(write_model(tmp_path)), RuntimeOptions(backend=backend)) as session:
        kept = session.infer(first)
        before = kept.copy()
        session.infer(second)
    assert np.array_equal(kept, before)


def asking(images, rounds=2):
    """Ask for all images, then for each alone."""
    together = yield images
    for image, before in zip(images[:rounds], together, strict=False):
        (again,) = yield image[None]
        assert np.array_equal(again, before)
    return together


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batch", [1, 4])
def test_the_answer_does_not_depend_on_who_shared_the_batch(tmp_path, backend, batch):
    random = np.random.default_rng(3)
    askers = [random.normal(0, 1, (n, 1, *SHAPE)).astype(np.float32) for n in (3, 1, 2)]
    with open_session(package_of(write_model(tmp_path)), RuntimeOptions(backend=backend, batch=batch)) as session:
        assert session.batch == batch
        shared = ask_together([asking(images) for images in askers], session)
        for images, answers in zip(askers, shared, strict=True):
            assert np.array_equal(answers, ask(asking(images), session))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_damaged_model_is_refused(tmp_path, backend):
    path = write_model(tmp_path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UnusableModel) as caught:
        open_session(package_of(path), RuntimeOptions(backend=backend))
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("written", "promised", "message"),
    [
        ({}, {"input_shape": (8, 12, 24)}, "input is"),
        ({}, {"labels": ("background", "vertebral_body")}, "output is"),
        ({}, {"labels": ()}, "needs labels"),
        ({}, {"output": "value"}, "output is"),
        ({}, {"output": "poem"}, "none of"),
        ({"batch": 1}, {}, "input is"),
        ({"inputs": 2}, {}, "one input"),
    ],
)
def test_a_graph_that_differs_from_its_manifest_is_refused(tmp_path, backend, written, promised, message):
    with pytest.raises(UnusableModel, match=message):
        open_session(package_of(write_model(tmp_path, **written), **promised), RuntimeOptions(backend=backend))


def test_an_unknown_precision_is_refused(tmp_path):
    with pytest.raises(UnusableModel, match="precision"):
        open_session(package_of(write_model(tmp_path), precision="f8"), RuntimeOptions(backend="openvino"))


def test_onnx_runtime_does_not_pretend_to_another_precision(tmp_path):
    with pytest.raises(BackendUnavailable, match="bf16"):
        open_session(package_of(write_model(tmp_path), precision="bf16"), RuntimeOptions(backend="onnxruntime"))


BF16 = Variant("bf16", Parity("dice_loss", 0.02, 0.001))


def test_a_lower_precision_is_taken_only_where_the_manifest_allows_it(tmp_path):
    package = package_of(write_model(tmp_path))
    with pytest.raises(BackendUnavailable, match="never held against bf16"):
        open_session(package, RuntimeOptions(backend="openvino", precision="bf16"))
    allowed = package_of(write_model(tmp_path), variants=(BF16,))
    with open_session(allowed, RuntimeOptions(backend="onnxruntime")) as session:
        assert session.model.precision == "f32"
    with open_session(allowed, RuntimeOptions(backend="openvino", precision="f32")) as session:
        assert session.model.precision == "f32"
    with pytest.raises(BackendUnavailable, match="bf16"):
        open_session(allowed, RuntimeOptions(backend="onnxruntime", precision="bf16"))


OPENS_MODELS = """
import sys
from engine.runtime.backends import RuntimeOptions, open_session
from engine.runtime.manifest import PACKAGED_MODELS, find_package
for backend in ("openvino", "onnxruntime"):
    open_session(find_package(PACKAGED_MODELS, "vertebral_bmd"), RuntimeOptions(backend=backend))
print([name for name, module in sys.modules.items() if module and name.startswith("openvino_telemetry")])
"""


def test_no_backend_tells_anybody_that_it_is_used(tmp_path):
    environment = {"HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}  # without CI: in it they are silent
    ran = subprocess.run(
        [sys.executable, "-c", OPENS_MODELS], env=environment, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "[]"
    assert list(tmp_path.iterdir()) == []  # else a number for this account, and what waits to be sent


def test_a_processor_with_bf16_computes_in_it_and_says_so(tmp_path):
    if "BF16" not in library().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has no bf16")
    batch = np.random.default_rng(2).normal(0, 1, (2, 1, *SHAPE)).astype(np.float32)
    package = package_of(write_model(tmp_path), variants=(BF16,))
    answers = {}
    for precision in ("auto", "f32"):
        with open_session(package, RuntimeOptions(backend="openvino", precision=precision)) as session:
            answers[session.model.precision] = session.infer(batch)
    assert set(answers) == {"bf16", "f32"}
    assert 0 < np.abs(answers["bf16"] - answers["f32"]).max() < 0.1


def test_a_variant_s_own_file_is_checked_and_opened(tmp_path):
    path = write_model(tmp_path)
    other = tmp_path / "weights.int8.onnx"
    other.write_bytes(path.read_bytes() + b"\0")
    text = MANIFEST.format(sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    variant = f"""[[variants]]
precision = "int8"
file = "{other.name}"
sha256 = "{hashlib.sha256(path.read_bytes()).hexdigest()}"
parity = {{metric = "dice_loss", bound = 0.02, measured = 0.01}}
"""
    (tmp_path / "manifest.toml").write_text(text + variant)
    with pytest.raises(UnusableModel, match="int8"):
        open_package(tmp_path)
    other.write_bytes(path.read_bytes())
    package = open_package(tmp_path)
    with open_session(package, RuntimeOptions(backend="onnxruntime", precision="int8")) as session:
        assert session.model.precision == "int8"


def test_auto_takes_the_first_that_can_run(tmp_path, monkeypatch):
    package = package_of(write_model(tmp_path))
    with open_session(package, RuntimeOptions()) as session:
        assert session.model.backend.startswith("openvino")
    absent = replace(backends._BACKENDS["openvino"], why_not=lambda: "not here")
    monkeypatch.setitem(backends._BACKENDS, "openvino", absent)
    with open_session(package, RuntimeOptions()) as session:
        assert session.model.backend.startswith("onnxruntime")
    assert [(status.name, status.can_run, status.why_not) for status in backend_statuses()][1:] == [
        ("openvino", False, "not here"),
        ("onnxruntime", True, ""),
    ]
    with pytest.raises(BackendUnavailable, match="openvino: not here"):
        open_session(package, RuntimeOptions(backend="openvino"))


@pytest.mark.parametrize("table", [{"backend": "tensorflow"}, {"threads": -1}, {"batch": 65}])
def test_options_without_a_meaning_are_refused(table):
    with pytest.raises(ValueError, match=next(iter(table))):
        RuntimeOptions(**table)


def test_options_read_from_a_table():
    assert read_options(RuntimeOptions, {"backend": "onnxruntime", "threads": 2}).threads == 2


def test_changed_weights_are_refused_before_anything_reads_them(tmp_path):
    path = write_model(tmp_path)
    (tmp_path / "manifest.toml").write_text(MANIFEST.format(sha256=hashlib.sha256(path.read_bytes()).hexdigest()))
    assert open_package(tmp_path).manifest.labels[1] == "vertebral_body"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(UnusableModel, match="checksum"):
        open_package(tmp_path)


MANIFEST = """
name = "net"
version = "1"
task = "spine_segmentation"
file = "weights.onnx"
sha256 = "{sha256}"
input_shape = [8, 12, 16]
input_spacing_mm = [2.0, 2.0, 2.0]
hounsfield_window = [-200.0, 800.0]
output = "logits"
labels = ["background", "vertebral_body", "disc"]
[training_data]
statement = "random numbers"
reference_only = true
[parity]
metric = "max_abs"
bound = 1e-4
measured = 0.0
"""
