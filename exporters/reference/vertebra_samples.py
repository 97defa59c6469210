"""
What the density networks learn from and are tested on: vertebrae of a cohort, as the engine would cut them.

A patient is scanned once. Each wanted level gives a crop around its trabecular core, or cuts from the
side, and one row of truth. Crops have spare voxels on each side, so that a training step may move them
as a segmentation's error would.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.anatomy.crops import crop_vertebrae
from engine.anatomy.posterior import whole_vertebrae
from engine.anatomy.sagittal import cut_vertebrae
from engine.anatomy.trabecular import trabecular_core
from engine.records import VertebralLevel
from engine.resampling import canonical_grid
from engine.runtime.manifest import SagittalCut
from engine.volume import Geometry, Segmentation, Shape, TissueMap, Vector, VertebraCut, Volume
from exporters.reference.absorptiometry import areal_density
from exporters.reference.cohorts import Patient
from exporters.reference.scanner import Scanner, scan, scanner
from exporters.reference.spine_phantom import (
    PhantomOptions,
    Raster,
    SpinePhantom,
    draw_phantom,
    field_of_view,
    levels_in_view,
)
from exporters.reference.vertebra import TISSUES

SPARE = 4  # voxels that a crop is longer than the network's input, along each axis
EROSION_MM = 3.0  # depth of the trabecular core (Peng 2023)
FAR_MM = 90.0  # from the grid: farther vertebrae have neither a process nor a rib in view
CIRCLE_MM2 = 125.0  # the circle whose mean HU Yoshida 2023 compares with: 100-150 mm2
TISSUE_MM = (2.0, 2.0, 2.0)  # grid of the spine network, whose tissue map the engine cuts by
OFFSETS_MM = (-5.0, 0.0, 5.0)  # three cuts of a vertebra for training; the middle one for the test (Yoshida 2023)
THIN_MM, MEDIUM_MM, THICK_MM = (0.9, 1.0), (1.2, 1.5), (2.4, 3.0)  # slices; pictures from the side want thin ones
THICK = 0.35  # share of thick ones among the others
WIDE_MM, BEHIND_MM = 116.0, 16.0  # edge of the scanned square, and how far its centre lies behind the bodies
ELIGIBLE = PhantomOptions(fracture=0.0, metal=0.0, transitional=0.0, cement=0.0)
"""Both papers exclude fractures, surgery and what can't be counted."""
KEPT = (slice(80, 192), slice(80, 208))
"""Rows and columns of a cut of 256 x 256 that a vertebra can lie in; the rest is background and is not kept."""


@dataclass(frozen=True, eq=False)
class Samples:
    """The vertebrae of some patients; the first axis of all arrays is a vertebra's."""

    patient: NDArray[np.int32]  # number in the cohort
    level: NDArray[np.int8]  # index into VertebralLevel
    truth: dict[str, NDArray[np.float32]]  # vbmd, abmd, tbs, hu_core, hu_roi, bmi
    images: NDArray[Any]  # crops (N, K, J, I) int16 HU, or cuts (N, offsets, rows, columns) float16 grey

    def of(self, chosen: NDArray[np.bool_]) -> "Samples":
        """Some of them."""
        return Samples(self.patient[chosen], self.level[chosen],
                       {name: values[chosen] for name, values in self.truth.items()}, self.images[chosen])  # fmt: skip


def write_samples(
    folder: Path,
    patient: Patient,
    *,
    shape: Shape,
    spacing_mm: Vector,
    cut: SagittalCut | None,
    window: Sequence[float],
) -> Path:
    """Scan one patient and keep what is cut out; what was kept before is left alone."""
    path = folder / f"patient_{patient.number:05d}.npz"
    if path.exists():
        return path
    drawn = draw_samples(patient, shape, spacing_mm, cut, window)
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f".{path.name}.{os.getpid()}.npz"
    arrays: dict[str, Any] = {"patient": drawn.patient, "level": drawn.level, "images": drawn.images, **drawn.truth}
    np.savez(aside, **arrays)
    aside.rename(path)
    return path


def read_samples(folder: Path) -> Samples:
    """All kept samples, in the order of the patients."""
    parts = []
    for path in sorted(folder.glob("patient_*.npz")):
        with np.load(path) as kept:
            parts.append({name: kept[name] for name in kept.files})
    whole = {name: np.concatenate([part[name] for part in parts if len(part["level"])]) for name in parts[0]}
    return Samples(whole.pop("patient"), whole.pop("level"), images=whole.pop("images"), truth=whole)


def draw_samples(
    patient: Patient, shape: Shape, spacing_mm: Vector, cut: SagittalCut | None, window: Sequence[float]
) -> Samples:
    """Scan one patient and cut out the wanted levels.

    Args:
        shape, spacing_mm: of the network's input; crops are longer by SPARE.
        cut: how pictures from the side are made; None: crops are cut.
        window: HU of the grey scale of cuts.
    """
    rng = np.random.default_rng([patient.seed, 3])
    phantom = draw_phantom(patient.seed, age=patient.age, sex=patient.sex, vbmd=patient.vbmd, options=ELIGIBLE)
    volume, raster = _scanned(phantom, patient, scanner(patient.scanner), rng, thin=cut is not None)
    kept = [level for level in levels_in_view(phantom, raster.geometry) if level in patient.levels]
    bodies = _chosen(raster, phantom, kept)
    cores = trabecular_core(bodies, EROSION_MM)
    found: dict[VertebralLevel, NDArray[Any]]
    if cut is None:
        k, j, i = (n + SPARE for n in shape)
        crops = crop_vertebrae(volume, cores, (k, j, i), spacing_mm)
        found = {crop.level: np.rint(crop.hounsfield).astype(np.int16) for crop in crops}
    else:
        found = _pictures(volume, raster, phantom, bodies, cut, window, patient.fold >= 0, rng)
    kept = [level for level in kept if level in found and cores.boxes[kept.index(level)] is not None]
    numbers = [bodies.segments.index(level) + 1 for level in kept]
    truth = {
        "vbmd": [phantom.vbmd[level] for level in kept],
        "abmd": [areal_density(phantom, level) if cut else np.nan for level in kept],
        "tbs": [phantom.bone_score[level] for level in kept],
        "hu_core": [float(volume.hounsfield[cores.labels == n].mean()) for n in numbers],
        "hu_roi": [circle_mean(volume, bodies, n) for n in numbers],
        "bmi": [phantom.bmi for _ in kept],
    }
    empty = np.zeros((0, *next(iter(found.values())).shape)) if found else np.zeros((0, 1, 1, 1))
    return Samples(
        np.full(len(kept), patient.number, dtype=np.int32),
        np.array([list(VertebralLevel).index(level) for level in kept], dtype=np.int8),
        {name: np.asarray(values, dtype=np.float32) for name, values in truth.items()},
        np.stack([found[level] for level in kept]) if kept else empty,
    )


def circle_mean(volume: Volume, bodies: Segmentation, n: int) -> float:
    """Mean HU of a circle at the centre of a body, in the slice through it.

    Source:
        Yoshida 2023: a circular region of 100-150 mm2 at the centre of the vertebra.
    """
    geometry = volume.geometry
    centre = np.argwhere(bodies.labels == n).mean(axis=0)
    k = int(np.rint(centre[0]))
    rows, columns = np.ogrid[: geometry.shape[1], : geometry.shape[2]]
    away = ((rows - centre[1]) * geometry.spacing_mm[1]) ** 2 + ((columns - centre[2]) * geometry.spacing_mm[2]) ** 2
    return float(volume.hounsfield[k][away <= CIRCLE_MM2 / np.pi].mean())


def _scanned(
    phantom: SpinePhantom, patient: Patient, machine: Scanner, rng: np.random.Generator, thin: bool
) -> tuple[Volume, Raster]:
    """The piece of spine with the wanted levels, as the machine would scan it."""
    pixel = float(rng.uniform(*machine.field_mm)) / 512
    step = float(rng.uniform(*(THIN_MM if thin else THICK_MM if rng.random() < THICK else MEDIUM_MM)))
    geometry = field_of_view(
        phantom, patient.levels[0], patient.levels[-1], pixels=int(WIDE_MM / pixel), pixel_mm=pixel, slice_mm=step,
        margin_mm=float(rng.uniform(4, 20)) if not thin else 9.0,
        offset_mm=(float(rng.normal(0, 3)), BEHIND_MM if thin else 4.0),
    )  # fmt: skip
    dose = float(np.exp(rng.normal(0, 0.3)))
    hounsfield, raster = scan(_near(phantom, geometry), machine, geometry, seed=patient.seed, dose=dose)
    return Volume(geometry, hounsfield, str(patient.seed), ()), raster


def _near(phantom: SpinePhantom, geometry: Geometry) -> SpinePhantom:
    """The phantom without the vertebrae that are far from a grid: nobody would see them, and painting takes long."""
    low, high = geometry.origin_mm[2], geometry.origin_mm[2] + geometry.shape[0] * geometry.spacing_mm[0]
    near = tuple(bone for bone in phantom.vertebrae if low - FAR_MM <= bone.centre[2] <= high + FAR_MM)
    return replace(phantom, vertebrae=near)


def _chosen(raster: Raster, phantom: SpinePhantom, levels: list[VertebralLevel]) -> Segmentation:
    """The true bodies of some levels."""
    numbers = np.zeros(256, dtype=np.uint8)
    for n, level in enumerate(levels, start=1):
        numbers[phantom.vertebra(level).number] = n
    return Segmentation(raster.geometry, numbers[raster.bodies], tuple(levels))


def _pictures(
    volume: Volume, raster: Raster, phantom: SpinePhantom, bodies: Segmentation, cut: SagittalCut,
    window: Sequence[float], jitter: bool, rng: np.random.Generator,
) -> dict[VertebralLevel, NDArray[Any]]:  # fmt: skip
    """Cuts (offsets, kept rows and columns) of each level; for training, masks are a little too thin or too thick."""
    grid = canonical_grid(raster.geometry, TISSUE_MM)
    labels = _nearest(raster.labels, raster.geometry, grid)
    tissues = TissueMap(grid, labels, (labels == 1).astype(np.float32), TISSUES)
    all_bodies = _chosen(raster, phantom, list(phantom.levels))
    whole = whole_vertebrae(all_bodies, tissues)
    mine = np.zeros(256, dtype=np.uint8)
    for n, level in enumerate(bodies.segments, start=1):
        if level is not None:
            mine[all_bodies.segments.index(level) + 1] = n
    whole = Segmentation(grid, mine[whole.labels], bodies.segments)
    dilation = max(0.0, cut.dilation_mm + float(rng.normal(0, 0.5))) if jitter else cut.dilation_mm
    cuts = cut_vertebrae(
        volume, bodies, whole, phantom.levels, replace(cut, offsets_mm=OFFSETS_MM, dilation_mm=dilation), window
    )
    found: dict[VertebralLevel, list[VertebraCut]] = {}
    for one in cuts:
        found.setdefault(one.level, []).append(one)
    return {level: np.stack([one.grey[KEPT] for one in some]).astype(np.float16) for level, some in found.items()}


def _nearest(labels: NDArray[np.uint8], source: Geometry, grid: Geometry) -> NDArray[np.uint8]:
    """Labels of one canonical grid at the centres of another; background outside."""
    places = []
    for axis in range(3):
        index = np.zeros((grid.shape[axis], 3))
        index[:, axis] = np.arange(grid.shape[axis])
        places.append(np.rint(source.to_index(grid.to_patient(index))[:, axis]).astype(int))
    inside = [(place >= 0) & (place < n) for place, n in zip(places, source.shape, strict=True)]
    found = np.zeros(grid.shape, dtype=np.uint8)
    found[np.ix_(*inside)] = labels[np.ix_(*(place[ok] for place, ok in zip(places, inside, strict=True)))]
    return found
