"""
The bench where a recipe becomes a package: cases, training, export, each in its place and resumable.

Everything lies in one folder a recipe outside the package: `cases/`, `checkpoint.pt`, `weights.onnx`; a
cohort's vertebrae lie beside them, for all models that read them. An interrupted step goes on where it stopped.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import BackendUnavailable, UnusableModel
from engine.prediction.familiarity import statistics_of
from engine.runtime.manifest import ModelPackage, TrainingStatistics
from exporters.lower import add_variant
from exporters.packages import package_reference
from exporters.reference.cohorts import cohort
from exporters.reference.recipe import Recipe
from exporters.reference.spine_cases import draw_case, write_case
from exporters.reference.vertebra_samples import draw_samples, read_samples, write_samples

ENOUGH_CROPS = 100  # for statistics; our choice
Progress = Callable[[int, int], None]
"""Called with what is done and what there is to do."""


def bench_of(workshop: Path, recipe: Recipe) -> Path:
    """The folder of a recipe."""
    return workshop / recipe.name


def prepare(recipe: Recipe, bench: Path, *, processes: int, progress: Progress) -> None:
    """Draw all cases of a recipe that are not there yet."""
    work: Sequence[Any] = range(recipe.data.cases)
    draw: Callable[[Any], object]
    if recipe.data.cohort:
        plan = recipe.manifest
        work = cohort(recipe.data.cohort, recipe.data.first_seed, recipe.data.cases)
        draw = partial(write_samples, samples_of(bench, recipe), shape=plan.shape, spacing_mm=plan.spacing_mm,
                       cut=plan.cut, window=plan.hounsfield_window)  # fmt: skip
    else:
        draw = partial(write_case, bench / "cases", recipe)
        (bench / "cases").mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(processes) as pool:
        for done, _ in enumerate(pool.map(draw, work, chunksize=4), start=1):
            progress(done, len(work))


def samples_of(bench: Path, recipe: Recipe) -> Path:
    """Where the samples of a recipe's cohort lie; models that read the same input share them."""
    shape = "x".join(map(str, recipe.manifest.input_shape))
    return bench.parent / "cohorts" / f"{recipe.data.cohort}-{recipe.data.first_seed}-{shape}"


def package(recipe: Recipe, bench: Path, models: Path) -> ModelPackage:
    """Export the last checkpoint's averaged network, hold it against the network, and make its package.

    Raises:
        UnusableModel: the export strays beyond the recipe's bound.
    """
    from exporters.reference.training import load_trained
    from exporters.to_onnx import as_function, export

    network = load_trained(recipe, bench)
    weights = bench / "weights.onnx"
    export(network, recipe.manifest.input_shape, weights)
    images = parity_images(recipe)
    statistics = _statistics(recipe, bench) if recipe.task == "vertebral_bmd" else None
    made = package_reference(recipe, weights, as_function(network), images, models, statistics)
    if recipe.task == "spine_segmentation":  # the slowest by far, and the one that bears it
        with suppress(BackendUnavailable, UnusableModel):  # a machine without bf16 can't show it; then it stays out
            made = add_variant(made.weights.parent, "bf16", images)
    return made


def _statistics(recipe: Recipe, bench: Path) -> TrainingStatistics | None:
    """Of the crops that taught, as the engine would hand them in; too few tell nothing."""
    from exporters.reference.vertebra_lesson import images, parted

    teaching, _ = parted(recipe, read_samples(samples_of(bench, recipe)), 0)
    return statistics_of(images(recipe, teaching)[:, 0]) if len(teaching.patient) >= ENOUGH_CROPS else None


def parity_images(recipe: Recipe, count: int = 3) -> NDArray[np.float32]:
    """Normalised inputs (N, 1, K, J, I) from phantoms that no training sees."""
    if recipe.data.cohort:
        return _vertebra_images(recipe, count)
    low, high = recipe.manifest.hounsfield_window
    shape = recipe.manifest.input_shape
    images: list[NDArray[np.generic]] = []
    number = recipe.evaluation.first_seed - recipe.data.first_seed
    recipe = replace(recipe, data=replace(recipe.data, fine_share=0.0))
    for case in range(number, number + count):
        soft, mineral, _ = draw_case(recipe, case)
        whole = soft + 1.33 * mineral
        short = [max(0, want - have) for want, have in zip(shape, whole.shape, strict=True)]
        whole = np.pad(whole, [(0, n) for n in short], constant_values=-1024)
        start = [(have - want) // 2 for have, want in zip(whole.shape, shape, strict=True)]
        images.append(whole[tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))])
    stacked = np.stack(images).astype(np.float32)[:, None]
    return np.asarray((np.clip(stacked, low, high) - low) * (2.0 / (high - low)) - 1.0, dtype=np.float32)


def _vertebra_images(recipe: Recipe, count: int) -> NDArray[np.float32]:
    """Vertebrae of the cohort's last patients, who are independent in both."""
    from exporters.reference.vertebra_lesson import cohort_of, images

    plan, found = recipe.manifest, []
    for patient in reversed(cohort_of(recipe)):
        samples = draw_samples(patient, plan.shape, plan.spacing_mm, plan.cut, plan.hounsfield_window)
        found.append(images(recipe, samples))
        if sum(map(len, found)) >= count:
            break
    return np.concatenate(found)[:count]
