"""3 mm are 3 mm, whatever the voxels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from engine.anatomy.trabecular import eroded, trabecular_core
from engine.records import VertebralLevel
from engine.volume import CANONICAL, Geometry, Segmentation

spacings = st.tuples(st.sampled_from([0.6, 1.0, 2.5, 5.0]), st.sampled_from([0.5, 0.8, 1.3]), st.just(0.8))


def by_definition(mask, spacing, depth):
    """The distance of every voxel's centre to the nearest face of an outer voxel, one pair at a time."""
    margin = [int(np.ceil(depth / step + 1)) for step in spacing]
    padded = np.pad(mask, [(n, n) for n in margin])
    outer = np.argwhere(~padded)
    deep = np.zeros_like(mask)
    for at in np.argwhere(mask):
        away = np.maximum(np.abs(outer - (at + margin)) - 0.5, 0) * spacing
        deep[tuple(at)] = (away**2).sum(axis=1).min() >= depth**2 * (1 - 1e-5)
    return deep


@settings(max_examples=40)
@given(mask=arrays(bool, (5, 8, 9), elements=st.sampled_from([True] * 12 + [False])), spacing=spacings)
def test_a_voxel_stays_when_every_face_of_the_outside_is_far(mask, spacing):
    assert np.array_equal(eroded(mask, spacing, 1.5), by_definition(mask, spacing, 1.5))


@pytest.mark.parametrize("spacing", [(0.6, 0.5, 0.5), (1.0, 0.8, 0.8), (2.5, 0.7, 0.7), (5.0, 0.8, 0.8)])
def test_no_voxel_of_a_core_lies_nearer_to_the_surface_than_the_depth(spacing):
    radius, height, depth = 22.0, 27.0, 3.0
    shape = tuple(int(size / step) + 8 for size, step in zip((height, 2 * radius, 2 * radius), spacing, strict=True))
    k, j, i = np.ogrid[tuple(slice(0, n) for n in shape)]
    z, y, x = ((a - (n - 1) / 2) * step for a, n, step in zip((k, j, i), shape, spacing, strict=True))
    rim = radius - np.hypot(x, y)
    inside = np.minimum(rim, height / 2 - np.abs(z))
    core = eroded(inside > 0, spacing, depth)
    half = np.array(spacing) / 2
    assert inside[core].min() >= depth - max(np.hypot(half[1], half[2]), half[0]) - 1e-6  # a mask knows half a voxel
    found = core.sum() * np.prod(spacing)
    true = np.pi * (radius - depth) ** 2 * (height - 2 * depth)
    assert 0.55 * true < found < 1.06 * true
    if spacing[0] <= 1.0:
        assert found == pytest.approx(true, rel=0.06)


def test_thick_slices_lose_their_end_slices():
    core = eroded(np.ones((6, 60, 60), dtype=bool), (5.0, 0.8, 0.8), 3.0)
    assert core.any(axis=(1, 2)).tolist() == [False, True, True, True, True, False]


def test_the_border_of_the_volume_is_an_edge():
    labels = np.ones((20, 20, 20), dtype=np.uint8)
    bodies = Segmentation(Geometry((20, 20, 20), (1.0,) * 3, (0.0,) * 3, CANONICAL), labels, (VertebralLevel.L1,))
    core = trabecular_core(bodies, 3.0)
    assert core.labels.sum() == 14**3
    assert core.labels[3:17, 3:17, 3:17].all()


def test_a_touching_neighbour_is_an_edge_and_levels_keep_their_labels():
    labels = np.zeros((40, 30, 30), dtype=np.uint8)
    labels[2:20, 2:28, 2:28], labels[20:38, 2:28, 2:28] = 1, 2
    levels = (VertebralLevel.L1, VertebralLevel.L2)
    bodies = Segmentation(Geometry((40, 30, 30), (1.0,) * 3, (0.0,) * 3, CANONICAL), labels, levels)
    core = trabecular_core(bodies, 3.0)
    assert core.segments == levels
    assert core.geometry == bodies.geometry
    assert [box[0] for box in core.boxes] == [slice(5, 17), slice(23, 35)]


def test_a_body_that_is_nowhere_deep_enough_has_no_core():
    labels = np.zeros((10, 20, 20), dtype=np.uint8)
    labels[3:8, 2:18, 2:18] = 1
    bodies = Segmentation(Geometry((10, 20, 20), (1.0,) * 3, (0.0,) * 3, CANONICAL), labels, (VertebralLevel.L1,))
    assert trabecular_core(bodies, 3.0).boxes == (None,)
    assert np.array_equal(trabecular_core(bodies, 0.0).labels, labels)
