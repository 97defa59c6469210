"""
Cut a voxel grid into the overlapping tiles that a network takes, and weigh their overlap.

A network sees a fixed block, and a spine does not fit in one. Tiles cover every voxel, the
last tile of an axis ends on the grid's edge, and the steps along an axis are as even as whole
voxels allow; so no tile reaches outside, and no tissue has to be invented here.
"""

from dataclasses import dataclass
from itertools import product
from math import ceil

import numpy as np
from numpy.typing import NDArray

from engine.errors import UnsupportedSeries
from engine.records import Reason
from engine.volume import Box, Shape


@dataclass(frozen=True, slots=True)
class TileOptions:
    """How tiles overlap. Their size is no option: the network's manifest states it."""

    overlap: float = 0.25  # share of a tile's edge that its neighbour covers too; 0 <= overlap < 1

    def __post_init__(self) -> None:
        """Refuse an overlap that makes no steps."""
        if not 0 <= self.overlap < 1:
            raise ValueError(f"overlap must be at least 0 and below 1, not {self.overlap}")


def tiles(shape: Shape, tile: Shape, options: TileOptions) -> list[Box]:
    """Tiles that cover a grid, in memory order.

    Args:
        shape: (K, J, I) of the grid, in voxels.
        tile: (K, J, I) of the network's input, in voxels.

    Returns:
        For each tile a slice along each axis, as long as `tile`.

    Raises:
        UnsupportedSeries: the grid is smaller than one tile.
    """
    for have, need in zip(shape, tile, strict=True):
        if have < need:
            raise UnsupportedSeries(Reason.GRID_TOO_SMALL, f"{shape} voxels do not hold a tile of {tile}")
    starts = (tile_starts(have, need, options.overlap) for have, need in zip(shape, tile, strict=True))
    dk, dj, di = tile
    return [(slice(k, k + dk), slice(j, j + dj), slice(i, i + di)) for k, j, i in product(*starts)]


def tile_starts(extent: int, edge: int, overlap: float) -> tuple[int, ...]:
    """First voxel of each tile along one axis.

    >>> tile_starts(extent=110, edge=64, overlap=0.5)
    (0, 23, 46)
    >>> tile_starts(extent=64, edge=64, overlap=0.5)
    (0,)
    """
    longest_step = max(1, int(edge * (1 - overlap)))
    room = extent - edge
    steps = ceil(room / longest_step)
    return tuple(round(room * n / max(1, steps)) for n in range(steps + 1))


def tile_weights(tile: Shape) -> NDArray[np.float32]:
    """How much each voxel of a tile counts where tiles overlap.

    Returns:
        (K, J, I), 1 at the centre and falling towards the border, never 0: a Gaussian whose
        sigma is an eighth of each edge.

    Source:
        Isensee et al., nnU-Net, Nature Methods 18:203 (2021): a network is less sure near its
        patch's border. The eighth is the value in that project's code.
    """
    weights = np.ones(tile, dtype=np.float32)
    for axis, edge in enumerate(tile):
        offset = (np.arange(edge) - (edge - 1) / 2) / (edge / 8)
        along_axis = [1, 1, 1]
        along_axis[axis] = edge
        weights *= np.exp(-0.5 * offset**2).astype(np.float32).reshape(along_axis)
    weights /= weights.max()
    return weights.clip(min=np.finfo(np.float32).tiny)
