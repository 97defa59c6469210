"""Areal density and bone score of a vertebra, as a network estimates them from its picture from the side."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from engine.records import (
    BoneFinding,
    Evaluation,
    Measurement,
    QualityFlag,
    Quantity,
    Reason,
    VertebralLevel,
)
from engine.runtime.manifest import ModelManifest
from engine.runtime.sharing import Asking
from engine.volume import VertebraCut

GREY = 255.0  # the whitest grey; the network sees -1..1
WHAT = {Quantity.AREAL_BMD: "areal density", Quantity.TRABECULAR_BONE_SCORE: "bone score"}
Scores = tuple[tuple[Measurement, ...], tuple[QualityFlag, ...]]
"""Measurements, and a flag for each level whose value lies outside the model's plausible range and is not given."""


@dataclass(frozen=True, slots=True)
class ArealPolicy:
    """Which levels make the patient's areal density and bone score, and what these are called.

    Source:
        Mean of L1-L4; osteopenia below 80 %, osteoporosis below 70 % of the young adult mean; microarchitecture
        impaired up to 1.31: Yoshida 2023. The young adult mean belongs to a population and a densitometer; without one
        an areal density has no finding.
    """

    name: str = "lumbar-areal"
    version: str = "1"
    levels: tuple[VertebralLevel, ...] = (VertebralLevel.L1, VertebralLevel.L2, VertebralLevel.L3, VertebralLevel.L4)
    min_levels: int = 2  # of them; our choice, as for DXA
    young_adult_mean: tuple[float, ...] = ()  # g/cm2, of women and of men; empty: no finding
    osteopenia_below: float = 0.8  # of the young adult mean
    osteoporosis_below: float = 0.7
    impaired_up_to: float = 1.31  # bone score

    def __post_init__(self) -> None:
        """Refuse values without meaning, and other values under a known name."""
        if len(self.young_adult_mean) not in (0, 2) or any(value <= 0 for value in self.young_adult_mean):
            raise ValueError("young_adult_mean names two densities, of women and of men, or none")
        if not 0 < self.osteoporosis_below < self.osteopenia_below:
            raise ValueError("osteoporosis_below must lie below osteopenia_below")
        if self.min_levels < 1 or not self.levels:
            raise ValueError("min_levels must be at least 1, and levels must name some")
        if "@" in self.name or not self.name or not self.version:
            raise ValueError("a policy needs a name, without '@', and a version")
        said = (self.min_levels, self.young_adult_mean, self.osteopenia_below, self.osteoporosis_below,
                self.impaired_up_to)  # fmt: skip
        if (self.name, self.version) == ("lumbar-areal", "1") and said != (2, (), 0.8, 0.7, 1.31):
            raise ValueError("'lumbar-areal' version 1 has other values; give a changed policy its own name")

    def __str__(self) -> str:
        """Name and version, as reports print it."""
        return f"{self.name}@{self.version}"


def predicting_from_side(
    cuts: Sequence[VertebraCut], quantity: Quantity, manifest: ModelManifest, model: str
) -> Asking[Scores]:
    """A quantity of each level that has cuts; of several cuts of a level, the mean.

    Args:
        model: "name@version", for the measurements.
    """
    if not cuts:
        return (), ()
    answers = yield np.stack([cut.grey * np.float32(2 / GREY) - 1 for cut in cuts])[:, None, None]
    measurements, flags = [], []
    for level in dict.fromkeys(cut.level for cut in cuts):
        said = [float(answer[0]) for cut, answer in zip(cuts, answers, strict=True) if cut.level == level]
        value = float(np.mean(said)) * manifest.output_scale + manifest.output_offset
        low, high = manifest.output_range or (-np.inf, np.inf)
        if np.isfinite(value) and low <= value <= high:
            measurements.append(Measurement(quantity, value, level, model))
        else:
            detail = f"{WHAT[quantity]} {value:.2f} lies outside the model's range and is not given"
            flags.append(QualityFlag(Reason.DENSITY_IMPLAUSIBLE, level, withholds=False, detail=detail))
    return tuple(measurements), tuple(flags)


def patient_means(
    measured: Iterable[Measurement], left_out: Iterable[VertebralLevel | None], policy: ArealPolicy
) -> tuple[tuple[Measurement, ...], tuple[VertebralLevel, ...]]:
    """The patient's areal density and bone score, and the levels that they are the means of.

    Args:
        left_out: levels that nobody should believe.
    """
    known, out = list(measured), set(left_out)
    quantities = dict.fromkeys(one.quantity for one in known)
    levels = tuple(
        level for level in policy.levels
        if level not in out and all(any(one.finding_site == level and one.quantity is quantity for one in known)
                                    for quantity in quantities)
    )  # fmt: skip
    if not quantities or len(levels) < policy.min_levels:
        return (), ()
    means = []
    for quantity in quantities:
        some = [one for one in known if one.quantity is quantity and one.finding_site in levels]
        means.append(Measurement(quantity, float(np.mean([one.value for one in some])), None, some[0].model))
    return tuple(means), levels


def judge(means: Iterable[Measurement], sex: str | None, policy: ArealPolicy) -> tuple[Evaluation, ...]:
    """What the patient's values are called.

    Args:
        sex: "F" or "M"; of others an areal density has no finding.
    """
    found = []
    for one in means:
        finding = None
        if one.quantity is Quantity.TRABECULAR_BONE_SCORE:
            low = one.value <= policy.impaired_up_to
            finding = BoneFinding.IMPAIRED_MICROARCHITECTURE if low else BoneFinding.NORMAL
        elif policy.young_adult_mean and sex in ("F", "M"):
            share = one.value / policy.young_adult_mean["FM".index(sex)]
            finding = BoneFinding.NORMAL if share >= policy.osteopenia_below else BoneFinding.OSTEOPENIA
            finding = BoneFinding.OSTEOPOROSIS if share < policy.osteoporosis_below else finding
        if finding:
            found.append(Evaluation(finding, None, str(policy), one.quantity))
    return tuple(found)
