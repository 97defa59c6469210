"""
The plots of report and agreement, as SVG that stands in a page: no file beside it, readable in grey.
"""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dicom_node.population.agreement import Agreement, Detection
from engine.errors import DeploymentError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DARK, ACCENT = "#1f4e5f", "#b5472f"
SEXES = {"F": ("women", ACCENT, "o"), "M": ("men", DARK, "s")}
MANY = 3000  # points above which a scatter becomes an image within the SVG, so that a page stays small


def _figure(width: float = 5.2, height: float = 3.6) -> "tuple[Figure, Axes]":
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise DeploymentError("plots need more packages: pip install '.[population]'") from None
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    return figure, axes


def _svg(figure: "Figure", name: str) -> str:
    """SVG without head; its inner names are the figure's own, so that many stand in one page."""
    import matplotlib as mpl

    written = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}):
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None}, dpi=120)
    text = written.getvalue()
    return text[text.index("<svg") :]


def intake(months: Sequence[str], results: Sequence[int]) -> str:
    """Results by month of examination."""
    figure, axes = _figure(7.0, 2.6)
    axes.bar(range(len(months)), results, color=DARK)
    every = max(1, len(months) // 12)
    labels = [f"{month[:4]}-{month[4:]}" for month in months]
    axes.set_xticks(range(0, len(months), every), labels[::every], rotation=45, ha="right")
    axes.set_ylabel("results", fontsize=9)
    return _svg(figure, "intake")


def distribution(densities: Mapping[str, Sequence[float]], cuts: Sequence[float]) -> str:
    """Densities of the cohort, by sex."""
    figure, axes = _figure()
    everything = np.concatenate([np.asarray(values, float) for values in densities.values()] or [np.zeros(0)])
    bins = np.arange(0, max(200.0, float(everything.max(initial=0.0))) + 10, 10).tolist()
    for sex, values in densities.items():
        name, colour, _ = SEXES.get(sex, (sex or "sex not said", "#777777", "^"))
        axes.hist(values, bins=bins, histtype="step", linewidth=1.8, color=colour, label=f"{name}, n = {len(values)}",
                  linestyle="-" if sex == "F" else "--")  # fmt: skip
    _cut_lines(axes, cuts)
    axes.set_xlabel("volumetric BMD, mg/cm\u00b3", fontsize=9)
    axes.set_ylabel("patients", fontsize=9)
    if densities:
        axes.legend(fontsize=8, frameon=False)
    return _svg(figure, "distribution")


def curve(rows: Sequence[Mapping[str, Any]], cuts: Sequence[float]) -> str:
    """Median and middle half of density by decade and sex."""
    figure, axes = _figure()
    for sex, (name, colour, marker) in SEXES.items():
        mine = [row for row in rows if row["patient_sex"] == sex]
        if mine:
            at = [row["age_decade"] + 5 for row in mine]
            axes.fill_between(at, [row["p25"] for row in mine], [row["p75"] for row in mine], color=colour, alpha=0.15)
            axes.plot(at, [row["p50"] for row in mine], marker=marker, color=colour, label=name,
                      linestyle="-" if sex == "F" else "--")  # fmt: skip
    _cut_lines(axes, cuts, vertical=False)
    axes.set_xlabel("age, years", fontsize=9)
    axes.set_ylabel("median BMD and middle half, mg/cm\u00b3", fontsize=9)
    if axes.lines:
        axes.legend(fontsize=8, frameon=False)
    return _svg(figure, "curve")


def prevalence(rows: Sequence[Mapping[str, Any]]) -> str:
    """Share called osteoporosis by decade and sex, with its interval."""
    figure, axes = _figure()
    for n, (sex, (name, colour, marker)) in enumerate(SEXES.items()):
        mine = [row for row in rows if row["patient_sex"] == sex and row["finding"] == "osteoporosis"]
        if mine:
            at = [row["age_decade"] + 4 + 2 * n for row in mine]
            share = np.array([row["share"] for row in mine])
            low = share - np.array([row["share_low"] for row in mine])
            high = np.array([row["share_high"] for row in mine]) - share
            axes.errorbar(at, 100 * share, yerr=100 * np.clip([low, high], 0, None), fmt=marker, color=colour,
                          capsize=3, label=name)  # fmt: skip
    axes.set_ylim(0, 100)
    axes.set_xlabel("decade of age, years", fontsize=9)
    axes.set_ylabel("called osteoporosis, %", fontsize=9)
    if axes.containers:
        axes.legend(fontsize=8, frameon=False)
    return _svg(figure, "prevalence")


def drift(scanners: Mapping[str, Sequence[tuple[str, float]]]) -> str:
    """Mean HU by month of the scanners with most results."""
    figure, axes = _figure(7.0, 3.2)
    months = sorted({month for points in scanners.values() for month, _ in points})
    place = {month: n for n, month in enumerate(months)}
    styles = ("-o", "--s", ":^", "-.D", "-v", "--x")
    for (name, points), style in zip(scanners.items(), styles, strict=False):
        axes.plot([place[month] for month, _ in points], [mean for _, mean in points], style, markersize=3, label=name)
    every = max(1, len(months) // 12)
    labels = [f"{month[:4]}-{month[4:]}" for month in months]
    axes.set_xticks(range(0, len(months), every), labels[::every], rotation=45, ha="right")
    axes.set_ylabel("mean HU of the month", fontsize=9)
    if scanners:
        axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return _svg(figure, "drift")


def reasons(counted: Sequence[tuple[str, int]], name: str) -> str:
    """How often each reason occurs."""
    figure, axes = _figure(5.2, 0.8 + 0.28 * max(1, len(counted)))
    axes.barh([reason for reason, _ in counted], [count for _, count in counted], color=DARK)
    axes.invert_yaxis()
    for n, (_, count) in enumerate(counted):
        axes.annotate(f" {count}", (count, n), va="center", fontsize=8)
    axes.margins(x=0.12)
    return _svg(figure, f"reasons {name}")


def scatter(agreement: Agreement, unit: str) -> str:
    """Measured against reference, with identity, fitted line and its band."""
    figure, axes = _figure(4.4, 4.0)
    true, found = _columns(agreement)
    low, high = min(true.min(), found.min()), max(true.max(), found.max())
    axes.plot([low, high], [low, high], color="#777777", linewidth=1, linestyle=":", label="identity")
    axes.scatter(true, found, s=10, color=DARK, alpha=0.5, linewidths=0, rasterized=len(true) > MANY)
    line = agreement.regression.line if agreement.regression else None
    if line is not None:
        at = np.linspace(true.min(), true.max(), 50)
        axes.plot(at, line.intercept + line.slope.value * at, color=ACCENT, label="fit with 95 % band")
        axes.fill_between(at, *line.band(at), color=ACCENT, alpha=0.2)
    axes.set_xlabel(f"reference, {unit}", fontsize=9)
    axes.set_ylabel(f"{agreement.quantity}, {unit}", fontsize=9)
    axes.legend(fontsize=8, frameon=False)
    return _svg(figure, f"scatter {agreement.reference} {agreement.quantity}")


def differences(agreement: Agreement, unit: str) -> str:
    """Bland and Altman's plot."""
    figure, axes = _figure(4.8, 4.0)
    true, found = _columns(agreement)
    axes.scatter((true + found) / 2, found - true, s=10, color=DARK, alpha=0.5, linewidths=0,
                 rasterized=len(true) > MANY)  # fmt: skip
    table = agreement.bland_altman
    if table is not None:
        for estimate, name, style in (
            (table.upper_limit, "+1.96 SD", "--"),
            (table.bias, "bias", "-"),
            (table.lower_limit, "-1.96 SD", "--"),
        ):
            axes.axhline(estimate.value, color=ACCENT, linestyle=style, linewidth=1.2)
            axes.axhspan(estimate.low, estimate.high, color=ACCENT, alpha=0.12, linewidth=0)
            axes.annotate(f"{name} {estimate.value:.3g}", (1.0, estimate.value), xycoords=("axes fraction", "data"),
                          ha="right", va="bottom", fontsize=8)  # fmt: skip
    axes.set_xlabel(f"mean of both, {unit}", fontsize=9)
    axes.set_ylabel(f"measured \u2212 reference, {unit}", fontsize=9)
    return _svg(figure, f"differences {agreement.reference} {agreement.quantity}")


def roc(detections: Sequence[Detection]) -> str:
    """ROC curves with their areas and Youden's cut."""
    figure, axes = _figure(4.4, 4.0)
    axes.plot([0, 1], [0, 1], color="#777777", linewidth=1, linestyle=":")
    for detection, colour, style in zip(detections, (ACCENT, DARK), ("-", "--"), strict=False):
        if not detection.curve:
            continue
        area = detection.area
        name = (
            detection.what if area is None else f"{detection.what}: {area.value:.3f} ({area.low:.3f}-{area.high:.3f})"
        )
        axes.step([point.false_positive_rate for point in detection.curve],
                  [point.true_positive_rate for point in detection.curve], where="post", color=colour, linestyle=style,
                  label=name)  # fmt: skip
        if detection.youden is not None:
            axes.plot(detection.youden.false_positive_rate, detection.youden.true_positive_rate, "o", color=colour)
    axes.set_xlabel("1 \u2212 specificity", fontsize=9)
    axes.set_ylabel("sensitivity", fontsize=9)
    axes.legend(fontsize=7, frameon=False, loc="lower right")
    return _svg(figure, "roc " + " ".join(detection.what for detection in detections))


def _columns(agreement: Agreement) -> tuple[Any, Any]:
    return (
        np.array([pair.reference for pair in agreement.pairs]),
        np.array([pair.value for pair in agreement.pairs]),
    )


def _cut_lines(axes: "Axes", cuts: Sequence[float], vertical: bool = True) -> None:
    for cut in cuts:
        (axes.axvline if vertical else axes.axhline)(cut, color="#777777", linewidth=0.8, linestyle=":")
