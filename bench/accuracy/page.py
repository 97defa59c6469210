"""The page that shows tables and figures to a reader."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.accuracy.volumetric import SETS
from engine.statistics.discrimination import BinaryTable
from engine.statistics.groups import Description

HEAD = """# Accuracy on phantoms

Remade by `make accuracy` from the predictions in `bench/results/predictions`; all figures with their intervals,
seeds, versions and checksums are in `bench/results/accuracy.json`. Phantoms only: nothing here tells how the models do
in patients. **Not for clinical use.**
"""


def write_page(told: dict[str, Any], made: Sequence[str], file: Path) -> None:
    """Write the page; what was not made is left out."""
    parts = [HEAD, *_volumetric(told["volumetric"], made), *_areal(told["areal"], made)]
    parts += [*_outlines(told["outlines"], made), *_flags(told["flags"], made)]
    file.write_text("\n".join(part.rstrip() + "\n" for part in parts), encoding="utf-8")


def _volumetric(told: dict[str, Any], made: Sequence[str]) -> list[str]:
    rows = []
    for name in SETS:
        if name in told:
            one, counts = told[name], told[name]["confusion"]
            table, limits = one["regression"], one["bland_altman"]
            rows.append([
                name, one["patients"], one["macro_auc"] or "-", _share(counts.f1), _share(counts.accuracy),
                _share(counts.precision), _share(counts.recall), _share(counts.specificity), f"{table.mae:.2f}",
                f"{table.rmse:.2f}", _share(table.r2), _share(table.r and table.r.value), f"{limits.bias.value:.2f}",
                f"{limits.lower_limit.value:.1f} .. {limits.upper_limit.value:.1f}",
            ])  # fmt: skip
    if not rows:
        return []
    head = ["set", "patients", "macro AUC (95 % CI)", "F1", "accuracy", "precision", "recall", "specificity", "MAE",
            "RMSE", "R2", "r", "bias", "limits"]  # fmt: skip
    wrong = [
        [one.true_class, one.called_class, one.count, "-" if one.cut is None else f"{one.near} ({one.share.value:.0%})"]
        for one in told["mismatches"]
    ]
    return [
        "## Volumetric density and its class (the protocol of Peng 2023)",
        _table(head, rows),
        "Patients are means of their levels; vBMD in mg/cm3.",
        *_pictures(made, "accuracy_vbmd_roc.png", "accuracy_vbmd_confusion.png", "accuracy_vbmd_agreement.png"),
        "Wrong classes, and how many of them lie within 10 mg/cm3 of the cut:",
        _table(["true class", "called", "patients", "near the cut"], wrong),
    ]


def _areal(told: dict[str, Any], made: Sequence[str]) -> list[str]:
    rows, questions = [], []
    for split, tables in told.items():
        for what, table in tables.items():
            for unit in ("vertebra", "patient"):
                one, r = table[unit], table[unit]["regression"].r
                alone = one["hounsfield_alone"].r
                p = one["difference"].p
                rows.append([
                    f"{split}, {what}, a {unit}", one["count"], _mean(one["reference"]),
                    _mean(one["predicted"]), "-" if p is None else f"{p:.2g}",
                    f"{one['regression'].mae:.3f}", r or "-", alone or "-",
                ])  # fmt: skip
            if split == "test":
                for name, question in table["questions"].items():
                    if "youden" in question:
                        questions.append([name, question["positive"], question["auc"] or "-",
                                          f"{question['youden']['cut_off']:.3f}",
                                          *_binary(question["youden"]["table"])])  # fmt: skip
    if not rows:
        return []
    head = ["", "n", "true, mean (SD)", "predicted, mean (SD)", "p", "MAE", "r (95 % CI)", "r of HU alone"]
    asked = ["patients of the test", "positive", "AUC (95 % CI)", "cut-off", "sens", "spec", "PPV", "NPV", "accuracy"]
    return [
        "## Areal density and bone score (the protocol of Yoshida 2023)",
        _table(head, rows),
        *_pictures(made, "accuracy_abmd.png", "accuracy_tbs.png"),
        "Cut-offs by max (TPR - FPR); other cut-offs, subgroups and the model of all factors are in the JSON:",
        _table(asked, questions),
    ]


def _outlines(told: dict[str, Any], made: Sequence[str]) -> list[str]:
    if not told:
        return []
    rows = [
        [name, one["bodies"], f"{one['dice'].mean:.4f}", f"{one['dice'].median:.4f}", one["missed"]]
        for name in ("seen", "unseen")
        if (one := told[name])["dice"]
    ]
    names = told["names"]
    return [
        "## Outlines and names",
        _table(["scanners", "whole bodies", "mean Dice", "median Dice", "missed"], rows),
        *_pictures(made, "accuracy_outlines.png"),
        f"With sacrum or last ribs in view {names['right']} of {names['with_anchor']} whole bodies have their right "
        f"name and {names['abstained']} have none; of those that have one, {names['right_of_named']} are right. "
        f"Without an anchor {names['abstained_without_anchor']} of {names['without_anchor']} have none.",
    ]


def _flags(told: dict[str, Any], made: Sequence[str]) -> list[str]:
    if not told:
        return []
    rows = []
    for flag, one in told.items():
        for kind, title in (("by_truth", "true outlines"), ("end_to_end", "end to end")):
            if one[kind]:
                table: BinaryTable = one[kind]["table"]
                present = table.true_positives + table.false_negatives
                rows.append([f"`{flag}`", title, present, one[kind]["sensitivity"] or "-", table.count - present,
                             _share(table.false_positive_rate),
                             one["present_not_named"] if kind == "end_to_end" else 0])  # fmt: skip
    return [
        "## Quality flags",
        "Patients with findings far more often than in life. A fracture counts from 25 % of the height; losses between "
        "0 and 25 % are neither, and so are levels with cement or metal, which are withheld "
        "for that. A dense focus counts from 2 % of the core. The header is silent about contrast. End "
        "to end only levels are asked that the engine found and named; where it did not, nothing is given, and that is "
        "counted beside.",
        _table(["flag", "", "present", "sensitivity (95 % CI)", "absent", "false alarms", "present, no level"], rows),
        *_pictures(made, "accuracy_flags.png"),
    ]


def _mean(group: Description) -> str:
    return f"{group.mean:.3f} ({group.sd or 0:.3f})"


def _binary(table: BinaryTable) -> list[str]:
    shares = (table.sensitivity, table.specificity, table.positive_predictive_value, table.negative_predictive_value,
              table.accuracy)  # fmt: skip
    return ["-" if share is None else f"{share:.0%}" for share in shares]


def _pictures(made: Sequence[str], *wanted: str) -> list[str]:
    return [f"![{name.removesuffix('.png').replace('_', ' ')}]({name})" for name in wanted if name in made]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [" | ".join(map(str, row)) for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(f"| {line} |" for line in lines)
