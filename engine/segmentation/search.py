"""
Where to look for the spine, so that a network sees its surroundings and not the whole patient.

A guess from the bone alone says where to look first in each slab of slices. What the network answers decides the rest:
where spine comes near the border of what was looked at, the next tile lies there; where a slab shows none, all of it
is searched. So a bad guess costs time and no vertebra. Everything is counted in blocks, coarse enough to be free.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import scipy  # its parts load at first use
from numpy.typing import NDArray

from engine.resampling import AIR
from engine.segmentation.tiles import TileOptions, tile_starts, tiles
from engine.volume import CANONICAL, Box, Geometry, Shape, Volume

BLOCKS = 12  # along the shorter side of a tile; our choice: 16 mm each, half a body
GUESS_MM = 4.0  # grid of the guess
BONE_HU = 180.0  # above soft tissue with noise; our choice, it only guides the first look
WIDE_MM = 16.0  # sigma over which bone gathers: a vertebra with its arch is some 60 mm wide, a humerus 25
FRONT = 0.4  # weight of the foremost row against the rearmost: contrast in the heart is not the spine
SPINE_BLOCKS = 2  # with spine in them, so that a slab counts as having one


def guessed_columns(volume: Volume, grid: Geometry, slabs: Sequence[slice]) -> list[tuple[float, float]]:
    """Row and column of the grid around which each slab probably shows the spine: where bone stands upright."""
    from engine.kernels.sampling import nearest

    steps = [max(1, round(GUESS_MM / step)) for step in grid.spacing_mm]
    k, j, i = (-(-n // step) for n, step in zip(grid.shape, steps, strict=True))
    dk, dj, di = (step * mm for step, mm in zip(steps, grid.spacing_mm, strict=True))
    coarse = Geometry((k, j, i), (dk, dj, di), grid.origin_mm, CANONICAL)
    step = np.linalg.inv(volume.geometry.affine) @ coarse.affine
    hounsfield = np.empty(coarse.shape, np.int16)
    nearest(volume.hounsfield, step, np.int16(AIR), hounsfield)
    bone = (hounsfield > BONE_HU).astype(np.float32)
    slope = np.linspace(FRONT, 1.0, j, dtype=np.float32)[:, None]
    upright = [bone[part.start // steps[0] : -(-part.stop // steps[0])].mean(axis=0) ** 2 for part in slabs]
    usual = np.mean(upright, axis=0)
    found = []
    for own in upright:
        gathered = scipy.ndimage.gaussian_filter((own + usual) * slope, (WIDE_MM / dj, WIDE_MM / di), mode="constant")
        row, column = np.unravel_index(int(gathered.argmax()), gathered.shape)
        found.append((float(row * steps[1]), float(column * steps[2])))
    return found


class Search:
    """Which tiles to look at next, from what those before have shown."""

    def __init__(self, shape: Shape, tile: Shape, options: TileOptions, rib_reach: int, rib_band: int) -> None:
        """Nothing was looked at yet.

        Args:
            shape: of the grid, no smaller than a tile along any axis.
            rib_reach: voxels from the spine up to which the lowest ribs are followed.
            rib_band: voxels above the lowest rib in which a rib is one of the lowest.
        """
        self._block = max(1, min(tile[1:]) // BLOCKS)
        self.slabs = [slice(k, k + tile[0]) for k in tile_starts(shape[0], tile[0], options.overlap)]
        self.looked: list[Box] = []
        self._all = tiles(shape, tile, options)
        self._shape, self._tile, self._ribs = shape, tile, (rib_reach, rib_band)
        blocks = tuple(-(-n // self._block) for n in shape)
        self._tissue = np.zeros((2, *blocks), dtype=bool)
        self._spine, self._rib = self._tissue
        self._seen = np.zeros(blocks, dtype=bool)
        self._band: slice | None = None  # of blocks: where the lowest ribs are

    def first(self, columns: Sequence[tuple[float, float]]) -> list[Box]:
        """One tile a slab, around the guess."""
        return [self._around(slab, *column) for slab, column in zip(self.slabs, columns, strict=True)]

    def note(self, at: Box) -> None:
        """A tile was looked at."""
        self.looked.append(at)
        seen = self._seen.shape
        ends = [
            n if part.stop >= size else round(part.stop / self._block)
            for part, size, n in zip(at, self._shape, seen, strict=True)
        ]
        inner = tuple(slice(round(part.start / self._block), end) for part, end in zip(at, ends, strict=True))
        self._seen[inner] = True

    def see(self, at: Box, logits: NDArray[np.float32], followed: NDArray[np.bool_]) -> bool:
        """A tile was shown to the network.

        Args:
            logits: (C, K, J, I), its answer.
            followed: (2, C): which classes are spine, and which are rib.

        Returns:
            whether the answer is made of finite numbers; if not, nothing can be told from what was seen.
        """
        from engine.kernels.tiles import mark_blocks

        self.note(at)
        k, j, i = at
        start = (k.start, j.start, i.start)
        return bool(mark_blocks(np.ascontiguousarray(logits), followed, start, self._block, self._tissue))

    def next(self) -> list[Box]:
        """Where to look now; nothing: all that matters was seen."""
        return list(self._along_the_spine()) or list(self._empty_slab()) or list(self._along_the_lowest_ribs())

    def _around(self, slab: slice, row: float, column: float) -> Box:
        """A tile of a slab with its middle as near to a point as the grid allows."""
        spans = []
        for middle, edge, size in zip((row, column), self._tile[1:], self._shape[1:], strict=True):
            start = int(np.clip(round(middle - edge / 2), 0, size - edge))
            spans.append(slice(start, start + edge))
        return (slab, spans[0], spans[1])

    def _empty_slab(self) -> Iterator[Box]:
        """All tiles of one slab in which no spine was seen, the nearest to those that show one first."""

        def shows(slab: slice) -> bool:
            part = slice(slab.start // self._block, -(-slab.stop // self._block))
            return bool(np.count_nonzero(self._spine[part]) >= SPINE_BLOCKS)

        found = [slab.start for slab in self.slabs if shows(slab)]
        empty = [slab for slab in self.slabs if not shows(slab)]
        for slab in sorted(empty, key=lambda part: min((abs(part.start - start) for start in found), default=0)):
            rest = [at for at in self._all if at[0] == slab and at not in self.looked and not self._is_seen(at)]
            if rest:
                yield from rest
                return

    def _is_seen(self, at: Box) -> bool:
        return bool(
            self._seen[tuple(slice(part.start // self._block, -(-part.stop // self._block)) for part in at)].all()
        )

    def _along_the_spine(self) -> Iterator[Box]:
        """One tile where the spine comes nearest to what was not seen."""
        wanted = np.argwhere(scipy.ndimage.binary_dilation(self._spine, np.ones((3, 3, 3), dtype=bool)) & ~self._seen)
        spine = np.argwhere(self._spine)
        for at in wanted:
            near = spine[np.abs(spine - at).max(axis=1) <= 2]
            middle = near.mean(axis=0)
            tile = self._tile_with(at, middle[1], middle[2])
            if tile not in self.looked:
                yield tile
                return

    def _along_the_lowest_ribs(self) -> Iterator[Box]:
        """One tile a side where one of the lowest ribs leaves what was seen."""
        spine = np.argwhere(self._spine)
        if not len(spine) or not self._rib.any():
            return
        if self._band is None:  # from the first look, as ribs of higher bodies come as low at the sides
            lowest = int(np.flatnonzero(self._rib.any(axis=(1, 2)))[0])
            self._band = slice(0, lowest + -(-self._ribs[1] // self._block))
        middle = float(np.median(spine[:, 2]))
        rib = np.zeros_like(self._rib)
        rib[self._band] = self._rib[self._band]
        around = np.zeros((3, 3, 3), dtype=bool)
        around[:, 1, 1] = around[1, :, 1] = around[1, 1, :] = True
        wanted = np.argwhere(scipy.ndimage.binary_dilation(rib, around) & ~self._seen)
        wanted = wanted[np.abs(wanted[:, 2] - middle) * self._block <= self._ribs[0]]
        for side in (-1, 1):
            for at in wanted[(wanted[:, 2] - middle) * side > 0]:
                tile = self._tile_with(at, at[1], at[2] + side * self._tile[2] / 4 / self._block)
                if tile not in self.looked:
                    yield tile
                    break

    def _tile_with(self, block: NDArray[np.int_], row: float, column: float) -> Box:
        """The tile around a place, in blocks, of the slab that has a block deepest inside."""
        k = block[0] * self._block + self._block / 2
        slab = max(self.slabs, key=lambda part: min(k - part.start, part.stop - k))
        row, column = (place * self._block + self._block / 2 for place in (row, column))
        return self._around(slab, row, column)
