"""Compiled blending of tiles, held against its definition in NumPy."""

import numpy as np

from engine.kernels import blend_tile, settle


def test_a_tile_is_blended_and_settled_as_numpy_would():
    random = np.random.default_rng(5)
    scores, total = np.zeros((3, 6, 7, 9), np.float32), np.zeros((6, 7, 9), np.float32)
    plain, sums = scores.copy(), total.copy()
    weights = random.random((4, 5, 6), dtype=np.float32) + np.float32(0.1)
    for start in ((0, 1, 2), (2, 2, 3)):
        logits = random.normal(size=(3, 4, 5, 6)).astype(np.float32)
        logits[2, :2] = logits[0, :2]  # of equals the first
        likeliest = np.empty(weights.shape, np.uint8)
        blend_tile(logits, weights, scores, total, start, likeliest)
        at = tuple(slice(first, first + n) for first, n in zip(start, weights.shape, strict=True))
        plain[(slice(None), *at)] += logits * weights
        sums[at] += weights
        assert np.array_equal(likeliest, logits.argmax(axis=0))
    assert np.array_equal(scores, plain)
    assert np.array_equal(total, sums)
    labels, share = np.zeros(total.shape, np.uint8), np.zeros(total.shape, np.float32)
    settle(scores, total, 1, labels, share)
    seen = sums > 0
    mean = plain / np.where(seen, sums, 1)
    powers = np.exp(mean - mean.max(axis=0))
    assert np.array_equal(labels, np.where(seen, mean.argmax(axis=0), 0))
    np.testing.assert_allclose(share, np.where(seen, powers[1] / powers.sum(axis=0), 0), rtol=1e-5)
