"""Which of several factors go with an outcome: multivariable linear regression."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # its parts load at first use
from numpy.typing import ArrayLike, NDArray

from engine.statistics.estimate import Estimate, finite, same_length

Factor = Sequence[float] | Sequence[str]


@dataclass(frozen=True, slots=True)
class Coefficient:
    """What one step of a factor, or one group against the first, goes with; all others held."""

    factor: str
    group: str | None  # None: a factor of numbers
    estimate: Estimate
    standard_error: float
    p: float


@dataclass(frozen=True, slots=True)
class FactorTest:
    """Whether a factor as a whole tells anything beyond the others (F test)."""

    factor: str
    degrees_of_freedom: int
    statistic: float
    p: float


@dataclass(frozen=True, slots=True)
class LinearModel:
    """A fitted model."""

    count: int
    intercept: float
    coefficients: tuple[Coefficient, ...]
    tests: tuple[FactorTest, ...]
    r2: float
    residual_sd: float


def multivariable_linear(
    outcome: ArrayLike, factors: Mapping[str, Factor], confidence: float = 0.95
) -> LinearModel | None:
    """Ordinary least squares.

    Args:
        factors: rows of numbers, or of names; of names the first in order is what the others are held against.

    Returns:
        None where the factors can't be told apart in these cases (too few, one follows from others).
    """
    y = finite(outcome, "outcome")
    columns = [column for name, row in factors.items() for column in _columns(name, row)]
    same_length(y, *(row for _, _, row in columns))
    design = np.column_stack([np.ones(len(y)), *(row for _, _, row in columns)])
    freedom = len(y) - design.shape[1]
    if freedom < 1 or np.linalg.matrix_rank(design) < design.shape[1]:
        return None
    beta, residual = _fit(design, y)
    variance = residual / freedom
    errors = np.sqrt(variance * np.diag(np.linalg.inv(design.T @ design)))
    reach = float(scipy.stats.t.ppf((1 + confidence) / 2, freedom))
    coefficients = tuple(
        Coefficient(
            factor,
            group,
            Estimate(float(b), float(b - reach * e), float(b + reach * e)),
            float(e),
            float(2 * scipy.stats.t.sf(abs(b / e), freedom)) if e > 0 else 0.0,
        )
        for (factor, group, _), b, e in zip(columns, beta[1:], errors[1:], strict=True)
    )
    owners = ["", *(factor for factor, _, _ in columns)]
    tests = tuple(_test(name, owners, design, y, residual, freedom) for name in factors if name in owners)
    total = float(((y - y.mean()) ** 2).sum())
    r2 = 1 - residual / total if total > 0 else 0.0
    return LinearModel(len(y), float(beta[0]), coefficients, tests, r2, float(np.sqrt(variance)))


def _columns(name: str, row: Factor) -> list[tuple[str, str | None, NDArray[np.float64]]]:
    if any(isinstance(value, str) for value in row):
        labels = np.asarray([str(value) for value in row])
        return [(name, str(group), (labels == group).astype(float)) for group in np.unique(labels)[1:]]
    return [(name, None, finite(np.asarray(row, dtype=np.float64), name))]


def _fit(design: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Coefficients and the residual sum of squares."""
    beta = np.asarray(np.linalg.lstsq(design, y)[0], dtype=np.float64)
    return beta, float(((y - design @ beta) ** 2).sum())


def _test(
    name: str,
    owners: Sequence[str],
    design: NDArray[np.float64],
    y: NDArray[np.float64],
    residual: float,
    freedom: int,
) -> FactorTest:
    own = np.array([owner == name for owner in owners])
    _, without = _fit(design[:, ~own], y)
    steps = int(own.sum())
    statistic = max(0.0, without - residual) / steps / (residual / freedom) if residual > 0 else float("inf")
    return FactorTest(name, steps, statistic, float(scipy.stats.f.sf(statistic, steps, freedom)))
