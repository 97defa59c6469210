"""The papers' figures, drawn from the tables and rows; beside the model cards."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.accuracy import areal, volumetric
from bench.accuracy.rows import Row, column, having, patients, read_rows, where
from engine.statistics.agreement import BlandAltman, RegressionTable
from engine.statistics.classes import Confusion
from engine.statistics.discrimination import roc_curve

INK, BLUE, RED, GREY, AMBER = "#1b1f24", "#1f6feb", "#c93c37", "#8b949e", "#b08800"
COLOURS = {"normal": BLUE, "osteopenia": AMBER, "osteoporosis": RED}
STYLE = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": INK, "axes.labelcolor": INK,
    "xtick.color": INK, "ytick.color": INK, "axes.titlesize": 10, "axes.titlelocation": "left", "figure.dpi": 110,
    "legend.frameon": False, "legend.fontsize": 8,
}  # fmt: skip
TITLES = {"test": "Test", "independent": "Independent scanners"}


def draw(predictions: Path, told: dict[str, Any], folder: Path) -> list[str]:
    """Draw what there are rows for; returns the files' names."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = read_rows("vertebrae", predictions)
    made = []
    with plt.rc_context(STYLE):
        sets = [name for name in TITLES if name in told["volumetric"]]
        if sets:
            everyone = volumetric.people(rows)
            own = {name: volumetric.of_set(everyone, name) for name in sets}
            made.append(_keep(_roc(own, told["volumetric"]), folder / "accuracy_vbmd_roc.png"))
            made.append(_keep(_confusions(sets, told["volumetric"]), folder / "accuracy_vbmd_confusion.png"))
            made.append(_keep(_vbmd(own, told["volumetric"]), folder / "accuracy_vbmd_agreement.png"))
        side = areal.vertebrae(rows)
        for what, title in (("abmd", "areal BMD, g/cm2"), ("tbs", "bone score")):
            if what in told["areal"].get("test", {}):
                name = folder / f"accuracy_{what}.png"
                made.append(_keep(_side(side, what, title, told["areal"]["test"][what]), name))
        bodies = read_rows("bodies", predictions)
        if bodies:
            made.append(_keep(_dice(bodies), folder / "accuracy_outlines.png"))
        if told["flags"]:
            made.append(_keep(_flags(told["flags"]), folder / "accuracy_flags.png"))
    return made


def _keep(figure: Figure, file: Path) -> str:
    figure.savefig(file, metadata={"Software": None})
    plt.close(figure)
    return file.name


def _roc(own: dict[str, list[Row]], tables: dict[str, Any]) -> Figure:
    figure, axes = plt.subplots(1, len(own), figsize=(4.2 * len(own), 4.1), layout="constrained", squeeze=False)
    for axis, (name, rows) in zip(axes[0], own.items(), strict=True):
        scores, truth = volumetric.scores(rows), [row["class"] for row in rows]
        grid, mean = np.linspace(0, 1, 201), np.zeros(201)
        for n, kind in enumerate(volumetric.CLASSES):
            curve = roc_curve(scores[:, n], [one == kind for one in truth])
            x, y = [p.false_positive_rate for p in curve], [p.true_positive_rate for p in curve]
            axis.plot(x, y, color=COLOURS[kind], lw=1.4, label=f"{kind}  {tables[name]['class_auc'][kind]}")
            mean += np.interp(grid, x, y) / len(volumetric.CLASSES)
        axis.plot(grid, mean, color=INK, lw=1.8, ls="--", label=f"macro  {tables[name]['macro_auc']}")
        axis.plot([0, 1], [0, 1], color=GREY, lw=0.7)
        axis.set(title=f"{TITLES[name]}, {len(rows)} patients", xlabel="false positive rate",
                 ylabel="true positive rate", aspect="equal", xlim=(-0.01, 1), ylim=(0, 1.01))  # fmt: skip
        axis.legend(loc="lower right", title="AUC (95 % CI)", title_fontsize=8)
    return figure


def _confusions(sets: Sequence[str], tables: dict[str, Any]) -> Figure:
    figure, axes = plt.subplots(1, len(sets), figsize=(3.9 * len(sets), 3.7), layout="constrained", squeeze=False)
    for axis, name in zip(axes[0], sets, strict=True):
        table: Confusion = tables[name]["confusion"]
        counts = np.asarray(table.counts)
        share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for (n, m), count in np.ndenumerate(counts):
            axis.text(m, n, f"{count}\n{share[n, m]:.0%}", ha="center", va="center",
                      color="white" if share[n, m] > 0.55 else INK)  # fmt: skip
        axis.set_xticks(range(3), table.classes)
        axis.set_yticks(range(3), table.classes, rotation=90, va="center")
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
        axis.set(title=f"{TITLES[name]}, accuracy {table.accuracy:.3f}", xlabel="called", ylabel="true class")
    return figure


def _vbmd(own: dict[str, list[Row]], tables: dict[str, Any]) -> Figure:
    figure, axes = plt.subplots(2, len(own), figsize=(4.4 * len(own), 7.6), layout="constrained", squeeze=False)
    for n, (name, rows) in enumerate(own.items()):
        table = tables[name]
        title = f"{TITLES[name]}, {len(rows)} patients"
        true, found = column(rows, "vbmd"), column(rows, "vbmd_predicted")
        colours = [COLOURS[row["class"]] for row in rows]
        _scatter(axes[0][n], true, found, colours, table["regression"], title, "true vBMD, mg/cm3", "predicted, mg/cm3")
        for cut in (80.0, 120.0):
            axes[0][n].axvline(cut, color=GREY, lw=0.6, ls=":")
            axes[0][n].axhline(cut, color=GREY, lw=0.6, ls=":")
        _differences(axes[1][n], true, found, colours, table["bland_altman"], "mean of both, mg/cm3", ".1f")
    return figure


def _side(rows: Sequence[Row], what: str, title: str, told: dict[str, Any]) -> Figure:
    figure, axes = plt.subplots(2, 2, figsize=(9.2, 8.0), layout="constrained")
    single = having(rows, what, f"{what}_predicted")
    true, found = column(single, what), column(single, f"{what}_predicted")
    colour = [BLUE] * len(single)
    label = f"{len(single)} vertebrae"
    _scatter(axes[0][0], true, found, colour, told["vertebra"]["regression"], label, f"true {title}", "predicted")
    _differences(axes[0][1], true, found, colour, told["vertebra"]["bland_altman"], "mean of both", ".3f")
    _subgroups(axes[1][0], told)
    _questions(axes[1][1], having(patients(single, areal.NUMBERS), what), what, told)
    return figure


def _scatter(
    axis: Axes, true: np.ndarray, found: np.ndarray, colours: Sequence[str], table: RegressionTable, title: str,
    across: str, up: str,
) -> None:  # fmt: skip
    low, high = float(min(true.min(), found.min())), float(max(true.max(), found.max()))
    axis.plot([low, high], [low, high], color=GREY, lw=0.8)
    axis.scatter(true, found, s=9, c=colours, alpha=0.55, linewidths=0)
    if table.line is not None:
        at = np.linspace(true.min(), true.max(), 60)
        lower, upper = table.line.band(at)
        axis.fill_between(at, lower, upper, color=INK, alpha=0.15, lw=0)
        axis.plot(at, table.line.intercept + table.line.slope.value * at, color=INK, lw=1.4)
    r = f"r {table.r.value:.3f}" if table.r else ""
    r2 = f"R2 {table.r2:.3f}" if table.r2 is not None else ""
    digits = 2 if high > 10 else 3
    axis.text(0.03, 0.97, f"MAE {table.mae:.{digits}f}   RMSE {table.rmse:.{digits}f}\n{r}   {r2}",
              transform=axis.transAxes, va="top", fontsize=8)  # fmt: skip
    axis.set(title=title, xlabel=across, ylabel=up)


def _differences(
    axis: Axes, true: np.ndarray, found: np.ndarray, colours: Sequence[str], table: BlandAltman, across: str, form: str
) -> None:
    axis.scatter((true + found) / 2, found - true, s=9, c=colours, alpha=0.55, linewidths=0)
    for one, style in ((table.bias, "-"), (table.lower_limit, "--"), (table.upper_limit, "--")):
        axis.axhline(one.value, color=INK, lw=1.0, ls=style)
        axis.axhspan(one.low, one.high, color=INK, alpha=0.1, lw=0)
        axis.annotate(f"{one.value:{form}}", (1.0, one.value), xycoords=("axes fraction", "data"), ha="right",
                      va="bottom", fontsize=8)  # fmt: skip
    axis.set(title=f"{table.outside} of {table.count} outside the limits ({table.outside_share:.1%})", xlabel=across,
             ylabel="predicted - true")  # fmt: skip


def _subgroups(axis: Axes, told: dict[str, Any]) -> None:
    rows = [(f"{one.factor}: {one.group}", one.agreement) for one in told["subgroups"] if one.factor != "scanner"]
    rows.append(("all", told["vertebra"]["regression"]))
    rows.append(("HU alone", told["vertebra"]["hounsfield_alone"]))
    for n, (_, table) in enumerate(reversed(rows)):
        if table is not None and table.r is not None:
            axis.plot([table.r.low, table.r.high], [n, n], color=INK, lw=1.2)
            axis.plot(table.r.value, n, "o", color=BLUE, ms=5)
            axis.text(1.02, n, f"{table.r.value:.2f}", va="center", fontsize=8, transform=axis.get_yaxis_transform())
    axis.set_yticks(range(len(rows)), [name for name, _ in reversed(rows)])
    axis.set(title="r a vertebra, with 95 % CI", xlabel="Pearson's r")


def _questions(axis: Axes, rows: Sequence[Row], what: str, told: dict[str, Any]) -> None:
    true, found = column(rows, what), -column(rows, f"{what}_predicted")
    for (name, question), colour in zip(told["questions"].items(), (AMBER, RED), strict=False):
        cut = question["cut_of_the_reference"]
        positive = true <= cut if what == "tbs" else true < cut
        curve = roc_curve(found, positive.tolist())
        if not curve:
            continue
        axis.plot([p.false_positive_rate for p in curve], [p.true_positive_rate for p in curve], color=colour, lw=1.5,
                  label=f"{name} ({question['positive']})  {question['auc']}")  # fmt: skip
        if "youden" in question:
            table = question["youden"]["table"]
            axis.plot(table.false_positive_rate, table.sensitivity, "o", color=colour, ms=5)
    axis.plot([0, 1], [0, 1], color=GREY, lw=0.7)
    axis.set(title=f"{len(rows)} patients; dots: max (TPR - FPR)", xlabel="false positive rate",
             ylabel="true positive rate")  # fmt: skip
    axis.legend(loc="lower right", title="AUC (95 % CI)", title_fontsize=8)


def _dice(rows: Sequence[Row]) -> Figure:
    whole = where(rows, lambda row: row["whole"] == "1")
    keys = sorted({(row["unseen"], row["scanner"]) for row in whole})
    figure, axis = plt.subplots(figsize=(8.2, 0.36 * len(keys) + 1.3), layout="constrained")
    for n, (unseen, key) in enumerate(reversed(keys)):
        values = column(where(whole, lambda row, key=key: row["scanner"] == key), "dice")  # type: ignore[misc]
        colour = RED if unseen == "1" else BLUE
        axis.boxplot([values], positions=[n], orientation="horizontal", widths=0.6, showfliers=False, whis=(5, 95),
                     medianprops={"color": colour, "lw": 1.8}, boxprops={"color": INK}, manage_ticks=False)  # fmt: skip
        text = f"{values.mean():.3f}  ({len(values)})"
        axis.text(1.01, n, text, va="center", fontsize=8, transform=axis.get_yaxis_transform())
    axis.set_yticks(range(len(keys)), [key + (" (never trained on)" if unseen == "1" else "") for unseen, key in
                                       reversed(keys)])  # fmt: skip
    axis.set(title="Dice of whole bodies: median, quartiles, 5-95 %; mean (bodies)", xlabel="Dice")
    return figure


def _flags(told: dict[str, Any]) -> Figure:
    names = list(told)
    figure, axes = plt.subplots(1, 2, figsize=(9.2, 0.5 * len(names) + 1.5), layout="constrained", sharey=True)
    for n, name in enumerate(reversed(names)):
        for shift, kind, colour in ((0.14, "by_truth", GREY), (-0.14, "end_to_end", BLUE)):
            one = told[name][kind]
            if one is None:
                continue
            seen, quiet = one["sensitivity"], one["specificity"]
            for axis, estimate, turned in ((axes[0], seen, False), (axes[1], quiet, True)):
                if estimate is None:
                    continue
                value, low, high = estimate.value, estimate.low, estimate.high
                if turned:
                    value, low, high = 1 - value, 1 - high, 1 - low
                axis.plot([100 * low, 100 * high], [n + shift] * 2, color=colour, lw=1.3)
                label = {"by_truth": "true outlines", "end_to_end": "end to end"}[kind] if n == 0 else None
                axis.plot(100 * value, n + shift, "o", color=colour, ms=5, label=label)
    axes[0].set_yticks(range(len(names)), [name.replace("_", " ") for name in reversed(names)])
    axes[0].axvline(90, color=RED, lw=0.8, ls=":")
    axes[1].axvline(5, color=RED, lw=0.8, ls=":")
    axes[0].set(title="Sensitivity, % (95 % CI)", xlim=(-2, 102))
    axes[1].set(title="False alarms, % (95 % CI)", xlim=(-0.5, 20))
    axes[1].legend(loc="upper right")
    return figure
