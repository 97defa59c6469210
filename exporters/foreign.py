"""
A network that was trained elsewhere: a torch checkpoint, or a MONAI bundle.

Weights are read as numbers and nothing else (`weights_only`). What kind of network they belong to is told by a recipe
of ours, or by MONAI's own description; of that only plain values and MONAI's networks are taken: its expressions and
any other class would be somebody else's program.
"""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from engine.errors import UnusableModel
from exporters.reference.recipe import read_recipe

NETWORKS = "monai.networks."
NAMES = ("network_def", "network", "net")  # of the description in a bundle's configuration


def load_network(weights: Path, description: Path | None) -> Any:
    """A torch module in evaluation mode, on the CPU.

    Args:
        weights: a checkpoint, or the folder of a MONAI bundle.
        description: of the checkpoint's network: a recipe (.toml), or MONAI's (.json). A bundle has its own.

    Raises:
        UnusableModel: something is missing, is not what it should be, or does not fit.
    """
    import torch

    if weights.is_dir():
        told = (weights / "configs" / name for name in ("inference.json", "train.json"))
        description = next((found for found in told if found.is_file()), None)
        weights = weights / "models" / "model.pt"
    if description is None:
        raise UnusableModel("a checkpoint holds numbers only; tell its network (a recipe, or MONAI's JSON)")
    network = _built(description)
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch have no common ground
        raise UnusableModel(f"'{weights.name}' can't be read as weights alone: {type(error).__name__}") from error
    for key in ("state_dict", "model", "network"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UnusableModel(
            f"'{weights.name}' holds the weights of another network than '{description.name}'"
        ) from error
    return network.eval()


def _built(description: Path) -> Any:
    if description.suffix == ".toml":
        from exporters.reference.networks import build

        return build(read_recipe(description))
    try:
        table = json.loads(description.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnusableModel(f"'{description.name}' is no readable JSON") from error
    if "_target_" in table:
        return _made(table, {})
    for name in NAMES:
        if isinstance(table.get(name), dict):
            return _made(table[name], table)
    raise UnusableModel(f"'{description.name}' describes no network ({', '.join(NAMES)})")


def _made(told: dict[str, Any], table: dict[str, Any]) -> Any:
    """One of MONAI's networks from its description."""
    given = {key: _plain(value, table) for key, value in told.items()}
    target = str(given.pop("_target_", ""))
    place, _, name = (target if "." in target else f"{NETWORKS}nets.{target}").rpartition(".")
    if not place.startswith(NETWORKS) or name.startswith("_"):
        raise UnusableModel(f"'{target}' is none of MONAI's networks")
    if any(key.startswith("_") for key in given):
        raise UnusableModel("a network's description holds more than its class and its arguments")
    try:
        kind = getattr(import_module(place), name)
    except (ImportError, AttributeError) as error:
        raise UnusableModel(f"MONAI has no network '{target}', or is not installed") from error
    try:
        return kind(**given)
    except (TypeError, ValueError) as error:
        raise UnusableModel(f"MONAI's '{name}' does not take these arguments") from error


def _plain(value: Any, table: dict[str, Any]) -> Any:
    """A value, or what a reference names, without anything to be computed."""
    if isinstance(value, str):
        if value.startswith("@") and not isinstance(table.get(value[1:]), (dict, type(None))):
            return _plain(table[value[1:]], {})
        if value.startswith(("$", "@", "%")):
            raise UnusableModel("a network's description computes something; write the value itself")
        return value
    if isinstance(value, list):
        return [_plain(item, table) for item in value]
    if isinstance(value, dict):
        if "_target_" in value:
            raise UnusableModel("a network's description makes other objects; write plain values")
        return {key: _plain(item, table) for key, item in value.items()}
    return value
