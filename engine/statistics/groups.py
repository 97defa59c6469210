"""Whether groups differ: the test is chosen by the cases, and named in what comes back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
import scipy  # its parts load at first use
from numpy.typing import ArrayLike, NDArray

from engine.statistics.agreement import RegressionTable, regression_table
from engine.statistics.estimate import finite, same_length

NORMAL_FROM = 0.05  # p of Shapiro-Wilk from which values count as normal


@dataclass(frozen=True, slots=True)
class Description:
    """A group of values; mean and SD are printed where they are normal, median and quartiles where not."""

    count: int
    mean: float
    sd: float | None
    median: float
    quartiles: tuple[float, float]
    shapiro_p: float | None  # None: too few, or all equal

    @property
    def normal(self) -> bool:
        """Nothing speaks against a normal law."""
        return self.shapiro_p is not None and self.shapiro_p >= NORMAL_FROM

    def __str__(self) -> str:
        """As tables print it: mean (SD), or median (quartiles)."""
        if self.normal and self.sd is not None:
            return f"{self.mean:.2f} ({self.sd:.2f})"
        return f"{self.median:.2f} ({self.quartiles[0]:.2f}-{self.quartiles[1]:.2f})"


@dataclass(frozen=True, slots=True)
class Comparison:
    """A test and its answer; None: it can't be made of these cases."""

    test: str
    statistic: float | None
    p: float | None


@dataclass(frozen=True, slots=True)
class Association:
    """A table of counts: does one tell something of the other?"""

    test: str
    statistic: float | None
    degrees_of_freedom: int
    p: float | None
    cramers_v: float | None


@dataclass(frozen=True, slots=True)
class Subgroup:
    """Agreement in a part of the cases."""

    factor: str
    group: str
    agreement: RegressionTable
    values: Description
    reference: Description
    difference: Comparison  # paired; values against reference


def describe(values: ArrayLike) -> Description | None:
    """Place and spread; None without values."""
    row = finite(values)
    if not len(row):
        return None
    low, middle, high = (float(q) for q in np.percentile(row, (25, 50, 75)))
    sd = float(row.std(ddof=1)) if len(row) > 1 else None
    return Description(len(row), float(row.mean()), sd, middle, (low, high), _shapiro(row))


def compare_two(first: ArrayLike, second: ArrayLike, paired: bool = False) -> Comparison:
    """Student's t where nothing speaks against normal laws; else Wilcoxon (paired) or Mann-Whitney (apart)."""
    one, two = finite(first), finite(second)
    if paired:
        same_length(one, two)
        return _paired(one, two)
    normal = all((p := _shapiro(row)) is not None and p >= NORMAL_FROM for row in (one, two))
    if normal:
        student = scipy.stats.ttest_ind(one, two)
        return Comparison("Student's t", float(student.statistic), float(student.pvalue))
    if not len(one) or not len(two):
        return Comparison("Mann-Whitney", None, None)
    found = scipy.stats.mannwhitneyu(one, two)
    return Comparison("Mann-Whitney", float(found.statistic), float(found.pvalue))


def compare_several(groups: Sequence[ArrayLike]) -> Comparison:
    """One-way ANOVA."""
    rows = [finite(group) for group in groups]
    if len(rows) < 2 or min(map(len, rows)) < 2 or all(np.ptp(row) == 0 for row in rows):
        return Comparison("one-way ANOVA", None, None)
    found = scipy.stats.f_oneway(*rows)
    return Comparison("one-way ANOVA", float(found.statistic), float(found.pvalue))


def association(counts: Sequence[Sequence[int]]) -> Association:
    """Pearson's chi-square of a table of counts, without a correction, and Cramer's V; empty lines don't count."""
    if len(counts) == 0:
        return Association("chi-square", None, 0, None, None)
    table = np.asarray(counts, dtype=float)
    if table.ndim != 2 or (table < 0).any():
        raise ValueError("counts must be a table of numbers from 0")
    table = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0]
    if min(table.shape) < 2:
        return Association("chi-square", None, 0, None, None)
    found = scipy.stats.chi2_contingency(table, correction=False)
    statistic = float(found.statistic)
    strength = cramers_v(statistic, int(table.sum()), *table.shape)
    return Association("chi-square", statistic, int(found.dof), float(found.pvalue), strength)


def cramers_v(chi_square: float, cases: int, rows: int, columns: int) -> float:
    """Strength of an association, 0 to 1.

    >>> round(cramers_v(68.446, 1219, 6, 2), 3)  # Peng 2023: sex by batch
    0.237
    """
    return sqrt(chi_square / (cases * (min(rows, columns) - 1)))


def bonferroni(p: Sequence[float]) -> tuple[float, ...]:
    """p values of so many questions at once.

    >>> bonferroni((0.01, 0.5))
    (0.02, 1.0)
    """
    return tuple(min(1.0, one * len(p)) for one in p)


def benjamini_hochberg(p: Sequence[float]) -> tuple[float, ...]:
    """p values that hold the share of false findings, in the order given."""
    return tuple(float(one) for one in scipy.stats.false_discovery_control(finite(p))) if len(p) else ()


def median_split(values: ArrayLike, low: str, high: str) -> tuple[str, ...]:
    """Two groups around the median; the median itself is low."""
    row = finite(values)
    return tuple(high if value > np.median(row) else low for value in row)


def subgroup_table(
    values: ArrayLike, reference: ArrayLike, factors: Mapping[str, Sequence[str | None]]
) -> tuple[Subgroup, ...]:
    """Agreement in each group of each factor; groups in order of their names, cases without one left out."""
    found, true = finite(values), finite(reference, "reference")
    table = []
    for factor, labels in factors.items():
        same_length(found, true, labels)
        for group in sorted({label for label in labels if label is not None}):
            inside = np.array([label == group for label in labels])
            here, there = found[inside], true[inside]
            agreement, own, others = regression_table(here, there), describe(here), describe(there)
            if agreement is not None and own is not None and others is not None:
                table.append(Subgroup(factor, group, agreement, own, others, compare_two(here, there, paired=True)))
    return tuple(table)


def _paired(one: NDArray[np.float64], two: NDArray[np.float64]) -> Comparison:
    difference = one - two
    p = _shapiro(difference)
    if p is not None and p >= NORMAL_FROM:
        student = scipy.stats.ttest_rel(one, two)
        return Comparison("Student's paired t", float(student.statistic), float(student.pvalue))
    if not difference.any():  # none at all, or no cases
        return Comparison("Wilcoxon signed rank", None, None)
    found = scipy.stats.wilcoxon(one, two)
    return Comparison("Wilcoxon signed rank", float(found.statistic), float(found.pvalue))


def _shapiro(row: NDArray[np.float64]) -> float | None:
    if not 3 <= len(row) <= 5000 or np.ptp(row) == 0:  # the approximation of p holds up to 5000
        return None
    return float(scipy.stats.shapiro(row).pvalue)
