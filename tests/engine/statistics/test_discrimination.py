"""Areas, cut-offs and shares are those that the papers print and that counting by hand gives."""

import numpy as np
import pytest
from scipy import stats

from engine.statistics.discrimination import (
    BinaryTable,
    Scale,
    auc,
    binary_table,
    closest_cut,
    macro_auc,
    roc_curve,
    youden_cut,
)


def scored(seed: int, cases: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    true = rng.random(cases) < 0.4
    return np.round(rng.normal(true * 1.2, 1.0), 1), true  # rounded: with ties


@pytest.mark.parametrize(
    ("counts", "printed"),
    [((4, 0, 3, 45), "100 94 57 100 6 0 94"), ((11, 4, 10, 27), "73 73 52 87 27 27 73")],
    ids=["osteoporosis", "texture"],
)
def test_diagnostic_rows_of_yoshida_come_out_of_their_counts(counts, printed):
    table = BinaryTable(*counts)
    shares = (
        table.sensitivity,
        table.specificity,
        table.positive_predictive_value,
        table.negative_predictive_value,
        table.false_positive_rate,
        table.false_negative_rate,
        table.accuracy,
    )
    assert " ".join(f"{100 * share:.0f}" for share in shares) == printed


def test_a_share_of_nobody_is_none():
    table = binary_table([False, False], [False, False])
    assert table.sensitivity is None
    assert table.sensitivity_interval() is None
    assert table.positive_predictive_value is None
    assert table.specificity == 1.0


def test_the_area_is_the_chance_that_a_positive_case_scores_higher():
    scores, true = scored(1)
    pairs = [(p > n) + 0.5 * (p == n) for p in scores[true] for n in scores[~true]]
    assert auc(scores, true).value == pytest.approx(np.mean(pairs))


def test_delongs_variance_is_that_of_its_definition():
    scores, true = scored(2)
    wins = (scores[true][:, None] > scores[~true]) + 0.5 * (scores[true][:, None] == scores[~true])
    error = np.sqrt(wins.mean(axis=1).var(ddof=1) / true.sum() + wins.mean(axis=0).var(ddof=1) / (~true).sum())
    found = auc(scores, true)
    assert found.high - found.value == pytest.approx(stats.norm.ppf(0.975) * error)


@pytest.mark.parametrize("scale", list(Scale))
def test_the_interval_covers_the_true_area_about_as_often_as_it_says(scale):
    true_area = stats.norm.cdf(1.2 / np.sqrt(2))
    found = [auc(*scored(seed, 80), scale=scale) for seed in range(500)]
    covered = np.mean([one.low <= true_area <= one.high for one in found])
    assert 0.90 <= covered <= 0.98


def test_area_steps_of_five_against_sixteen_are_those_of_the_third_paper():
    """75 of 80 pairs won make the printed 0.94."""
    scores = np.r_[[20.0, 19, 18, 17, 10.5], np.arange(16)]
    assert f"{auc(scores, np.arange(21) < 5).value:.2f}" == "0.94"


def test_a_logit_interval_stays_inside_and_leans():
    scores, true = scored(3)
    plain, logit = auc(scores + 3 * true, true), auc(scores + 3 * true, true, scale=Scale.LOGIT)
    assert plain.high == 1.0
    assert logit.high < 1.0
    assert logit.value - logit.low > logit.high - logit.value


def test_the_macro_area_is_the_mean_and_its_interval_that_of_the_resampled_mean():
    rng = np.random.default_rng(4)
    truth = rng.integers(0, 3, 240)
    probabilities = rng.dirichlet(np.ones(3), 240) + 0.7 * np.eye(3)[truth] * rng.random((240, 1))
    found = macro_auc(probabilities, truth)
    single = [auc(probabilities[:, n], truth == n).value for n in range(3)]
    assert found.value == pytest.approx(np.mean(single))
    again = []
    for _ in range(400):
        pick = np.concatenate([rng.choice(np.flatnonzero(truth == n), (truth == n).sum()) for n in range(3)])
        again.append(macro_auc(probabilities[pick], truth[pick]).value)
    assert found.high - found.value == pytest.approx(1.96 * np.std(again), rel=0.2)


def test_two_classes_have_the_area_of_one_question():
    scores, true = scored(5)
    macro, single = macro_auc(np.column_stack([-scores, scores]), true.astype(int)), auc(scores, true)
    assert (macro.value, macro.low, macro.high) == pytest.approx((single.value, single.low, single.high))


@pytest.mark.parametrize("truth", [[0, 0, 0, 0], [0, 1, 1, 1], []])
def test_without_two_cases_of_each_kind_there_is_no_area(truth):
    scores = np.arange(len(truth), dtype=float)
    assert auc(scores, np.asarray(truth, dtype=bool)) is None
    assert macro_auc(np.column_stack([scores, scores]), truth) is None


def test_cut_offs_are_the_best_by_trying_all():
    scores, true = scored(6)
    curve = roc_curve(scores, true)
    rates = {cut: ((scores >= cut)[true].mean(), (scores >= cut)[~true].mean()) for cut in np.unique(scores)}
    best = youden_cut(curve)
    assert best.true_positive_rate - best.false_positive_rate == pytest.approx(max(t - f for t, f in rates.values()))
    assert rates[best.cut_off] == pytest.approx((best.true_positive_rate, best.false_positive_rate))
    nearest = closest_cut(curve)
    assert nearest.false_positive_rate**2 + (1 - nearest.true_positive_rate) ** 2 == pytest.approx(
        min(f**2 + (1 - t) ** 2 for t, f in rates.values())
    )


def test_the_curve_ends_in_its_corners_and_holds_its_area():
    scores, true = scored(7)
    curve = roc_curve(scores, true)
    assert (curve[0].true_positive_rate, curve[0].false_positive_rate) == (0, 0)
    assert (curve[-1].true_positive_rate, curve[-1].false_positive_rate) == (1, 1)
    area = np.trapezoid([p.true_positive_rate for p in curve], [p.false_positive_rate for p in curve])
    assert area == pytest.approx(auc(scores, true).value)


def test_no_curve_without_both_kinds_and_no_cut_off_then():
    assert roc_curve([1.0, 2.0], [True, True]) == ()
    assert youden_cut(()) is None
    assert closest_cut(()) is None


def test_numbers_that_are_none_are_refused():
    with pytest.raises(ValueError, match="finite"):
        auc([0.1, float("nan")], [True, False])
    with pytest.raises(ValueError, match="lengths"):
        auc([0.1, 0.2], [True])
