"""Posterior elements go to the body that their pedicles lead to."""

import numpy as np
import pytest
from scipy.spatial import cKDTree

from engine.anatomy.posterior import _neighbours, whole_vertebrae
from engine.records import VertebralLevel as L
from engine.volume import CANONICAL, Geometry, Segmentation, TissueMap

TISSUES = ("background", "vertebral_body", "posterior_elements", "disc", "rib", "sacrum")
GRID = Geometry((40, 50, 30), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0), CANONICAL)


def spine() -> tuple[Segmentation, np.ndarray]:
    """Two bodies; each arch leaves its body high and hangs down behind the next one, where the arches touch."""
    tissue, bodies = np.zeros(GRID.shape, np.uint8), np.zeros(GRID.shape, np.uint8)
    arches = np.zeros(GRID.shape, np.uint8)
    for n, low in ((1, 22), (2, 6)):
        bodies[low : low + 12, 5:20, 8:22] = n
        arches[low + 8 : low + 10, 20:30, 10:20] = n
        arches[low - 5 : low + 10, 30:34, 10:20] = n
    tissue[bodies > 0], tissue[arches > 0] = 1, 2
    return Segmentation(GRID, bodies, (L.L1, L.L2)), np.where(arches > 0, arches, bodies), tissue


@pytest.fixture(scope="module")
def found():
    bodies, truth, tissue = spine()
    return whole_vertebrae(bodies, TissueMap(GRID, tissue, (tissue == 1).astype("f4"), TISSUES)), truth


def test_a_process_behind_the_next_body_stays_with_its_own(found):
    whole, truth = found
    assert whole.segments == (L.L1, L.L2)
    assert np.mean(whole.labels[truth > 0] == truth[truth > 0]) > 0.98


def test_a_piece_far_from_all_belongs_to_none():
    bodies, _, tissue = spine()
    tissue[38:40, 40:48, 2:5] = 2
    whole = whole_vertebrae(bodies, TissueMap(GRID, tissue, (tissue == 1).astype("f4"), TISSUES))
    assert not whole.labels[38:40, 40:48, 2:5].any()


def test_bodies_come_from_a_grid_of_their_own():
    bodies, _, tissue = spine()
    fine = Geometry((80, 100, 60), (1.0, 1.0, 1.0), (-0.5, -0.5, -0.5), CANONICAL)
    labels = np.repeat(np.repeat(np.repeat(bodies.labels, 2, 0), 2, 1), 2, 2)
    tissues = TissueMap(GRID, tissue, (tissue == 1).astype("f4"), TISSUES)
    first = whole_vertebrae(bodies, tissues)
    again = whole_vertebrae(Segmentation(fine, labels, bodies.segments), tissues)
    assert np.array_equal(first.labels, again.labels)


def test_voxels_that_touch_are_found_once_a_pair():
    voxels = np.argwhere(np.random.default_rng(3).random((6, 7, 8)) < 0.4)
    firsts, seconds, lengths = (np.concatenate(parts) for parts in _neighbours(voxels, (2.0, 1.0, 1.0)))
    found = {tuple(sorted(pair)) for pair in zip(firsts.tolist(), seconds.tolist(), strict=True)}
    assert len(found) == len(firsts)
    assert found == cKDTree(voxels).query_pairs(1.8)
    apart = np.linalg.norm((voxels[firsts] - voxels[seconds]) * (2.0, 1.0, 1.0), axis=1)
    np.testing.assert_allclose(lengths, apart, rtol=1e-12)
