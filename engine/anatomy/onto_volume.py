"""Bring bodies from the network's coarse grid onto the volume's own voxels."""

from collections.abc import Sequence

import numpy as np
import scipy  # its parts load at first use
from numpy.typing import NDArray

from engine.anatomy.bodies import Body
from engine.records import VertebralLevel
from engine.resampling import resample
from engine.volume import BESIDE_BODY_MM, Box, Geometry, Segmentation, TissueMap

MARGIN_MM = 6.0  # around a body: room for the interpolation on both grids


def onto_volume(
    named: Sequence[tuple[VertebralLevel | None, Body]], others: Sequence[Body], tissues: TissueMap, onto: Geometry
) -> Segmentation:
    """Bodies on the volume's grid, head to foot.

    The border lies where the interpolated bone probability passes a half; where bodies touch, half way.

    Args:
        named: with their names; None: it is shown without one.
        others: bodies that are left out, and that the named ones must not grow into.
    """
    numbers = np.zeros(tissues.labels.shape, dtype=np.uint8)
    for body in others:
        numbers[tuple(body.voxels.T)] = 255
    for n, (_, body) in enumerate(named, start=1):
        numbers[tuple(body.voxels.T)] = n
    labels = np.zeros(onto.shape, dtype=np.uint8)
    found: list[Box | None] = []
    for n, (_, body) in enumerate(named, start=1):
        near = _box(body.voxels, tissues.geometry, MARGIN_MM)
        target = _same_place(near, tissues.geometry, onto)
        found.append(target)
        if target is None:
            continue
        bone, mine = _bone_and_share(numbers[near], tissues.body_probability[near], n, tissues.geometry)
        source, grid = tissues.geometry.box(near), onto.box(target)
        inside = (resample(bone, source, grid, 0.0) >= 0.5) & (resample(mine, source, grid, 0.0) >= 0.5)
        labels[target][inside] = n
    return Segmentation(onto, labels, tuple(level for level, _ in named), tuple(found))


def _bone_and_share(
    numbers: NDArray[np.uint8], probability: NDArray[np.float32], n: int, geometry: Geometry
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Bone probability near any body, and 1 where the n-th is the nearest one."""
    distance, nearest = scipy.ndimage.distance_transform_edt(numbers == 0, geometry.spacing_mm, return_indices=True)
    bone = np.where(distance <= BESIDE_BODY_MM, probability, 0)
    return bone.astype(np.float32), (numbers[tuple(nearest)] == n).astype(np.float32)


def _box(voxels: NDArray[np.int_], geometry: Geometry, margin_mm: float) -> Box:
    margin = np.ceil(margin_mm / np.asarray(geometry.spacing_mm)).astype(int)
    low = np.maximum(voxels.min(axis=0) - margin, 0)
    high = np.minimum(voxels.max(axis=0) + margin + 1, geometry.shape)
    k, j, i = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return k, j, i


def _same_place(box: Box, geometry: Geometry, onto: Geometry) -> Box | None:
    """The voxels of another grid that cover a box, as far as that grid goes."""
    ends = [(part.start, part.stop - 1) for part in box]
    corners = np.array([[k, j, i] for k in ends[0] for j in ends[1] for i in ends[2]], dtype=float)
    index = onto.to_index(geometry.to_patient(corners))
    low = np.clip(np.floor(index.min(axis=0)).astype(int), 0, onto.shape)
    high = np.clip(np.ceil(index.max(axis=0)).astype(int) + 1, 0, onto.shape)
    if (high <= low).any():
        return None
    k, j, i = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return k, j, i
