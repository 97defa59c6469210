"""The same patient differs from machine to machine as physics says, and by nothing else."""

import numpy as np
import pytest

from engine.records import VertebralLevel
from exporters.reference.scanner import SCANNERS, UNSEEN, UNSEEN_KERNEL, noise, scan, scanner
from exporters.reference.spine_phantom import PLAIN, draw_phantom, field_of_view


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


def test_noise_has_the_strength_and_grain_of_its_machine(patient):
    grid = grid_of(patient, slice_mm=3.0, pixel_mm=0.7)
    smooth, rough = (noise(grid, scanner(key), 1, 3.0, 1.0) for key in ("siemens_force", "siemens_lung"))
    assert smooth.std() == pytest.approx(scanner("siemens_force").noise_hu, rel=0.05)
    neighbours = [np.corrcoef(field[:, :, 1:].ravel(), field[:, :, :-1].ravel())[0, 1] for field in (smooth, rough)]
    assert neighbours[0] > neighbours[1] + 0.2


def test_a_low_dose_chest_is_noisier_than_its_machine(patient):
    grid = grid_of(patient)
    strong, weak = (noise(grid, scanner(key), 1, 1.5, 1.0).std() for key in ("uct_550", "uct_550_chest"))
    assert weak == pytest.approx(2 * strong, rel=0.15)


def test_bone_follows_the_tube_voltage(patient):
    grid = grid_of(patient)
    scans = {kvp: scan(patient, SCANNERS[0], grid, dose=1e6, kvp=kvp) for kvp in (100.0, 120.0)}
    bone = (scans[120.0][1].bodies > 0) & (scans[120.0][1].mineral > 100)
    means = {kvp: float(hounsfield[bone].mean()) for kvp, (hounsfield, _) in scans.items()}
    assert means[100.0] > means[120.0] + 8


def test_machines_that_are_kept_from_training_are_known():
    assert all(scanner(key).key == key for key in (*UNSEEN, UNSEEN_KERNEL))
