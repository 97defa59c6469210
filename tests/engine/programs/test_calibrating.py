"""Each density of a result names its calibration; without one there are HU alone."""

from dataclasses import replace

import pytest

from engine.errors import BadOption
from engine.measurement.calibration import CalibrationOptions, Uncalibrated
from engine.measurement.limits import QualityOptions
from engine.prediction.policy import DensityPolicy
from engine.programs.aggregation import patients_value
from engine.programs.calibrating import Calibrator
from engine.programs.vertebral import VertebralOptions, VertebralProgram, engine_version
from engine.records import (
    BoneFinding,
    CalibrationMethod,
    Measurement,
    Quantity,
    Reason,
    ReferenceMaterial,
    VertebralLevel,
)
from engine.runtime.backends import RuntimeOptions

L, Q = VertebralLevel, Quantity

ENTRY = """
[[calibrations]]
name = "{name}"
of = "{of}"
manufacturer = "SIEMENS"
manufacturer_model_name = "SOMATOM Force"
kvp = {kvp}
kernels = ["Br40f"]
valid_from = "20240101"
reference_material = "K2HPO4"
slope = {slope}
intercept = 2.0
"""
HEADER = {"ManufacturerModelName": "SOMATOM Force", "StudyDate": "20240615"}


@pytest.fixture
def result_of(honest_models, coded, tmp_path):
    def analyse(table: str, header: dict, **options):
        path = tmp_path / "calibration.toml"
        path.write_text(table)
        calibration = CalibrationOptions(table=str(path) if table else "", **options)
        runtime = RuntimeOptions(models=str(honest_models), backend="onnxruntime", threads=1)
        with VertebralProgram(VertebralOptions(calibration=calibration), runtime) as program:
            return program.analyse(coded().write(tmp_path / "series", **header)).result

    return analyse


def test_without_a_table_the_network_stands_as_it_was_trained_and_hu_alone(result_of):
    result = result_of("", HEADER)
    (own,) = result.calibrations
    assert (own.quantity, own.method, own.source) == (Q.VOLUMETRIC_BMD, CalibrationMethod.NETWORK, "mean-density@1")
    assert own.reference_material is ReferenceMaterial.HA
    assert result.value(Q.CALIBRATED_BMD, None) is None
    assert result.value(Q.VOLUMETRIC_BMD, None) is not None
    flags = [flag for flag in result.flags(None) if flag.reason is Reason.UNCALIBRATED_SCANNER]
    assert [flag.withholds for flag in flags] == [False]


def test_a_site_may_want_no_density_of_an_unknown_scanner(result_of):
    result = result_of("", HEADER, uncalibrated=Uncalibrated.WITHHOLD)
    assert result.reason is Reason.UNCALIBRATED_SCANNER
    assert result.calibrations == ()
    assert {one.quantity for one in result.measurements} == {
        Q.ATTENUATION_MEAN, Q.ATTENUATION_MEDIAN, Q.ATTENUATION_SD, Q.CORE_VOLUME
    }  # fmt: skip


def test_entries_for_hu_and_for_the_network_stand_side_by_side(result_of):
    table = ENTRY.format(name="ct1", of="hounsfield", kvp=120.0, slope=0.9)
    table += ENTRY.format(name="ct1-network", of="mean-density", kvp=120.0, slope=1.1)
    result = result_of(table, HEADER, uncalibrated=Uncalibrated.WITHHOLD)
    assert result.value(Q.CALIBRATED_BMD, L.L2) == pytest.approx(0.9 * 108 + 2.0, abs=0.1)
    assert result.value(Q.CALIBRATED_BMD, None) == pytest.approx(0.9 * 108 + 2.0, abs=0.1)
    assert result.value(Q.VOLUMETRIC_BMD, None) == pytest.approx(1.1 * 0.75 * 108 + 2.0, abs=0.4)
    assert result.calibrated_levels == result.aggregated_levels == (L.L1, L.L2, L.L3)
    assert result.finding(None, Q.CALIBRATED_BMD) is BoneFinding.OSTEOPENIA
    assert result.calibration(Q.CALIBRATED_BMD).source == "ct1"
    assert result.calibration(Q.VOLUMETRIC_BMD).source == "ct1-network"
    assert result.calibration(Q.CALIBRATED_BMD).reference_material is ReferenceMaterial.K2HPO4
    assert Reason.UNCALIBRATED_SCANNER not in {flag.reason for flag in result.flags(None)}


def test_another_voltage_has_a_density_where_an_entry_was_made_for_it(result_of):
    table = ENTRY.format(name="ct1-100kv", of="hounsfield", kvp=100.0, slope=0.7)
    result = result_of(table, HEADER | {"KVP": 100})
    assert result.reason is Reason.KVP  # the network was not made for it
    assert result.value(Q.VOLUMETRIC_BMD, None) is None
    assert result.value(Q.CALIBRATED_BMD, None) == pytest.approx(0.7 * 108 + 2.0, abs=0.1)
    assert [one.source for one in result.calibrations] == ["ct1-100kv"]


def test_a_correction_is_named_in_the_result(result_of):
    table = ENTRY.format(name="ct1", of="hounsfield", kvp=120.0, slope=0.9)
    result = result_of(table, HEADER | {"KVP": 100}, corrections=("kvp-100-aapm-2026",))
    assert result.value(Q.CALIBRATED_BMD, None) == pytest.approx(0.9 * 0.927 * 108 + 2.0, abs=0.1)
    assert result.calibration(Q.CALIBRATED_BMD).corrections == ("kvp-100-aapm-2026",)


def test_contrast_takes_both_densities_away(result_of):
    table = ENTRY.format(name="ct1", of="hounsfield", kvp=120.0, slope=0.9)
    result = result_of(table, HEADER | {"ContrastBolusAgent": "IOPAMIDOL"})
    assert result.reason is Reason.CONTRAST
    assert result.calibrations == ()
    assert result.evaluations == ()


def test_a_table_that_is_no_table_ends_the_start(honest_models, tmp_path):
    options = VertebralOptions(calibration=CalibrationOptions(table=str(tmp_path / "none.toml")))
    with pytest.raises(BadOption, match=r"none\.toml"):
        VertebralProgram(options, RuntimeOptions(models=str(honest_models)))


def test_what_a_table_says_stands_in_the_version_and_where_it_lies_does_not(tmp_path):
    versions = []
    for place, slope in (("a", 0.9), ("b", 0.9), ("c", 0.8)):
        path = tmp_path / place / "calibration.toml"
        path.parent.mkdir()
        path.write_text(ENTRY.format(name="ct1", of="hounsfield", kvp=120.0, slope=slope))
        options = VertebralOptions(calibration=CalibrationOptions(table=str(path)))
        versions.append(engine_version(options, Calibrator(options.calibration).table_sha256))
    assert versions[0] == versions[1] != versions[2]


def test_the_patient_is_the_mean_of_what_is_left_and_what_is_not_is_said():
    one = Measurement(Q.VOLUMETRIC_BMD, 0.0, L.L1, "m@1")
    densities = tuple(
        replace(one, finding_site=level, value=value)
        for level, value in ((L.T12, 101.0), (L.L1, 175.0), (L.L2, 99.0), (L.L3, 97.0))
    )
    found = patients_value(densities, DensityPolicy(), QualityOptions())
    assert found.levels == (L.L2, L.L3)
    assert found.densities[-1].value == pytest.approx(98.0)
    assert [(flag.reason, flag.finding_site) for flag in found.flags] == [(Reason.OUTLIER_LEVEL, L.L1)]
    assert patients_value(densities[1:2], DensityPolicy(), QualityOptions()).levels == ()
    assert patients_value((), DensityPolicy(), QualityOptions()).densities == ()
