"""What a training step may change, it changes; what is true of a voxel stays true."""

import numpy as np
import pytest

from engine.records import VertebralLevel
from exporters.reference.augment import draw_patch, randomise
from exporters.reference.spine_phantom import PLAIN, draw_phantom, field_of_view, rasterise

SHAPE = (24, 32, 32)


@pytest.fixture(scope="module")
def case():
    phantom = draw_phantom(8, options=PLAIN)
    grid = field_of_view(
        phantom, VertebralLevel.T9, VertebralLevel.L1, pixels=110, pixel_mm=2.5, slice_mm=2.5, offset_mm=(0.0, -50.0)
    )
    raster = rasterise(phantom, grid, contrast="arterial")
    return raster.soft.astype(np.int16), raster.mineral.astype(np.int16), raster.labels


def patches(case, count=60):
    return [draw_patch(case, SHAPE, np.random.default_rng([seed, 1])) for seed in range(count)]


def test_the_same_draw_gives_the_same_patch(case):
    (a, b), (again, labels) = (draw_patch(case, SHAPE, np.random.default_rng(3)) for _ in range(2))
    assert a.tobytes() == again.tobytes()
    assert b.tobytes() == labels.tobytes()
    assert a.shape == b.shape == SHAPE


def test_patches_show_all_tissues_and_also_what_is_none(case):
    drawn = patches(case)
    seen = np.unique(np.concatenate([np.unique(labels) for _, labels in drawn]))
    assert {0, 1, 2, 3, 4} <= set(seen.tolist())
    assert any((labels == 0).all() for _, labels in drawn)


def test_soft_tissue_may_be_as_bright_as_bone_and_bone_as_dark_as_soft_tissue(case):
    drawn = patches(case)
    soft = [float(np.percentile(hu[labels == 0], 97)) for hu, labels in drawn if (labels == 0).any()]
    bone = [float(np.median(hu[labels == 1])) for hu, labels in drawn if (labels == 1).sum() > 200]
    assert max(soft) > np.median(bone) + 100
    assert min(bone) < np.median(soft)
    assert max(bone) - min(bone) > 150


def test_noise_blur_and_cuts_change_intensities_and_leave_labels_alone():
    flat = np.full(SHAPE, 60.0, dtype=np.float32)
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[8:16, 10:20, 10:20] = 1
    spread, cut = [], 0
    for seed in range(80):
        hounsfield, tissue = randomise(flat.copy(), labels.copy(), np.random.default_rng(seed))
        kept = tissue == labels
        cut += not kept.all()
        assert (tissue[~kept] == 0).all()  # only the end of a field of view takes a label away
        assert (hounsfield[~kept] == -1024).all()
        spread.append(float(hounsfield[20:, 24:, 24:].std()))
    assert 0 < cut < 30
    assert min(spread) < 6 < 25 < max(spread)
