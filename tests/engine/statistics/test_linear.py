"""Linear models find what was put in, and say when cases can't tell factors apart."""

import numpy as np
import pytest
from scipy import stats

from engine.statistics.linear import multivariable_linear
from engine.statistics.power import paired_power, paired_sample_size


def test_one_factor_is_ordinary_regression():
    rng = np.random.default_rng(0)
    x = rng.normal(size=50)
    y = 1 + 0.5 * x + rng.normal(size=50)
    model, simple = multivariable_linear(y, {"x": x}), stats.linregress(x, y)
    (own,) = model.coefficients
    assert (own.estimate.value, own.standard_error, own.p) == pytest.approx(
        (simple.slope, simple.stderr, simple.pvalue)
    )
    assert model.tests[0].p == pytest.approx(own.p)  # F of one step is t squared
    assert model.r2 == pytest.approx(simple.rvalue**2)


def test_groups_alone_are_an_anova():
    rng = np.random.default_rng(1)
    vendor = np.repeat(["Canon", "Philips", "Siemens"], 30)
    y = rng.normal(size=90) + (vendor == "Siemens")
    model = multivariable_linear(y, {"vendor": list(vendor)})
    anova = stats.f_oneway(*(y[vendor == name] for name in np.unique(vendor)))
    assert [one.group for one in model.coefficients] == ["Philips", "Siemens"]  # against Canon
    assert (model.tests[0].statistic, model.tests[0].p) == pytest.approx((anova.statistic, anova.pvalue))
    assert model.intercept == pytest.approx(y[vendor == "Canon"].mean())


def test_a_factor_counts_for_what_it_adds():
    rng = np.random.default_rng(2)
    age = rng.uniform(40, 90, 400)
    bmi = 22 + rng.normal(0, 3, 400) - 0.05 * age
    y = 200 - 1.5 * age + rng.normal(0, 10, 400)
    tests = {test.factor: test.p for test in multivariable_linear(y, {"age": age, "bmi": bmi}).tests}
    assert tests["age"] < 1e-6
    assert tests["bmi"] > 0.01


@pytest.mark.parametrize("factors", [{"a": [1.0, 2, 3, 4], "b": [2.0, 4, 6, 8]}, {"a": [1.0] * 4}, {"a": list("wxyz")}])
def test_factors_that_cannot_be_told_apart_have_no_model(factors):
    assert multivariable_linear([1.0, 2.0, 1.0, 3.0], factors) is None


def test_power_is_how_often_simulated_studies_see_the_difference():
    rng = np.random.default_rng(3)
    seen = stats.ttest_1samp(rng.normal(0.5, 1.0, (4000, 34)), 0, axis=1).pvalue < 0.05
    assert paired_power(0.5, 1.0, 34) == pytest.approx(seen.mean(), abs=0.02)
    assert paired_power(0.5, 1.0, 33) < 0.8 <= paired_power(0.5, 1.0, paired_sample_size(0.5, 1.0))
