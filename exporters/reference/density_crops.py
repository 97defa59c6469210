"""
Training crops for the density network: vertebrae scanned by every dialect, cut out as the engine cuts them.

A crop is centred on the trabecular core, not on the drawn body, and has spare voxels on each side, so
that a training step may move it as a segmentation's error would.
"""

import os
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from engine.records import VertebralLevel
from engine.resampling import centred_grid, resample
from engine.volume import Geometry, Vector
from exporters.reference.recipe import Recipe
from exporters.reference.scanner import scan, scanner
from exporters.reference.spine_phantom import draw_phantom, field_of_view, levels_in_view

SPARE = 4  # voxels that a crop is longer than the network's input, along each axis
EROSION_MM = 3.0  # depth of the trabecular core (Peng 2023)


def write_crops(folder: Path, recipe: Recipe, number: int) -> Path:
    """Scan one phantom's piece of spine and keep the crops of its levels; a kept one is left alone."""
    path = folder / f"crops_{number:05d}.npz"
    if path.exists():
        return path
    rng = np.random.default_rng([recipe.seed, number])
    key = str(rng.choice(recipe.data.scanners))
    crops, values = draw_crops(recipe, recipe.data.first_seed + number, key, rng, SPARE)
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f".{path.name}.{os.getpid()}.npz"
    np.savez(aside, crops=crops, values=values)
    aside.rename(path)
    return path


def draw_crops(
    recipe: Recipe, phantom_seed: int, scanner_key: str, rng: np.random.Generator, spare: int
) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """Crops (N, K, J, I) in HU of a few neighbouring levels, and their densities in mg/cm3."""
    wanted = float(rng.uniform(20, 230)) if rng.random() < 0.5 else None  # as many dense as thin ones
    age = None if wanted is None else int(np.clip(rng.normal(30 + (188 - wanted) / 1.7, 12), 20, 90))
    phantom = draw_phantom(phantom_seed, vbmd=wanted, age=age)
    machine = scanner(scanner_key)
    order = list(phantom.levels)
    top = int(rng.integers(order.index(VertebralLevel.T6), order.index(VertebralLevel.L3)))
    bottom = min(top + 3, len(order) - 1)
    geometry = field_of_view(
        phantom, order[top], order[bottom], pixels=int(115 / 0.8), pixel_mm=float(rng.uniform(0.7, 0.95)),
        slice_mm=machine.spacing_mm * float(rng.uniform(0.8, 1.6)), offset_mm=(float(rng.normal(0, 6)), -4.0),
    )  # fmt: skip
    contrast = (None, None, None, "venous")[int(rng.integers(4))]
    hounsfield, truth = scan(
        phantom, machine, geometry, seed=phantom_seed, dose=float(rng.uniform(0.2, 1.5)), contrast=contrast
    )
    shape = recipe.manifest.input_shape
    step = recipe.manifest.input_spacing_mm
    crops, values = [], []
    for level in levels_in_view(phantom, geometry):
        centre = core_centre(truth.bodies == phantom.vertebra(level).number, geometry)
        if centre is None:
            continue
        grid = centred_grid(centre, (shape[0] + spare, shape[1] + spare, shape[2] + spare), (step[0], step[1], step[2]))
        crops.append(np.rint(resample(hounsfield, geometry, grid)).astype(np.int16))
        values.append(phantom.vbmd[level])
    empty = np.zeros((0, *(n + spare for n in shape)), dtype=np.int16)
    return np.stack(crops) if crops else empty, np.asarray(values, dtype=np.float32)


def core_centre(body: NDArray[np.bool_], geometry: Geometry) -> Vector | None:
    """The centre of a body's core, mm in the patient; None when erosion leaves nothing."""
    (box, *_) = (*ndimage.find_objects(body.astype(np.uint8)), None)
    if box is None:
        return None
    depth = ndimage.distance_transform_edt(np.pad(body[box], 1), sampling=geometry.spacing_mm)[1:-1, 1:-1, 1:-1]
    core = np.argwhere(depth > EROSION_MM) + [part.start for part in box]
    if not len(core):
        return None
    x, y, z = (float(value) for value in geometry.to_patient(core.mean(axis=0)))
    return x, y, z


@lru_cache(maxsize=1)
def read_crops(folder: Path) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """All kept crops and their densities."""
    crops, values = [], []
    for path in sorted(folder.glob("crops_*.npz")):
        with np.load(path) as kept:
            crops.append(kept["crops"])
            values.append(kept["values"])
    return np.concatenate(crops), np.concatenate(values)
