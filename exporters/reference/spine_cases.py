"""
Training cases for the spine network: phantoms on the network's grid, kept in a cache.

Most are painted on that grid, with mineral apart from soft tissue so that a training step may choose
density and energy anew; some are scanned finely and come through `engine.resampling`, as at night.
"""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.resampling import resample
from engine.volume import CANONICAL, Geometry
from exporters.reference.recipe import Recipe
from exporters.reference.scanner import scan, scanner
from exporters.reference.spine_phantom import RICH, SpinePhantom, draw_phantom, rasterise

Case = tuple[NDArray[np.int16], NDArray[np.int16], NDArray[np.uint8]]
"""HU without mineral, mineral in mg/cm3 (0 where it is already in the HU), tissue labels."""


def case_folder(cache: Path, number: int) -> Path:
    """Where a case lies."""
    return cache / f"case_{number:05d}"


def write_case(cache: Path, recipe: Recipe, number: int) -> Path:
    """Draw and keep one case; one that is already there is left alone."""
    folder = case_folder(cache, number)
    if folder.exists():
        return folder
    soft, mineral, labels = draw_case(recipe, number)
    aside = cache / f".{folder.name}.{os.getpid()}"
    aside.mkdir(parents=True, exist_ok=True)
    np.save(aside / "soft.npy", soft)
    np.save(aside / "mineral.npy", mineral)
    np.save(aside / "labels.npy", labels)
    aside.rename(folder)
    return folder


def read_case(folder: Path) -> Case:
    """A kept case; the arrays stay on disk until they are touched."""
    soft, mineral, labels = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("soft", "mineral", "labels"))
    return soft, mineral, labels


def draw_case(recipe: Recipe, number: int) -> Case:
    """One case from its number."""
    rng = np.random.default_rng([recipe.seed, number])
    rich = np.random.default_rng([recipe.seed, number, 1]).random() < recipe.data.finding_share
    phantom = draw_phantom(recipe.data.first_seed + number, options=RICH if rich else None)
    contrast = (None, None, "arterial", "arterial", "venous")[int(rng.integers(5))]
    step = recipe.manifest.input_spacing_mm
    grid = random_grid(phantom, rng, (step[0], step[1], step[2]))
    truth = rasterise(phantom, grid, contrast=contrast)
    if rng.random() >= recipe.data.fine_share:
        soft = np.clip(truth.soft, -1024, 3071).astype(np.int16)
        return soft, np.clip(truth.mineral, 0, 5000).astype(np.int16), truth.labels
    machine = scanner(str(rng.choice(recipe.data.scanners)))
    fine = _fine_grid(grid, machine.spacing_mm * float(rng.uniform(1.0, 2.5)), float(rng.uniform(0.7, 1.0)))
    hounsfield, _ = scan(phantom, machine, fine, seed=number, dose=float(rng.uniform(0.3, 1.5)), contrast=contrast)
    soft = resample(hounsfield, fine, grid).astype(np.int16)
    return soft, np.zeros_like(soft), truth.labels


def random_grid(phantom: SpinePhantom, rng: np.random.Generator, spacing_mm: tuple[float, float, float]) -> Geometry:
    """A grid somewhere around a spine: whole trunks, chests, abdomens, narrow fields, off-centre ones."""
    low = phantom.sacrum.centre[2] - 110
    high = phantom.vertebrae[0].centre[2] + 25
    length = float(min(rng.uniform(150, 420), high - low))
    start = float(rng.uniform(low, high - length))
    wide = float(rng.uniform(150, 420)) if rng.random() < 0.6 else 420.0
    deep = float(rng.uniform(0.7, 1.0)) * min(wide, 290.0)
    middle = start + length / 2
    bone = min(phantom.vertebrae, key=lambda bone: abs(bone.centre[2] - middle))
    x = bone.centre[0] + float(rng.normal(0, 12))
    y = bone.centre[1] + float(rng.uniform(-45, 5)) - 0.1 * deep
    counts = [max(8, int(size / step)) for size, step in zip((length, deep, wide), spacing_mm, strict=True)]
    origin = (x - counts[2] * spacing_mm[2] / 2, y - counts[1] * spacing_mm[1] / 2, start)
    shift = rng.uniform(-1, 1, 3)
    x, y, z = (float(a + b) for a, b in zip(origin, shift, strict=True))
    return Geometry((counts[0], counts[1], counts[2]), spacing_mm, (x, y, z), CANONICAL)


def _fine_grid(grid: Geometry, slice_mm: float, pixel_mm: float) -> Geometry:
    """A scan's grid over the same block."""
    size = [n * step for n, step in zip(grid.shape, grid.spacing_mm, strict=True)]
    spacing = (slice_mm, pixel_mm, pixel_mm)
    k, j, i = (max(4, int(length / step)) for length, step in zip(size, spacing, strict=True))
    x, y, z = grid.origin_mm
    return Geometry((k, j, i), spacing, (x - 0.4, y - 0.4, z), CANONICAL)
