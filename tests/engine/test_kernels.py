"""Compiled loops say to the bit what NumPy and SciPy say of the same voxels."""

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial import cKDTree

from engine.anatomy.trabecular import eroded
from engine.kernels import sampling, shapes, slabs, ways
from engine.kernels.compiled import compiled
from engine.volume import Geometry

linear = sampling.linear


@compiled
def all_linear(values, places, outside, out):
    for n in range(len(places)):
        out[n] = linear(values, places[n, 0], places[n, 1], places[n, 2], outside)


@pytest.mark.parametrize("kind", [np.float32, np.int16])
def test_interpolation_is_scipys(kind):
    random = np.random.default_rng(1)
    values = random.normal(0, 500, (9, 12, 15)).astype(kind)
    places = random.uniform(-1, 16, (20_000, 3))
    places[:4000] = np.rint(places[:4000])  # on voxels, and on the borders
    found = np.empty(len(places), np.float32)
    all_linear(values, places, -7.0, found)
    wanted = ndimage.map_coordinates(values.astype(np.float32), places.T, order=1, mode="constant", cval=-7.0)
    assert np.array_equal(found, wanted)
    assert 0.01 < np.mean(found != -7) < 0.99


@pytest.mark.parametrize("seed", range(8))
def test_the_nearest_voxel_is_scipys(seed):
    random = np.random.default_rng(seed)
    values = random.integers(-1000, 3000, (20, 24, 30)).astype(np.int16)
    step = np.diag([*random.choice([2.0, 2.5, 1.25, 5.12], 3), 1.0])
    step[:3, 3] = random.choice([0, -0.5, 0.5, 1.25, -3], 3)  # half-way between voxels too
    if seed % 2:
        step[:3, :3] += random.normal(0, 0.05, (3, 3))
    found = np.empty((11, 12, 13), np.int16)
    sampling.nearest(values, step, np.int16(-1024), found)
    wanted = ndimage.affine_transform(
        values, step[:3, :3], step[:3, 3], found.shape, order=0, mode="constant", cval=-1024
    )
    assert np.array_equal(found, wanted)
    assert (found != -1024).any()


def test_the_nearest_point_of_a_course_is_the_trees():
    way = np.arange(300.0)
    course = np.stack([10 * np.sin(way / 40), 8 * np.cos(way / 60), -way * 0.9], axis=1)
    points = np.random.default_rng(2).uniform((-60, -60, -320), (60, 60, 40), (5000, 3))
    number, distance = np.empty(len(points), np.int64), np.empty(len(points))
    sampling.nearest_of(course, points, number, distance)
    away, index = cKDTree(course).query(points)
    assert np.array_equal(distance, away)
    assert np.array_equal(number, index)


def test_labels_are_put_where_a_grids_centres_lie():
    random = np.random.default_rng(3)
    axis, other = np.array([0.0, 0.6, 0.8]), np.array([1.0, 0.0, 0.0])
    aslant = (tuple(axis), tuple(np.cross(axis, other)), tuple(other))
    source = Geometry((12, 14, 16), (1.5, 0.8, 1.1), (-5.0, 3.0, 2.0), aslant)
    middle = source.to_patient(np.array([6.0, 7.0, 8.0]))
    labels = random.integers(0, 3, source.shape).astype(np.uint8)
    grid = Geometry((9, 10, 11), (2.0, 2.0, 2.0), tuple(middle - 9.0), ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), other))
    found = np.zeros(grid.shape, np.uint8)
    sampling.put_under(labels, 2, source.inverse, grid.affine, np.array([1, 0, 0]), np.array([9, 10, 9]), found)
    inside = np.empty(grid.shape, np.bool_)
    shapes.mark_inside(grid.affine, source.inverse, source.shape, inside)
    places = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1)
    index = source.to_index(grid.to_patient(places.astype(float)))
    near = np.rint(index).astype(int)
    there = ((near >= 0) & (near < source.shape)).all(axis=-1)
    wanted = there & (labels[tuple(np.clip(near, 0, np.array(source.shape) - 1).transpose(3, 0, 1, 2))] == 2)
    wanted[:1], wanted[:, :, 9:] = False, False
    assert wanted.any()
    assert np.array_equal(found, np.where(wanted, 2, 0))
    assert np.array_equal(inside, ((index >= -0.5) & (index <= np.array(source.shape) - 0.5)).all(axis=-1))


@pytest.mark.parametrize("step", [(1, 1), (2, 2), (3, 3), (2, 3), (5, 4)])
def test_a_slab_is_the_mean_of_its_slices_and_blocks(step):
    random = np.random.default_rng(4)
    values = random.integers(-1000, 1500, (7, 41, 53)).astype(np.int16)
    labels = (random.random(values.shape) < 0.01).astype(np.uint8) * 3
    rows, columns = 41 // step[0], 53 // step[1]
    mean, bone = np.empty((rows, columns), np.float32), np.empty((rows, columns), np.bool_)
    slabs.coarse_mean(values, labels, step, mean, bone)

    def blocks(image):
        return image[: rows * step[0], : columns * step[1]].reshape(rows, step[0], columns, step[1])

    total = values.sum(axis=0, dtype=np.int32).astype(np.float32) / np.float32(7)
    assert np.array_equal(mean, blocks(total).mean(axis=(1, 3)))
    assert np.array_equal(bone, blocks(labels.max(axis=0)).any(axis=(1, 3)))
    assert 0 < np.count_nonzero(bone) < bone.size


@pytest.mark.parametrize("radius", [2.5, 4.0, 5.3])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_an_opening_is_scipys(radius, share):
    rough = ndimage.gaussian_filter(np.random.default_rng(5).random((60, 71)), 3)
    mask = rough > np.quantile(rough, 1 - share)
    reach = int(radius)
    y, x = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    disc = x**2 + y**2 <= radius**2
    wanted = ndimage.binary_opening(np.pad(mask, 8, mode="edge"), disc)[8:-8, 8:-8]
    found = slabs.opened(mask, disc.sum(axis=1) // 2, 8)
    assert np.array_equal(found, wanted)
    assert (found != mask).any()


def test_the_best_way_is_the_best_of_all():
    random = np.random.default_rng(6)
    evidence = random.random((5, 4, 4)).astype(np.float32)
    way = np.empty((5, 2), np.int64)
    ways.best_way(evidence, 0.3, way)
    sums = {((a, b),): float(evidence[0, a, b]) for a in range(4) for b in range(4)}
    for k in range(1, 5):
        sums = {
            (*path, (a, b)): value + float(evidence[k, a, b]) - 0.3 * np.hypot(a - path[-1][0], b - path[-1][1])
            for path, value in sums.items()
            for a in range(max(0, path[-1][0] - 1), min(4, path[-1][0] + 2))
            for b in range(max(0, path[-1][1] - 1), min(4, path[-1][1] + 2))
        }
    assert tuple(map(tuple, way.tolist())) == max(sums, key=sums.__getitem__)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.5, 0.7, 0.9)])
def test_depth_is_measured_to_the_nearest_face_outside(spacing):
    mask = ndimage.gaussian_filter(np.random.default_rng(7).random((14, 22, 20)), 3) > 0.497
    mask[3:12, 5:19, 4:17] = True
    mask[7, 12, 10] = False
    padded = np.pad(mask, 1)
    beside = ndimage.binary_dilation(padded, np.ones((3, 3, 3))) & ~padded  # every nearest face is one of theirs
    inner, outer = np.argwhere(mask), np.argwhere(beside) - 1
    apart = np.maximum(np.abs(inner[:, None] - outer[None]) - 0.5, 0) * spacing
    deep = (apart**2).sum(axis=2).min(axis=1) >= 2.0**2 * (1 - 1e-5)
    wanted = np.zeros_like(mask)
    wanted[tuple(inner[deep].T)] = True
    assert 0 < np.count_nonzero(wanted) < np.count_nonzero(mask)
    assert np.array_equal(eroded(mask, spacing, 2.0), wanted)
