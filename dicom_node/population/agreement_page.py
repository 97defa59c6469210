"""
Agreement as tables and figures: on the screen, in a page, as JSON and as a row a pair.
"""

from dataclasses import asdict
from typing import Any

from db.population.query import Answer
from dicom_node.population import figures, page
from dicom_node.population.agreement import Agreement
from engine.statistics.discrimination import BinaryTable
from engine.statistics.estimate import Estimate

UNITS = {"volumetric_bmd_mg_cm3": "mg/cm\u00b3", "areal_bmd_g_cm2": "g/cm\u00b2", "trabecular_bone_score": "(no unit)"}
Rows = list[tuple[Any, ...]]


def between(estimate: Estimate | None, digits: int = 3) -> str | None:
    """A value with its interval.

    >>> between(Estimate(0.9214, 0.793, 0.9731))
    '0.921 (0.793 to 0.973)'
    """
    if estimate is None:
        return None
    return f"{estimate.value:.{digits}g} ({estimate.low:.{digits}g} to {estimate.high:.{digits}g})"


def summary_rows(agreement: Agreement) -> Rows:
    """Errors, correlation, bias and limits."""
    rows: Rows = [("pairs", len(agreement.pairs))]
    errors, bland = agreement.regression, agreement.bland_altman
    if errors is not None:
        rows += [
            ("mean absolute error", errors.mae),
            ("root mean square error", errors.rmse),
            ("R\u00b2", errors.r2),
            ("Pearson's r", between(errors.r)),
            ("p of r = 0", errors.p),
            ("slope", between(errors.line.slope) if errors.line else None),
            ("intercept", errors.line.intercept if errors.line else None),
        ]
    if bland is not None:
        rows += [
            ("bias", between(bland.bias)),
            ("p of no bias", bland.bias_p),
            ("lower limit of agreement", between(bland.lower_limit)),
            ("upper limit of agreement", between(bland.upper_limit)),
            ("pairs beyond the limits", f"{bland.outside} ({100 * bland.outside_share:.1f} %)"),
        ]
    return rows


def detection_rows(agreement: Agreement) -> Rows:
    """AUC and the confusion tables of two classes, at the policy's cut and at Youden's."""
    rows: Rows = []
    for one in agreement.detections:
        for where, counted in (("policy's cut", one.at_policy), ("Youden's cut", one.at_youden)):
            cut = None if where.startswith("policy") or one.youden is None else -one.youden.cut_off
            rows.append((one.what, one.positives, between(one.area), where, cut, *_binary(counted)))
    return rows


DETECTION_COLUMNS = (
    "class",
    "cases",
    "AUC (95 % CI)",
    "at",
    "cut",
    "sensitivity",
    "specificity",
    "PPV",
    "NPV",
    "FPR",
    "FNR",
    "accuracy",
)


def subgroup_rows(agreement: Agreement) -> Rows:
    """Agreement by maker, sex and age."""
    return [
        (
            one.factor,
            one.group,
            one.agreement.count,
            between(one.agreement.r),
            one.agreement.mae,
            one.agreement.rmse,
            one.values.mean,
            one.reference.mean,
            one.difference.test,
            one.difference.p,
        )
        for one in agreement.subgroups
    ]


SUBGROUP_COLUMNS = ("by", "group", "n", "r (95 % CI)", "MAE", "RMSE", "measured", "reference", "test", "p")


def part(agreement: Agreement) -> str:
    """One quantity as HTML."""
    unit = UNITS[agreement.reference]
    out = [f"<h3>{agreement.quantity} against {agreement.reference}</h3>"]
    if agreement.unmatched:
        out.append(page.table(("references without a pair", "n"), agreement.unmatched.items()))
    if not agreement.pairs:
        return "".join([*out, page.paragraph("No reference met a result with this quantity.")])
    out.append(page.table(("", f"in {unit}"), summary_rows(agreement)))
    out.append(page.figure(figures.scatter(agreement, unit), "Measured against reference, with identity and fit."))
    out.append(
        page.figure(figures.differences(agreement, unit), "Bland and Altman: bias, limits, and their intervals.")
    )
    if agreement.detections:
        out.append(page.figure(figures.roc(agreement.detections), "ROC with DeLong's intervals; dots: Youden's cut."))
        out.append(page.table(DETECTION_COLUMNS, detection_rows(agreement)))
    if agreement.confusion is not None:
        names = agreement.confusion.classes
        rows = [(name, *counts) for name, counts in zip(names, agreement.confusion.counts, strict=True)]
        out.append(page.table(("true class", *(f"called {name}" for name in names)), rows, "By the policy's cuts."))
    if agreement.mismatches:
        missed = [(m.true_class, m.called_class, m.cut, m.count, m.near) for m in agreement.mismatches]
        out.append(page.table(("true class", "called", "cut", "n", "of these near the cut"), missed))
    if agreement.subgroups:
        out.append(page.table(SUBGROUP_COLUMNS, subgroup_rows(agreement)))
    return "".join(out)


def as_json(agreement: Agreement) -> dict[str, Any]:
    """Everything but the pairs."""
    said = {**asdict(agreement), "pairs": len(agreement.pairs)}
    for one in said["detections"]:
        del one["curve"]
    return said


def pairs_table(found: tuple[Agreement, ...]) -> Answer:
    """A row a pair, for who wants to draw it otherwise."""
    rows = [
        (
            one.reference,
            one.quantity,
            pair.reference,
            pair.value,
            pair.days,
            pair.result.patient_key,
            pair.result.study_instance_uid,
            pair.result.patient_sex,
            pair.result.patient_age,
            pair.result.scanner,
        )
        for one in found
        for pair in one.pairs
    ]
    columns = ("reference", "quantity", "reference_value", "value", "days", "patient_key", "study_instance_uid")
    return Answer((*columns, "patient_sex", "patient_age", "scanner"), tuple(rows))


def _binary(counted: BinaryTable | None) -> tuple[str | float | None, ...]:
    if counted is None:
        return (None,) * 7
    return (
        between(counted.sensitivity_interval()),
        between(counted.specificity_interval()),
        counted.positive_predictive_value,
        counted.negative_predictive_value,
        counted.false_positive_rate,
        counted.false_negative_rate,
        counted.accuracy,
    )
