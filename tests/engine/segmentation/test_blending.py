"""Compiled blending of tiles, held against its definition in NumPy."""

import numpy as np
import pytest
from scipy import ndimage

from engine.kernels.tiles import mark_blocks
from engine.segmentation.blending import Blend
from engine.segmentation.tiles import tile_weights

SHAPE, TILE = (11, 9, 14), (6, 7, 8)


def test_tiles_are_blended_as_numpy_would():
    random = np.random.default_rng(5)
    blend, weights = Blend(3, SHAPE, TILE), tile_weights(TILE)
    scores, total = np.zeros((3, *SHAPE), np.float32), np.zeros(SHAPE, np.float32)
    for start in ((0, 1, 2), (2, 2, 3), (5, 0, 6)):
        logits = random.normal(0, 2, (3, *TILE)).astype(np.float32)
        logits[2, :2] = logits[0, :2]  # of equals the first
        at = tuple(slice(first, first + n) for first, n in zip(start, TILE, strict=True))
        blend.add(at, logits)
        scores[(slice(None), *at)] += logits * weights
        total[at] += weights
    labels, share = blend.settled(body=1, reach=(1, 0, 2))
    seen = total > 0
    mean = scores / np.where(seen, total, 1)
    powers = np.exp(mean - mean.max(axis=0))
    assert np.array_equal(labels, np.where(seen, mean.argmax(axis=0), 0))
    assert 0 < np.count_nonzero(seen) < seen.size
    near = ndimage.binary_dilation(labels == 1, np.ones((3, 1, 5), dtype=bool)) & seen
    assert 0 < np.count_nonzero(near) < np.count_nonzero(seen)
    np.testing.assert_allclose(share, np.where(near, powers[1] / powers.sum(axis=0), 0), rtol=1e-5)


def test_without_a_tile_all_is_background():
    labels, share = Blend(3, SHAPE, TILE).settled(body=1, reach=(1, 1, 1))
    assert labels.shape == share.shape == SHAPE
    assert not labels.any()
    assert not share.any()


def test_blocks_with_a_wanted_class_are_marked():
    logits = np.zeros((4, *TILE), np.float32)
    logits[0] = 1
    logits[2, 5, 6, 7] = 2
    logits[3, 0, 0, 0] = logits[2, 0, 0, 0] = 3  # of equals the first: not a 3
    wanted = np.array([[False, True, True, False], [False, False, False, True]])
    marks = np.zeros((2, 3, 3, 4), dtype=bool)
    assert mark_blocks(logits, wanted, (4, 1, 3), 4, marks)
    assert np.argwhere(marks).tolist() == [[0, 1, 0, 0], [0, 2, 1, 2]]


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("classes", [0, 2])
def test_an_answer_that_is_no_finite_number_is_told(odd, classes):
    logits = np.zeros((3, *TILE), np.float32)
    logits[classes, 3, 2, 7] = odd
    assert not mark_blocks(logits, np.ones((1, 3), dtype=bool), (0, 0, 0), 4, np.zeros((1, 3, 3, 4), dtype=bool))
