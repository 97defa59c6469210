"""The tables of Peng 2023: classes and volumetric density of patients, by set and batch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.accuracy.rows import Row, column, having, patients, where
from engine.prediction.policy import DensityPolicy, classify
from engine.statistics.agreement import bland_altman, regression_table
from engine.statistics.classes import confusion, mismatches
from engine.statistics.discrimination import auc, macro_auc
from engine.statistics.groups import association, compare_several, median_split, subgroup_table

CLASSES = ("normal", "osteopenia", "osteoporosis")
SETS = ("train", "validation", "test", "batch 4", "batch 5", "batch 6", "independent")
NUMBERS = ("vbmd", "vbmd_predicted", "hu_core", "hu_roi", *(f"p_{name}" for name in CLASSES))
POLICY = DensityPolicy()


def people(rows: Sequence[Row]) -> list[Row]:
    """The cohort's patients, each with the class of its true density."""
    own = patients(having(where(rows, lambda row: row["cohort"] == "peng"), "vbmd", "vbmd_predicted"), NUMBERS)
    return [row | {"class": str(classify(float(row["vbmd"]), POLICY))} for row in own]


def of_set(rows: Sequence[Row], name: str) -> list[Row]:
    """The patients of one set of the paper's table."""
    if name.startswith("batch"):
        return where(rows, lambda row: row["batch"] == name.split()[1])
    return where(rows, lambda row: row["split"] == name)


def scores(rows: Sequence[Row]) -> NDArray[np.float64]:
    """(patients, classes): the classifier's probabilities; without one, how near the density comes to the class."""
    if rows and all(row["p_normal"] for row in rows):
        return np.stack([column(rows, f"p_{name}") for name in CLASSES], axis=1)
    density = column(rows, "vbmd_predicted")
    middle = (POLICY.osteoporosis_up_to + POLICY.normal_from) / 2
    return np.stack([density, -np.abs(density - middle), -density], axis=1)


def called(rows: Sequence[Row]) -> list[str]:
    """What each patient is called: the most probable class; without a classifier, the class of the density."""
    if rows and all(row["p_normal"] for row in rows):
        return [CLASSES[n] for n in scores(rows).argmax(axis=1)]
    return [str(classify(value, POLICY)) for value in column(rows, "vbmd_predicted")]


def tables(rows: Sequence[Row]) -> dict[str, Any]:
    """Everything that the paper prints of a set, set by set; then what it prints of all."""
    everyone = people(rows)
    told: dict[str, Any] = {name: _table(own) for name in SETS if len(own := of_set(everyone, name)) > 3}
    judged = where(everyone, lambda row: row["split"] in ("train", "validation", "test", "independent"))
    told["batches"] = _batches(everyone)
    told["mismatches"] = mismatches(
        column(judged, "vbmd").tolist(), called(judged), CLASSES,
        (POLICY.normal_from, POLICY.osteoporosis_up_to), POLICY.near_cut, [row["class"] for row in judged],
    )  # fmt: skip
    unseen = where(everyone, lambda row: row["split"] in ("test", "independent"))
    told["subgroups"] = _subgroups(unseen)
    return told


def _table(rows: Sequence[Row]) -> dict[str, Any]:
    truth, said, table = [row["class"] for row in rows], called(rows), scores(rows)
    index = [CLASSES.index(name) for name in truth]
    found, true = column(rows, "vbmd_predicted"), column(rows, "vbmd")
    by_density = [str(classify(value, POLICY)) for value in found]
    counts = confusion(truth, said, CLASSES)
    return {
        "patients": len(rows),
        "auc_from": "classifier" if rows[0]["p_normal"] else "density",
        "macro_auc": macro_auc(table, index),
        "class_auc": {
            name: auc(table[:, n], [one == n for one in index]) for n, name in enumerate(CLASSES)
        },
        "confusion": counts,
        "confusion_by_density": confusion(truth, by_density, CLASSES),
        "two_class_jumps": counts.counts[0][2] + counts.counts[2][0],
        "regression": regression_table(found, true),
        "bland_altman": bland_altman(found, true),
        "hounsfield_alone": regression_table(column(rows, "hu_roi"), true) if rows[0].get("hu_roi") else None,
    }  # fmt: skip


def _batches(rows: Sequence[Row]) -> dict[str, Any]:
    """Whether batches differ in whom they hold."""
    names = sorted({row["batch"] for row in rows if row["batch"]})
    groups = [where(rows, lambda row, name=name: row["batch"] == name) for name in names]  # type: ignore[misc]

    def counts(what: str) -> list[list[int]]:
        kinds = sorted({row[what] for row in rows})
        return [[sum(row[what] == kind for row in group) for kind in kinds] for group in groups]

    return {
        "sizes": dict(zip(names, map(len, groups), strict=True)),
        "age": compare_several([column(group, "age") for group in groups]),
        "sex": association(counts("sex")),
        "body_part": association(counts("body_part")),
        "class": association(counts("class")),
    }


def _subgroups(rows: Sequence[Row]) -> Any:
    if len(rows) < 4:
        return []
    factors: dict[str, list[str | None]] = {
        "scanner": [row["scanner"] for row in rows],
        "sex": [row["sex"] for row in rows],
        "age": list(median_split(column(rows, "age"), "younger", "older")),
        "body part": [row["body_part"] for row in rows],
    }
    if all(row["bmi"] for row in rows):
        factors["BMI"] = list(median_split(column(rows, "bmi"), "lower", "higher"))
    return subgroup_table(column(rows, "vbmd_predicted"), column(rows, "vbmd"), factors)
