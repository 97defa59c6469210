"""A phantom is the same whenever it is drawn, and what is said about it is true of its voxels."""

import numpy as np
import pytest
from scipy import ndimage

from engine.records import VertebralLevel
from engine.volume import CANONICAL, Geometry
from exporters.reference.spine_phantom import (
    PLAIN,
    PhantomOptions,
    draw_phantom,
    field_of_view,
    levels_in_view,
    rasterise,
)
from exporters.reference.vertebra import TISSUES

T12, L1, L3, L5 = VertebralLevel.T12, VertebralLevel.L1, VertebralLevel.L3, VertebralLevel.L5


@pytest.fixture(scope="module")
def lumbar():
    phantom = draw_phantom(21, options=PLAIN)
    grid = field_of_view(phantom, VertebralLevel.T11, L5, pixels=100, pixel_mm=1.5, slice_mm=1.5)
    return phantom, grid, rasterise(phantom, grid)


def test_the_same_seed_gives_the_same_bytes():
    phantom, again, other = draw_phantom(5), draw_phantom(5), draw_phantom(6)
    assert phantom == again != other
    grid = field_of_view(phantom, L1, L3, pixels=60, pixel_mm=2.5, slice_mm=2.5)
    first, second = rasterise(phantom, grid), rasterise(again, grid)
    for name in ("soft", "mineral", "labels", "bodies"):
        assert getattr(first, name).tobytes() == getattr(second, name).tobytes()
    assert rasterise(other, grid).soft.tobytes() != first.soft.tobytes()


def test_the_drawn_density_is_what_lies_in_each_core(lumbar):
    phantom, grid, raster = lumbar
    for level in levels_in_view(phantom, grid):
        body = raster.bodies == phantom.vertebra(level).number
        depth = ndimage.distance_transform_edt(np.pad(body, 1), sampling=grid.spacing_mm)[1:-1, 1:-1, 1:-1]
        found = float(raster.mineral[depth > 5].mean())
        assert found == pytest.approx(phantom.vbmd[level], rel=0.04)  # the vein at the back takes a little


def test_a_density_that_is_asked_for_is_drawn():
    phantom = draw_phantom(9, vbmd=90.0, age=70, sex="F")
    mean = np.mean([phantom.vbmd[VertebralLevel(name)] for name in ("L1", "L2", "L3")])
    assert (phantom.age, phantom.sex) == (70, "F")
    assert mean == pytest.approx(90.0, rel=0.15)


def test_levels_lie_in_order_from_head_to_foot(lumbar):
    phantom, _, raster = lumbar
    heights = [phantom.vertebra(level).centre[2] for level in phantom.levels]
    assert heights == sorted(heights, reverse=True)
    assert [str(level) for level in phantom.levels] == [f"T{n}" for n in range(1, 13)] + [f"L{n}" for n in range(1, 6)]
    assert 22 < np.mean(-np.diff(heights)) < 38  # mm, measured spacing of centres
    middles = [np.argwhere(raster.bodies == n)[:, 0].mean() for n in np.unique(raster.bodies)[1:]]
    assert middles == sorted(middles, reverse=True)


def test_bodies_are_labelled_as_bodies_and_nothing_else(lumbar):
    _, _, raster = lumbar
    assert ((raster.bodies > 0) <= (raster.labels == TISSUES.index("vertebral_body"))).all()
    assert set(np.unique(raster.labels)) == set(range(len(TISSUES)))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_ribs_stop_at_t12(seed):
    phantom = draw_phantom(seed, options=PLAIN)
    ribbed = [bone.name for bone in phantom.vertebrae if bone.rib]
    assert ribbed == [f"T{n}" for n in range(1, 13)]
    grid = field_of_view(phantom, T12, L5, pixels=80, pixel_mm=2.0, slice_mm=2.0, margin_mm=20)
    ribs = rasterise(phantom, grid).labels == TISSUES.index("rib")
    assert _near(ribs, grid, phantom.vertebra(T12).centre)
    for name in ("L2", "L3", "L4", "L5"):
        assert not _near(ribs, grid, phantom.vertebra(VertebralLevel(name)).centre)


def test_a_transitional_patient_has_another_count():
    odd = PhantomOptions(transitional=1.0)
    kinds = {(len(phantom.levels), sum(bone.rib > 0 for bone in phantom.vertebrae))
             for phantom in (draw_phantom(seed, options=odd) for seed in range(12))}  # fmt: skip
    assert kinds == {(18, 12), (17, 13)}  # an L6, or a pair of ribs at L1


def test_another_grid_shows_the_same_anatomy():
    phantom = draw_phantom(4, options=PLAIN)
    fine = field_of_view(phantom, L3, L3, pixels=61, pixel_mm=1.0, slice_mm=1.0)
    coarse = Geometry((fine.shape[0] // 2, 30, 30), (2.0, 2.0, 2.0), fine.origin_mm, CANONICAL)
    a, b = rasterise(phantom, fine).labels, rasterise(phantom, coarse).labels
    assert (a[::2, ::2, ::2][: b.shape[0], :30, :30] == b).mean() > 0.999


def test_a_turned_grid_shows_the_same_body():
    phantom = draw_phantom(4, options=PLAIN)
    grid = field_of_view(phantom, L3, L3, pixels=40, pixel_mm=2.0, slice_mm=2.0)
    k, j, i = grid.shape
    x, y, z = grid.to_patient(np.array([k - 1.0, j - 1.0, i - 1.0]))
    against = Geometry(grid.shape, grid.spacing_mm, (x, y, z), ((0, 0, -1.0), (0, -1.0, 0), (-1.0, 0, 0)))
    straight, turned = rasterise(phantom, grid), rasterise(phantom, against)
    assert (straight.bodies == turned.bodies[::-1, ::-1, ::-1]).all()


def test_contrast_brightens_vessels_and_leaves_bone_alone(lumbar):
    phantom, grid, native = lumbar
    enhanced = rasterise(phantom, grid, contrast="arterial")
    assert (enhanced.mineral == native.mineral).all()
    assert (enhanced.soft - native.soft).max() > 150
    inside = ndimage.binary_erosion(native.bodies > 0)  # at the surface a voxel holds some of what lies beside it
    assert np.abs(enhanced.soft - native.soft)[inside].max() < 0.1


def _near(mask, grid, centre):
    """Whether anything of a mask lies within 42 mm of a point."""
    found = np.argwhere(mask)
    return len(found) > 0 and np.linalg.norm(grid.to_patient(found.astype(float)) - centre, axis=1).min() < 42
