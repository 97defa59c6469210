"""Phantoms whose tissues are known, as a perfect network would see them."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.records import VertebralLevel
from engine.volume import Geometry, TissueMap
from exporters.reference.spine_phantom import (
    PLAIN,
    PhantomOptions,
    SpinePhantom,
    draw_phantom,
    field_of_view,
    rasterise,
)
from exporters.reference.vertebra import TISSUES


@dataclass(frozen=True, eq=False)
class Truth:
    """A phantom from the neck to the hip on the network's grid."""

    phantom: SpinePhantom = field(repr=False)  # its shapes would hide what failed in a test's message
    geometry: Geometry
    labels: NDArray[np.uint8] = field(repr=False)
    bodies: NDArray[np.uint8] = field(repr=False)  # n: phantom.levels[n - 1]

    def tissues(self, first: int = 0, stop: int | None = None, labels: NDArray[np.uint8] | None = None) -> TissueMap:
        """What a perfect network says of some slices, counted from the foot; or of labels that were changed."""
        k, j, i = self.labels.shape
        box = (slice(first, k if stop is None else stop), slice(0, j), slice(0, i))
        seen = (self.labels if labels is None else labels)[box].copy()
        return TissueMap(self.geometry.box(box), seen, (seen == 1).astype(np.float32), TISSUES)

    def slice_at(self, level: VertebralLevel, share: float = 0.0) -> int:
        """The slice through a body's middle, or so many of its heights above it."""
        bone = self.phantom.vertebra(level)
        z = bone.centre[2] + share * bone.height
        return int(np.clip(round((z - self.geometry.origin_mm[2]) / 2.0), 0, self.labels.shape[0]))

    def body(self, level: VertebralLevel) -> NDArray[np.bool_]:
        """A body's true voxels."""
        return self.bodies == self.phantom.levels.index(level) + 1


def raster_truth(seed: int, options: PhantomOptions = PLAIN) -> Truth:
    phantom = draw_phantom(seed, options=options)
    grid = field_of_view(
        phantom, VertebralLevel.T1, VertebralLevel.L5, pixels=150, pixel_mm=2.0, slice_mm=2.0, margin_mm=70.0,
        offset_mm=(0.0, -30.0),
    )  # fmt: skip
    raster = rasterise(phantom, grid)
    return Truth(phantom, grid, raster.labels, raster.bodies)


@pytest.fixture(scope="session")
def truths() -> tuple[Truth, ...]:
    return tuple(raster_truth(seed) for seed in (1, 5, 9))


@pytest.fixture(scope="session")
def transitional_truths() -> tuple[Truth, ...]:
    """A patient with six lumbar bodies, and one with ribs at L1."""
    odd = replace(PLAIN, transitional=1.0)
    found = {draw_phantom(seed, options=odd).levels[-1]: seed for seed in range(8, 0, -1)}
    return tuple(raster_truth(seed, odd) for seed in found.values())
