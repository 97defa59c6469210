"""
What lies around the vertebral bodies: air, fat, muscle, and the great vessel before them.

Seen in slabs: the mean of the slices through a body's middle, as nothing there runs other than along the spine.
A slab has little noise even in low-dose CT. A tissue that can't be told safely has no sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # its parts load at first use
from numpy.typing import NDArray

from engine.volume import Box, Segmentation, Volume

PIXEL_MM = 2.0  # of a slab
MIDDLE = 0.6  # of a body's height that its slab averages
AIR_BELOW = -900.0  # HU
PADDING_BELOW = -1080.0  # HU; scanners write less than air outside the circle of reconstruction
BODY_ABOVE = -250.0  # HU
SMALLEST_MM2 = 100.0  # of a sample; our choice, ten times what internal calibration was published with
LUMEN_MM = 6.0  # radius of the disc that a great vessel holds
VESSEL_X_MM = (-25.0, 40.0)  # to the left of the body's middle
VESSEL_Y_MM = (-40.0, 12.0)  # behind the body's front
EVEN_SD = 22.0  # HU in a disc of one tissue, in a slab; our choice
MARGIN = 8  # pixels that a patient goes on beyond the field of view, lest its edge pass for thin
TABLE_MM = 9.0  # half the thickness of what is no patient


@dataclass(frozen=True, eq=False)
class Slab:
    """Mean of the slices through the middle of a body, on a coarse grid."""

    segment: int  # label of the body
    hounsfield: NDArray[np.float32]  # (J, I)
    left: NDArray[np.float32]  # (J, I), mm to the left of the body's middle
    back: NDArray[np.float32]  # (J, I), mm behind the body's front
    bone: NDArray[np.bool_]  # (J, I), of any body
    depth_mm: float  # of the body, front to back
    pixel_mm2: float


@dataclass(frozen=True, slots=True)
class Sample:
    """HU of one tissue."""

    hounsfield: float  # median
    area_mm2: float  # over all slabs


def slabs(volume: Volume, bodies: Segmentation) -> tuple[Slab, ...]:
    """A slab for each body."""
    found = []
    for n, box in enumerate(bodies.boxes, start=1):
        if box is not None:
            found.append(_slab(volume, bodies, n, box))
    return tuple(found)


def vessel_hounsfield(found: Sequence[Slab]) -> float | None:
    """HU of the aorta, or whatever even and round enough lies before the spine; None: nothing does.

    The densest disc of one tissue in each slab, and the (lower) median over slabs, so that one bowel loop full of oral
    contrast decides nothing.
    """
    densest = []
    for slab in found:
        mean, even = _discs(slab)
        if even.any():
            densest.append(float(mean[even].max()))
    return sorted(densest)[(len(densest) - 1) // 2] if densest else None


def tissue_samples(found: Sequence[Slab]) -> dict[str, Sample]:
    """HU of "air", "fat", "muscle" and "blood", as far as they are there."""
    pools: dict[str, list[NDArray[np.float32]]] = {"air": [], "fat": [], "muscle": [], "blood": []}
    for slab in found:
        inside = patient(slab)
        depth = scipy.ndimage.distance_transform_edt(np.pad(inside, 1), sampling=slab.pixel_mm2**0.5)[1:-1, 1:-1]
        beyond = scipy.ndimage.distance_transform_edt(~inside, sampling=slab.pixel_mm2**0.5)
        even = _spread(slab.hounsfield, 3.0, slab.pixel_mm2**0.5)[1] < EVEN_SD
        hu = slab.hounsfield
        air = (beyond > 10) & (hu < AIR_BELOW) & (hu > PADDING_BELOW) & even
        fat = (depth > 3) & (depth < 25) & (hu < -60) & (hu > -150) & even
        beside = (np.abs(slab.left) > 18) & (np.abs(slab.left) < 55)
        behind = (slab.back > slab.depth_mm + 12) & (slab.back < slab.depth_mm + 55)
        muscle = beside & behind & (hu > 15) & (hu < 110) & even
        mean, lumen = _discs(slab)
        pools["air"].append(hu[air])
        pools["fat"].append(hu[fat])
        pools["muscle"].append(hu[muscle])
        if (native := lumen & (mean < 80)).any():
            centre = np.where(native, mean, -np.inf) == mean[native].max()
            pools["blood"].append(mean[centre & native][:1].repeat(int(np.pi * LUMEN_MM**2 / slab.pixel_mm2)))
    samples = {}
    for tissue, parts in pools.items():
        values = np.concatenate(parts) if parts else np.zeros(0, np.float32)
        area = len(values) * (found[0].pixel_mm2 if found else 0.0)
        if area >= SMALLEST_MM2:
            samples[tissue] = Sample(float(np.median(values)), area)
    return samples


def patient(slab: Slab) -> NDArray[np.bool_]:
    """(J, I): the patient's body; the table is too thin to be of it."""
    from engine.kernels.slabs import opened

    solid = scipy.ndimage.binary_fill_holes(slab.hounsfield > BODY_ABOVE)
    solid = opened(solid, _disc(TABLE_MM, slab.pixel_mm2**0.5).sum(axis=1) // 2, MARGIN)
    pieces, count = scipy.ndimage.label(solid)
    if not count:
        return np.zeros(solid.shape, dtype=bool)
    own = pieces[slab.bone]
    wanted = np.bincount(own[own > 0]).argmax() if (own > 0).any() else np.bincount(pieces[pieces > 0]).argmax()
    return np.asarray(pieces == wanted)


def truncated_mm(slab: Slab) -> float:
    """Length of the patient's outline that the field of view cuts off, mm."""
    inside = patient(slab)
    edge = np.zeros(inside.shape, dtype=bool)
    edge[[0, -1]] = edge[:, [0, -1]] = True
    edge |= scipy.ndimage.binary_dilation(slab.hounsfield < PADDING_BELOW, iterations=2)
    return float(np.count_nonzero(inside & edge) * np.sqrt(slab.pixel_mm2))


def _slab(volume: Volume, bodies: Segmentation, n: int, box: Box) -> Slab:
    from engine.kernels.slabs import coarse_mean

    geometry = bodies.geometry
    inner = max(1, round((box[0].stop - box[0].start) * MIDDLE))
    first = (box[0].start + box[0].stop - inner) // 2
    planes = slice(first, first + inner)
    own = bodies.labels[planes, box[1], box[2]] == n
    flat = own.any(axis=0)
    j, i = np.nonzero(flat)
    middle = np.stack([np.full(len(j), first + (inner - 1) / 2), j + box[1].start, i + box[2].start], axis=1)
    points = geometry.to_patient(middle.astype(float))
    x0, front = float(np.mean(points[:, 0])), float(np.percentile(points[:, 1], 2))
    depth = float(np.percentile(points[:, 1], 98)) - front
    step = [max(1, round(PIXEL_MM / mm)) for mm in geometry.spacing_mm[1:]]
    rows, columns = (size // own for size, own in zip(geometry.shape[1:], step, strict=True))
    hounsfield, bone = np.empty((rows, columns), np.float32), np.empty((rows, columns), np.bool_)
    coarse_mean(volume.hounsfield[planes], bodies.labels[planes], (step[0], step[1]), hounsfield, bone)
    index = np.empty((rows, columns, 3))
    index[..., 0] = first + (inner - 1) / 2
    index[..., 1] = (np.arange(rows)[:, None] + 0.5) * step[0] - 0.5
    index[..., 2] = (np.arange(columns) + 0.5) * step[1] - 0.5
    at = geometry.to_patient(index)
    return Slab(
        segment=n,
        hounsfield=hounsfield,
        left=(at[..., 0] - x0).astype(np.float32),
        back=(at[..., 1] - front).astype(np.float32),
        bone=bone,
        depth_mm=depth,
        pixel_mm2=step[0] * step[1] * geometry.spacing_mm[1] * geometry.spacing_mm[2],
    )


def _discs(slab: Slab) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Mean of the disc around each pixel where a great vessel may lie, and whether it is of one tissue there."""
    where = (
        (slab.left > VESSEL_X_MM[0])
        & (slab.left < VESSEL_X_MM[1])
        & (slab.back > VESSEL_Y_MM[0])
        & (slab.back < VESSEL_Y_MM[1])
    )
    mm = slab.pixel_mm2**0.5
    (box,) = scipy.ndimage.find_objects(where.astype(np.uint8)) or (None,)
    if box is None:
        return np.zeros((0, 0), np.float32), np.zeros((0, 0), dtype=bool)
    reach = int(np.ceil((LUMEN_MM + 2) / mm))
    wide = tuple(slice(max(0, part.start - reach), part.stop + reach) for part in box)
    mean, spread = _spread(slab.hounsfield[wide], LUMEN_MM, mm)
    free = ~scipy.ndimage.binary_dilation(slab.bone[wide], _disc(LUMEN_MM + 1.5, mm))
    return mean, where[wide] & free & (spread < EVEN_SD) & (mean > 10) & (mean < 1500)


def _spread(image: NDArray[np.float32], radius_mm: float, mm: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and SD over the disc around each pixel."""
    disc = _disc(radius_mm, mm).astype(np.float32)
    disc /= disc.sum()
    mean = scipy.ndimage.convolve(image, disc, mode="nearest")
    square = scipy.ndimage.convolve(image**2, disc, mode="nearest")
    return mean, np.sqrt(np.maximum(square - mean**2, 0))


def _disc(radius_mm: float, mm: float) -> NDArray[np.bool_]:
    reach = int(radius_mm / mm)
    y, x = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    return np.asarray((x**2 + y**2) * mm**2 <= radius_mm**2)
