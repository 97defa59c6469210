"""Bodies found on a coarse grid lie where they are on the volume's own voxels."""

import numpy as np
import pytest

from engine.anatomy.bodies import Body
from engine.anatomy.onto_volume import onto_volume
from engine.records import VertebralLevel
from engine.volume import CANONICAL, Geometry, TissueMap

COARSE = Geometry((50, 50, 50), (2.0,) * 3, (0.0,) * 3, CANONICAL)
FEET_FIRST = ((0.0, 0.0, -1.0), (0.0, -1.0, 0.0), (1.0, 0.0, 0.0))
FINE = [
    Geometry((120, 130, 130), (0.8, 0.75, 0.75), (2.0, 1.0, 1.5), CANONICAL),
    Geometry((20, 130, 130), (5.0, 0.75, 0.75), (2.0, 1.0, 1.5), CANONICAL),
    Geometry((120, 130, 130), (0.8, 0.75, 0.75), (2.0, 98.0, 97.0), FEET_FIRST),
]


def points_of(geometry):
    return geometry.to_patient(np.stack(np.indices(geometry.shape), axis=-1).astype(float))


def drum(z):
    """Signed distances to a body of 20 mm height and 40 mm width."""
    points = points_of(COARSE)
    side = np.hypot(points[..., 0] - 50, points[..., 1] - 50) - 20
    return np.maximum(np.abs(points[..., 2] - z) - 10.0, side)


def seen(distances):
    """A map and its bodies, from signed distances (mm) to each body."""
    nearest = np.min(distances, axis=0)
    probability = 1 / (1 + np.exp(nearest / 0.8))
    labels = (probability > 0.5).astype(np.uint8)
    tissues = TissueMap(COARSE, labels, probability.astype(np.float32), ("background", "vertebral_body"))
    owner = np.argmin(distances, axis=0)
    bodies = [
        Body(n, 0, 0, 0, np.argwhere((labels > 0) & (owner == n)), cut=False, doubtful=False)
        for n in range(len(distances))
    ]
    return tissues, bodies


@pytest.mark.parametrize("fine", FINE)
def test_the_border_lies_where_the_probability_passes_a_half(fine):
    centre, radius = np.array([48.0, 50.0, 47.0]), 21.0
    tissues, (body,) = seen([np.linalg.norm(points_of(COARSE) - centre, axis=-1) - radius])
    found = onto_volume([(VertebralLevel.L2, body)], [], tissues, fine)
    distance = np.linalg.norm(points_of(fine) - centre, axis=-1) - radius
    assert found.geometry == fine
    assert found.segments == (VertebralLevel.L2,)
    wrong = (found.labels == 1) != (distance < 0)
    assert np.abs(distance[wrong]).max(initial=0) < 0.8 if fine.spacing_mm[0] < 2 else wrong.mean() < 0.02


def test_touching_bodies_are_divided_between_them():
    tissues, bodies = seen([drum(60.0), drum(40.0)])
    found = onto_volume(list(zip((VertebralLevel.L1, VertebralLevel.L2), bodies, strict=True)), [], tissues, FINE[0])
    z = points_of(FINE[0])[..., 2]
    assert z[found.labels == 1].min() > 48.9
    assert z[found.labels == 2].max() < 51.1
    gap = (found.labels == 0) & (np.abs(z - 50) < 5) & (np.linalg.norm(points_of(FINE[0])[..., :2] - 50, axis=-1) < 15)
    assert not gap.any()


def test_a_neighbour_without_a_name_keeps_its_place():
    tissues, (one, other) = seen([drum(60.0), drum(40.0)])
    found = onto_volume([(VertebralLevel.T12, one)], [other], tissues, FINE[0])
    assert points_of(FINE[0])[..., 2][found.labels == 1].min() > 48.9


def test_a_body_outside_the_volume_has_no_voxel():
    tissues, (body,) = seen([np.linalg.norm(points_of(COARSE) - 30.0, axis=-1) - 15.0])
    far = Geometry((10, 10, 10), (1.0,) * 3, (70.0, 70.0, 70.0), CANONICAL)
    assert onto_volume([(VertebralLevel.L1, body)], [], tissues, far).boxes == (None,)
