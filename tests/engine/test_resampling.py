"""Resampling is exact where it can be, averages where it shrinks, and invents nothing outside."""

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.resampling import AIR, canonical_grid, centred_grid, resample
from engine.volume import CANONICAL, Geometry


def rotation(angles: tuple[float, float, float]) -> tuple:
    a, b, c = angles
    rx = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    ry = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    rz = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return tuple(tuple(float(x) for x in row) for row in np.array(CANONICAL) @ (rx @ ry @ rz).T)


steps = st.floats(0.3, 4.0)
angles = st.tuples(*[st.floats(-3.1, 3.1)] * 3)
places = st.tuples(*[st.floats(-300, 300)] * 3)


@st.composite
def grids(draw, least: int = 3, most: int = 14) -> Geometry:
    shape = tuple(draw(st.integers(least, most)) for _ in range(3))
    return Geometry(shape, (draw(steps), draw(steps), draw(steps)), draw(places), rotation(draw(angles)))


def centres(grid: Geometry) -> np.ndarray:
    return grid.to_patient(np.stack(np.indices(grid.shape), axis=-1).astype(float))


def inside(target: Geometry, source: Geometry, margin: float) -> np.ndarray:
    """Which voxels of the target lie at least `margin` source voxels inside the outermost source centres."""
    index = source.to_index(centres(target))
    return ((index >= margin - 1e-4) & (index <= np.array(source.shape) - 1 - margin + 1e-4)).all(axis=-1)


def near(source: Geometry, shape, spacing, turned: tuple[float, float, float], shift) -> Geometry:
    """A grid whose centre lies near the source's centre."""
    middle = source.to_patient((np.array(source.shape) - 1) / 2) + np.array(shift)
    direction = rotation(turned)
    half = sum((n - 1) / 2 * step * np.array(way) for n, step, way in zip(shape, spacing, direction, strict=True))
    return Geometry(shape, spacing, tuple(float(x) for x in middle - half), direction)


@given(source=grids(6, 16), turned=angles, slope=st.tuples(*[st.floats(-20, 20)] * 3))
@settings(max_examples=60)
def test_a_linear_field_is_exact_between_any_two_grids_that_do_not_shrink(source, turned, slope):
    ramp = centres(source) @ np.array(slope) + 50
    spacing = tuple([0.45 * min(source.spacing_mm)] * 3)
    target = near(source, (7, 8, 9), spacing, turned, (0.1, -0.2, 0.3))
    found = resample(ramp, source, target)
    expected = centres(target) @ np.array(slope) + 50
    where = inside(target, source, 0)
    scale = np.abs(ramp).max() + 1
    np.testing.assert_allclose(found[where], expected[where], atol=2e-6 * scale, rtol=1e-5)


@given(factor=st.tuples(*[st.integers(1, 4)] * 3), slope=st.tuples(*[st.floats(-20, 20)] * 3), spare=st.floats(0, 0.9))
@settings(max_examples=60)
def test_a_linear_field_stays_linear_when_it_shrinks(factor, slope, spare):
    source = Geometry((16, 18, 20), (1.5, 0.7, 0.9), (-10.0, 5.0, 30.0), CANONICAL)
    spacing = tuple(step * (n + (spare if n > 1 else 0)) for step, n in zip(source.spacing_mm, factor, strict=True))
    target = near(source, (4, 4, 4), spacing, (0, 0, 0), (0, 0, 0))
    ramp = centres(source) @ np.array(slope)
    where = inside(target, source, 4)
    expected = centres(target) @ np.array(slope)
    np.testing.assert_allclose(resample(ramp, source, target)[where], expected[where], atol=1e-3, rtol=1e-4)


def trilinear(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Reference in float64, corner by corner; the border's value goes on half a voxel."""
    index = np.clip(index, 0, np.array(values.shape) - 1)
    low = np.minimum(np.floor(index).astype(int), np.maximum(np.array(values.shape) - 2, 0))
    part = index - low
    total = np.zeros(index.shape[:-1])
    for corner in itertools.product((0, 1), repeat=3):
        at = np.minimum(low + corner, np.array(values.shape) - 1)
        weight = np.prod(np.where(corner, part, 1 - part), axis=-1)
        total += weight * values[at[..., 0], at[..., 1], at[..., 2]]
    return total


def reference(values: np.ndarray, source: Geometry, target: Geometry, outside: float) -> np.ndarray:
    """Block means, then trilinear, from the words of the module alone."""
    move = np.linalg.inv(source.affine) @ target.affine
    factor = np.maximum(1, np.floor(np.abs(move[:3, :3]).max(axis=1) + 1e-6)).astype(int)
    filled = np.pad(values.astype(np.float64), [(0, -n % f) for n, f in zip(values.shape, factor, strict=True)], "edge")
    k, j, i = (n // f for n, f in zip(filled.shape, factor, strict=True))
    means = filled.reshape(k, factor[0], j, factor[1], i, factor[2]).mean(axis=(1, 3, 5))
    index = source.to_index(centres(target))
    found = trilinear(means, (index - (factor - 1) / 2) / factor)
    gone = ((index < -0.5) | (index > np.array(source.shape) - 0.5)).any(axis=-1)
    return np.where(gone, outside, found)


@given(
    source=grids(2, 12), turned=angles, spacing=st.tuples(steps, steps, steps), shift=st.tuples(*[st.floats(-9, 9)] * 3)
)
@settings(max_examples=150)
def test_any_pair_of_grids_agrees_with_a_double_precision_reference(source, turned, spacing, shift):
    values = np.random.default_rng(1).integers(-1024, 3000, source.shape).astype(np.int16)
    target = near(source, (5, 6, 7), spacing, turned, shift)
    found = resample(values, source, target)
    expected = reference(values, source, target, AIR)
    index = source.to_index(centres(target))
    edge = np.minimum(np.abs(index + 0.5), np.abs(index - np.array(source.shape) + 0.5)).min(axis=-1) < 1e-4
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[~edge], expected[~edge], atol=0.05)  # of 4000 HU; coordinates round


def test_the_same_grid_gives_the_same_values():
    source = Geometry((5, 6, 7), (2.0, 0.7, 0.7), (1.0, 2.0, 3.0), rotation((0.1, 0.2, 0.3)))
    values = np.random.default_rng(0).integers(-1024, 3000, source.shape).astype(np.int16)
    once = resample(values, source, source)
    np.testing.assert_allclose(once, values, atol=0.02)
    np.testing.assert_allclose(resample(once, source, source), once, atol=0.02)


def test_whole_factors_average_whole_blocks():
    source = Geometry((4, 6, 8), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), CANONICAL)
    values = np.random.default_rng(0).normal(size=source.shape)
    target = Geometry((2, 2, 4), (2.0, 3.0, 2.0), (0.5, 1.0, 0.5), CANONICAL)
    expected = values.reshape(2, 2, 2, 3, 4, 2).mean(axis=(1, 3, 5))
    np.testing.assert_allclose(resample(values, source, target), expected, atol=1e-6)


def test_noise_does_not_alias_into_a_coarse_grid():
    source = Geometry((48, 48, 48), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), CANONICAL)
    noise = np.random.default_rng(0).normal(0, 30, source.shape)
    coarse = resample(noise, source, canonical_grid(source, (3.0, 3.0, 3.0)))
    assert coarse.std() < 30 / np.sqrt(27) * 1.2


@given(source=grids(), where=st.sampled_from([(0, 0, 500.0), (0, -500.0, 0), (500.0, 0, 0)]), turned=angles)
@settings(max_examples=30)
def test_a_grid_elsewhere_sees_only_outside(source, where, turned):
    target = near(source, (3, 3, 3), (1.0, 1.0, 1.0), turned, where)
    assert (resample(np.zeros(source.shape), source, target, outside=-7.0) == -7.0).all()


def test_half_a_voxel_beyond_the_border_continues_it_and_more_is_outside():
    source = Geometry((1, 1, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), CANONICAL)
    target = Geometry((1, 1, 7), (1.0, 1.0, 1.0), (-1.45, 0.0, 0.0), CANONICAL)
    found = resample(np.array([[[10.0, 20.0, 30.0, 40.0]]]), source, target, outside=0.0)
    np.testing.assert_allclose(found[0, 0], [0, 10, 15.5, 25.5, 35.5, 0, 0], atol=1e-4)


def test_values_must_lie_on_their_grid():
    source = Geometry((2, 2, 2), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), CANONICAL)
    with pytest.raises(ValueError, match="do not lie"):
        resample(np.zeros((2, 2, 3)), source, source)


@given(source=grids(1, 20), spacing=st.tuples(steps, steps, steps))
@settings(max_examples=100)
def test_the_canonical_grid_covers_the_source_and_no_more(source, spacing):
    grid = canonical_grid(source, spacing)
    assert grid.direction == CANONICAL
    assert grid.spacing_mm == spacing
    corners = np.array(list(itertools.product(*[(-0.5, n - 0.5) for n in source.shape])))
    index = grid.to_index(source.to_patient(corners))
    assert (index >= -0.5 - 1e-5).all()
    assert (index <= np.array(grid.shape) - 0.5 + 1e-5).all()
    spare = np.array(grid.shape) - (index.max(axis=0) - index.min(axis=0))
    assert (spare < 1 + 1e-5).all()


def test_the_canonical_grid_of_a_canonical_grid_is_itself():
    source = Geometry((9, 8, 7), (1.5, 1.5, 1.5), (-3.0, 4.0, 5.5), CANONICAL)
    again = canonical_grid(source, source.spacing_mm)
    assert again.shape == source.shape
    np.testing.assert_allclose(again.origin_mm, source.origin_mm, atol=1e-9)
    values = np.random.default_rng(0).normal(size=source.shape)
    np.testing.assert_allclose(resample(values, source, again), values, atol=1e-5)


def test_a_canonical_copy_of_a_head_first_prone_scan_is_turned_not_mirrored():
    prone = Geometry((4, 5, 6), (2.0, 1.0, 1.0), (0.0, 0.0, 0.0), ((0, 0, 1), (0, -1, 0), (-1, 0, 0)))
    values = np.arange(120.0).reshape(4, 5, 6)
    turned = resample(values, prone, canonical_grid(prone, prone.spacing_mm))
    np.testing.assert_allclose(turned, values[:, ::-1, ::-1], atol=1e-4)


@given(centre=places, shape=st.tuples(*[st.integers(1, 9)] * 3), spacing=st.tuples(steps, steps, steps))
def test_a_centred_grid_has_its_centre_where_it_was_asked(centre, shape, spacing):
    grid = centred_grid(centre, shape, spacing)
    assert grid.shape == shape
    np.testing.assert_allclose(grid.to_patient((np.array(shape) - 1) / 2), centre, atol=1e-9)


def test_a_crop_costs_memory_by_its_own_size():
    source = Geometry((400, 512, 512), (1.0, 0.8, 0.8), (0.0, 0.0, 0.0), CANONICAL)
    values = np.broadcast_to(np.int16(7), source.shape)
    tracemalloc.start()
    try:
        found = resample(values, source, centred_grid((200.0, 200.0, 200.0), (40, 40, 40), (1.0, 1.0, 1.0)))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 8 * 2**20  # the whole volume as float32 takes 400 MiB
    assert (found == 7).all()
