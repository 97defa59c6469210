"""A network of one's own goes from its checkpoint into the program by one command, and the numbers are its own."""

import pytest
from typer.testing import CliRunner

from engine.programs.vertebral import VertebralOptions, VertebralProgram
from engine.records import Quantity, VertebralLevel
from engine.runtime.backends import RuntimeOptions
from exporters.cli import app

torch = pytest.importorskip("torch")

from exporters.reference.networks import build  # noqa: E402
from exporters.reference.recipe import read_recipe  # noqa: E402

LABELS = '["background", "vertebral_body", "posterior_elements", "disc", "rib", "sacrum"]'
CODES = [-0.5, 0.12, 0.32, -0.1, 0.52, 0.7]  # of each tissue in the coded series, on the network's scale
RECIPE = f"""
name = "own-spine"
version = "7"
task = "spine_segmentation"
[network]
widths = [4]
blocks = [0]
[manifest]
input_shape = [32, 80, 80]
input_spacing_mm = [2.0, 2.0, 2.0]
hounsfield_window = [-1000.0, 1000.0]
statement = "set by hand"
parity_metric = "max_abs"
parity_bound = 1e-2
labels = {LABELS}
"""
MANIFEST = f"""
name = "own-spine"
version = "7"
task = "spine_segmentation"
input_shape = [32, 80, 80]
input_spacing_mm = [2.0, 2.0, 2.0]
hounsfield_window = [-1000.0, 1000.0]
output = "logits"
labels = {LABELS}
[training_data]
statement = "set by hand"
reference_only = true
[parity]
metric = "max_abs"
bound = 1e-2
measured = 0.0
"""


def nearest_code(recipe):
    """A VB-Net of the recipe's shape whose weights make it choose the nearest code."""
    network = build(recipe).eval()
    convolution, normalisation = network.stem[0], network.stem[1]
    codes = torch.tensor(CODES)
    with torch.no_grad():
        convolution.weight.zero_()
        convolution.weight[0, 0, 1, 1, 1] = 1.0
        normalisation.running_var.fill_(1 - normalisation.eps)
        normalisation.bias.fill_(1.0)  # above zero, so that nothing is cut off
        network.head.weight.zero_()
        network.head.weight[:, 0, 0, 0, 0] = 2000 * codes
        network.head.bias.copy_(-1000 * codes**2 - 2000 * codes)
    return network


def test_a_checkpoint_and_its_recipe_become_a_package_that_the_program_runs(honest_models, coded, tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE)
    (tmp_path / "manifest.toml").write_text(MANIFEST)
    network = nearest_code(read_recipe(tmp_path / "recipe.toml"))
    torch.save({"epoch": 12, "state_dict": network.state_dict()}, tmp_path / "own.pt")
    models = tmp_path / "models"
    models.mkdir()
    (models / "density").symlink_to(honest_models / "density")
    command = ["adopt", "own.pt", "manifest.toml", "--models", "models", "--network", "recipe.toml"]
    told = CliRunner().invoke(
        app, [str(tmp_path / word) if "." in word or word == "models" else word for word in command]
    )
    assert told.exit_code == 0, told.output
    assert "own-spine@7 serves spine_segmentation" in told.output

    series = coded().write(tmp_path / "series")
    with VertebralProgram(VertebralOptions(), RuntimeOptions(models=str(models))) as program:
        result = program.analyse(series).result
    assert [str(model) for model in result.models] == ["own-spine@7", "mean-density@1"]
    assert result.levels[-6:] == tuple(VertebralLevel[name] for name in ("T12", "L1", "L2", "L3", "L4", "L5"))
    for level, hounsfield in ((VertebralLevel.L1, 112), (VertebralLevel.L3, 104)):
        assert result.value(Quantity.ATTENUATION_MEAN, level) == pytest.approx(hounsfield, abs=0.01)
        assert result.value(Quantity.VOLUMETRIC_BMD, level) == pytest.approx(0.75 * hounsfield, abs=0.3)


def test_a_checkpoint_of_another_network_than_its_recipe_is_not_adopted(tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE)
    (tmp_path / "manifest.toml").write_text(MANIFEST)
    state = nearest_code(read_recipe(tmp_path / "recipe.toml")).state_dict()
    state["head.weight"] = state["head.weight"][:3]
    torch.save(state, tmp_path / "own.pt")
    paths = [str(tmp_path / name) for name in ("own.pt", "manifest.toml", "models", "recipe.toml")]
    told = CliRunner().invoke(app, ["adopt", *paths[:2], "--models", paths[2], "--network", paths[3]])
    assert told.exit_code != 0
    assert "another network" in str(told.exception)
    assert not (tmp_path / "models").exists()
