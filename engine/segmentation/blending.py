"""
What overlapping tiles say together: their logits weighed, summed, and the likeliest class of the sums.

Nothing is summed before all tiles are there: then the grid is gone through a few slices at a time, and the sums stay
in the processor's caches. The softmax of a body is told only where someone asks for it: in and beside the bodies.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from engine.segmentation.tiles import tile_weights
from engine.volume import Box, Shape, places

SLICES = 4  # summed at a time; our choice: with two tiles' width, their sums are a megabyte


class Blend:
    """Tiles of one grid and the network's answers to them."""

    def __init__(self, classes: int, shape: Shape, tile: Shape) -> None:
        """Nothing was answered yet."""
        self._classes, self._shape = classes, shape
        self._weights = tile_weights(tile)
        self._tiles: list[tuple[Box, NDArray[np.float32]]] = []

    def add(self, at: Box, logits: NDArray[np.float32]) -> None:
        """A tile's answer (C, K, J, I); it is kept, not copied, until all are there."""
        self._tiles.append((at, np.ascontiguousarray(logits)))

    def settled(self, body: int, reach: Shape) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """The likeliest class of each voxel, and the softmax of one class in and around the voxels of that class.

        Args:
            body: the class whose softmax is told.
            reach: voxels around its own in which it is told.

        Returns:
            (K, J, I) each, 0 where no tile was; the softmax is 0 beyond its reach too.
        """
        labels, share = np.zeros(self._shape, np.uint8), np.zeros(self._shape, np.float32)
        if self._tiles:
            self._label(labels)
            self._tell_share(labels, share, body, reach)
        self._tiles.clear()
        return labels, share

    def _label(self, labels: NDArray[np.uint8]) -> None:
        from engine.kernels.tiles import add_weighed, likeliest

        _, rows, columns = self._around()
        wide = (rows.stop - rows.start, columns.stop - columns.start)
        sums, total = np.empty((self._classes, SLICES, *wide), np.float32), np.empty((SLICES, *wide), np.float32)
        for first, last in self._parts():
            sums[:], total[:] = 0, 0
            for (k, j, i), logits in self._tiles:
                if k.start <= first and last <= k.stop:
                    own = slice(first - k.start, last - k.start)
                    start = (j.start - rows.start, i.start - columns.start)
                    add_weighed(logits[:, own], self._weights[own], start, sums, total)
            likeliest(sums[:, : last - first], total[: last - first], labels[first:last, rows, columns])

    def _tell_share(
        self, labels: NDArray[np.uint8], share: NDArray[np.float32], body: int, reach: Shape
    ) -> None:  # fmt: skip
        from engine.kernels.tiles import add_at, mark_near, share_of

        around = self._around()
        near = np.zeros(tuple(part.stop - part.start for part in around), dtype=bool)
        mark_near(labels[around], body, reach, near)
        at = places(near) + [part.start for part in around]
        sums, total = np.zeros((len(at), self._classes), np.float32), np.zeros(len(at), np.float32)
        for (k, j, i), logits in self._tiles:
            add_at(logits, self._weights, (k.start, j.start, i.start), at, sums, total)
        at, sums, total = at[total > 0], sums[total > 0], total[total > 0]
        found = np.empty(len(at), np.float32)
        share_of(sums, total, body, found)
        share[tuple(at.T)] = found

    def _around(self) -> Box:
        """The smallest box around all tiles."""
        k, j, i = (
            slice(min(at[n].start for at, _ in self._tiles), max(at[n].stop for at, _ in self._tiles)) for n in range(3)
        )
        return k, j, i

    def _parts(self) -> Iterator[tuple[int, int]]:
        """Runs of a few slices that each tile holds wholly or not at all."""
        edges = sorted({edge for at, _ in self._tiles for edge in (at[0].start, at[0].stop)})
        for low, high in pairwise(edges):
            for first in range(low, high, SLICES):
                yield first, min(first + SLICES, high)
