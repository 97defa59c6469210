"""Every call that we make of TensorRT exists in 10.16 and 11.4; a plan is never used for what it was not built for."""

import ast
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engine.errors import BackendUnavailable
from engine.runtime import plans, tensorrt_session
from engine.runtime.backends import RuntimeOptions, backend_statuses, open_session
from engine.runtime.device_memory import Device
from engine.runtime.manifest import ModelManifest, ModelPackage, Parity, TrainingData
from engine.runtime.sharing import ask, ask_together

SURFACES = json.loads((Path(__file__).parent / "tensorrt_surface.json").read_text())
KINDS = {
    "builder": "Builder", "network": "INetworkDefinition", "parser": "OnnxParser", "config": "IBuilderConfig",
    "profile": "IOptimizationProfile", "engine": "ICudaEngine", "context": "IExecutionContext", "cache": "ITimingCache",
    "_runtime": "Runtime",
}  # fmt: skip
"""A variable's name tells its class; the two files that speak TensorRT keep to that."""
SHAPE = (4, 6, 8)


def uses(source: str, surface: dict) -> tuple[int, list[str]]:
    """How many uses of TensorRT a source makes, and those that the recorded bindings do not have."""
    classes, enums = surface["classes"], surface["enums"]
    count, wrong = 0, []
    tree = ast.parse(source)
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        words = ast.unparse(node).split(".")
        if words[0] == "trt" and len(words) == 3 and words[1] in enums:
            count += 1
            wrong += [] if words[2] in enums[words[1]] else [".".join(words)]
        elif words[0] == "trt" and len(words) == 2:
            count += 1
            known = words[1] in classes or words[1] in enums or words[1] in ("__version__", "float32")
            wrong += [] if known else [".".join(words)]
        elif (kind := KINDS.get(words[-2] if len(words) > 1 else "")) and len(words) <= 3:
            count += 1
            wrong += told(kind, words[-1], calls.get(id(node)), classes)
    return count, wrong


def told(kind, name, call, classes) -> list[str]:
    for one in (kind, *classes[kind]["bases"]):
        found = classes.get(one, {"methods": {}, "properties": {}})
        if name in found["properties"]:
            return [] if call is None else [f"{kind}.{name} is no method"]
        if name in found["methods"]:
            overloads = [overload for overload in found["methods"][name] if "*args" not in overload[0]]
            return [] if call is None or suits(call, overloads) else [f"{kind}.{name}: takes {overloads}"]
    return [f"{kind}.{name}"]


def suits(call, overloads) -> bool:
    for names, optional in overloads:
        given = [*names[: len(call.args)], *(keyword.arg for keyword in call.keywords)]
        if len(call.args) <= len(names) and set(given) <= set(names) and set(names) - set(given) <= set(optional):
            return True
    return not overloads


@pytest.mark.parametrize("version", sorted(SURFACES))
def test_every_use_of_tensorrt_is_in_its_bindings(version):
    counts = 0
    for module in (plans, tensorrt_session):
        count, wrong = uses(Path(module.__file__).read_text(), SURFACES[version])
        assert wrong == []
        counts += count
    assert counts > 40


@pytest.mark.parametrize(
    "line",
    [
        "config.set_flag(trt.BuilderFlag.FP16)",
        "context.execute_async_v2(bindings, stream)",
        "context.execute_async_v3(stream=1)",
        "config.set_timing_cache(cache)",
        "engine.num_bindings",
        "builder.max_batch_size",
    ],
)
def test_the_check_finds_what_11_has_not(line):
    assert uses(line, SURFACES["11.4.0.106"])[1]


def a_package(folder: Path, seed: int = 1) -> ModelPackage:
    """A random 1x1 convolution of three classes."""
    random = np.random.default_rng(seed)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, *SHAPE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, *SHAPE])],
        [numpy_helper.from_array(random.normal(0, 1, (3, 1, 1, 1, 1)).astype(np.float32), "w")],
    )
    path = folder / f"{seed}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))
    manifest = ModelManifest(
        name="net", version="1", task="spine_segmentation", file=path.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(), input_shape=SHAPE, input_spacing_mm=(2.0, 2.0, 2.0),
        hounsfield_window=(-200.0, 800.0), output="logits", training_data=TrainingData("random numbers", True),
        parity=Parity("max_abs", 1e-4, 0.0), labels=("background", "vertebral_body", "disc"),
    )  # fmt: skip
    return ModelPackage(manifest, path)


def options(folder: Path, **more) -> RuntimeOptions:
    return RuntimeOptions(backend="tensorrt", plans=str(folder / "plans"), **more)


def test_the_session_computes_what_the_reference_computes(tensorrt, tmp_path):
    package, batch = a_package(tmp_path), np.random.default_rng(2).normal(0, 1, (5, 1, *SHAPE)).astype(np.float32)
    with open_session(package, RuntimeOptions(backend="onnxruntime")) as reference:
        expected = reference.infer(batch)
    with open_session(package, options(tmp_path, batch=2)) as session:
        assert (session.batch, session.model.precision) == (2, "f32")
        assert session.model.backend == f"tensorrt {tensorrt.module.__version__}"
        kept = session.infer(batch)
        session.infer(batch * 2)
        assert np.abs(kept - expected).max() < 1e-6
        assert tensorrt.cuda.launched == 6  # recorded once, then launched for every run of two
    assert tensorrt.cuda.blocks == {}


def test_who_shares_a_batch_changes_nothing(tensorrt, tmp_path):
    def asking(images):
        return (yield images)

    images = [np.random.default_rng(n).normal(0, 1, (n, 1, *SHAPE)).astype(np.float32) for n in (3, 1, 2)]
    with open_session(a_package(tmp_path), options(tmp_path, batch=4)) as session:
        shared = ask_together([asking(some) for some in images], session)
        assert all(
            np.array_equal(ask(asking(some), session), found) for some, found in zip(images, shared, strict=True)
        )


def test_a_plan_is_kept_and_built_anew_for_anything_else(tensorrt, tmp_path):
    def opened(package, **more):
        with open_session(package, options(tmp_path, **more)):
            return len(tensorrt.builds)

    package = a_package(tmp_path)
    assert opened(package, batch=2) == 1
    assert opened(package, batch=2) == 1
    assert opened(package, batch=3) == 2
    assert opened(a_package(tmp_path, seed=2), batch=2) == 3
    tensorrt_session.version.cache_clear()
    tensorrt.module.__version__ = "11.9.0.1"
    assert opened(package, batch=2) == 4


def test_a_plan_that_tensorrt_refuses_or_that_is_not_whole_is_built_anew(tensorrt, tmp_path):
    package = a_package(tmp_path)
    with open_session(package, options(tmp_path)):
        pass
    tensorrt.refuse = 1
    with open_session(package, options(tmp_path)):
        assert len(tensorrt.builds) == 2
    (plan,) = (tmp_path / "plans").glob("*.plan")
    plan.write_bytes(plan.read_bytes()[:-1])
    with open_session(package, options(tmp_path)):
        assert len(tensorrt.builds) == 3


def test_a_folder_of_plans_that_others_can_write_is_not_used(tensorrt, tmp_path):
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans").chmod(0o777)
    with pytest.raises(BackendUnavailable, match="written by others"):
        open_session(a_package(tmp_path), options(tmp_path))
    assert tensorrt.builds == []


DEVICE = Device("A card", "9.0", 132, 1 << 37, 50 << 20, True, 13000, 13000)
KEY = plans.PlanKey("11.4.0.106", "0" * 64, DEVICE, (8, 1, 64, 96, 96), "f16")


@pytest.mark.parametrize(
    "other",
    [
        replace(KEY, tensorrt="11.4.0.107"),
        replace(KEY, onnx_sha256="1" * 64),
        replace(KEY, input_shape=(4, 1, 64, 96, 96)),
        replace(KEY, precision="f32"),
        replace(KEY, level=5),
        *(replace(KEY, device=replace(DEVICE, **{name: value})) for name, value in {
            "name": "Another", "compute_capability": "10.0", "multiprocessors": 114, "memory_bytes": 1, "l2_bytes": 1,
            "ecc": False, "runtime_version": 1, "driver_version": 1}.items()),
    ],
)  # fmt: skip
def test_everything_that_a_plan_depends_on_is_in_its_name(other):
    assert other.digest != KEY.digest


def test_without_a_device_it_is_said_why():
    status = next(one for one in backend_statuses() if one.name == "tensorrt")
    if status.can_run:
        pytest.skip("there is a device")
    assert "tensorrt" in status.why_not or "CUDA" in status.why_not
