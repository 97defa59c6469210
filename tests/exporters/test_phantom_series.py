"""What is written is a valid CT series, and reads back as what was scanned."""

import shutil
import subprocess

import numpy as np
import pydicom
import pytest

from engine.records import VertebralLevel
from exporters.reference.phantom_series import write_series
from exporters.reference.scanner import SCANNERS, scanner
from exporters.reference.spine_phantom import draw_phantom, field_of_view


@pytest.fixture(scope="module")
def patient():
    return draw_phantom(31)


def small(patient):
    return field_of_view(patient, VertebralLevel.L2, VertebralLevel.L3, pixels=48, pixel_mm=3.0, slice_mm=5.0)


@pytest.mark.parametrize("machine", SCANNERS, ids=lambda machine: machine.key)
def test_a_series_reads_back_with_the_same_hounsfield_units(tmp_path, patient, machine):
    truth = write_series(tmp_path, patient, machine, small(patient))
    datasets = [pydicom.dcmread(path) for path in truth.paths]
    for k, dataset in enumerate(datasets):
        read = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
        assert (read == truth.hounsfield[k]).all()
        at = truth.geometry.to_patient(np.array([float(k), 0, 0]))
        assert [float(value) for value in dataset.ImagePositionPatient] == pytest.approx(list(at), abs=1e-6)
        assert dataset.Manufacturer == machine.manufacturer
        assert dataset.PixelRepresentation == int(machine.signed)
    assert len({dataset.SOPInstanceUID for dataset in datasets}) == len(datasets) == truth.geometry.shape[0]
    assert {dataset.SeriesInstanceUID for dataset in datasets} == {truth.series_instance_uid}


def test_the_same_call_writes_the_same_bytes(tmp_path, patient):
    first = write_series(tmp_path / "a", patient, geometry=small(patient))
    second = write_series(tmp_path / "b", patient, geometry=small(patient))
    assert [path.read_bytes() for path in first.paths] == [path.read_bytes() for path in second.paths]


def test_the_header_says_what_it_is_told(tmp_path, patient):
    truth = write_series(
        tmp_path, patient, scanner("uct_780"), small(patient), patient_name="Doe^Jane", patient_id="X1", kvp=100,
        contrast="venous", body_part="CHEST", image_type=("DERIVED", "SECONDARY", "AXIAL"), study_uid="1.2.3",
        series_uid="1.2.3.4", gantry_tilt=12.5, series_description="told", kernel=("B_SHARP",),
    )  # fmt: skip
    header = pydicom.dcmread(truth.paths[0], stop_before_pixels=True)
    assert (header.PatientName, header.PatientID, header.KVP, header.BodyPartExamined) == (
        "Doe^Jane",
        "X1",
        100,
        "CHEST",
    )
    assert list(header.ImageType) == ["DERIVED", "SECONDARY", "AXIAL"]
    assert (header.StudyInstanceUID, header.SeriesInstanceUID) == ("1.2.3", "1.2.3.4")
    assert header.ContrastBolusAgent
    assert (header.GantryDetectorTilt, header.ConvolutionKernel, header.SeriesDescription) == (12.5, "B_SHARP", "told")


def test_the_truth_speaks_of_levels_wholly_in_view(tmp_path, patient):
    truth = write_series(tmp_path, patient, geometry=small(patient))
    assert truth.levels == (VertebralLevel.L2, VertebralLevel.L3)
    assert truth.vbmd == {level: patient.vbmd[level] for level in truth.levels}


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy is not installed")
@pytest.mark.parametrize("machine", SCANNERS, ids=lambda machine: machine.key)
def test_a_validator_finds_nothing(tmp_path, patient, machine):
    truth = write_series(tmp_path, patient, machine, small(patient), contrast="venous")
    said = subprocess.run(["dciodvfy", truth.paths[0]], capture_output=True, text=True, check=False)
    problems = [line for line in (said.stdout + said.stderr).splitlines() if line.startswith(("Error", "Warning"))]
    assert problems == []
