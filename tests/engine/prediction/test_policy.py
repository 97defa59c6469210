"""What a density is called, and which levels it is made of."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.prediction.policy import DensityPolicy, aggregated_levels, classify, evaluate
from engine.records import BoneFinding, Reason, VertebralLevel

L = VertebralLevel
POLICY = DensityPolicy()


@pytest.mark.parametrize(
    ("density", "finding"),
    [
        (-5.0, BoneFinding.OSTEOPOROSIS),
        (79.999, BoneFinding.OSTEOPOROSIS),
        (80.0, BoneFinding.OSTEOPOROSIS),
        (80.001, BoneFinding.OSTEOPENIA),
        (119.999, BoneFinding.OSTEOPENIA),
        (120.0, BoneFinding.NORMAL),
        (250.0, BoneFinding.NORMAL),
    ],
)
def test_the_cuts_and_both_equalities(density, finding):
    assert classify(density, POLICY) is finding


@pytest.mark.parametrize(
    ("eligible", "chosen"),
    [
        ((L.T11, L.T12, L.L1, L.L2, L.L3, L.L4), (L.L1, L.L2, L.L3)),
        ((L.L3, L.L1), (L.L1, L.L3)),
        ((L.T12, L.L1, L.L2), (L.L1, L.L2)),
        ((L.T11, L.T12, L.L1), (L.T12, L.L1)),
        ((L.T12, L.L3), ()),
        ((L.L2,), ()),
        ((L.L4, L.L5), ()),
        ((), ()),
    ],
)
def test_lumbar_levels_first_then_those_of_a_chest(eligible, chosen):
    assert aggregated_levels(eligible, POLICY) == chosen


def test_the_patient_s_value_is_the_mean_of_what_went_in():
    density = {L.T12: 10.0, L.L1: 90.0, L.L2: 100.0, L.L3: 110.0}
    mean, evaluation, flags = evaluate(density, (L.L1, L.L2, L.L3), POLICY)
    assert mean == 100.0
    assert (evaluation.finding, evaluation.finding_site) == (BoneFinding.OSTEOPENIA, None)
    assert evaluation.policy == "qct-80-120@1"
    assert flags == ()


@pytest.mark.parametrize(
    ("density", "near"), [(69.9, False), (70.0, True), (90.0, True), (90.1, False), (110.0, True), (130.1, False)]
)
def test_a_value_near_a_cut_is_said(density, near):
    _, _, flags = evaluate({L.L1: density}, (L.L1,), POLICY)
    assert [flag.reason for flag in flags] == ([Reason.NEAR_CUT] if near else [])
    assert not any(flag.withholds for flag in flags)


@given(st.floats(-100, 500), st.floats(-100, 500))
def test_more_density_is_never_a_worse_class(one, other):
    order = (BoneFinding.OSTEOPOROSIS, BoneFinding.OSTEOPENIA, BoneFinding.NORMAL)
    low, high = sorted((one, other))
    assert order.index(classify(low, POLICY)) <= order.index(classify(high, POLICY))


@pytest.mark.parametrize(
    "values",
    [
        {"osteoporosis_up_to": 120.0},
        {"normal_from": 110.0},  # under the name that means 120
        {"near_cut": 5.0},
        {"min_levels": 0},
        {"levels": ()},
        {"name": ""},
        {"name": "a@b"},
    ],
)
def test_a_policy_without_meaning_or_under_another_s_name_is_refused(values):
    with pytest.raises(ValueError, match=r"must|needs|own name"):
        DensityPolicy(**values)


def test_another_policy_has_its_own_name():
    assert str(DensityPolicy(name="east-asia", version="2024", osteoporosis_up_to=50.0)) == "east-asia@2024"
