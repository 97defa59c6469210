"""
Put a model into a model folder: weights, and a manifest that says what they promise.

Reference models come from a recipe; a user's own come as an ONNX file, a torch checkpoint or a MONAI
bundle, with a manifest of their own. Both
are run once before they are let in, and the checksum is written here, by nobody's hand.
"""

import hashlib
import json
import os
import shutil
import tempfile
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import UnusableModel
from engine.options import read_options, write_options
from engine.runtime.manifest import ModelManifest, ModelPackage, Parity, TrainingData, TrainingStatistics, open_package
from engine.runtime.onnxruntime_session import OnnxRuntimeSession
from exporters.parity import measure_parity
from exporters.reference.recipe import Recipe
from exporters.to_onnx import Function, as_function, check, export

WEIGHTS = "weights.onnx"
OUTPUTS = {"spine_segmentation": "logits", "vertebral_class": "classes"}
"""What a task's network answers with, where it is not one value."""


def package_reference(
    recipe: Recipe, weights: Path, reference: Function, images: NDArray[np.float32], models: Path,
    statistics: TrainingStatistics | None = None,
) -> ModelPackage:  # fmt: skip
    """Make the package of a reference model.

    Args:
        weights: the exported ONNX file; it is copied.
        reference: the trained network, to hold the export against.
        images: (N, 1, K, J, I), normalised; what both are run on.
        models: the model folder; the package is a folder in it, named like the recipe.
        statistics: of the training's crops, where the engine is to say which are unlike them.

    Raises:
        UnusableModel: the export is not the network, beyond the recipe's bound.
    """
    promised = recipe.manifest
    manifest = ModelManifest(
        name=recipe.name, version=recipe.version, task=recipe.task, file=WEIGHTS, sha256=checksum(weights),
        input_shape=promised.input_shape, input_spacing_mm=promised.input_spacing_mm,
        hounsfield_window=promised.hounsfield_window,
        output=OUTPUTS.get(recipe.task, "value"),
        training_data=TrainingData(promised.statement, True, f"{recipe.name} {recipe.version}", recipe.seed),
        parity=Parity(promised.parity_metric, promised.parity_bound, 0.0), labels=promised.labels,
        output_scale=promised.output_scale, output_offset=promised.output_offset, output_unit=promised.output_unit,
        output_range=promised.output_range, multiple_of=promised.multiple_of, cut=promised.cut,
        training_statistics=statistics,
    )  # fmt: skip
    manifest = replace(manifest, parity=measure_parity(manifest, weights, reference, images))
    return _install(manifest, weights, models)


def adopt(weights: Path, manifest_file: Path, models: Path, network: Path | None = None) -> ModelPackage:
    """Take a user's own model into a model folder.

    Args:
        weights: an ONNX file with its weights inside; or a torch checkpoint or the folder of a MONAI bundle, which are
            exported, and held against the network within the manifest's bound.
        manifest_file: TOML as engine.runtime.manifest has it; `sha256` and `file` may be left out.
        models: the model folder; a package of the same task in it must be removed by its owner first.
        network: what the checkpoint's weights belong to, see exporters/foreign.py.

    Raises:
        UnusableModel: the file is no valid ONNX, does not fit its manifest, can't be run, or the task is taken.
    """
    table = _manifest_table(manifest_file)
    with tempfile.TemporaryDirectory() as aside:
        reference: Function | None = None
        if weights.is_dir() or weights.suffix != ".onnx":
            from exporters.foreign import load_network

            torch_network, given = load_network(weights, network), weights
            weights = Path(aside) / WEIGHTS
            shape = table.get("input_shape")
            if not isinstance(shape, list) or not all(isinstance(n, int) and n > 0 for n in shape):
                raise UnusableModel(f"the manifest for '{given.name}' names no input_shape")
            export(torch_network, tuple(shape), weights)
            reference = as_function(torch_network)
        check(weights)
        table |= {"file": WEIGHTS, "sha256": checksum(weights)}
        manifest = read_options(ModelManifest, table, f"model {manifest_file.stem}")
        _check_place(manifest, models)
        _try(manifest, weights)
        if reference is not None:
            noise = np.random.default_rng(0).uniform(-1, 1, (2, 1, *manifest.input_shape)).astype(np.float32)
            manifest = replace(manifest, parity=measure_parity(manifest, weights, reference, noise))
        return _install(manifest, weights, models)


def _manifest_table(manifest_file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(manifest_file.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UnusableModel(f"manifest '{manifest_file.name}' can't be read: {error}") from error


def _check_place(manifest: ModelManifest, models: Path) -> None:
    """Its name can be a folder's, and no other package serves its task there."""
    if Path(manifest.name).name != manifest.name or manifest.name.startswith("."):
        raise UnusableModel(f"model name '{manifest.name}' is no plain name")
    for path in sorted(models.glob("*/manifest.toml")):
        other = open_package(path.parent).manifest
        if other.task == manifest.task and other.name != manifest.name:
            raise UnusableModel(f"'{other.name}' already serves '{manifest.task}' in that folder; use another folder")


def install_variant(package: ModelPackage, manifest: ModelManifest, file: Path | None) -> ModelPackage:
    """Give a package another manifest, and a file that it names: that first, to be there when it is named."""
    folder = package.weights.parent
    if file is not None:
        file.replace(folder / file.name)
    aside = folder / f".{os.getpid()}"
    aside.write_text(manifest_text(manifest), encoding="utf-8")
    aside.replace(folder / "manifest.toml")
    return open_package(folder)


def manifest_text(manifest: ModelManifest) -> str:
    """A manifest as TOML; reads back as the same manifest."""
    plain: dict[str, Any] = write_options(manifest)
    tables = {key: plain.pop(key) for key in [key for key, value in plain.items() if isinstance(value, dict)]}
    lists = {key: plain.pop(key) for key in [key for key, value in plain.items() if _tables(value)]}
    lines = [f"{key} = {_toml(value)}" for key, value in plain.items()]
    for name, table in tables.items():
        lines += ["", f"[{name}]", *[f"{key} = {_toml(value)}" for key, value in table.items()]]
    for name, several in lists.items():
        for table in several:
            lines += ["", f"[[{name}]]", *[f"{key} = {_toml(value)}" for key, value in table.items()]]
    return "\n".join(lines) + "\n"


def _try(manifest: ModelManifest, weights: Path) -> None:
    """Run a model once on air, and look at what comes out."""
    air = np.full((1, 1, *manifest.input_shape), -1.0, dtype=np.float32)
    with OnnxRuntimeSession(ModelPackage(manifest, weights)) as session:
        try:
            output = session.infer(air)
        except Exception as error:  # the library has a dozen classes for this, without a common ground
            raise UnusableModel(f"model '{manifest.name}' can't be run: {type(error).__name__}") from error
    wanted: tuple[int, ...] = (1, len(manifest.labels) if manifest.output != "value" else 1)
    if manifest.output == "logits":
        wanted += manifest.input_shape
    if output.shape != wanted:
        raise UnusableModel(f"model '{manifest.name}' answers with {output.shape}, its manifest promises {wanted}")
    if not np.isfinite(output).all():
        raise UnusableModel(f"model '{manifest.name}' answers air with numbers that are not finite")


def _install(manifest: ModelManifest, weights: Path, models: Path) -> ModelPackage:
    """Each file lands whole; between the two the checksum keeps a half-changed package from being used."""
    folder = models / manifest.name
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f".{os.getpid()}"
    shutil.copyfile(weights, aside)
    aside.replace(folder / manifest.file)
    aside.write_text(manifest_text(manifest), encoding="utf-8")
    aside.replace(folder / "manifest.toml")
    return open_package(folder)


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UnusableModel(f"weights '{path.name}' can't be read") from error


def _tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, float):
        return f"{value!r}" if "e" in repr(value) or "." in repr(value) else f"{value!r}.0"
    return json.dumps(value, ensure_ascii=False)
