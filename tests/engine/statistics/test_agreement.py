"""Errors and limits of agreement are those that Peng 2023 prints."""

import numpy as np
import pytest

from engine.statistics.agreement import bland_altman, fit_line, regression_table


def differences(count: int, bias: float, sd: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Values and references whose differences have exactly this mean and SD."""
    rng = np.random.default_rng(seed)
    error = rng.normal(size=count)
    error = (error - error.mean()) / error.std(ddof=1) * sd + bias
    reference = rng.uniform(40, 200, count)
    return reference + error, reference


@pytest.mark.parametrize(
    ("count", "bias", "sd", "low", "high", "rmse"),
    [
        (703, 0.26, 4.12, -7.82, 8.33, 4.127),
        (176, 0.629, 8.56, -16.15, 17.41, 8.561),
        (340, -0.956, 13.49, -27.40, 25.49, 13.507),
    ],
    ids=["train", "test", "independent"],
)
def test_limits_of_agreement_of_the_paper(count, bias, sd, low, high, rmse):
    values, reference = differences(count, bias, sd)
    found = bland_altman(values, reference)
    last_digits = 0.01 + 1.96 * 0.005  # the limits are printed to 0.01, the SD is known to 0.005
    assert found.bias.value == pytest.approx(bias)
    assert found.lower_limit.value == pytest.approx(low, abs=last_digits)
    assert found.upper_limit.value == pytest.approx(high, abs=last_digits)
    assert regression_table(values, reference).rmse == pytest.approx(rmse, abs=0.03)


def test_intervals_of_bias_and_limits_hold_what_they_promise():
    held = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        found = bland_altman(rng.normal(2.0, 5.0, 40), np.zeros(40))
        held.append(
            (found.bias.low <= 2.0 <= found.bias.high, found.upper_limit.low <= 2 + 9.8 <= found.upper_limit.high)
        )
    bias, limit = np.mean(held, axis=0)
    assert 0.92 <= bias <= 0.98
    assert 0.92 <= limit <= 0.98


def test_cases_beyond_the_limits_are_counted():
    values = np.r_[np.zeros(98), [10.0, -10.0]]
    found = bland_altman(values, np.zeros(100))
    assert (found.outside, found.outside_share) == (2, 0.02)


def test_r2_judges_the_values_themselves_and_r_a_line_through_them():
    """Peng 2023, batch 5: r 0.943 and R2 0.85, less than r squared."""
    reference = np.linspace(40, 200, 50)
    found = regression_table(reference + 30.0, reference)
    assert found.r.value == pytest.approx(1.0)
    assert found.r2 == pytest.approx(1 - 30.0**2 / reference.var())
    assert (found.mae, found.rmse) == pytest.approx((30.0, 30.0))


def test_the_line_and_its_band():
    rng = np.random.default_rng(1)
    x = rng.uniform(0, 10, 40)
    line = fit_line(x, 3.0 + 2.0 * x + rng.normal(0, 0.5, 40))
    assert line.slope.low < 2.0 < line.slope.high
    low, high = line.band([line.mean_x, line.mean_x + 5])
    assert high[1] - low[1] > high[0] - low[0]  # narrowest in the middle
    assert (low[0] + high[0]) / 2 == pytest.approx(line.intercept + line.slope.value * line.mean_x)


def test_too_few_cases_have_no_line_and_no_limits():
    assert regression_table([], []) is None
    assert bland_altman([1.0], [1.0]) is None
    few = regression_table([1.0, 2.0], [1.0, 3.0])
    assert few.mae == 0.5
    assert (few.r, few.line) == (None, None)


def test_equal_references_have_errors_but_no_correlation():
    found = regression_table([1.0, 2.0, 3.0, 4.0], [2.0] * 4)
    assert (found.mae, found.r, found.r2, found.line) == (1.0, None, None, None)
