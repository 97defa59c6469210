"""
Tell the tissues of the spine apart.

The volume is brought onto the network's own grid, tile by tile through the network, and the tiles'
scores are blended. What a tile without bone would say is known beforehand: background.
"""

from dataclasses import dataclass, field
from math import prod

import numpy as np
from numpy.typing import NDArray

from engine.errors import UnsupportedSeries
from engine.records import Reason
from engine.resampling import AIR, canonical_grid, resample
from engine.runtime.manifest import ModelManifest
from engine.runtime.session import Session
from engine.runtime.sharing import Asking, ask
from engine.segmentation.tiles import TileOptions, tile_weights, tiles
from engine.volume import Box, Shape, TissueMap, Volume

_CERTAIN = 30.0  # a logit that leaves the other classes 1e-13


@dataclass(frozen=True, slots=True)
class SegmentationOptions:
    """How a volume is taken through the spine network."""

    tiles: TileOptions = field(default_factory=TileOptions)
    bone_hounsfield: float = 100.0  # a 2-mm voxel above it may be bone; our choice: the thinnest shells stay above
    bone_volume_cm3: float = 1.0  # a tile with less is not looked at; our choice: a twentieth of a small vertebra
    max_voxels: int = 64_000_000  # of the network's grid; our choice: head to knee in a wide field, 2 GB of scores

    def __post_init__(self) -> None:
        """Refuse numbers without meaning."""
        if self.max_voxels < 1 or self.bone_volume_cm3 < 0:
            raise ValueError("max_voxels must be at least 1, bone_volume_cm3 at least 0")


def segment(volume: Volume, session: Session, options: SegmentationOptions) -> TissueMap:
    """Label every voxel with a tissue of the spine; see `segmenting`."""
    return ask(segmenting(volume, session.manifest, options), session)


def segmenting(volume: Volume, manifest: ModelManifest, options: SegmentationOptions) -> Asking[TissueMap]:
    """Label every voxel with a tissue of the spine, by questions to the network that other series may share.

    A volume smaller than one tile is surrounded by air, evenly on both sides: that is what lies around
    every field of view in training too. What was padded is cut off again.

    Returns:
        A map on the network's grid, over the volume's whole field of view.

    Raises:
        UnsupportedSeries: the field of view is larger than any patient.
    """
    grid = canonical_grid(volume.geometry, manifest.spacing_mm)
    if prod(grid.shape) > options.max_voxels:
        raise UnsupportedSeries(
            Reason.IMAGE_TOO_LARGE, f"{grid.shape} voxels on the network's grid, at most {options.max_voxels}"
        )
    hounsfield = resample(volume.hounsfield, volume.geometry, grid)
    padded, inside = _pad_to(hounsfield, manifest.tile)
    scores = yield from _blended_scores(padded, manifest, options)
    labels, body = _labels_and_body(scores[(slice(None), *inside)], manifest)
    return TissueMap(grid, labels, body, manifest.labels)


def _pad_to(hounsfield: NDArray[np.float32], tile: Shape) -> tuple[NDArray[np.float32], Box]:
    """Surround with air what is smaller than a tile; also where the volume then lies."""
    short = [max(0, need - have) for have, need in zip(hounsfield.shape, tile, strict=True)]
    before = [n // 2 for n in short]
    widths = [(b, n - b) for b, n in zip(before, short, strict=True)]
    k, j, i = (slice(b, b + have) for b, have in zip(before, hounsfield.shape, strict=True))
    return np.pad(hounsfield, widths, constant_values=AIR), (k, j, i)


def _blended_scores(
    hounsfield: NDArray[np.float32], manifest: ModelManifest, options: SegmentationOptions
) -> Asking[NDArray[np.float32]]:
    """(C, K, J, I): weighted means of the tiles' logits; background where no tile was looked at."""
    k, j, i = hounsfield.shape
    scores = np.zeros((len(manifest.labels), k, j, i), dtype=np.float32)
    total = np.zeros((k, j, i), dtype=np.float32)
    weights = tile_weights(manifest.tile)
    enough = options.bone_volume_cm3 * 1000 / float(np.prod(manifest.spacing_mm))
    wanted = [
        at
        for at in tiles((k, j, i), manifest.tile, options.tiles)
        if np.count_nonzero(hounsfield[at] > options.bone_hounsfield) >= enough
    ]
    for at in wanted:
        (logits,) = yield manifest.normalise(hounsfield[at])[None, None]
        scores[(slice(None), *at)] += logits * weights
        total[at] += weights
    unseen = total == 0
    total[unseen] = 1
    scores /= total
    scores[0][unseen] = _CERTAIN
    return scores


def _labels_and_body(
    scores: NDArray[np.float32], manifest: ModelManifest
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The likeliest label, and the softmax of the vertebral bodies' class; slice by slice, to stay small."""
    wanted = manifest.labels.index("vertebral_body")
    labels = np.empty(scores.shape[1:], dtype=np.uint8)
    body = np.empty(scores.shape[1:], dtype=np.float32)
    for k in range(scores.shape[1]):
        plane = scores[:, k]
        labels[k] = plane.argmax(axis=0)
        powers = np.exp(plane - plane.max(axis=0))
        body[k] = powers[wanted] / powers.sum(axis=0)
    return labels, body
