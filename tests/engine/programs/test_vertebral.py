"""The whole program says what is there, and withholds what can't be said."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from imagecodecs import jpegls_encode
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGLSLossless

from engine.batch import analyse_many
from engine.errors import AnatomyNotFound, BadOption, UnusableModel
from engine.options import read_options, write_options
from engine.prediction.from_side import ArealPolicy
from engine.programs.vertebral import VertebralOptions, VertebralProgram
from engine.records import CLASSES, BoneFinding, Program, Quantity, Reason, SeriesFailure, VertebralLevel
from engine.runtime.backends import RuntimeOptions
from engine.volume import Analysis

L, Q = VertebralLevel, Quantity
DENSITY_LEVELS = (L.L1, L.L2, L.L3)
MG_PER_HU = 0.75


@pytest.fixture(scope="module")
def program(honest_models):
    with VertebralProgram(VertebralOptions(), RuntimeOptions(models=str(honest_models))) as program:
        yield program


def series_reasons(analysis: Analysis) -> set[Reason]:
    return {flag.reason for flag in analysis.result.flags(None)}


def test_one_series_goes_the_whole_way(program, coded, tmp_path):
    truth = coded()
    series = truth.write(tmp_path)
    before = datetime.now(UTC)
    analysis = program.analyse(series)
    result = analysis.result
    assert (result.study_instance_uid, result.series_instance_uid) == ("1.2.826.0.1.1", "1.2.826.0.1.2")
    assert result.program is Program.VERTEBRAL
    assert result.reason is None
    assert result.levels[-6:] == (L.T12, L.L1, L.L2, L.L3, L.L4, L.L5)
    assert result.levels == analysis.bodies.segments == analysis.trabecular.segments
    for level, hounsfield in {L.T12: 116, L.L1: 112, L.L2: 108, L.L3: 104, L.L4: 100, L.L5: 96}.items():
        assert result.value(Q.ATTENUATION_MEAN, level) == pytest.approx(hounsfield, abs=0.01)
        assert result.value(Q.ATTENUATION_MEDIAN, level) == hounsfield
        assert result.value(Q.ATTENUATION_SD, level) == pytest.approx(0, abs=0.3)
        assert result.value(Q.VOLUMETRIC_BMD, level) == pytest.approx(MG_PER_HU * hounsfield, abs=0.3)
        n = analysis.trabecular.segments.index(level) + 1
        core = analysis.trabecular.labels == n
        assert truth.body(level)[core].all()
        assert result.value(Q.CORE_VOLUME, level) == pytest.approx(core.sum() * 8 / 1000)
    assert result.aggregated_levels == DENSITY_LEVELS
    assert result.value(Q.VOLUMETRIC_BMD, None) == pytest.approx(MG_PER_HU * 108, abs=0.3)
    assert result.finding(None) is BoneFinding.OSTEOPENIA
    assert result.policy == "qct-80-120@1"
    assert result.models == program.models
    assert [str(model) for model in result.models] == ["coded-spine@1", "mean-density@1"]
    assert {one.model for one in result.measurements if one.quantity is Q.VOLUMETRIC_BMD} == {"mean-density@1"}
    assert {model.precision for model in result.models} == {"f32"}
    assert before <= result.analysed_at <= before + timedelta(minutes=5)
    assert [name for name, _ in result.stage_seconds] == ["load", "segment", "anatomy", "measure", "predict"]
    assert min(seconds for _, seconds in result.stage_seconds) > 0
    assert series_reasons(analysis) == {Reason.NEAR_CUT, Reason.UNCALIBRATED_SCANNER}  # 81 mg/cm3


def test_models_that_a_site_may_do_without_add_their_numbers(program, full_models, coded, tmp_path):
    series = coded().write(tmp_path, PatientSex="F")
    options = VertebralOptions(areal=ArealPolicy("ours", young_adult_mean=(1.0, 1.1)))
    with VertebralProgram(options, RuntimeOptions(models=str(full_models))) as full:
        result = full.analyse(series).result
        assert [str(model) for model in full.models[2:]] == [
            "doubting-class@1",
            "mean-areal_bmd@1",
            "mean-bone_score@1",
        ]
    plain = program.analyse(series).result
    assert result.value(Q.VOLUMETRIC_BMD, None) == plain.value(Q.VOLUMETRIC_BMD, None)
    assert plain.class_probabilities == plain.areal_levels == ()
    assert plain.value(Q.AREAL_BMD, None) is plain.value(Q.TRABECULAR_BONE_SCORE, L.L1) is None
    for level in (L.L1, L.L3, None):
        shares = [result.probability(finding, level) for finding in CLASSES]
        assert sum(shares) == pytest.approx(1)
        assert (
            shares[0] > shares[1] > shares[2]
        )  # the mean is 0.11 of the window: a little above the classifier's middle
    assert result.areal_levels == (L.L1, L.L2, L.L3, L.L4)
    areal = [result.value(Q.AREAL_BMD, level) for level in result.areal_levels]
    assert -2 < min(areal) < max(areal) < -1  # nearly all of the picture is background
    assert result.value(Q.AREAL_BMD, None) == pytest.approx(np.mean(areal))
    assert result.value(Q.AREAL_BMD, L.T12) is None
    assert result.value(Q.TRABECULAR_BONE_SCORE, L.L2) == pytest.approx(1.5 * areal[1])
    assert result.finding(None, Q.AREAL_BMD) is BoneFinding.OSTEOPOROSIS
    assert result.finding(None, Q.TRABECULAR_BONE_SCORE) is BoneFinding.IMPAIRED_MICROARCHITECTURE
    assert {one.policy for one in result.evaluations} == {"qct-80-120@1", "ours@1"}
    assert result.stage_seconds[-1][0] == "from_side"


def test_what_is_withheld_is_not_told_from_the_side_either(full_models, coded, tmp_path):
    with VertebralProgram(VertebralOptions(), RuntimeOptions(models=str(full_models))) as full:
        result = full.analyse(coded().write(tmp_path, ContrastBolusAgent="IOPAMIDOL")).result
    assert result.reason is Reason.CONTRAST
    assert result.class_probabilities == result.areal_levels == result.evaluations == ()
    assert not {one.quantity for one in result.measurements} & {Q.AREAL_BMD, Q.TRABECULAR_BONE_SCORE}


def test_the_same_series_gives_the_same_numbers_on_every_backend(honest_models, coded, tmp_path):
    series = coded().write(tmp_path)
    numbers = []
    for backend in ("openvino", "onnxruntime", "openvino"):
        options = RuntimeOptions(models=str(honest_models), backend=backend, threads=1)
        with VertebralProgram(VertebralOptions(), options) as program:
            numbers.append(
                [(one.quantity, one.finding_site, one.value) for one in program.analyse(series).result.measurements]
            )
    assert numbers[0] == numbers[2]
    for (*what, value), (*other, again) in zip(numbers[0], numbers[1], strict=True):
        assert what == other
        assert value == pytest.approx(again, abs=1e-3)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"ContrastBolusAgent": "IOPAMIDOL"}, Reason.CONTRAST),
        ({"KVP": 100}, Reason.KVP),
        ({"KVP": None}, Reason.KVP),
    ],
)
def test_contrast_or_another_voltage_leaves_hounsfield_units_and_no_density(program, coded, tmp_path, header, reason):
    result = program.analyse(coded().write(tmp_path, **header)).result
    assert result.reason is reason
    assert result.value(Q.ATTENUATION_MEAN, L.L1) == pytest.approx(112, abs=0.01)
    assert not [one for one in result.measurements if one.quantity is Q.VOLUMETRIC_BMD]
    assert result.evaluations == result.aggregated_levels == ()
    assert [flag.reason for flag in result.flags(None)] == [reason]


def test_a_chest_falls_back_to_t12_to_l2(program, coded, tmp_path):
    truth = coded(top=L.T9)
    last = truth.phantom.vertebra(L.L2)
    first = round((last.centre[2] - last.height * 0.75 - truth.geometry.origin_mm[2]) / 2)
    result = program.analyse(truth.write(tmp_path, first=first)).result
    assert result.aggregated_levels == (L.L1, L.L2)  # two of the wanted three are enough
    assert Reason.ONE_ANCHOR in {flag.reason for flag in result.flags(None)}
    first = round((last.centre[2] - truth.geometry.origin_mm[2]) / 2)  # L2 is cut now
    shutil.rmtree(tmp_path)
    result = program.analyse(truth.write(tmp_path, first=first)).result
    assert result.aggregated_levels == (L.T12, L.L1)
    assert result.value(Q.VOLUMETRIC_BMD, None) == pytest.approx(MG_PER_HU * 114, abs=0.3)
    assert result.value(Q.VOLUMETRIC_BMD, L.L2) is None
    assert [flag.reason for flag in result.flags(L.L2)] == [Reason.FIELD_OF_VIEW]


def test_a_level_that_is_withheld_does_not_enter_the_mean(program, coded, tmp_path):
    truth = coded()
    bone = truth.phantom.vertebra(L.L2)
    k, j, i = (round(float(n)) for n in truth.geometry.to_index(bone.point(0, -bone.depth / 2 - 8, 0)))
    truth.hounsfield[k - 2 : k + 3, j - 2 : j + 3, i - 2 : i + 3] = 2900
    result = program.analyse(truth.write(tmp_path)).result
    assert result.aggregated_levels == (L.L1, L.L3)
    assert result.value(Q.VOLUMETRIC_BMD, L.L2) is None
    assert result.value(Q.ATTENUATION_MEAN, L.L2) == pytest.approx(108, abs=0.01)
    assert [(flag.reason, flag.withholds) for flag in result.flags(L.L2)] == [(Reason.METAL, True)]


def test_an_outlier_keeps_its_density_and_stays_out_of_the_mean(program, coded, tmp_path):
    truth = coded()
    truth.hounsfield[truth.body(L.L1)] = 170
    result = program.analyse(truth.write(tmp_path)).result
    assert result.aggregated_levels == (L.L2, L.L3)
    assert result.value(Q.VOLUMETRIC_BMD, L.L1) == pytest.approx(MG_PER_HU * 170, abs=0.5)
    assert [(flag.reason, flag.withholds) for flag in result.flags(L.L1)] == [(Reason.OUTLIER_LEVEL, False)]


def test_an_implausible_density_is_withheld(program, coded, tmp_path):
    truth = coded()
    for level in (L.T12, L.L1, L.L2, L.L3):
        truth.hounsfield[truth.body(level)] = 218  # 163 mg/cm3; the model's range ends at 160
    result = program.analyse(truth.write(tmp_path)).result
    assert result.reason is Reason.NO_ELIGIBLE_LEVEL
    assert result.evaluations == result.aggregated_levels == ()
    assert result.value(Q.VOLUMETRIC_BMD, L.L4) == pytest.approx(MG_PER_HU * 100, abs=0.3)
    assert [flag.reason for flag in result.flags(L.L1)] == [Reason.DENSITY_IMPLAUSIBLE]


def test_a_batch_goes_on_after_a_series_without_vertebrae(program, coded, tmp_path):
    truth = coded()
    good = truth.write(tmp_path / "good")
    truth.hounsfield[:] = np.random.default_rng(1).integers(-60, -40, truth.hounsfield.shape)
    empty = truth.write(tmp_path / "empty")
    with pytest.raises(AnatomyNotFound) as caught:
        program.analyse(empty)
    assert caught.value.reason is Reason.NO_VERTEBRA
    failure, analysis = analyse_many([empty, good], program)
    assert failure == SeriesFailure(
        empty.study_instance_uid, empty.series_instance_uid, Program.VERTEBRAL, Reason.NO_VERTEBRA, caught.value.message
    )
    assert isinstance(analysis, Analysis)


def processes_of_ours() -> set[str]:
    return {pid for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()}


def test_a_coded_series_gives_the_same_numbers_from_processes_that_end_with_the_program(honest_models, coded, tmp_path):
    plain = coded().write(tmp_path / "plain")
    series = coded().write(tmp_path / "coded")
    for path in (tmp_path / "coded").glob("*.dcm"):
        dataset = dcmread(path)
        dataset.PixelData = encapsulate([jpegls_encode(dataset.pixel_array.view(np.uint16))])
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = JPEGLSLossless
        dataset.save_as(path, enforce_file_format=True)
    before = processes_of_ours()
    with VertebralProgram(VertebralOptions(), RuntimeOptions(models=str(honest_models))) as program:
        expected, found = (program.analyse(one).result.measurements for one in (plain, series))
        assert processes_of_ours() > before
    assert found == expected
    assert processes_of_ours() == before


def test_an_answer_that_is_no_number_becomes_no_label_and_takes_no_other_series_along(failing_models, coded, tmp_path):
    truth = coded()
    good = truth.write(tmp_path / "good")
    truth.hounsfield[truth.body(L.L5)] = 950  # one vertebra of five: the others would still be found
    ill = truth.write(tmp_path / "ill")
    with VertebralProgram(VertebralOptions(), RuntimeOptions(models=str(failing_models), batch=4)) as program:
        failure, analysis = analyse_many([ill, good], program)
    assert (failure.reason, failure.message) == (Reason.ANSWER_NOT_FINITE, "the spine network's answer is not finite")
    assert analysis.result.value(Q.VOLUMETRIC_BMD, L.L1) == pytest.approx(MG_PER_HU * 112, abs=0.3)


def test_a_network_that_can_t_find_the_spine_is_refused(honest_models, tmp_path):
    shutil.copytree(honest_models, tmp_path / "models")
    manifest = tmp_path / "models" / "spine" / "manifest.toml"
    manifest.write_text(manifest.read_text().replace("'sacrum'", "'table'"))
    with pytest.raises(UnusableModel, match="sacrum"):
        VertebralProgram(VertebralOptions(), RuntimeOptions(models=str(tmp_path / "models")))


def test_a_missing_model_is_said(honest_models, tmp_path):
    shutil.copytree(honest_models, tmp_path / "models")
    shutil.rmtree(tmp_path / "models" / "density")
    with pytest.raises(UnusableModel, match="vertebral_bmd"):
        VertebralProgram(VertebralOptions(), RuntimeOptions(models=str(tmp_path / "models")))


def test_options_can_be_written_and_read_back():
    assert read_options(VertebralOptions, write_options(VertebralOptions())) == VertebralOptions()
    with pytest.raises(BadOption, match=r"erosion_mm"):
        read_options(VertebralOptions, {"erosion_mm": -1.0})
    with pytest.raises(BadOption, match="own name"):
        read_options(VertebralOptions, {"policy": {"normal_from": 110.0}})
    table = {"policy": {"name": "east-asia", "osteoporosis_up_to": 50.0, "levels": [["L1", "L2"]]}}
    assert read_options(VertebralOptions, table).policy.levels == ((L.L1, L.L2),)
