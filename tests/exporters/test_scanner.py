"""The same patient differs from machine to machine as physics says, and by nothing else."""

import numpy as np
import pytest

from engine.records import VertebralLevel
from exporters.reference.scanner import SCANNERS, scan, scanner
from exporters.reference.spine_phantom import PhantomOptions, draw_phantom, field_of_view

PLAIN = PhantomOptions(fracture=0, osteophytes=0, bone_island=0, transitional=0, metal=0, arms=0)


@pytest.fixture(scope="module")
def patient():
    return draw_phantom(8, vbmd=120.0, options=PLAIN)


def grid_of(patient, slice_mm=1.5, pixel_mm=1.0):
    return field_of_view(patient, VertebralLevel.L2, VertebralLevel.L3, pixels=72, pixel_mm=pixel_mm, slice_mm=slice_mm)


def test_there_are_at_least_four_dialects_and_they_differ():
    assert len({machine.hu_per_mg for machine in SCANNERS}) >= 4
    assert {machine.signed for machine in SCANNERS} == {True, False}
    assert len({machine.key for machine in SCANNERS}) == len(SCANNERS)


def test_the_same_scan_seed_gives_the_same_noise(patient):
    grid = grid_of(patient)
    first, _ = scan(patient, SCANNERS[0], grid, seed=1)
    again, _ = scan(patient, SCANNERS[0], grid, seed=1)
    other, _ = scan(patient, SCANNERS[0], grid, seed=2)
    assert first.tobytes() == again.tobytes() != other.tobytes()


def test_bone_follows_the_effective_energy(patient):
    grid = grid_of(patient)
    means = {}
    for key in ("siemens_force", "ge_revolution"):
        hounsfield, raster = scan(patient, scanner(key), grid)
        core = (raster.mineral > 80) & (raster.mineral < 160) & (raster.bodies > 0)
        means[key] = float(hounsfield[core].mean())
    ratio = scanner("siemens_force").hu_per_mg - scanner("ge_revolution").hu_per_mg
    assert means["siemens_force"] - means["ge_revolution"] == pytest.approx(ratio * 120, abs=6)


def test_less_dose_is_more_noise(patient):
    grid = grid_of(patient)
    quiet, raster = scan(patient, SCANNERS[0], grid, dose=100.0)
    routine, _ = scan(patient, SCANNERS[0], grid, dose=1.0)
    poor, _ = scan(patient, SCANNERS[0], grid, dose=0.25)
    inside = raster.bodies > 0
    strength = [(noisy.astype(float) - quiet)[inside].std() for noisy in (routine, poor)]
    assert strength[1] == pytest.approx(2 * strength[0], rel=0.15)


def test_thick_slices_average_what_lies_in_them(patient):
    thick = grid_of(patient, slice_mm=5.0)
    hounsfield, raster = scan(patient, SCANNERS[0], thick, dose=1e6)
    assert hounsfield.shape == thick.shape == raster.labels.shape
    thin, _ = scan(patient, SCANNERS[0], grid_of(patient, slice_mm=1.25), dose=1e6)
    assert np.percentile(hounsfield, 99.5) < np.percentile(thin, 99.5)  # endplates fade


def test_padding_lies_outside_the_circle_only(patient):
    machine = scanner("canon_one")
    hounsfield, _ = scan(patient, machine, grid_of(patient))
    assert (hounsfield[:, 0, 0] == machine.padding).all()
    assert not (hounsfield[:, 20:52, 20:52] == machine.padding).any()
