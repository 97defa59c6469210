"""From a recipe to a package that the engine opens, in seconds; and what is refused on the way."""

import hashlib
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.errors import BadOption, UnusableModel
from engine.runtime.manifest import PACKAGED_MODELS, ModelPackage, find_optional, find_package, open_package
from engine.runtime.onnxruntime_session import OnnxRuntimeSession
from exporters.packages import adopt, manifest_text
from exporters.parity import measure_parity
from exporters.reference.recipe import NetworkRecipe, Recipe, TrainingRecipe, read_recipe

torch = pytest.importorskip("torch")

from exporters.reference.networks import build  # noqa: E402
from exporters.reference.training import load_trained, train  # noqa: E402
from exporters.reference.warm_start import take_weights  # noqa: E402
from exporters.to_onnx import as_function  # noqa: E402
from exporters.workshop import bench_of, package, parity_images, prepare, samples_of  # noqa: E402

RECIPES = Path(__file__).parents[2] / "configs" / "models"
NAMES = {"spine_segmentation": "spine", "vertebral_bmd": "density", "vertebral_class": "class", "areal_bmd": "areal",
         "bone_score": "score"}  # fmt: skip


def tiny(task: str) -> Recipe:
    """A recipe of the same kind that is made in seconds."""
    whole = read_recipe(RECIPES / f"{NAMES[task]}.toml")
    training = TrainingRecipe(steps=3, batch=2, patch=(16, 16, 16), bfloat16=False)
    if whole.manifest.cut:
        return replace(
            whole, data=replace(whole.data, cases=3), training=replace(training, folds=2, check_every=2),
            network=replace(whole.network, widths=(2,), blocks=(1, 1, 1, 1)),
        )  # fmt: skip
    spine = task == "spine_segmentation"
    return replace(
        whole,
        data=replace(whole.data, cases=2 if spine else 4, fine_share=0.0),
        network=NetworkRecipe((4, 8), (0, 1)) if spine else NetworkRecipe((4,), (1, 1), growth=4),
        training=training if spine else replace(training, check_every=2),
        manifest=replace(
            whole.manifest, input_shape=(16, 16, 16), input_spacing_mm=(6.0, 6.0, 6.0) if spine else (3.0, 3.0, 3.0)
        ),
    )


@pytest.fixture(scope="module", params=["spine_segmentation", "vertebral_class", "areal_bmd"])
def made(request, tmp_path_factory):
    recipe = tiny(request.param)
    root = tmp_path_factory.mktemp("workshop")
    bench = bench_of(root, recipe)
    counted = []
    prepare(recipe, bench, processes=1, progress=lambda done, total: counted.append((done, total)))
    assert counted == [(n + 1, recipe.data.cases) for n in range(recipe.data.cases)]
    reports = []
    for fold in range(recipe.training.folds):
        train(recipe, bench, fold=fold, samples=samples_in(bench, recipe), threads=1,
              report=lambda step, loss, seconds: reports.append((step, loss)))  # fmt: skip
    assert reports[-1][0] == 3
    assert np.isfinite(reports[-1][1])
    return recipe, bench, package(recipe, bench, root / "models")


def samples_in(bench, recipe):
    return samples_of(bench, recipe) if recipe.data.cohort else None


def test_a_recipe_becomes_a_package_that_the_engine_opens(made):
    recipe, _, packed = made
    manifest = open_package(packed.weights.parent).manifest
    assert (manifest.name, manifest.task, manifest.labels) == (recipe.name, recipe.task, recipe.manifest.labels)
    assert manifest.training_data.reference_only
    assert manifest.parity.measured <= manifest.parity.bound


def test_the_export_takes_any_batch_and_says_what_the_network_says(made):
    recipe, bench, packed = made
    images = parity_images(recipe, 3)
    expected = as_function(load_trained(recipe, bench))(images)
    with OnnxRuntimeSession(packed) as session:
        for n in (1, 3):
            assert session.infer(images[:n]) == pytest.approx(expected[:n], abs=1e-4)


def test_an_interrupted_training_goes_on_where_it_stopped(made, tmp_path):
    recipe, bench, _ = made
    shutil.copytree(bench, tmp_path / "bench")
    steps = []
    longer = replace(recipe, training=replace(recipe.training, steps=4))
    train(
        longer,
        tmp_path / "bench",
        samples=samples_in(bench, recipe),
        threads=1,
        report=lambda step, loss, seconds: steps.append(step),
    )
    assert steps == [4]


def test_a_network_that_strays_from_its_export_is_refused(made):
    recipe, _, packed = made
    images = parity_images(recipe, 1)
    other = as_function(build(replace(recipe, seed=99)).eval())
    with pytest.raises(UnusableModel, match="strays"):
        measure_parity(packed.manifest, packed.weights, lambda batch: -other(batch) - 1, images)


def test_a_training_may_begin_with_an_export(made):
    recipe, _, packed = made
    if recipe.task != "spine_segmentation":
        pytest.skip("other networks' exports have no place for it")
    images = torch.from_numpy(parity_images(recipe, 2))
    other = build(replace(recipe, seed=99)).eval()
    before = as_function(other)(images.numpy())
    take_weights(other, packed.weights, images)
    after = as_function(other)(images.numpy())
    with OnnxRuntimeSession(packed) as session:
        expected = session.infer(images.numpy())
    assert after == pytest.approx(expected, abs=1e-3)
    assert np.abs(before - expected).max() > 0.1
    with torch.no_grad():  # in training it says nearly the same: the statistics are those of images
        assert np.corrcoef(other.train()(images).numpy().ravel(), expected.ravel())[0, 1] > 0.95
    with pytest.raises(UnusableModel, match="has no"):
        take_weights(build(replace(recipe, network=NetworkRecipe((4, 6), (0, 1)))), packed.weights, images)


def test_drawing_and_training_twice_gives_the_same_weights(tmp_path):
    recipe = tiny("spine_segmentation")
    weights = []
    for name in ("a", "b"):
        prepare(recipe, tmp_path / name, processes=1, progress=lambda done, total: None)
        network = train(recipe, tmp_path / name, threads=1)
        weights.append(torch.cat([value.flatten().float() for value in network.state_dict().values()]))
    assert torch.equal(*weights)


def test_ones_own_model_is_adopted_with_its_checksum(made, tmp_path):
    _, _, packed = made
    table = (packed.weights.parent / "manifest.toml").read_text().replace(packed.manifest.sha256, "")
    (tmp_path / "mine.toml").write_text(table)
    taken = adopt(packed.weights, tmp_path / "mine.toml", tmp_path / "models")
    assert taken.manifest.sha256 == hashlib.sha256(packed.weights.read_bytes()).hexdigest()
    assert find_package(tmp_path / "models", packed.manifest.task) == taken


def test_a_model_that_is_not_what_its_manifest_says_is_not_adopted(made, tmp_path):
    _, _, packed = made
    wrong = replace(packed.manifest, output="classes", labels=(*packed.manifest.labels, "one_more", "and_one"))
    (tmp_path / "wrong.toml").write_text(manifest_text(wrong))
    with pytest.raises(UnusableModel, match="promises"):
        adopt(packed.weights, tmp_path / "wrong.toml", tmp_path / "models")
    (tmp_path / "broken.onnx").write_bytes(packed.weights.read_bytes()[:1000])
    (tmp_path / "right.toml").write_text(manifest_text(packed.manifest))
    with pytest.raises(UnusableModel, match="no valid ONNX"):
        adopt(tmp_path / "broken.onnx", tmp_path / "right.toml", tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_a_second_model_for_a_task_is_not_adopted_beside_the_first(made, tmp_path):
    _, _, packed = made
    (tmp_path / "one.toml").write_text(manifest_text(packed.manifest))
    (tmp_path / "two.toml").write_text(manifest_text(replace(packed.manifest, name="another")))
    adopt(packed.weights, tmp_path / "one.toml", tmp_path / "models")
    with pytest.raises(UnusableModel, match="already serves"):
        adopt(packed.weights, tmp_path / "two.toml", tmp_path / "models")


def test_a_manifest_reads_back_as_it_was_written(made):
    _, _, packed = made
    table = tomllib.loads(manifest_text(packed.manifest))
    assert table["sha256"] == packed.manifest.sha256
    assert ModelPackage(packed.manifest, packed.weights) == open_package(packed.weights.parent)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_can_be_read(path):
    recipe = read_recipe(path)
    assert bool(recipe.data.cohort) != (recipe.task == "spine_segmentation")
    assert recipe.evaluation.unseen_scanner not in recipe.data.scanners
    assert recipe.evaluation.first_seed > recipe.data.first_seed + recipe.data.cases


def test_a_recipe_with_an_unknown_key_is_refused(tmp_path):
    text = (RECIPES / "spine.toml").read_text().replace("steps =", "stepps =")
    (tmp_path / "spine.toml").write_text(text)
    with pytest.raises(BadOption, match=r"'spine\.training\.stepps'; did you mean 'spine\.training\.steps'"):
        read_recipe(tmp_path / "spine.toml")


@pytest.mark.parametrize("name", NAMES.values())
def test_a_network_answers_in_the_shape_that_its_manifest_promises(name):
    recipe = read_recipe(RECIPES / f"{name}.toml")
    images = torch.zeros(1, 1, *recipe.manifest.input_shape)
    with torch.no_grad():
        output = build(recipe).eval()(images)
    spine = recipe.task == "spine_segmentation"
    answers = (1, len(recipe.manifest.labels) or 1)
    assert output.shape == ((*answers, *recipe.manifest.input_shape) if spine else answers)


@pytest.mark.parametrize("task", [task for task in NAMES if find_optional(PACKAGED_MODELS, task)])
def test_the_packaged_weights_are_whole_small_and_reference_only(task):
    packed = find_package(PACKAGED_MODELS, task)
    assert packed.weights.stat().st_size < 15 * 2**20
    assert packed.manifest.training_data.reference_only
    assert "phantom" in packed.manifest.training_data.statement
    assert packed.manifest.parity.measured <= packed.manifest.parity.bound
    card = Path(__file__).parents[2] / "docs" / "models" / f"{packed.manifest.name}.md"
    assert packed.manifest.sha256[:12] in card.read_text(), "the card's figures are of other weights"
