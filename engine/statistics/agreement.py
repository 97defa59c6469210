"""How near measured values come to reference values: errors, correlation, Bland-Altman."""

from dataclasses import dataclass
from math import sqrt

import numpy as np
import scipy  # its parts load at first use
from numpy.typing import ArrayLike, NDArray

from engine.statistics.estimate import Estimate, finite, same_length


@dataclass(frozen=True, slots=True)
class Line:
    """A fitted straight line, and what its band is drawn from."""

    slope: Estimate
    intercept: float
    residual_sd: float
    count: int
    mean_x: float
    spread_x: float  # sum of squares around mean_x

    def band(self, at: ArrayLike, confidence: float = 0.95) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lower and upper bound of the line itself (not of single cases) at points."""
        x = np.asarray(at, dtype=np.float64)
        reach = float(scipy.stats.t.ppf((1 + confidence) / 2, self.count - 2))
        error = self.residual_sd * np.sqrt(1 / self.count + (x - self.mean_x) ** 2 / self.spread_x)
        middle = self.intercept + self.slope.value * x
        return middle - reach * error, middle + reach * error


@dataclass(frozen=True, slots=True)
class RegressionTable:
    """Errors of values against their references."""

    count: int
    mae: float
    rmse: float
    r2: float | None  # 1 - residual / total sum of squares of the values themselves, not of a fitted line
    r: Estimate | None  # Pearson's, with Fisher's interval
    p: float | None  # of r = 0
    line: Line | None  # reference -> value


@dataclass(frozen=True, slots=True)
class BlandAltman:
    """Differences value - reference."""

    count: int
    bias: Estimate
    sd: float
    lower_limit: Estimate  # bias - 1.96 SD
    upper_limit: Estimate
    outside: int  # cases beyond the limits
    bias_p: float | None  # paired t-test of no bias

    @property
    def outside_share(self) -> float:
        """Share of the cases beyond the limits."""
        return self.outside / self.count


def regression_table(values: ArrayLike, reference: ArrayLike, confidence: float = 0.95) -> RegressionTable | None:
    """Errors and correlation; None without cases."""
    found, true = finite(values), finite(reference, "reference")
    count = same_length(found, true)
    if not count:
        return None
    error = found - true
    total = float(((true - true.mean()) ** 2).sum())
    r, p = _pearson(found, true, confidence)
    return RegressionTable(
        count=count,
        mae=float(np.abs(error).mean()),
        rmse=sqrt(float((error**2).mean())),
        r2=1 - float((error**2).sum()) / total if total > 0 else None,
        r=r,
        p=p,
        line=fit_line(true, found, confidence),
    )


def fit_line(x: ArrayLike, y: ArrayLike, confidence: float = 0.95) -> Line | None:
    """Least squares of y on x; None with fewer than three cases or where x does not vary."""
    across, up = finite(x, "x"), finite(y, "y")
    count = same_length(across, up)
    if count < 3 or np.ptp(across) == 0:
        return None
    fit = scipy.stats.linregress(across, up)
    spread = float(((across - across.mean()) ** 2).sum())
    residual = up - fit.intercept - fit.slope * across
    reach = float(scipy.stats.t.ppf((1 + confidence) / 2, count - 2)) * float(fit.stderr)
    slope = float(fit.slope)
    return Line(
        slope=Estimate(slope, slope - reach, slope + reach),
        intercept=float(fit.intercept),
        residual_sd=sqrt(float((residual**2).sum()) / (count - 2)),
        count=count,
        mean_x=float(across.mean()),
        spread_x=spread,
    )


def bland_altman(values: ArrayLike, reference: ArrayLike, confidence: float = 0.95) -> BlandAltman | None:
    """Bias and limits of agreement, each with its interval; None with fewer than two cases.

    Source:
        Bland and Altman 1999: standard error of a limit sqrt(SD2 / n + 1.96^2 SD2 / (2 (n - 1))).
    """
    found, true = finite(values), finite(reference, "reference")
    count = same_length(found, true)
    if count < 2:
        return None
    difference = found - true
    bias, sd = float(difference.mean()), float(difference.std(ddof=1))
    reach = float(scipy.stats.t.ppf((1 + confidence) / 2, count - 1))
    bias_error = sd / sqrt(count)
    limit_error = sd * sqrt(1 / count + 1.96**2 / (2 * (count - 1)))
    lower, upper = bias - 1.96 * sd, bias + 1.96 * sd
    return BlandAltman(
        count=count,
        bias=Estimate(bias, bias - reach * bias_error, bias + reach * bias_error),
        sd=sd,
        lower_limit=Estimate(lower, lower - reach * limit_error, lower + reach * limit_error),
        upper_limit=Estimate(upper, upper - reach * limit_error, upper + reach * limit_error),
        outside=int(((difference < lower) | (difference > upper)).sum()),
        bias_p=float(2 * scipy.stats.t.sf(abs(bias) / bias_error, count - 1)) if sd > 0 else None,
    )


def _pearson(x: NDArray[np.float64], y: NDArray[np.float64], confidence: float) -> tuple[Estimate | None, float | None]:
    if len(x) < 4 or np.ptp(x) == 0 or np.ptp(y) == 0:  # Fisher's interval needs four
        return None, None
    found = scipy.stats.pearsonr(x, y)
    interval = found.confidence_interval(confidence)
    return Estimate(float(found.statistic), float(interval.low), float(interval.high)), float(found.pvalue)
