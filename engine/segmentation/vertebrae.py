"""
Tell the tissues of the spine apart.

Tiles of the network's own grid are cut out of the volume along the spine, go through the network, and their scores are
blended. What a tile without bone would say is known beforehand: background. So is what lies far from the spine: it is
not looked at, and the map says so.
"""

from dataclasses import dataclass, field
from math import ceil, prod

import numpy as np
from numpy.typing import NDArray

from engine.errors import AnatomyNotFound, UnsupportedSeries
from engine.records import Reason
from engine.resampling import canonical_grid, resample
from engine.runtime.manifest import ModelManifest
from engine.runtime.session import Session
from engine.runtime.sharing import Asking, ask
from engine.segmentation.blending import Blend
from engine.segmentation.search import Search, guessed_columns
from engine.segmentation.tiles import TileOptions, tiles
from engine.volume import BESIDE_BODY_MM, Box, Geometry, Shape, TissueMap, Volume

SPINE = ("vertebral_body", "disc", "sacrum")
"""What is followed to its ends."""
RIB_BAND_MM = (
    110.0  # above the lowest rib seen: the last pair slopes down by some 80 mm, and the one above starts 30 higher
)


@dataclass(frozen=True, slots=True)
class SegmentationOptions:
    """How a volume is taken through the spine network."""

    tiles: TileOptions = field(default_factory=TileOptions)
    bone_hounsfield: float = 100.0  # a 2-mm voxel above it may be bone; our choice: the thinnest shells stay above
    bone_volume_cm3: float = 1.0  # a tile with less is not looked at; our choice: a twentieth of a small vertebra
    everywhere: bool = False  # look at every tile with bone, not only along the spine: slower, and finds no more
    rib_reach_mm: float = (
        170.0  # from the spine; the lowest ribs are followed so far, as their length tells which they are
    )
    max_voxels: int = 64_000_000  # of the network's grid; our choice: head to knee in a wide field, 2 GB of scores

    def __post_init__(self) -> None:
        """Refuse numbers without meaning."""
        if self.max_voxels < 1 or min(self.bone_volume_cm3, self.rib_reach_mm) < 0:
            raise ValueError("max_voxels must be at least 1, bone_volume_cm3 and rib_reach_mm at least 0")


def segment(volume: Volume, session: Session, options: SegmentationOptions) -> TissueMap:
    """Label every voxel with a tissue of the spine; see `segmenting`."""
    return ask(segmenting(volume, session.manifest, options), session)


def network_grid(volume: Volume, manifest: ModelManifest, options: SegmentationOptions) -> Geometry:
    """The grid on which the network looks: the volume's field of view, at least a tile along each axis.

    Raises:
        UnsupportedSeries: the field of view is larger than any patient.
    """
    return _grids(volume, manifest, options)[1]


def segmenting(
    volume: Volume, manifest: ModelManifest, options: SegmentationOptions, image: NDArray[np.float32] | None = None
) -> Asking[TissueMap]:
    """Label every voxel with a tissue of the spine, by questions to the network that other series may share.

    A volume smaller than one tile is surrounded by air, evenly on both sides: that is what lies around
    every field of view in training too. What was padded is cut off again.

    Args:
        image: the volume on `network_grid`, normalised; None: it is resampled here, tile by tile.

    Returns:
        A map on the network's grid, over the volume's whole field of view.

    Raises:
        UnsupportedSeries: the field of view is larger than any patient.
        AnatomyNotFound: the network answers with what is no finite number.
    """
    grid, padded, inside = _grids(volume, manifest, options)
    blend, looked = yield from _looked_at(volume, padded, manifest, options, image)
    seen = tuple(box for at in looked if (box := _shifted(at, inside)) is not None)
    reach = tuple(ceil(BESIDE_BODY_MM / step) for step in grid.spacing_mm)
    labels, body = blend.settled(manifest.labels.index("vertebral_body"), (reach[0], reach[1], reach[2]))
    labels, body = np.ascontiguousarray(labels[inside]), np.ascontiguousarray(body[inside])
    return TissueMap(grid, labels, body, manifest.labels, seen)


def _grids(volume: Volume, manifest: ModelManifest, options: SegmentationOptions) -> tuple[Geometry, Geometry, Box]:
    """The field of view on the network's spacing, the same grown to a tile, and where the first lies in the second."""
    grid = canonical_grid(volume.geometry, manifest.spacing_mm)
    if prod(grid.shape) > options.max_voxels:
        raise UnsupportedSeries(
            Reason.IMAGE_TOO_LARGE, f"{grid.shape} voxels on the network's grid, at most {options.max_voxels}"
        )
    padded, inside = _pad_to(grid, manifest.tile)
    return grid, padded, inside


def _pad_to(grid: Geometry, tile: Shape) -> tuple[Geometry, Box]:
    """Surround a grid that is smaller than a tile; also where it then lies."""
    short = [max(0, need - have) for have, need in zip(grid.shape, tile, strict=True)]
    k, j, i = (slice(n // 2, n // 2 + have) for n, have in zip(short, grid.shape, strict=True))
    wide = tuple(slice(-(n // 2), have + n - n // 2) for n, have in zip(short, grid.shape, strict=True))
    return grid.box((wide[0], wide[1], wide[2])), (k, j, i)


def _shifted(at: Box, inside: Box) -> Box | None:
    """A box of the padded grid on the grid itself; None: nothing of it is left."""
    parts = [
        slice(max(0, part.start - own.start), min(own.stop, part.stop) - own.start)
        for part, own in zip(at, inside, strict=True)
    ]
    k, j, i = parts
    return (k, j, i) if all(part.stop > part.start for part in parts) else None


def _looked_at(
    volume: Volume,
    grid: Geometry,
    manifest: ModelManifest,
    options: SegmentationOptions,
    image: NDArray[np.float32] | None,
) -> Asking[tuple[Blend, list[Box]]]:
    """Look along the spine, or at every tile; what was seen, and where."""
    blend = Blend(len(manifest.labels), grid.shape, manifest.tile)
    enough = options.bone_volume_cm3 * 1000 / grid.voxel_volume_mm3
    followed = np.stack([np.isin(manifest.labels, names) for names in (SPINE, ("rib",))])
    reach, band = round(options.rib_reach_mm / grid.spacing_mm[2]), round(RIB_BAND_MM / grid.spacing_mm[0])
    search = Search(grid.shape, manifest.tile, options.tiles, reach, band)
    if options.everywhere:
        wanted = tiles(grid.shape, manifest.tile, options.tiles)
    else:
        wanted = search.first(guessed_columns(volume, grid, search.slabs))
    while wanted:
        inputs, places = [], []
        for at in dict.fromkeys(_key(at) for at in wanted):
            box = _box(at)
            tile, bone = _tile(volume, grid, box, manifest, options.bone_hounsfield, image)
            if bone >= enough:
                inputs.append(tile[None])
                places.append(box)
            else:
                search.note(box)
        if inputs:
            for box, logits in zip(places, (yield np.stack(inputs)), strict=True):
                if not search.see(box, logits, followed):
                    raise AnatomyNotFound(Reason.ANSWER_NOT_FINITE, "the spine network's answer is not finite")
                blend.add(box, logits)
        wanted = [] if options.everywhere else search.next()
    return blend, [] if options.everywhere else search.looked


def _tile(
    volume: Volume, grid: Geometry, box: Box, manifest: ModelManifest, bone: float, image: NDArray[np.float32] | None
) -> tuple[NDArray[np.float32], int]:
    """One tile, normalised, and how many of its voxels may be bone."""
    if image is None:
        hounsfield = resample(volume.hounsfield, volume.geometry, grid.box(box))
        return manifest.normalise(hounsfield), int(np.count_nonzero(hounsfield > bone))
    low, high = manifest.hounsfield_window
    edge = min((bone - low) * 2.0 / (high - low) - 1.0, 1.0 - 1e-6)  # what lies above the window was clipped to 1
    return np.ascontiguousarray(image[box]), int(np.count_nonzero(image[box] > edge))


def _key(at: Box) -> tuple[tuple[int, int], ...]:
    return tuple((part.start, part.stop) for part in at)


def _box(key: tuple[tuple[int, int], ...]) -> Box:
    k, j, i = (slice(*ends) for ends in key)
    return k, j, i
