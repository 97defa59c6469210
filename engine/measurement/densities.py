"""Densities by a line: of a core's HU, and of a network's answers on a scanner that the site has compared."""

from collections.abc import Collection, Iterable
from dataclasses import replace

from engine.records import Calibration, Measurement, Quantity, VertebralLevel


def calibrated_densities(
    measured: Iterable[Measurement], calibration: Calibration, withheld: Collection[VertebralLevel | None]
) -> tuple[Measurement, ...]:
    """Calibrated BMD of each core from its mean HU.

    Args:
        withheld: levels that get none; with None among them no level does.
    """
    if None in withheld:
        return ()
    return tuple(
        replace(one, quantity=Quantity.CALIBRATED_BMD, value=calibration.slope * one.value + calibration.intercept)
        for one in measured
        if one.quantity is Quantity.ATTENUATION_MEAN and one.finding_site not in withheld
    )


def on_line(densities: Iterable[Measurement], calibration: Calibration) -> tuple[Measurement, ...]:
    """Measurements of the calibration's quantity, put on its line; others as they are."""
    return tuple(
        replace(one, value=calibration.slope * one.value + calibration.intercept)
        if one.quantity is calibration.quantity
        else one
        for one in densities
    )
