"""Texture and areal density belong to the patient: no grid and no scanner changes them."""

import numpy as np
import pytest

from engine.records import VertebralLevel
from engine.volume import CANONICAL, Geometry
from exporters.reference.absorptiometry import areal_density
from exporters.reference.canvas import Canvas
from exporters.reference.spine_phantom import PLAIN, draw_phantom
from exporters.reference.trabecular import Texture, draw_habitus, draw_texture, grain_of

AXES, ORIGIN = np.eye(3), np.zeros(3)


def grain(step: float, size: float, texture: Texture, direction=CANONICAL) -> np.ndarray:
    n = round(size / step)
    canvas = Canvas(Geometry((n, n, n), (step,) * 3, (-size / 2 + step / 2,) * 3, direction))
    return grain_of(next(canvas.slabs(n)), AXES, ORIGIN, texture)


def test_the_texture_is_the_same_bone_on_every_grid():
    texture = Texture(spacing_mm=2.5, seed=3)
    fine, coarse = grain(0.5, 16.0, texture), grain(1.0, 16.0, texture)
    means = fine.reshape(16, 2, 16, 2, 16, 2).mean(axis=(1, 3, 5))
    assert np.abs(means - coarse).max() < 0.02
    assert fine.std() == pytest.approx(1.0, abs=0.12)


def test_a_turned_grid_sees_the_same_texture():
    texture = Texture(spacing_mm=2.5, seed=3)
    c, s = np.cos(0.3), np.sin(0.3)
    turned = Geometry((4, 5, 6), (0.1,) * 3, (1.0, 2.0, 3.0), ((0, 0, 1.0), (-s, c, 0), (c, s, 0)))
    region = next(Canvas(turned).slabs(4))
    found = grain_of(region, AXES, ORIGIN, texture)
    point = turned.to_patient(np.array([2.0, 3.0, 4.0]))
    single = Geometry((1, 1, 1), (0.1,) * 3, tuple(float(v) for v in point), CANONICAL)
    assert found[2, 3, 4] == pytest.approx(
        grain_of(next(Canvas(single).slabs(1)), AXES, ORIGIN, texture)[0, 0, 0], rel=0.01
    )


def test_voxels_average_a_fine_texture_away():
    assert grain(1.0, 20.0, Texture(spacing_mm=0.7, seed=1)).std() < 0.25
    assert grain(1.0, 20.0, Texture(spacing_mm=3.0, seed=1)).std() > 0.75


def test_texture_is_longer_along_the_vertebra_than_across():
    field = grain(0.5, 24.0, Texture(spacing_mm=2.0, stretch=2.0, seed=5))
    along = np.corrcoef(field[2:].ravel(), field[:-2].ravel())[0, 1]
    across = np.corrcoef(field[:, :, 2:].ravel(), field[:, :, :-2].ravel())[0, 1]
    assert along > across + 0.1


def test_the_score_has_its_spread_and_hardly_knows_the_density():
    rng = np.random.default_rng(1)
    density = rng.normal(125, 45, 3000)
    textures = [draw_texture(rng, draw_habitus(rng), value) for value in density]
    score = np.array([texture.score for texture in textures])
    assert score.mean() == pytest.approx(1.36, abs=0.01)
    assert score.std() == pytest.approx(0.13, abs=0.01)
    assert 0.15 < np.corrcoef(score, density)[0, 1] < 0.35
    spacing = np.log([texture.spacing_mm for texture in textures])
    assert -0.8 < np.corrcoef(score, spacing)[0, 1] < -0.55  # the rest no CT can see


def test_areal_density_is_a_property_of_the_patient():
    patient = draw_phantom(7000, vbmd=110.0, options=PLAIN)
    value = areal_density(patient, VertebralLevel.L2)
    assert 0.6 < value < 1.3
    assert areal_density(patient, VertebralLevel.L2, 0.8) == pytest.approx(value, rel=0.02)
    denser = areal_density(draw_phantom(7000, vbmd=170.0, options=PLAIN), VertebralLevel.L2)
    assert denser > 1.15 * value
