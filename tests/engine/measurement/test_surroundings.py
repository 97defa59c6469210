"""Contrast is seen where the header is silent, and tissues are found where they lie."""

from functools import cache

import numpy as np
import pytest

from engine.measurement.quality import QualityOptions, series_flags
from engine.measurement.surroundings import slabs, tissue_samples, truncated_mm, vessel_hounsfield
from engine.records import Reason, VertebralLevel
from engine.volume import CANONICAL, Geometry, Segmentation, Volume

BLOOD, FAT, MUSCLE = 45, -100, 50


@cache
def trunk(
    vessel: float = BLOOD, radius: float = 11.0, *, bowel: float = 20.0, width: float = 150.0, noise: float = 12.0
):
    """Two bodies in an oval trunk, a vessel before them, a bowel loop at one of them; air and a table around."""
    geometry = Geometry((40, 110, 160), (3.0, 2.5, 2.5), (-198.75, -190.0, 0.0), CANONICAL)
    points = geometry.to_patient(np.stack(np.indices(geometry.shape), axis=-1).astype(float))
    x, y, z = points[..., 0], points[..., 1], points[..., 2]
    hounsfield = np.full(geometry.shape, -1000.0)
    hounsfield[np.hypot(x / width, (y + 60) / 120) < 1] = FAT
    hounsfield[np.hypot(x / (width - 25), (y + 60) / 95) < 1] = 10
    hounsfield[(np.abs(np.abs(x) - 36) < 20) & (np.abs(y - 30) < 18)] = MUSCLE
    hounsfield[np.hypot(x - 8, y + 32) < radius] = vessel
    hounsfield[(np.hypot(x + 10, y + 45) < 9) & (z > 70)] = bowel
    hounsfield[np.abs(y - 64) < 3] = -100  # the table
    labels = np.zeros(geometry.shape, dtype=np.uint8)
    for n, middle in ((1, 90.0), (2, 35.0)):
        labels[(np.hypot(x / 22, y / 17) < 1) & (np.abs(z - middle) < 13)] = n
    hounsfield[labels > 0] = 150
    hounsfield += np.random.default_rng(1).normal(0, noise, geometry.shape)
    volume = Volume(geometry, np.round(hounsfield).astype(np.int16), "1.2", ())
    return slabs(volume, Segmentation(geometry, labels, (VertebralLevel.L1, VertebralLevel.L3)))


def reasons(series, around):
    return [flag.reason for flag in series_flags(series, around, QualityOptions())]


@pytest.mark.parametrize(("vessel", "fires"), [(45.0, False), (65.0, False), (120.0, True), (300.0, True)])
def test_a_vessel_tells_contrast_that_the_header_hides(series_with, vessel, fires):
    around = trunk(vessel)
    assert vessel_hounsfield(around) == pytest.approx(vessel, abs=8)
    assert reasons(series_with(), around) == ([Reason.CONTRAST] if fires else [])


def test_one_bowel_loop_full_of_contrast_is_no_vessel(series_with):
    assert reasons(series_with(), trunk(bowel=350.0)) == []


def test_noise_of_a_low_dose_hides_no_vessel(series_with):
    assert reasons(series_with(), trunk(150.0, noise=35.0)) == [Reason.CONTRAST]
    assert reasons(series_with(), trunk(noise=35.0)) == []


def test_without_a_vessel_nothing_is_said(series_with):
    around = trunk(vessel=FAT, bowel=FAT)
    assert reasons(series_with(), around) == []
    assert vessel_hounsfield(()) is None


def test_tissues_are_found_where_they_lie():
    samples = tissue_samples(trunk())
    expected = {"air": -1000, "fat": FAT, "muscle": MUSCLE, "blood": BLOOD}
    for tissue, hounsfield in expected.items():
        assert samples[tissue].hounsfield == pytest.approx(hounsfield, abs=4), tissue
        assert samples[tissue].area_mm2 > 100
    assert tissue_samples(()) == {}


def test_contrast_blood_is_no_tissue_to_calibrate_with():
    samples = tissue_samples(trunk(vessel=200.0, bowel=FAT))
    assert samples.get("blood") is None or samples["blood"].hounsfield < 80


def test_a_patient_wider_than_the_field_is_told_and_a_table_is_no_patient(series_with):
    wide, usual = trunk(width=260.0), trunk()
    assert max(truncated_mm(slab) for slab in usual) == 0
    assert max(truncated_mm(slab) for slab in wide) > 60
    assert reasons(series_with(), wide) == [Reason.TRUNCATED_BODY]
