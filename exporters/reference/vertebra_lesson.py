"""
How the networks of vertebrae learn: from crops (Peng 2023) or from pictures from the side (Yoshida 2023).

Which patients teach and which judge is the cohort's to say; the test and the independent patients are not
touched here. A step may change what a segmentation, a scanner or the end of a scan may change.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.losses.focal_loss import FocalLoss
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

from exporters.reference.cohorts import Patient, Split, cohort
from exporters.reference.lesson import Batch, Lesson, normalise
from exporters.reference.recipe import Recipe
from exporters.reference.vertebra_samples import KEPT, OFFSETS_MM, Samples, read_samples

CUTS_MG = (80.0, 120.0)  # between the classes: Peng 2023
TRUTH = {"vertebral_bmd": "vbmd", "vertebral_class": "vbmd", "areal_bmd": "abmd", "bone_score": "tbs"}
"""Which truth a task is about."""
END_OF_SCAN = 0.3  # share of crops that are cut short and continued, as the engine continues them
SHIFT = 2  # pixels that a picture may be moved


def vertebra_lesson(recipe: Recipe, samples: Path, fold: int) -> Lesson:
    """The lesson of a recipe; `fold` is held out where the recipe has folds."""
    teaching, judging = parted(recipe, read_samples(samples), fold)
    batch = partial(picture_batch if recipe.manifest.cut else crop_batch, recipe, teaching)
    return Lesson(batch, partial(vertebra_loss, recipe), partial(judge, recipe, judging))


def parted(recipe: Recipe, samples: Samples, fold: int) -> tuple[Samples, Samples]:
    """The samples that teach, and those that choose the checkpoint."""
    patients = {one.number: one for one in cohort_of(recipe)}

    def judges(one: Patient) -> bool:
        return one.fold == fold if recipe.training.folds > 1 else one.split is Split.VALIDATION or one.fold == 0

    learnt = [one for one in patients.values() if one.split in (Split.TRAIN, Split.VALIDATION)]
    held = np.isin(samples.patient, [one.number for one in learnt if judges(one)])
    taught = np.isin(samples.patient, [one.number for one in learnt if not judges(one)])
    return samples.of(taught), samples.of(held)


def cohort_of(recipe: Recipe) -> tuple[Patient, ...]:
    """The patients of a recipe."""
    return cohort(recipe.data.cohort, recipe.data.first_seed, recipe.data.cases)


def classes(density: NDArray[np.floating]) -> NDArray[np.int64]:
    """0 normal, 1 osteopenia, 2 osteoporosis; both equalities as in Peng 2023."""
    return np.where(density <= CUTS_MG[0], 2, np.where(density >= CUTS_MG[1], 0, 1)).astype(np.int64)


def targets(recipe: Recipe, samples: Samples) -> NDArray[Any]:
    """What the network should answer: (N, 1) on its scale, or (N,) classes."""
    truth = samples.truth[TRUTH[recipe.task]]
    if recipe.task == "vertebral_class":
        return classes(truth)
    scaled = (truth - recipe.manifest.output_offset) / recipe.manifest.output_scale
    return np.asarray(scaled, dtype=np.float32)[:, None]


def vertebra_loss(recipe: Recipe, output: Tensor, target: Tensor) -> Tensor:
    """Focal loss for classes and squared error for a density (Peng 2023), Huber's for a picture (Yoshida 2023)."""
    if recipe.task == "vertebral_class":
        loss: Tensor = FocalLoss(to_onehot_y=True, use_softmax=True, gamma=recipe.training.focus)(
            output, target[:, None]
        )
        return loss
    if recipe.manifest.cut:
        return functional.huber_loss(output, target)
    return functional.mse_loss(output, target)


def judge(recipe: Recipe, samples: Samples, network: nn.Module, device: str) -> float:
    """The mean absolute error in the output's unit, or the mean negative log-likelihood of the true class."""
    answers = answer(network, images(recipe, samples), device)
    truth = targets(recipe, samples)
    if recipe.task == "vertebral_class":
        likely = torch.from_numpy(answers).log_softmax(dim=1).numpy()
        return float(-likely[np.arange(len(truth)), truth.astype(int)].mean())
    return float(np.abs(answers - truth).mean() * recipe.manifest.output_scale)


def answer(
    network: nn.Module, inputs: NDArray[np.float32], device: str = "cpu", batch: int = 32
) -> NDArray[np.float32]:
    """What a network says to images, (N, outputs)."""
    with torch.no_grad():
        parts = [network(torch.from_numpy(inputs[n : n + batch]).to(device)).float().cpu().numpy()
                 for n in range(0, len(inputs), batch)]  # fmt: skip
    return np.concatenate(parts)


def images(recipe: Recipe, samples: Samples) -> NDArray[np.float32]:
    """Inputs as the engine would hand them in: the middle crop, or the middle cut on a whole picture."""
    low, high = recipe.manifest.hounsfield_window
    if not recipe.manifest.cut:
        at = _middle(samples.images.shape[1:], recipe.manifest.input_shape)
        return normalise(samples.images[(slice(None), *at)].astype(np.float32), low, high)[:, None]
    whole = np.zeros((len(samples.images), *recipe.manifest.input_shape), dtype=np.float32)
    whole[(slice(None), 0, *KEPT)] = samples.images[:, OFFSETS_MM.index(0.0)]
    return normalise(whole, 0.0, 255.0)[:, None]


def crop_batch(recipe: Recipe, samples: Samples, step: int) -> Batch:
    """Crops, moved, mirrored, cut short, blurred and made noisy."""
    rng = np.random.default_rng([recipe.seed, 6, step])
    low, high = recipe.manifest.hounsfield_window
    shape = recipe.manifest.input_shape
    chosen = rng.integers(len(samples.patient), size=recipe.training.batch)
    truth = targets(recipe, samples)
    crops = []
    for n in chosen:
        crop = samples.images[n].astype(np.float32)
        start = [int(rng.integers(have - want + 1)) for have, want in zip(crop.shape, shape, strict=True)]
        crop = crop[tuple(slice(a, a + want) for a, want in zip(start, shape, strict=True))]
        if rng.random() < 0.5:
            crop = crop[:, :, ::-1]
        if rng.random() < END_OF_SCAN:
            crop = _cut_short(crop, rng)
        if rng.random() < 0.3:
            crop = ndimage.gaussian_filter(crop, rng.uniform(0, 0.6, 3))
        crop = crop * np.float32(np.exp(rng.normal(0, 0.012)))
        crop = crop + np.float32(rng.uniform(0, 15)) * rng.standard_normal(crop.shape, dtype=np.float32)
        crops.append(normalise(crop, low, high))
    return np.stack(crops)[:, None], truth[chosen]


def _cut_short(crop: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """A crop at an end of the scan: what lies beyond is as the last slice, as engine.anatomy.crops has it."""
    axis = int(rng.choice(3, p=[0.7, 0.15, 0.15]))
    short = int(rng.integers(1, crop.shape[axis] * 2 // 5))
    front = bool(rng.random() < 0.5)
    keep = slice(short, None) if front else slice(None, -short)
    widths = [(0, 0)] * 3
    widths[axis] = (short, 0) if front else (0, short)
    return np.pad(crop[tuple(keep if a == axis else slice(None) for a in range(3))], widths, mode="edge")


def picture_batch(recipe: Recipe, samples: Samples, step: int) -> Batch:
    """The part of pictures that the graph reads, any of the three cuts, moved and changed in brightness."""
    rng = np.random.default_rng([recipe.seed, 6, step])
    row, column, rows, columns = recipe.network.crop
    row, column = row - KEPT[0].start, column - KEPT[1].start
    chosen = rng.integers(len(samples.patient), size=recipe.training.batch)
    truth = targets(recipe, samples)
    pictures = []
    for n in chosen:
        picture = samples.images[n, int(rng.integers(len(OFFSETS_MM)))].astype(np.float32)
        down, right = (int(value) for value in rng.integers(-SHIFT, SHIFT + 1, 2))
        picture = picture[row + down : row + down + rows, column + right : column + right + columns]
        picture = picture * np.float32(np.exp(rng.normal(0, 0.015)))
        pictures.append(normalise(picture, 0.0, 255.0))
    return np.stack(pictures)[:, None], truth[chosen]


def _middle(have: tuple[int, ...], want: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice((a - b) // 2, (a - b) // 2 + b) for a, b in zip(have, want, strict=True))
