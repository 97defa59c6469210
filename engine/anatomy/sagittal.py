"""
The picture of one vertebra from the side: a slab along its own middle plane, with nothing else in it.

Yoshida 2023 extracts the vertebra, reformats it 5 mm thick, and scales the picture down as eight-bit
grey. What the paper leaves open is a field of the manifest (`SagittalCut`); training calls this very
function. Rows run to the foot, columns from front to back, or the other way where the manifest says so.
"""

from collections.abc import Collection, Sequence

import numpy as np
import scipy  # its parts load at first use
from numpy.typing import NDArray

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
    from engine.kernels.sampling import add_sheets

    low, high = window
    step = cut.field_mm / cut.pixels
    at, rows, columns = _needed(whole, around, middle, axes, cut, step)
    sheets = max(1, round(cut.thickness_mm / SHEET_MM))
    aside = (np.arange(sheets, dtype=np.float64) - (sheets - 1) / 2) * float(cut.thickness_mm / sheets)
    down, back = rows * -step, columns * step
    total = np.zeros((len(down), len(back)), dtype=np.float32)
    if total.size:
        ends = np.array([[x, y, z] for x in aside[[0, -1]] for y in back[[0, -1]] for z in down[[0, -1]]])
        distance, source = _outside_mm(whole, n, around, middle + ends @ axes, cut.dilation_mm)
        add_sheets(
            volume.hounsfield, volume.geometry.inverse, distance, whole.geometry.inverse, source, middle, axes,
            down, back, aside, (cut.dilation_mm, 2 * cut.dilation_mm + 9, float(low), float(high)), total,
        )  # fmt: skip
    grey = np.zeros((cut.pixels, cut.pixels), dtype=np.uint8)
    grey[at] = np.rint((total / sheets - low) * (255 / (high - low))).astype(np.uint8)
    return grey if cut.anterior == "left" else np.ascontiguousarray(grey[:, ::-1])


def _outside_mm(
    whole: Segmentation, n: int, around: Box, corners: NDArray[np.float64], reach_mm: float
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Distance to the vertebra's surface in a slab, mm, and the index where that block begins.

    Only what lies near the slab is looked at; distances are right up to the reach, and larger than it beyond.

    Args:
        corners: (N, 3) of the slab, mm in the patient.
    """
    spacing = np.asarray(whole.geometry.spacing_mm)
    far = reach_mm + 2 * float(np.linalg.norm(spacing))  # a voxel's corners are nearer to each other than half of that
    margin = np.ceil(reach_mm / spacing).astype(int) + 2
    index = whole.geometry.to_index(corners)
    wide = np.ceil(far / spacing).astype(int) + 1
    low = np.maximum(np.floor(index.min(axis=0)).astype(int) - wide, [part.start for part in around] - margin)
    high = np.minimum(np.ceil(index.max(axis=0)).astype(int) + wide + 1, [part.stop for part in around] + margin)
    size = np.maximum(high - low, 1)
    mask = np.zeros(size, dtype=bool)
    first, last = np.maximum(low, 0), np.minimum(low + size, whole.geometry.shape)
    if (last > first).all():
        inner = tuple(slice(int(a), int(b)) for a, b in zip(first - low, last - low, strict=True))
        labels = whole.labels[tuple(slice(int(a), int(b)) for a, b in zip(first, last, strict=True))]
        mask[inner] = labels == n
    if not mask.any():
        return np.full(mask.shape, far, dtype=np.float32), low.astype(float)
    distance = scipy.ndimage.distance_transform_edt(~mask, sampling=whole.geometry.spacing_mm)
    beyond = np.maximum(distance - spacing.mean() / 2, 0)  # from a voxel's centre to the surface of the next
    return beyond.astype(np.float32), low.astype(float)


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
