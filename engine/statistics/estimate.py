"""
A number with its confidence interval, and the checks that every table makes.

Tables are frozen dataclasses of plain numbers. What can't be had from the cases given (a rate of nobody, a
correlation of three) is None, never NaN; arguments that contradict each other are a ValueError.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # its parts load at first use
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and the bounds of its confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """As tables print it.

        >>> str(Estimate(0.97, 0.949, 0.99))
        '0.970 (0.949-0.990)'
        """
        return f"{self.value:.3f} ({self.low:.3f}-{self.high:.3f})"


def proportion(count: int, total: int, confidence: float = 0.95) -> Estimate | None:
    """A share with its Wilson interval; None: a share of nothing.

    >>> str(proportion(9, 10))
    '0.900 (0.596-0.982)'
    """
    if total == 0:
        return None
    interval = scipy.stats.binomtest(count, total).proportion_ci(confidence, method="wilson")
    return Estimate(count / total, float(interval.low), float(interval.high))


def finite(values: ArrayLike, what: str = "values") -> NDArray[np.float64]:
    """A row of finite numbers.

    Raises:
        ValueError: it is something else. Cases without a value are the caller's to leave out, and to count.
    """
    row = np.asarray(values, dtype=np.float64)
    if row.ndim != 1 or not np.isfinite(row).all():
        raise ValueError(f"{what} must be a row of finite numbers")
    return row


def same_length(*rows: Sequence[object] | NDArray[np.generic]) -> int:
    """How many cases there are.

    Raises:
        ValueError: the rows differ in it.
    """
    lengths = {len(row) for row in rows}
    if len(lengths) != 1:
        raise ValueError(f"rows of different lengths: {sorted(lengths)}")
    return lengths.pop()
