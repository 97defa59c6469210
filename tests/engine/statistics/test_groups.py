"""The right test for the cases, and the papers' numbers where they give enough to find them again."""

import numpy as np
import pytest

from engine.statistics.groups import (
    association,
    benjamini_hochberg,
    bonferroni,
    compare_several,
    compare_two,
    cramers_v,
    describe,
    median_split,
    subgroup_table,
)


@pytest.mark.parametrize(
    ("chi_square", "columns", "printed"),
    [(68.446, 2, "0.237"), (603.59, 4, "0.406"), (146.79, 3, "0.245")],
    ids=["sex", "body site", "class"],
)
def test_cramers_v_of_the_papers_six_batches(chi_square, columns, printed):
    assert f"{cramers_v(chi_square, 1219, 6, columns):.3f}" == printed


def test_the_classes_of_the_papers_training_and_independent_sets_differ():
    """Class mix of Peng 2023: 189 / 226 / 288 of 703 and 177 / 109 / 54 of 340."""
    counts = np.array([(189, 226, 288), (177, 109, 54)])
    expected = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0) / counts.sum()
    found = association(counts)
    assert found.statistic == pytest.approx(((counts - expected) ** 2 / expected).sum())
    assert found.degrees_of_freedom == 2
    assert found.p < 0.001


def test_an_empty_column_tells_nothing():
    assert association([(3, 0), (5, 0)]).p is None
    assert association([]).p is None
    assert association([(3, 0, 9), (9, 0, 3)]).degrees_of_freedom == 1


@pytest.mark.parametrize(
    ("draw", "paired", "test"),
    [
        ("normal", False, "Student's t"),
        ("normal", True, "Student's paired t"),
        ("exponential", False, "Mann-Whitney"),
        ("exponential", True, "Wilcoxon signed rank"),
    ],
)
def test_the_law_of_the_values_chooses_the_test(draw, paired, test):
    rng = np.random.default_rng(3)
    one, two = (getattr(rng, draw)(size=60) ** (1 if draw == "normal" else 2) for _ in range(2))
    found = compare_two(one, two, paired)
    assert found.test == test
    assert 0 <= found.p <= 1


def test_equal_pairs_and_empty_groups_have_no_answer():
    assert compare_two([1.0, 1.0, 1.0], [1.0, 1.0, 1.0], paired=True).p is None
    assert compare_two([], [1.0]).p is None
    assert compare_several([[1.0, 1.0], [1.0, 1.0]]).p is None


def test_anova_of_shifted_groups_sees_the_shift():
    rng = np.random.default_rng(4)
    assert compare_several([rng.normal(shift, 1, 50) for shift in (0, 0.2, 1.0)]).p < 0.001


def test_corrections_for_many_questions():
    assert bonferroni((0.01, 0.4, 0.03)) == pytest.approx((0.03, 1.0, 0.09))
    assert benjamini_hochberg((0.01, 0.04, 0.03)) == pytest.approx((0.03, 0.04, 0.04))
    assert benjamini_hochberg(()) == ()


def test_a_group_is_printed_by_its_law():
    assert str(describe(np.random.default_rng(0).normal(1.02, 0.22, 208))).startswith("1.0")
    skewed = describe([1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 40.0])
    assert str(skewed) == "1.00 (1.00-1.50)"
    assert describe([]) is None


def test_subgroups_hold_their_own_cases_only():
    reference = np.arange(20.0)
    values = reference + np.where(np.arange(20) < 10, 1.0, 3.0)
    table = subgroup_table(
        values,
        reference,
        {"vendor": ["A"] * 10 + ["B"] * 10, "sex": [None] * 5 + ["F"] * 15, "age": median_split(reference, "y", "s")},
    )
    errors = {(one.factor, one.group): (one.agreement.count, one.agreement.mae) for one in table}
    assert errors["vendor", "A"] == (10, pytest.approx(1.0))
    assert errors["vendor", "B"] == (10, pytest.approx(3.0))
    assert errors["sex", "F"][0] == 15
    assert errors["age", "y"][0] == errors["age", "s"][0] == 10
    assert all(one.difference.p is not None for one in table)
