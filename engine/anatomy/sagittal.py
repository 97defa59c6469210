"""
The picture of one vertebra from the side: a slab along its own middle plane, with nothing else in it.

Yoshida 2023 extracts the vertebra, reformats it 5 mm thick, and scales the picture down as eight-bit
grey. What the paper leaves open is a field of the manifest (`SagittalCut`); training calls this very
function. Rows run to the foot, columns from front to back, or the other way where the manifest says so.
"""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from engine.records import VertebralLevel
from engine.runtime.manifest import SagittalCut
from engine.volume import Box, Segmentation, VertebraCut, Volume, places

SHEET_MM = 1.0  # between the sheets that a slab is the mean of
ASKEW = 0.8  # cosine of the left axes below which the principal one is no vertebra's, and the patient's is taken


def cut_vertebrae(
    volume: Volume, bodies: Segmentation, whole: Segmentation, levels: Collection[VertebralLevel], cut: SagittalCut,
    window: Sequence[float],
) -> tuple[VertebraCut, ...]:  # fmt: skip
    """The cuts of each wanted vertebra, head to foot, one for each of the cut's offsets.

    Args:
        bodies: on the volume's grid.
        whole: bodies with their posterior elements, the same segments; on any grid.
        window: low and high HU of the grey scale.
    """
    cuts = []
    for n, level in enumerate(bodies.segments, start=1):
        body, around = bodies.boxes[n - 1], whole.boxes[n - 1]
        if level is None or level not in levels or body is None or around is None:
            continue
        centre, axes = vertebra_frame(bodies, n)
        for offset in cut.offsets_mm:
            grey = _slab(volume, whole, n, around, centre + offset * axes[0], axes, cut, window)
            cuts.append(VertebraCut(level, offset, _shrunk(grey, cut)))
    return tuple(cuts)


def vertebra_frame(bodies: Segmentation, n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A body's centre in the patient, mm, and its axes as rows: to its left, its back, its head.

    The left is the principal axis of its voxels that lies nearest to the patient's; a body is wider than deep, so
    that it can be told. Height and depth are too alike for that: the head is the patient's, as far as the plane allows.
    """
    box = bodies.boxes[n - 1]
    if box is None:
        raise ValueError(f"segment {n} has no voxel")
    voxels = places(bodies.labels[box] == n) + [part.start for part in box]
    points = bodies.geometry.to_patient(voxels.astype(float))
    centre = points.mean(axis=0)
    away = points - centre
    spread = np.einsum("na,nb->ab", away, away) / (len(away) - 1) if len(away) > 3 else np.eye(3)
    _, principal = np.linalg.eigh(spread)
    left = principal[:, np.abs(principal[0]).argmax()]
    left = left * np.sign(left[0]) if abs(left[0]) > ASKEW else np.array([1.0, 0.0, 0.0])
    up = np.array([0.0, 0.0, 1.0]) - left[2] * left
    up /= np.linalg.norm(up)
    return centre, np.stack([left, np.cross(up, left), up])


def _slab(
    volume: Volume, whole: Segmentation, n: int, around: Box, middle: NDArray[np.float64], axes: NDArray[np.float64],
    cut: SagittalCut, window: Sequence[float],
) -> NDArray[np.uint8]:  # fmt: skip
    """(pixels, pixels) grey values; the mean of sheets; what is not the vertebra is as the window's lower edge."""
    low, high = window
    step = cut.field_mm / cut.pixels
    distance, source = _outside_mm(whole, n, around, cut.dilation_mm)
    at, rows, columns = _needed(whole, around, middle, axes, cut, step)
    sheets = max(1, round(cut.thickness_mm / SHEET_MM))
    aside = (np.arange(sheets) - (sheets - 1) / 2) * (cut.thickness_mm / sheets)
    flat = middle + (rows * -step)[:, None, None] * axes[2] + (columns * step)[None, :, None] * axes[1]
    total = np.zeros(flat.shape[:2], dtype=np.float32)
    for shift in aside:
        points = flat + shift * axes[0]
        inside = (
            _sampled(distance, whole.geometry.to_index(points) - source, 2 * cut.dilation_mm + 9) <= cut.dilation_mm
        )
        values = np.full(flat.shape[:2], low, dtype=np.float32)
        values[inside] = _sampled(volume.hounsfield, volume.geometry.to_index(points[inside]), low)
        total += np.clip(values, low, high)
    grey = np.zeros((cut.pixels, cut.pixels), dtype=np.uint8)
    grey[at] = np.rint((total / sheets - low) * (255 / (high - low))).astype(np.uint8)
    return grey if cut.anterior == "left" else np.ascontiguousarray(grey[:, ::-1])


def _outside_mm(
    whole: Segmentation, n: int, around: Box, reach_mm: float
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Distance to the vertebra's surface near it, mm, and the index where that block begins."""
    spacing = np.asarray(whole.geometry.spacing_mm)
    margin = np.ceil(reach_mm / spacing).astype(int) + 2
    mask = np.pad(whole.labels[around] == n, [(int(m), int(m)) for m in margin])
    distance = ndimage.distance_transform_edt(~mask, sampling=whole.geometry.spacing_mm)
    beyond = np.maximum(distance - spacing.mean() / 2, 0)  # from a voxel's centre to the surface of the next
    return beyond.astype(np.float32), np.array([part.start for part in around]) - margin


def _needed(
    whole: Segmentation, around: Box, middle: NDArray[np.float64], axes: NDArray[np.float64], cut: SagittalCut,
    step: float,
) -> tuple[tuple[slice, slice], NDArray[np.float64], NDArray[np.float64]]:  # fmt: skip
    """The part of the picture that the vertebra can lie in, and its rows and columns from the middle, in pixels."""
    ends = [(part.start - 1, part.stop) for part in around]
    corners = np.array([[k, j, i] for k in ends[0] for j in ends[1] for i in ends[2]], dtype=float)
    away = (whole.geometry.to_patient(corners) - middle) @ axes.T
    half = (cut.pixels - 1) / 2
    parts = []
    for seen in (-away[:, 2], away[:, 1]):
        first = np.clip(np.floor((seen.min() - cut.dilation_mm) / step + half), 0, cut.pixels)
        last = np.clip(np.ceil((seen.max() + cut.dilation_mm) / step + half) + 1, 0, cut.pixels)
        parts.append(slice(int(first), int(last)))
    rows, columns = (np.arange(float(part.start), float(part.stop)) - half for part in parts)
    return (parts[0], parts[1]), rows, columns


def _sampled(values: NDArray[np.generic], index: NDArray[np.float64], outside: float) -> NDArray[np.float32]:
    """Linear interpolation at indices (..., 3); only the part of the source that is needed is touched."""
    if not index.size:
        return np.zeros(index.shape[:-1], dtype=np.float32)
    axes = tuple(range(index.ndim - 1))
    low = np.clip(np.floor(index.min(axis=axes)).astype(int), 0, values.shape)
    high = np.clip(np.ceil(index.max(axis=axes)).astype(int) + 2, 0, values.shape)
    if (high <= low).any():
        return np.full(index.shape[:-1], outside, dtype=np.float32)
    block = values[tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))].astype(np.float32)
    found = ndimage.map_coordinates(block, np.moveaxis(index - low, -1, 0), order=1, mode="constant", cval=outside)
    return np.asarray(found, dtype=np.float32)


def _shrunk(grey: NDArray[np.uint8], cut: SagittalCut) -> NDArray[np.float32]:
    """Through JPEG where the manifest says so, then the means of whole blocks: 512 to 256 pixels."""
    if cut.jpeg_quality:
        grey = _through_jpeg(grey, cut.jpeg_quality)
    n = cut.pixels // cut.output_pixels
    means = grey.reshape(cut.output_pixels, n, cut.output_pixels, n).mean(axis=(1, 3), dtype=np.float32)
    return np.asarray(means, dtype=np.float32)


def _through_jpeg(grey: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    from io import BytesIO

    from PIL import Image

    file = BytesIO()
    Image.fromarray(grey).save(file, "JPEG", quality=quality)
    file.seek(0)
    with Image.open(file) as image:
        return np.asarray(image, dtype=np.uint8)
