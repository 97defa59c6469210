"""
What a density means: a named, versioned policy.

Values are stored; what they are called depends on population and convention, so the policy's name stands
beside each finding. Other cuts are another policy and need another name.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from engine.records import BoneFinding, Evaluation, QualityFlag, Reason, VertebralLevel


@dataclass(frozen=True, slots=True)
class DensityPolicy:
    """Cuts of the volumetric density of the lumbar spine, and which levels the patient's value is made of.

    Source:
        qct-80-120: spine QCT of the ISCD and ACR and of the Chinese QCT guideline (PMC7495321): normal
        from 120 mg/cm3, osteoporosis up to 80; both equalities as in Peng 2023. Levels of Peng 2023: L1-L3,
        in chest CT T12-L2. East-Asian women may need lower cuts (Wang 2024: 45-50).
    """

    name: str = "qct-80-120"
    version: str = "1"
    osteoporosis_up_to: float = 80.0  # mg/cm3
    normal_from: float = 120.0  # mg/cm3
    near_cut: float = 10.0  # mg/cm3; 61-84 % of wrong classes lie within it (Peng 2023)
    levels: tuple[tuple[VertebralLevel, ...], ...] = (
        (VertebralLevel.L1, VertebralLevel.L2, VertebralLevel.L3),
        (VertebralLevel.T12, VertebralLevel.L1, VertebralLevel.L2),
    )  # in order of preference; the first with enough of its levels is taken
    min_levels: int = 2  # mean of two bodies (PMC7495321)

    def __post_init__(self) -> None:
        """Refuse cuts without meaning, and other cuts under a known name."""
        if not self.osteoporosis_up_to < self.normal_from:
            raise ValueError("osteoporosis_up_to must lie below normal_from")
        if self.min_levels < 1 or not self.levels:
            raise ValueError("min_levels must be at least 1, and levels must name some")
        if "@" in self.name or not self.name or not self.version:
            raise ValueError("a policy needs a name, without '@', and a version")
        known = (80.0, 120.0, 10.0, 2) if (self.name, self.version) == ("qct-80-120", "1") else None
        if known and (self.osteoporosis_up_to, self.normal_from, self.near_cut, self.min_levels) != known:
            raise ValueError("'qct-80-120' version 1 has other values; give a changed policy its own name")

    def __str__(self) -> str:
        """Name and version, as reports print it."""
        return f"{self.name}@{self.version}"


def classify(density: float, policy: DensityPolicy) -> BoneFinding:
    """What a density in mg/cm3 is called.

    >>> [classify(value, DensityPolicy()).value for value in (80.0, 80.1, 119.9, 120.0)]
    ['osteoporosis', 'osteopenia', 'osteopenia', 'normal']
    """
    if density <= policy.osteoporosis_up_to:
        return BoneFinding.OSTEOPOROSIS
    return BoneFinding.NORMAL if density >= policy.normal_from else BoneFinding.OSTEOPENIA


def aggregated_levels(eligible: Iterable[VertebralLevel], policy: DensityPolicy) -> tuple[VertebralLevel, ...]:
    """The levels whose mean is the patient's value; empty: there are too few."""
    usable = set(eligible)
    for wanted in policy.levels:
        found = tuple(level for level in wanted if level in usable)
        if len(found) >= policy.min_levels:
            return found
    return ()


def evaluate(
    density: Mapping[VertebralLevel, float], levels: tuple[VertebralLevel, ...], policy: DensityPolicy
) -> tuple[float, Evaluation, tuple[QualityFlag, ...]]:
    """The patient's density in mg/cm3, its class, and a flag where it lies near a cut.

    Args:
        density: by level.
        levels: that go in; at least one.
    """
    mean = sum(density[level] for level in levels) / len(levels)
    flags = tuple(
        QualityFlag(Reason.NEAR_CUT, None, withholds=False, detail=f"within {policy.near_cut:g} mg/cm3 of {cut:g}")
        for cut in (policy.osteoporosis_up_to, policy.normal_from)
        if abs(mean - cut) <= policy.near_cut
    )
    return mean, Evaluation(classify(mean, policy), None, str(policy)), flags
