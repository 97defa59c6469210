"""Scores come from pictures in the manifest's unit; the patient's is a mean of levels, and is called by a policy."""

from dataclasses import replace

import numpy as np
import pytest

from engine.prediction.bone_class import patient_classes, predicting_classes
from engine.prediction.from_side import ArealPolicy, judge, patient_means, predicting_from_side
from engine.records import BoneFinding, Measurement, Quantity, Reason, VertebralLevel
from engine.runtime.manifest import ModelManifest, Parity, SagittalCut, TrainingData
from engine.volume import CANONICAL, Geometry, VertebraCrop, VertebraCut

L, Q, F = VertebralLevel, Quantity, BoneFinding
MANIFEST = ModelManifest(
    name="side", version="2", task="areal_bmd", file="weights.onnx", sha256="0" * 64, input_shape=(1, 4, 4),
    input_spacing_mm=(5.0, 1.0, 1.0), hounsfield_window=(-200.0, 800.0), output="value",
    training_data=TrainingData("nothing", reference_only=True), parity=Parity("max_abs", 0.1, 0.0),
    output_scale=0.5, output_offset=1.0, output_unit="g/cm2", output_range=(0.6, 1.4),
    cut=SagittalCut(pixels=8, output_pixels=4),
)  # fmt: skip


def answered(asking, answer):
    question = next(asking)
    with pytest.raises(StopIteration) as end:
        asking.send(answer(question))
    return end.value.value


def mean_of(pictures):
    return pictures.mean(axis=(1, 2, 3, 4))[:, None]


def cut(level, grey, offset=0.0):
    return VertebraCut(level, offset, np.full((4, 4), grey, dtype=np.float32))


def test_cuts_of_a_level_are_averaged_and_scaled():
    cuts = [cut(L.L1, 0.0, -5), cut(L.L1, 255.0, 5), cut(L.L2, 204.0)]
    found, flags = answered(predicting_from_side(cuts, Q.AREAL_BMD, MANIFEST, "side@2"), mean_of)
    assert [(one.finding_site, one.quantity, one.model) for one in found] == [
        (L.L1, Q.AREAL_BMD, "side@2"), (L.L2, Q.AREAL_BMD, "side@2")]  # fmt: skip
    assert [one.value for one in found] == pytest.approx([1.0, 1.3], abs=1e-6)
    assert flags == ()


def test_what_lies_outside_the_range_is_not_given_and_leaves_the_density_alone():
    found, (flag,) = answered(predicting_from_side([cut(L.L3, 255.0)], Q.AREAL_BMD, MANIFEST, "side@2"), mean_of)
    assert found == ()
    assert (flag.reason, flag.finding_site, flag.withholds) == (Reason.DENSITY_IMPLAUSIBLE, L.L3, False)


def scores(quantity, **values):
    return [Measurement(quantity, value, L(level), "side@2") for level, value in values.items()]


def test_the_patient_is_the_mean_of_the_lumbar_levels_that_have_both_numbers():
    some = scores(Q.AREAL_BMD, L1=0.8, L2=0.9, L3=1.0, L5=3.0) + scores(Q.TRABECULAR_BONE_SCORE, L1=1.2, L2=1.3, L4=9.0)
    means, levels = patient_means(some, [None], ArealPolicy())
    assert levels == (L.L1, L.L2)
    assert [(one.quantity, one.finding_site) for one in means] == [(Q.AREAL_BMD, None), (Q.TRABECULAR_BONE_SCORE, None)]
    assert [one.value for one in means] == pytest.approx([0.85, 1.25])
    assert patient_means(some, [L.L2], ArealPolicy()) == ((), ())
    assert patient_means([], [], ArealPolicy()) == ((), ())


@pytest.mark.parametrize(
    ("share", "finding"),
    [(0.81, F.NORMAL), (0.8, F.NORMAL), (0.79, F.OSTEOPENIA), (0.7, F.OSTEOPENIA), (0.69, F.OSTEOPOROSIS)],
)
def test_an_areal_density_is_called_by_the_young_adult_mean_of_the_sex(share, finding):
    policy = ArealPolicy("japan", young_adult_mean=(1.0, 2.0))
    value = Measurement(Q.AREAL_BMD, 2.0 * share, None, "side@2")
    (said,) = judge([value], "M", policy)
    assert (said.finding, said.quantity, said.policy) == (finding, Q.AREAL_BMD, "japan@1")
    assert judge([value], None, policy) == judge([value], "M", ArealPolicy()) == ()


@pytest.mark.parametrize(("value", "finding"), [(1.31, F.IMPAIRED_MICROARCHITECTURE), (1.3101, F.NORMAL)])
def test_a_low_bone_score_is_impaired(value, finding):
    (said,) = judge([Measurement(Q.TRABECULAR_BONE_SCORE, value, None, "side@2")], "F", ArealPolicy())
    assert (said.finding, said.quantity) == (finding, Q.TRABECULAR_BONE_SCORE)


def test_other_values_need_another_name():
    with pytest.raises(ValueError, match="its own name"):
        ArealPolicy(impaired_up_to=1.27)
    assert str(ArealPolicy("women", impaired_up_to=1.27)) == "women@1"
    with pytest.raises(ValueError, match="women and of men"):
        ArealPolicy("women", young_adult_mean=(1.0,))


def test_classes_are_shares_by_level_and_the_patient_their_mean():
    manifest = replace(MANIFEST, output="classes", labels=("normal", "osteopenia", "osteoporosis"), cut=None)
    grid = Geometry((1, 4, 4), (1.0,) * 3, (0.0,) * 3, CANONICAL)
    crops = [VertebraCrop(level, grid, np.zeros((1, 4, 4), np.float32)) for level in (L.L1, L.L2, L.L3)]
    logits = np.array([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [np.nan, 0, 0]], np.float32)
    found, (flag,) = answered(predicting_classes(crops, manifest, "class@1"), lambda _: logits)
    assert (flag.reason, flag.finding_site, flag.withholds) == (Reason.ANSWER_NOT_FINITE, L.L3, False)
    assert [one.finding_site for one in found] == [L.L1] * 3 + [L.L2] * 3
    assert found[0].value == pytest.approx(np.exp(2) / (np.exp(2) + 2))
    patient = patient_classes(found, (L.L1, L.L2))
    assert sum(one.value for one in patient) == pytest.approx(1)
    assert patient[0].value == pytest.approx((found[0].value + found[3].value) / 2)
    assert patient_classes(found, (L.L1, L.L3)) == patient_classes(found, ()) == ()
