"""A crop shows the patient around the core, wherever and however the voxels lie."""

import numpy as np
import pytest

from engine.anatomy.crops import crop_vertebrae
from engine.records import VertebralLevel
from engine.volume import CANONICAL, Geometry, Segmentation, Volume

HEAD_LAST = ((0.0, 0.0, -1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))


def volume_of(geometry):
    """HU that grow by 1, 2 and 3 a millimetre to the left, the back and the head."""
    points = geometry.to_patient(np.stack(np.indices(geometry.shape), axis=-1).astype(float))
    return Volume(geometry, np.round(points @ [1.0, 2.0, 3.0]).astype(np.int16), "1.2", ())


@pytest.mark.parametrize("direction", [CANONICAL, HEAD_LAST])
def test_a_crop_is_centred_on_the_core_and_keeps_hounsfield_units(direction):
    geometry = Geometry((60, 90, 80), (1.5, 0.8, 0.9), (-30.0, -20.0, 10.0), direction)
    labels = np.zeros(geometry.shape, dtype=np.uint8)
    labels[20:31, 30:51, 40:61] = 2
    levels = (VertebralLevel.L1, VertebralLevel.L2)
    (crop,) = crop_vertebrae(volume_of(geometry), Segmentation(geometry, labels, levels), (16, 20, 24), (1.0,) * 3)
    assert crop.level is VertebralLevel.L2
    assert crop.hounsfield.shape == crop.geometry.shape == (16, 20, 24)
    middle = crop.geometry.to_patient(np.array([7.5, 9.5, 11.5]))
    assert np.allclose(middle, geometry.to_patient(np.array([25.0, 40.0, 50.0])))
    assert crop.geometry.direction == CANONICAL
    points = crop.geometry.to_patient(np.stack(np.indices((16, 20, 24)), axis=-1).astype(float))
    assert np.abs(crop.hounsfield - points @ [1.0, 2.0, 3.0]).max() <= 1.0  # rounding of the voxels


def test_a_crop_that_leaves_the_field_of_view_goes_on_with_its_last_slice():
    geometry = Geometry((30, 40, 40), (1.0,) * 3, (0.0,) * 3, CANONICAL)
    labels = np.zeros(geometry.shape, dtype=np.uint8)
    labels[0:9, 15:26, 15:26] = 1
    values = np.broadcast_to(100 + np.arange(30)[:, None, None], geometry.shape).astype(np.int16)
    volume = Volume(geometry, values, "1.2", ())
    (crop,) = crop_vertebrae(volume, Segmentation(geometry, labels, (VertebralLevel.L3,)), (21, 11, 11), (1.0,) * 3)
    assert (crop.hounsfield[:7] == 100).all()  # no air: it would pass for the end of the bone
    assert np.array_equal(crop.hounsfield[7:, 5, 5], 101 + np.arange(14))


def test_a_level_without_a_core_has_no_crop():
    geometry = Geometry((8, 8, 8), (1.0,) * 3, (0.0,) * 3, CANONICAL)
    empty = Segmentation(geometry, np.zeros((8, 8, 8), dtype=np.uint8), (VertebralLevel.L1, VertebralLevel.L2))
    volume = Volume(geometry, np.zeros((8, 8, 8), np.int16), "1.2", ())
    assert crop_vertebrae(volume, empty, (4, 4, 4), (1.0,) * 3) == ()
