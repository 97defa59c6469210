"""The tables of Yoshida 2023: areal density and bone score, a vertebra and a patient."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.accuracy.rows import Row, column, having, patients, where
from engine.statistics.agreement import bland_altman, regression_table
from engine.statistics.discrimination import Scale, auc, binary_table, closest_cut, roc_curve, youden_cut
from engine.statistics.groups import compare_two, describe, median_split, subgroup_table
from engine.statistics.linear import Factor, multivariable_linear
from engine.statistics.power import paired_power

YOUNG_ADULT_MEAN = 1.015  # g/cm2, lumbar spine of Japanese women (PMC9403581, table 1)
QUESTIONS = {
    "osteopenia": ("abmd", 0.8 * YOUNG_ADULT_MEAN),
    "osteoporosis": ("abmd", 0.7 * YOUNG_ADULT_MEAN),
    "impaired microarchitecture": ("tbs", 1.31),
}
"""By the reference's own cuts: below 80 and 70 % of the young adult mean; a bone score up to 1.31."""
NUMBERS = ("abmd", "abmd_predicted", "tbs", "tbs_predicted", "hu_roi", "hu_core")


def vertebrae(rows: Sequence[Row], split: str = "test") -> list[Row]:
    """Vertebrae of the cohort's patients in a split."""
    return where(rows, lambda row: row["cohort"] == "yoshida" and row["split"] == split)


def tables(rows: Sequence[Row]) -> dict[str, Any]:
    """What the paper prints, for the test and for machines and a kernel that training never met."""
    return {split: _split(vertebrae(rows, split)) for split in ("test", "independent") if vertebrae(rows, split)}


def _split(rows: Sequence[Row]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for what in ("abmd", "tbs"):
        single = having(rows, what, f"{what}_predicted")
        if len(single) < 4:
            continue
        whole = having(patients(single, NUMBERS), what, f"{what}_predicted")
        told[what] = {
            "vertebra": _agreement(single, what),
            "patient": _agreement(whole, what),
            "subgroups": _subgroups(single, what),
            "factors_of_the_difference": _factors(single, what),
            "questions": {name: _question(whole, what, cut) for name, (of, cut) in QUESTIONS.items() if of == what},
        }
    return told


def _agreement(rows: Sequence[Row], what: str) -> dict[str, Any]:
    found, true = column(rows, f"{what}_predicted"), column(rows, what)
    limits = bland_altman(found, true)
    return {
        "count": len(rows),
        "reference": describe(true),
        "predicted": describe(found),
        "difference": compare_two(found, true, paired=True),
        "regression": regression_table(found, true),
        "bland_altman": limits,
        "hounsfield_alone": regression_table(column(rows, "hu_roi"), true),
        "post_hoc_power": paired_power(0.05, limits.sd, len(rows)) if limits and limits.sd > 0 else None,
    }


def _factor_groups(rows: Sequence[Row]) -> dict[str, list[str | None]]:
    groups: dict[str, list[str | None]] = {
        "vendor": [row["manufacturer"] for row in rows],
        "scanner": [row["scanner"] for row in rows],
        "sex": [row["sex"] for row in rows],
        "age": list(median_split(column(rows, "age"), "younger", "older")),
    }
    if all(row["bmi"] for row in rows):
        groups["BMI"] = list(median_split(column(rows, "bmi"), "lower", "higher"))
    return groups


def _subgroups(rows: Sequence[Row], what: str) -> Any:
    return subgroup_table(column(rows, f"{what}_predicted"), column(rows, what), _factor_groups(rows))


def _factors(rows: Sequence[Row], what: str) -> Any:
    """Which of vendor, sex, age and BMI go with the difference, all in one model."""
    factors: dict[str, Factor] = {"age": column(rows, "age").tolist()}
    for name in ("manufacturer", "sex"):
        if len({row[name] for row in rows}) > 1:
            factors[name] = [row[name] for row in rows]
    if all(row["bmi"] for row in rows):
        factors["bmi"] = column(rows, "bmi").tolist()
    return multivariable_linear(column(rows, f"{what}_predicted") - column(rows, what), factors)


def _question(rows: Sequence[Row], what: str, cut: float) -> dict[str, Any]:
    """A yes-or-no question of patients; low values are positive."""
    found, true = -column(rows, f"{what}_predicted"), column(rows, what)
    positive = true <= cut if what == "tbs" else true < cut
    curve = roc_curve(found, positive.tolist())
    told: dict[str, Any] = {
        "cut_of_the_reference": cut,
        "positive": int(positive.sum()),
        "auc": auc(found, positive.tolist(), scale=Scale.LOGIT),
        "at_the_references_cut": binary_table(positive.tolist(), (found >= -cut).tolist()),
    }
    for name, choose in (("youden", youden_cut), ("closest_to_corner", closest_cut)):
        point = choose(curve)
        if point is not None:
            called = (found >= point.cut_off).tolist()
            told[name] = {"cut_off": -point.cut_off, "table": binary_table(positive.tolist(), called)}
    hounsfield = -column(rows, "hu_roi")
    told["auc_of_hounsfield_alone"] = auc(np.asarray(hounsfield), positive.tolist(), scale=Scale.LOGIT)
    return told
