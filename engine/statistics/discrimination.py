"""
How well a score tells cases from others: ROC, its area with a confidence interval, and cut-offs.

Two classes are given by a score that is higher in positive cases; more classes by a probability each, one
against the rest, and their plain mean (macro).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import exp, log, sqrt

import numpy as np
import scipy  # its parts load at first use
from numpy.typing import ArrayLike, NDArray

from engine.statistics.estimate import Estimate, finite, proportion, same_length


class Scale(StrEnum):
    """On which scale an interval of an area is symmetric."""

    PLAIN = "plain"  # clipped at 0 and 1; Peng 2023 prints such
    LOGIT = "logit"  # stays inside by itself; Yoshida 2023 prints such


@dataclass(frozen=True, slots=True)
class RocPoint:
    """A cut-off (a case is positive from it upwards) and its rates."""

    cut_off: float
    true_positive_rate: float
    false_positive_rate: float


@dataclass(frozen=True, slots=True)
class BinaryTable:
    """Counts of a yes-or-no question, and the shares that are printed of them; None: a share of nothing."""

    true_positives: int
    false_negatives: int
    false_positives: int
    true_negatives: int

    @property
    def sensitivity(self) -> float | None:
        """Share of the positive that is called so; also recall."""
        return _share(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def specificity(self) -> float | None:
        """Share of the negative that is called so."""
        return _share(self.true_negatives, self.true_negatives + self.false_positives)

    @property
    def positive_predictive_value(self) -> float | None:
        """Share of the called positive that is so; also precision."""
        return _share(self.true_positives, self.true_positives + self.false_positives)

    @property
    def negative_predictive_value(self) -> float | None:
        """Share of the called negative that is so."""
        return _share(self.true_negatives, self.true_negatives + self.false_negatives)

    @property
    def false_positive_rate(self) -> float | None:
        """Share of the negative that is called positive."""
        return _share(self.false_positives, self.true_negatives + self.false_positives)

    @property
    def false_negative_rate(self) -> float | None:
        """Share of the positive that is called negative."""
        return _share(self.false_negatives, self.true_positives + self.false_negatives)

    @property
    def accuracy(self) -> float | None:
        """Share that is called right."""
        return _share(self.true_positives + self.true_negatives, self.count)

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall."""
        return _share(2 * self.true_positives, 2 * self.true_positives + self.false_positives + self.false_negatives)

    @property
    def count(self) -> int:
        """Cases."""
        return self.true_positives + self.false_negatives + self.false_positives + self.true_negatives

    def sensitivity_interval(self, confidence: float = 0.95) -> Estimate | None:
        """Sensitivity with its Wilson interval."""
        return proportion(self.true_positives, self.true_positives + self.false_negatives, confidence)

    def specificity_interval(self, confidence: float = 0.95) -> Estimate | None:
        """Specificity with its Wilson interval."""
        return proportion(self.true_negatives, self.true_negatives + self.false_positives, confidence)


def binary_table(positive: Sequence[bool], called: Sequence[bool]) -> BinaryTable:
    """Count cases.

    Args:
        positive: by the reference.
        called: by what is judged.
    """
    same_length(positive, called)
    true, said = np.asarray(positive, dtype=bool), np.asarray(called, dtype=bool)
    return BinaryTable(
        int((true & said).sum()), int((true & ~said).sum()), int((~true & said).sum()), int((~true & ~said).sum())
    )


def roc_curve(scores: ArrayLike, positive: Sequence[bool]) -> tuple[RocPoint, ...]:
    """Every cut-off that changes something, from the strictest; empty without both kinds of cases.

    The first point (nobody is positive) has the cut-off infinity.
    """
    values, true = _cases(scores, positive)
    positives, negatives = int(true.sum()), int((~true).sum())
    if not positives or not negatives:
        return ()
    order = np.argsort(-values, kind="stable")
    values, true = values[order], true[order]
    last = np.append(np.flatnonzero(np.diff(values)), len(values) - 1)  # of each run of equal scores
    hits, alarms = np.cumsum(true)[last], np.cumsum(~true)[last]
    points = [RocPoint(float("inf"), 0.0, 0.0)]
    points += [
        RocPoint(float(values[at]), float(hit / positives), float(alarm / negatives))
        for at, hit, alarm in zip(last, hits, alarms, strict=True)
    ]
    return tuple(points)


def youden_cut(curve: Sequence[RocPoint]) -> RocPoint | None:
    """The cut-off with the greatest TPR - FPR; of equal ones the strictest. None: there is no curve."""
    return max(curve[1:], key=lambda point: point.true_positive_rate - point.false_positive_rate, default=None)


def closest_cut(curve: Sequence[RocPoint]) -> RocPoint | None:
    """The cut-off nearest to the perfect corner (0, 1), which Perkins and Schisterman 2006 weigh against Youden's."""
    return min(
        curve[1:],
        key=lambda point: point.false_positive_rate**2 + (1 - point.true_positive_rate) ** 2,
        default=None,
    )


def auc(
    scores: ArrayLike, positive: Sequence[bool], confidence: float = 0.95, scale: Scale = Scale.PLAIN
) -> Estimate | None:
    """Area under the ROC curve with DeLong's interval; None without two cases of both kinds.

    Source:
        DeLong, DeLong, Clarke-Pearson 1988: variance from how each case fares against all of the other kind.
    """
    values, true = _cases(scores, positive)
    return _area(values[:, None], true[:, None], true.astype(int), confidence, scale)


def macro_auc(
    probabilities: ArrayLike, truth: Sequence[int], confidence: float = 0.95, scale: Scale = Scale.PLAIN
) -> Estimate | None:
    """Mean of the classes' areas, each against the rest, with DeLong's interval of that mean.

    The areas share their cases; what each case does to all of them goes into the variance together.

    Args:
        probabilities: (cases, classes).
        truth: the class of each case, from 0.

    Returns:
        None where a class has fewer than two cases.
    """
    values = np.asarray(probabilities, dtype=np.float64)
    classes = np.asarray(truth, dtype=int)
    same_length(values, classes)
    if values.ndim != 2 or not np.isfinite(values).all():
        raise ValueError("probabilities must be a table of finite numbers, a column a class")
    if len(classes) and not (classes.min() >= 0 and classes.max() < values.shape[1]):
        raise ValueError("a class has no column")
    return _area(values, classes[:, None] == np.arange(values.shape[1]), classes, confidence, scale)


def _cases(scores: ArrayLike, positive: Sequence[bool]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    values, true = finite(scores, "scores"), np.asarray(positive, dtype=bool)
    same_length(values, true)
    return values, true


def _area(
    scores: NDArray[np.float64],
    positive: NDArray[np.bool_],
    stratum: NDArray[np.int_],
    confidence: float,
    scale: Scale,
) -> Estimate | None:
    """Mean area of columns.

    Args:
        scores, positive: (cases, questions).
        stratum: cases of one are alike in all questions.
    """
    sizes = np.bincount(stratum)
    needed = 2 if positive.shape[1] == 1 else positive.shape[1]
    if len(sizes) < needed or sizes.min() < 2:
        return None
    value, pull = 0.0, np.zeros(len(scores))
    for column, true in zip(scores.T, positive.T, strict=True):
        fare = _fare(column, true)
        value += float(fare[true].mean()) / scores.shape[1]
        pull += np.where(true, fare / true.sum(), fare / (~true).sum()) / scores.shape[1]
    variance = sum(float(pull[stratum == n].var(ddof=1)) * size for n, size in enumerate(sizes))
    return _interval(value, sqrt(max(variance, 0.0)), confidence, scale)


def _fare(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Share of the other kind that a case stands on the right side of; ties count half."""
    everywhere = scipy.stats.rankdata(scores)
    within = np.empty_like(everywhere)
    within[positive] = scipy.stats.rankdata(scores[positive])
    within[~positive] = scipy.stats.rankdata(scores[~positive])
    below = everywhere - within
    count, others = int(positive.sum()), int((~positive).sum())
    return np.where(positive, below / others, 1 - below / count)


def _interval(value: float, error: float, confidence: float, scale: Scale) -> Estimate:
    reach = float(scipy.stats.norm.ppf((1 + confidence) / 2)) * error
    if scale is Scale.LOGIT and 0 < value < 1:
        middle, width = log(value / (1 - value)), reach / (value * (1 - value))
        low, high = (1 / (1 + exp(-(middle + side * width))) for side in (-1, 1))
        return Estimate(value, low, high)
    return Estimate(value, max(0.0, value - reach), min(1.0, value + reach))


def _share(count: int, total: int) -> float | None:
    return count / total if total else None
