"""
How a site's results agree with its own references: the tables of the papers, on its own data.

A reference meets the result of the same examination, or of the same patient nearest in time. What meets nothing, or a
result whose density was withheld, is counted with its reason and never filled in.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from db.connection import Database
from db.population.query import Measured, measured
from dicom_node.population.reference import Reference
from engine.prediction.policy import DensityPolicy, classify
from engine.records import CLASSES
from engine.statistics.agreement import BlandAltman, RegressionTable, bland_altman, regression_table
from engine.statistics.classes import Confusion, Mismatch, confusion, mismatches
from engine.statistics.discrimination import BinaryTable, RocPoint, auc, binary_table, roc_curve, youden_cut
from engine.statistics.estimate import Estimate
from engine.statistics.groups import Subgroup, median_split, subgroup_table

WITHIN_DAYS = 365  # our choice: as Yoshida 2023 took CT and DXA
QUANTITIES = {  # column of the reference: what of a result is held against it, in order of preference
    "volumetric_bmd_mg_cm3": ("volumetric_bmd", "calibrated_bmd"),
    "areal_bmd_g_cm2": ("areal_bmd",),
    "trabecular_bone_score": ("trabecular_bone_score",),
}


@dataclass(frozen=True, slots=True)
class Pair:
    """A reference value and the measured one."""

    reference: float
    value: float
    result: Measured
    days: int | None  # result after reference


@dataclass(frozen=True, slots=True)
class Detection:
    """How well one class is told from the rest."""

    what: str
    positives: int
    area: Estimate | None
    at_policy: BinaryTable | None  # both sides cut where the policy cuts
    curve: tuple[RocPoint, ...]
    youden: RocPoint | None
    at_youden: BinaryTable | None


@dataclass(frozen=True, slots=True)
class Agreement:
    """All tables of one quantity."""

    reference: str  # column
    quantity: str
    pairs: tuple[Pair, ...]
    unmatched: dict[str, int]  # references without a value here, by why
    regression: RegressionTable | None
    bland_altman: BlandAltman | None
    detections: tuple[Detection, ...] = ()
    confusion: Confusion | None = None
    mismatches: tuple[Mismatch, ...] = ()
    subgroups: tuple[Subgroup, ...] = field(default=())
    reference_only: bool = False  # a value rests on weights that were trained on phantoms


def agreements(
    database: Database, references: Sequence[Reference], policy: DensityPolicy, within_days: int = WITHIN_DAYS
) -> tuple[Agreement, ...]:
    """Hold results against references; one table for each quantity that both sides have."""
    candidates = _candidates(database, references)
    found = []
    for column, names in QUANTITIES.items():
        asked = [row for row in references if column in row.values]
        if not asked:
            continue
        for name in names:
            pairs, unmatched = _pairs(asked, candidates, column, name, within_days)
            if pairs or name == names[0]:
                found.append(_agreement(column, name, pairs, unmatched, policy))
    return tuple(found)


def _candidates(database: Database, references: Sequence[Reference]) -> dict[str, list[Measured]]:
    """Results by each key that could name them."""
    results = measured(
        database,
        patient_keys=[row.patient_key for row in references if row.patient_key],
        accession_keys=[row.accession_key for row in references if row.accession_key],
        study_instance_uids=[row.study_instance_uid for row in references if row.study_instance_uid],
    )
    found: dict[str, list[Measured]] = defaultdict(list)
    for result in results:
        for key in (result.patient_key, result.accession_key, result.study_instance_uid):
            if key:
                found[key].append(result)
    return found


def _pairs(
    asked: Sequence[Reference], candidates: dict[str, list[Measured]], column: str, name: str, within_days: int
) -> tuple[tuple[Pair, ...], dict[str, int]]:
    pairs, unmatched = [], Counter[str]()
    for row in asked:
        mine = candidates.get(next(key for key in row.whom if key), [])
        near = [result for result in mine if _is_near(row, result, within_days)]
        usable = [result for result in near if getattr(result, name) is not None]
        if usable:
            best = min(usable, key=lambda result: (_distance(row, result), -(result.study_day or 0)))
            days = None if row.day is None or best.study_day is None else best.study_day - row.day
            pairs.append(Pair(row.values[column], getattr(best, name), best, days))
        elif near:
            unmatched[f"withheld: {near[0].reason}" if near[0].reason else "not measured"] += 1
        else:
            unmatched[f"more than {within_days} days apart" if mine else "no result here"] += 1
    return tuple(pairs), dict(sorted(unmatched.items()))


def _is_near(row: Reference, result: Measured, within_days: int) -> bool:
    return row.patient_key is None or _distance(row, result) <= within_days


def _distance(row: Reference, result: Measured) -> int:
    """Days between; 0 where one of them has no date."""
    return 0 if row.day is None or result.study_day is None else abs(result.study_day - row.day)


def _agreement(
    column: str, name: str, pairs: tuple[Pair, ...], unmatched: dict[str, int], policy: DensityPolicy
) -> Agreement:
    values, true = [pair.value for pair in pairs], [pair.reference for pair in pairs]
    tables = Agreement(
        reference=column,
        quantity=name,
        pairs=pairs,
        unmatched=unmatched,
        regression=regression_table(values, true),
        bland_altman=bland_altman(values, true),
        subgroups=_subgroups(pairs),
        reference_only=any(pair.result.reference_only for pair in pairs),
    )
    if column != "volumetric_bmd_mg_cm3" or not pairs:
        return tables
    classes = [classify(value, policy).value for value in true]
    called = [classify(value, policy).value for value in values]
    names = tuple(one.value for one in CLASSES)
    cuts = (policy.normal_from, policy.osteoporosis_up_to)
    return Agreement(
        **{name: getattr(tables, name) for name in _PLAIN},
        detections=(
            _detection("osteoporosis", values, true, policy.osteoporosis_up_to, included=True),
            _detection("osteoporosis or osteopenia", values, true, policy.normal_from, included=False),
        ),
        confusion=confusion(classes, called, names),
        mismatches=mismatches(true, called, names, cuts, policy.near_cut, classes),
    )


_PLAIN = (
    "reference",
    "quantity",
    "pairs",
    "unmatched",
    "regression",
    "bland_altman",
    "subgroups",
    "reference_only",
)


def _detection(what: str, values: Sequence[float], true: Sequence[float], cut: float, *, included: bool) -> Detection:
    """Low density is positive; scores are densities with their sign turned.

    Args:
        included: the cut itself is positive.
    """

    def low(value: float) -> bool:
        return value <= cut if included else value < cut

    positive = [low(value) for value in true]
    scores = [-value for value in values]
    curve = roc_curve(scores, positive)
    best = youden_cut(curve)
    return Detection(
        what=what,
        positives=sum(positive),
        area=auc(scores, positive),
        at_policy=binary_table(positive, [low(value) for value in values]),
        curve=curve,
        youden=best,
        at_youden=None if best is None else binary_table(positive, [score >= best.cut_off for score in scores]),
    )


def _subgroups(pairs: Sequence[Pair]) -> tuple[Subgroup, ...]:
    """By maker, sex, and on both sides of the median age, as Yoshida 2023 split them."""
    if len(pairs) < 4:
        return ()
    factors: dict[str, Sequence[str | None]] = {
        "manufacturer": [pair.result.manufacturer for pair in pairs],
        "sex": [pair.result.patient_sex for pair in pairs],
    }
    ages = [pair.result.patient_age for pair in pairs]
    if all(age is not None for age in ages):
        factors["age"] = median_split([float(age or 0) for age in ages], "younger half", "older half")
    return subgroup_table([pair.value for pair in pairs], [pair.reference for pair in pairs], factors)
