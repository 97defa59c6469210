"""Every voxel is seen, and no tile leaves the grid."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import UnsupportedSeries
from engine.records import Reason
from engine.segmentation.tiles import TileOptions, tile_weights, tiles

triple = st.tuples(*[st.integers(1, 9)] * 3)


@given(tile=triple, spare=triple, overlap=st.floats(0, 0.9))
def test_every_voxel_is_seen(tile, spare, overlap):
    shape = tuple(edge + more for edge, more in zip(tile, spare, strict=True))
    seen = np.zeros(shape, dtype=int)
    for at in tiles(shape, tile, TileOptions(overlap)):
        assert seen[at].shape == tile
        seen[at] += 1
    assert seen.min() >= 1


def test_a_grid_smaller_than_a_tile_is_set_aside():
    with pytest.raises(UnsupportedSeries) as caught:
        tiles((10, 512, 512), (64, 128, 128), TileOptions())
    assert caught.value.reason is Reason.GRID_TOO_SMALL


@pytest.mark.parametrize("tile", [(1, 1, 1), (64, 128, 128), (7, 9, 11)])
def test_weights_peak_at_the_centre_and_never_vanish(tile):
    weights = tile_weights(tile)
    assert weights.max() == weights[tuple(edge // 2 for edge in tile)] == 1
    assert weights.min() > 0


@pytest.mark.parametrize("overlap", [-0.1, 1.0])
def test_an_overlap_that_makes_no_steps_is_refused(overlap):
    with pytest.raises(ValueError, match="overlap"):
        TileOptions(overlap)
