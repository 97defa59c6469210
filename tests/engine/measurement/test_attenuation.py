"""Numbers are those of the original voxels inside the core."""

import numpy as np
import pytest

from engine.measurement.attenuation import measure_attenuation
from engine.records import Quantity, VertebralLevel
from engine.volume import CANONICAL, Geometry, Segmentation, Volume

Q = Quantity


def test_mean_median_spread_and_size_of_each_core():
    geometry = Geometry((4, 5, 6), (2.0, 0.5, 1.0), (0.0, 0.0, 0.0), CANONICAL)
    labels = np.zeros(geometry.shape, dtype=np.uint8)
    labels[0, 0, :4], labels[3, 4, :] = 1, 3
    hounsfield = np.full(geometry.shape, -1000, dtype=np.int16)
    hounsfield[0, 0, :4], hounsfield[3, 4, :] = [90, 100, 110, 900], 50
    cores = Segmentation(geometry, labels, (VertebralLevel.L1, VertebralLevel.L2, VertebralLevel.L3))
    found = measure_attenuation(Volume(geometry, hounsfield, "1.2", ()), cores, "net@1")
    values = {(one.quantity, one.finding_site): one.value for one in found}
    assert values == {
        (Q.ATTENUATION_MEAN, VertebralLevel.L1): 300.0,
        (Q.ATTENUATION_MEDIAN, VertebralLevel.L1): 105.0,
        (Q.ATTENUATION_SD, VertebralLevel.L1): pytest.approx(np.std([90, 100, 110, 900])),
        (Q.CORE_VOLUME, VertebralLevel.L1): pytest.approx(0.004),
        (Q.ATTENUATION_MEAN, VertebralLevel.L3): 50.0,
        (Q.ATTENUATION_MEDIAN, VertebralLevel.L3): 50.0,
        (Q.ATTENUATION_SD, VertebralLevel.L3): 0.0,
        (Q.CORE_VOLUME, VertebralLevel.L3): pytest.approx(0.006),
    }
    assert {one.model for one in found} == {"net@1"}


def test_bright_voxels_do_not_overflow():
    geometry = Geometry((40, 60, 60), (1.0,) * 3, (0.0,) * 3, CANONICAL)
    cores = Segmentation(geometry, np.ones(geometry.shape, dtype=np.uint8), (VertebralLevel.L1,))
    volume = Volume(geometry, np.full(geometry.shape, 30000, np.int16), "1.2", ())
    assert measure_attenuation(volume, cores, "net@1")[0].value == 30000.0
