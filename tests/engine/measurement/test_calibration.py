"""A density has a line that a site, a phantom or the patient's tissues gave, or there is none."""

import numpy as np
import pytest

from engine.errors import BadOption
from engine.measurement.calibration import (
    CalibrationOptions,
    SiteTable,
    mindways_line,
    network_calibration,
    read_site_table,
    site_calibration,
)
from engine.measurement.internal_calibration import fit_tissues, internal_calibration
from engine.measurement.materials import hounsfield_per_mg, tissue_hounsfield
from engine.measurement.surroundings import Sample
from engine.records import CalibrationMethod, ReferenceMaterial

ENTRY = """
[[calibrations]]
name = "force-2024"
manufacturer = "Siemens"
manufacturer_model_name = "SOMATOM Force"
kvp = 120.0
kernels = ["Br40d", "Br36d"]
valid_from = "20240101"
valid_to = "20241231"
reference_material = "K2HPO4"
slope = 0.8
intercept = -4.0
"""
AS_IT_IS = CalibrationOptions()


def table_of(tmp_path, *entries: str) -> SiteTable:
    path = tmp_path / "calibration.toml"
    path.write_text("\n".join(entries))
    return read_site_table(path)


def test_an_entry_holds_for_its_scanner_and_says_where_it_comes_from(tmp_path, series_with):
    found = site_calibration(table_of(tmp_path, ENTRY), series_with(), False, AS_IT_IS)
    assert (found.source, found.method) == ("force-2024", CalibrationMethod.SITE_TABLE)
    assert found.reference_material is ReferenceMaterial.K2HPO4
    assert (found.slope, found.intercept, found.corrections) == (0.8, -4.0, ())


@pytest.mark.parametrize(
    "header",
    [
        {"manufacturer": "GE MEDICAL SYSTEMS"},
        {"manufacturer_model_name": "SOMATOM Definition"},
        {"manufacturer": None},
        {"kvp": 100.0},
        {"kvp": None},
        {"convolution_kernel": ("Bl57d", "3")},
        {"convolution_kernel": ()},
        {"acquisition_date": "20231231"},
        {"acquisition_date": "20250101"},
        {"acquisition_date": None, "study_date": None},
    ],
)
def test_any_other_series_has_no_line(tmp_path, series_with, header):
    assert site_calibration(table_of(tmp_path, ENTRY), series_with(**header), False, AS_IT_IS) is None


def test_a_kernel_may_be_named_by_its_class(tmp_path, series_with):
    table = table_of(tmp_path, ENTRY.replace('["Br40d", "Br36d"]', '["soft"]'))
    assert site_calibration(table, series_with(), False, AS_IT_IS) is not None
    assert site_calibration(table, series_with(convolution_kernel=("Br59d",)), False, AS_IT_IS) is None


def test_an_own_station_goes_before_the_kind_and_a_later_entry_before_an_earlier(tmp_path, series_with):
    kind = ENTRY.replace("force-2024", "later").replace("20240101", "20240110")
    station = ENTRY.replace("force-2024", "ct2") + 'station_name = "CT2"\n'
    table = table_of(tmp_path, ENTRY, kind, station)
    found = {
        name: site_calibration(table, series_with(station_name=name), False, AS_IT_IS).source for name in ("CT1", "CT2")
    }
    assert found == {"CT1": "later", "CT2": "ct2"}


def test_another_voltage_or_contrast_is_corrected_by_name_only(tmp_path, series_with):
    table = table_of(tmp_path, ENTRY)
    low = series_with(kvp=100.0)
    named = CalibrationOptions(corrections=("kvp-100-aapm-2026", "contrast-venous-pompe-2015"))
    assert site_calibration(table, low, False, AS_IT_IS) is None
    assert site_calibration(table, series_with(), True, AS_IT_IS) is None
    voltage = site_calibration(table, low, False, named)
    assert voltage.corrections == ("kvp-100-aapm-2026",)
    assert voltage.slope * 148 + voltage.intercept == pytest.approx(0.8 * 148 * 0.927 - 4.0)
    both = site_calibration(table, low, True, named)
    assert both.corrections == ("kvp-100-aapm-2026", "contrast-venous-pompe-2015")
    assert both.slope * 148 + both.intercept == pytest.approx(0.8 * (148 * 0.927 - 18.2) - 4.0)
    assert site_calibration(table, series_with(), False, named).corrections == ()


def test_an_entry_for_a_voltage_needs_no_correction(tmp_path, series_with):
    table = table_of(tmp_path, ENTRY, ENTRY.replace("force-2024", "force-100").replace("120.0", "100.0"))
    named = CalibrationOptions(corrections=("kvp-100-aapm-2026",))
    found = site_calibration(table, series_with(kvp=100.0), False, named)
    assert (found.source, found.corrections) == ("force-100", ())


@pytest.mark.parametrize(
    "names", [("kvp-80",), ("contrast-arterial-pompe-2015", "contrast-venous-pompe-2015")], ids=["unknown", "twice"]
)
def test_corrections_nobody_published_are_refused(names):
    with pytest.raises(ValueError, match="correction"):
        CalibrationOptions(corrections=names)


def test_rods_give_back_the_line_that_they_were_made_with(tmp_path, series_with):
    """Rods of a Model 3 phantom in a scanner with sigma_ref 1.3 and beta_ref -1003."""
    rods = [(water + 1.3 * salt - 1003.0, water, salt) for water, salt in
            ((1012.2, -51.8), (1057.0, -53.4), (1103.6, 58.9), (1119.5, 157.0), (923.2, 375.8))]  # fmt: skip
    slope, intercept = mindways_line(rods)
    hounsfield = 100 * (1.3 - 0.2174) + (-1003.0 + 999.6)
    assert slope * hounsfield + intercept == pytest.approx(100.0)
    stated = ENTRY.replace("slope = 0.8\nintercept = -4.0", f"rods = {[list(rod) for rod in rods]}")
    found = site_calibration(table_of(tmp_path, stated), series_with(), False, AS_IT_IS)
    assert found.method is CalibrationMethod.PHANTOM
    assert (found.slope, found.intercept) == pytest.approx((slope, intercept))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("slope = 0.8", ""), "either a slope or rods"),
        (("slope = 0.8", "slope = -0.8"), "above 0"),
        (("20240101", "01.01.2024"), "no day"),
        (('"K2HPO4"', '"CaCO3"'), "reference_material"),
        (("kvp = 120.0", ""), "kvp"),
        (('["Br40d", "Br36d"]', "[]"), "kernels"),
        (("slope = 0.8\nintercept = -4.0", "rods = [[1.0, 2.0, 3.0]]"), "three rods"),
        (("name = ", "nmae = "), "did you mean"),
        (("[[calibrations]]", "[[calibrations"), "no TOML"),
    ],
)
def test_an_entry_that_makes_no_line_is_refused(tmp_path, change, message):
    with pytest.raises(BadOption, match=message):
        table_of(tmp_path, ENTRY.replace(*change))


def test_two_entries_of_one_name_and_a_missing_table_are_refused(tmp_path):
    with pytest.raises(BadOption, match="two entries"):
        table_of(tmp_path, ENTRY, ENTRY)
    with pytest.raises(BadOption, match="can't be read"):
        read_site_table(tmp_path / "none.toml")


def test_a_network_is_vouched_for_by_an_entry_of_its_own(tmp_path, series_with):
    entry = ENTRY.replace("slope = 0.8", 'of = "bmd-net"\nslope = 1.1').replace("K2HPO4", "HA")
    table = table_of(tmp_path, entry)
    known, vouched = network_calibration(table, series_with(), "bmd-net", "bmd-net@2", ReferenceMaterial.HA)
    assert (known.slope, known.intercept, vouched) == (1.1, -4.0, True)
    other, vouched = network_calibration(table, series_with(kvp=100.0), "bmd-net", "bmd-net@2", ReferenceMaterial.HA)
    assert (other.slope, other.intercept, vouched) == (1.0, 0.0, False)
    assert other.method is CalibrationMethod.NETWORK
    assert "bmd-net@2" in other.source
    assert site_calibration(table, series_with(), False, AS_IT_IS) is None  # it is no line over HU


@pytest.mark.parametrize("energy", [60.0, 65.0, 70.0, 75.0])
def test_the_patients_tissues_tell_the_scanners_energy(energy):
    samples = {name: Sample(tissue_hounsfield(name, energy), 500.0) for name in ("air", "fat", "muscle", "blood")}
    assert fit_tissues(samples).energy == energy
    found = internal_calibration(samples)
    hounsfield = 100 * hounsfield_per_mg(ReferenceMaterial.HA, energy)
    assert found.slope * hounsfield + found.intercept == pytest.approx(100.0, abs=0.1)
    assert found.reference_material is ReferenceMaterial.HA


def test_a_scanner_whose_water_is_off_is_put_right_by_the_tissues():
    samples = {
        name: Sample(0.97 * tissue_hounsfield(name, 70.0) + 8.0, 500.0) for name in ("air", "fat", "muscle", "blood")
    }
    found = internal_calibration(samples)
    hounsfield = 0.97 * 100 * hounsfield_per_mg(ReferenceMaterial.HA, 70.0) + 8.0
    assert found.slope * hounsfield + found.intercept == pytest.approx(100.0, abs=0.2)


def test_tissues_of_real_spread_hold_the_slope_within_a_tenth():
    """Kaesmacher 2017 prints 7.8 % for internal calibration."""
    rng = np.random.default_rng(0)
    ratio = []
    for _ in range(60):
        samples = {
            name: Sample(tissue_hounsfield(name, 70.0) + (0 if name == "air" else rng.normal(0, 3)), 500.0)
            for name in ("air", "fat", "muscle", "blood")
        }
        ratio.append(internal_calibration(samples).slope * hounsfield_per_mg(ReferenceMaterial.HA, 70.0))
    assert abs(np.mean(ratio) - 1) < 0.03
    assert np.std(ratio) < 0.1


@pytest.mark.parametrize(
    "samples",
    [
        {"air": -1000.0, "fat": -80.0},  # no muscle
        {"air": -1000.0, "fat": -20.0, "muscle": 45.0},  # no fat is so dense at any energy
        {"air": -1000.0, "fat": -79.0, "muscle": 130.0},  # contrast
        {},
    ],
)
def test_tissues_that_lie_on_no_line_give_none(samples):
    assert internal_calibration({name: Sample(value, 500.0) for name, value in samples.items()}) is None


def test_hounsfield_of_tissues_and_minerals_are_those_of_the_tables():
    """Adipose, muscle, blood and mg of HA and K2HPO4 at 65, 70 and 75 keV, derived from the NIST tables."""
    rows = ((65, -84, 44, 1.48, 1.32), (70, -79, 43, 1.33, 1.18), (75, -74, 43, 1.20, 1.06))
    for energy, fat, muscle, ha, salt in rows:
        assert round(tissue_hounsfield("fat", energy)) == fat
        assert round(tissue_hounsfield("muscle", energy)) == muscle
        assert round(hounsfield_per_mg(ReferenceMaterial.HA, energy), 2) == ha
        assert round(hounsfield_per_mg(ReferenceMaterial.K2HPO4, energy), 2) == salt
