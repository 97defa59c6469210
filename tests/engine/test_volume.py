"""A geometry says where voxels lie, there and back, and refuses what is no grid."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import volume
from engine.errors import UnsupportedSeries
from engine.records import Reason
from engine.volume import CANONICAL, Geometry, Segmentation, TissueMap

lengths = st.floats(0.1, 10)
places = st.floats(-1000, 1000)


@st.composite
def grids(draw) -> Geometry:
    """Any shape, step, place and orientation."""
    q = np.array([draw(st.floats(-1, 1)) for _ in range(4)])
    q[3] += 1.5
    x, y, z, w = q / np.linalg.norm(q)
    turn = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    direction = tuple(tuple(float(value) for value in row) for row in np.array(CANONICAL) @ turn.T)
    shape = tuple(draw(st.integers(1, 30)) for _ in range(3))
    return Geometry(
        shape, (draw(lengths), draw(lengths), draw(lengths)), (draw(places), draw(places), draw(places)), direction
    )


@given(grids(), st.lists(st.tuples(places, places, places), min_size=1, max_size=5))
def test_points_come_back_from_indices(grid, points):
    there = np.array(points)
    np.testing.assert_allclose(grid.to_patient(grid.to_index(there)), there, atol=1e-6)
    assert grid.to_patient(np.zeros(3)) == pytest.approx(grid.origin_mm)


@given(grids())
def test_one_step_along_an_axis_is_its_spacing_in_its_direction(grid):
    for axis in range(3):
        step = grid.to_patient(np.eye(3)[axis]) - np.array(grid.origin_mm)
        np.testing.assert_allclose(step, np.array(grid.direction[axis]) * grid.spacing_mm[axis], atol=1e-9)


@given(grids(), st.data())
def test_a_box_lies_where_it_was_cut(grid, data):
    starts = [data.draw(st.integers(0, n - 1)) for n in grid.shape]
    stops = [data.draw(st.integers(start + 1, n)) for start, n in zip(starts, grid.shape, strict=True)]
    k, j, i = (slice(a, b) for a, b in zip(starts, stops, strict=True))
    part = grid.box((k, j, i))
    assert part.shape == tuple(b - a for a, b in zip(starts, stops, strict=True))
    last = np.array(part.shape) - 1.0
    np.testing.assert_allclose(part.to_patient(last), grid.to_patient(last + starts), atol=1e-6)


def test_indices_are_slice_row_column_and_points_are_left_back_head():
    grid = Geometry((4, 5, 6), (3.0, 2.0, 1.0), (10.0, 20.0, 30.0), CANONICAL)
    assert grid.to_patient(np.array([1.0, 2.0, 3.0])).tolist() == [13.0, 24.0, 33.0]
    assert grid.voxel_volume_mm3 == 6.0


def test_many_points_keep_their_shape():
    grid = Geometry((4, 5, 6), (3.0, 2.0, 1.0), (10.0, 20.0, 30.0), CANONICAL)
    assert grid.to_patient(np.zeros((2, 7, 3))).shape == (2, 7, 3)


@given(grids())
def test_equal_grids_are_equal_and_hash_alike(grid):
    again = Geometry(grid.shape, grid.spacing_mm, grid.origin_mm, grid.direction, grid.frame_of_reference_uid)
    assert again == grid
    assert hash(again) == hash(grid)
    assert again.affine is again.affine
    with pytest.raises(ValueError, match="read-only"):
        grid.affine[0, 0] = 7


SHEARED = [
    ((0.0, 0.3, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)),
    ((0.0, 0.0, 2.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)),
    ((0.0, 0.0, 0.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)),
    ((0.0, 0.0, float("nan")), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)),
]


@pytest.mark.parametrize("direction", SHEARED)
def test_axes_that_are_not_at_right_angles_are_refused(direction):
    with pytest.raises(UnsupportedSeries) as caught:
        Geometry((4, 4, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), direction)
    assert caught.value.reason is Reason.GRID_SHEARED


@pytest.mark.parametrize("step", [0.0, -1.0, float("nan"), float("inf")])
def test_a_step_that_is_no_length_is_refused(step):
    with pytest.raises(UnsupportedSeries) as caught:
        Geometry((4, 4, 4), (1.0, step, 1.0), (0.0, 0.0, 0.0), CANONICAL)
    assert caught.value.reason is Reason.SLICES_INCONSISTENT


def test_a_box_is_the_same_whether_it_is_sought_everywhere_or_near():
    labels = np.zeros((6, 7, 8), dtype=np.uint8)
    labels[1:4, 2:5, 3:7], labels[4, 6, 7] = 1, 2
    grid = Geometry(labels.shape, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), CANONICAL)
    levels = (None, None, None)
    near = ((slice(0, 5), slice(1, 6), slice(3, 8)), (slice(3, 6), slice(5, 7), slice(6, 8)), (slice(0, 1),) * 3)
    assert Segmentation(grid, labels, levels, near).boxes == Segmentation(grid, labels, levels).boxes


def test_places_are_those_of_argwhere_and_a_tissue_is_sought_where_the_network_looked():
    labels = np.random.default_rng(1).integers(0, 3, (5, 6, 7)).astype(np.uint8)
    assert np.array_equal(volume.places(labels == 2), np.argwhere(labels == 2))
    looked = ((slice(1, 3), slice(0, 4), slice(2, 6)), (slice(2, 5), slice(2, 6), slice(2, 7)))
    labels[0] = labels[:, :, :2] = 0
    grid = Geometry(labels.shape, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), CANONICAL)
    tissues = TissueMap(grid, labels, np.zeros(labels.shape, np.float32), ("background", "a", "b"), looked)
    assert np.array_equal(tissues.voxels("b"), np.argwhere(labels == 2))
