"""The picture from the side holds one vertebra, upright, in its own plane, and nothing else."""

from dataclasses import replace

import numpy as np
import pytest

from engine.anatomy.sagittal import cut_vertebrae, vertebra_frame
from engine.records import VertebralLevel as L
from engine.runtime.manifest import SagittalCut
from engine.volume import CANONICAL, Geometry, Segmentation, Volume

GRID = Geometry((60, 90, 80), (1.5, 1.0, 1.0), (-40.0, -45.0, -45.0), CANONICAL)
WINDOW = (-200.0, 800.0)
CUT = SagittalCut()


def scene(lean: float = 0.0, turn: float = 0.0) -> tuple[Volume, Segmentation]:
    """A body of 44 x 32 x 28 mm, leaning or turned, with a process behind it; 300 and 500 HU."""
    points = GRID.to_patient(np.stack(np.meshgrid(*map(np.arange, GRID.shape), indexing="ij"), -1).astype(float))
    x, y, z = np.moveaxis(points, -1, 0)
    x, z = np.cos(lean) * x - np.sin(lean) * z, np.sin(lean) * x + np.cos(lean) * z
    x, y = np.cos(turn) * x + np.sin(turn) * y, -np.sin(turn) * x + np.cos(turn) * y
    body = (abs(x) < 22) & (abs(y) < 16) & (abs(z) < 14)
    behind = (abs(x) < 4) & (y > 22) & (y < 40) & (abs(z + 10) < 6)
    hounsfield = np.full(GRID.shape, 60, np.int16)  # muscle all around
    hounsfield[body], hounsfield[behind] = 300, 500
    whole = np.where(body | behind, 1, 0).astype(np.uint8)
    return (
        Volume(GRID, hounsfield, "1.2", ()),
        Segmentation(GRID, whole, (L.L3,)),
        np.where(body, 1, 0).astype(np.uint8),
    )


def picture(cut: SagittalCut = CUT, **pose: float) -> np.ndarray:
    volume, whole, body = scene(**pose)
    (one,) = cut_vertebrae(volume, Segmentation(GRID, body, (L.L3,)), whole, (L.L3,), cut, WINDOW)
    assert (one.level, one.offset_mm) == (L.L3, cut.offsets_mm[0])
    return one.grey


def grey(hounsfield: float) -> float:
    return (hounsfield + 200) * 255 / 1000


def test_the_vertebra_is_in_the_middle_with_its_own_grey_and_nothing_around():
    found = picture()
    assert found.shape == (256, 256)
    assert found[128, 128] == pytest.approx(grey(300), abs=1)
    rows, columns = np.nonzero(found > grey(200))
    step = 300 / 256
    assert (columns.min() - 127.5) * step == pytest.approx(-16, abs=2)  # its front, on the left
    assert (columns.max() - 127.5) * step == pytest.approx(40, abs=2)  # the process behind it
    assert (rows.max() - rows.min()) * step == pytest.approx(30, abs=3)
    far = found.copy()
    far[128 - 20 : 128 + 25, 128 - 20 : 128 + 40] = 0
    assert not far.any()
    assert 0 < found[128, 128 - 15] < grey(150)  # two millimetres of what lies around come along


def test_the_process_is_below_the_middle():
    found = picture()
    assert found[128 + 8, 128 + 25] == pytest.approx(grey(500), abs=2)
    assert found[128 - 8, 128 + 25] == 0


@pytest.mark.parametrize("pose", [{"lean": 0.25}, {"turn": 0.3}])
def test_the_plane_is_the_vertebra_s_own(pose):
    _, _, body = scene(**pose)
    _, axes = vertebra_frame(Segmentation(GRID, body, (L.L3,)), 1)
    own = np.array([np.cos(pose.get("lean", 0)) * np.cos(pose.get("turn", 0)), np.sin(pose.get("turn", 0)),
                    -np.sin(pose.get("lean", 0))])  # fmt: skip
    assert axes[0] == pytest.approx(own, abs=0.03)
    assert np.abs(picture(**pose).astype(float) - picture()).mean() < 1.2


def test_the_front_may_be_on_the_right_and_a_slab_beside_the_middle():
    assert np.array_equal(picture(replace(CUT, anterior="right")), picture()[:, ::-1])
    beside = picture(replace(CUT, offsets_mm=(12.0,)))
    assert beside[128, 128] == pytest.approx(grey(300), abs=1)
    assert beside[136, 153] == 0  # the process is only in the middle


def test_the_jpeg_step_changes_little_and_is_an_option():
    through = picture(replace(CUT, jpeg_quality=95))
    assert 0 < np.abs(through - picture()).max() < 25


def test_a_level_that_nobody_wants_is_not_cut():
    volume, whole, body = scene()
    assert cut_vertebrae(volume, Segmentation(GRID, body, (L.L3,)), whole, (L.L1,), CUT, WINDOW) == ()


@pytest.mark.parametrize("wrong", [{"pixels": 500}, {"anterior": "up"}, {"thickness_mm": 0.0}, {"offsets_mm": ()}])
def test_a_picture_that_can_t_be_made_is_refused(wrong):
    with pytest.raises(ValueError, match=r".+"):
        replace(CUT, **wrong)
