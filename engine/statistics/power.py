"""How many cases a difference needs to be seen, and how likely a study saw one."""

from math import sqrt

import scipy  # its parts load at first use


def paired_power(difference: float, sd: float, cases: int, alpha: float = 0.05) -> float:
    """Chance that a two-sided paired t-test finds a difference.

    Args:
        difference, sd: true mean and SD of the differences.
    """
    if cases < 2 or sd <= 0:
        raise ValueError("power needs two cases and a spread")
    freedom, shift = cases - 1, abs(difference) / sd * sqrt(cases)
    cut = float(scipy.stats.t.ppf(1 - alpha / 2, freedom))
    return float(scipy.stats.nct.sf(cut, freedom, shift) + scipy.stats.nct.cdf(-cut, freedom, shift))


def paired_sample_size(difference: float, sd: float, power: float = 0.8, alpha: float = 0.05) -> int:
    """Cases that a two-sided paired t-test needs.

    >>> paired_sample_size(0.055, 0.11)  # Yoshida 2023 prints the SD, the power, and 34
    34
    """
    if not 0 < power < 1 or difference == 0:
        raise ValueError("power is a share below 1, of a difference")
    cases = 2
    while paired_power(difference, sd, cases, alpha) < power:
        cases += 1
    return cases
