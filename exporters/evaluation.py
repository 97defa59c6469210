"""
How good a packaged model is, on phantoms that no training ever saw.

Scans go the whole way: a machine's dialect, its noise, the engine's own resampling, tiles and sessions.
Half of them come from a dialect that training never met.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import BadOption
from engine.records import VertebralLevel
from engine.runtime.backends import RuntimeOptions, open_session
from engine.runtime.manifest import ModelPackage
from engine.runtime.session import Session
from engine.segmentation.vertebrae import SegmentationOptions, segment
from engine.volume import Volume
from exporters.reference.phantom_series import uid_from
from exporters.reference.recipe import Recipe
from exporters.reference.scanner import scan, scanner
from exporters.reference.spine_phantom import SpinePhantom, draw_phantom, field_of_view, rasterise

BEGIN, END = "<!-- figures: written by `python -m exporters evaluate` -->", "<!-- end of figures -->"
VIEWS = (("T11", "L5", "abdomen"), ("T2", "L1", "chest"), ("L1", "L5", "lumbar spine"))


@dataclass(frozen=True, slots=True)
class Case:
    """One evaluation scan: which patient, on which machine."""

    phantom_seed: int
    scanner: str
    seen: bool  # the dialect was among the training's


def evaluate(recipe: Recipe, package: ModelPackage, *, threads: int = 0) -> dict[str, Any]:
    """Figures of a packaged spine network, by the recipe's evaluation seeds; ready for JSON."""
    with open_session(package, RuntimeOptions(threads=threads)) as session:
        figures = _spine(recipe, session)
        backend = session.model.backend
    plan = recipe.evaluation
    return {
        "model": str(package.manifest.name), "version": package.manifest.version, "sha256": package.manifest.sha256,
        "backend": backend, "first_seed": plan.first_seed, "cases": plan.cases, "unseen_scanner": plan.unseen_scanner,
        **figures,
    }  # fmt: skip


def cases(recipe: Recipe) -> list[Case]:
    """The evaluation scans; every other one on the unseen machine."""
    plan, seen = recipe.evaluation, recipe.data.scanners
    return [
        Case(plan.first_seed + n, plan.unseen_scanner if n % 2 else seen[n // 2 % len(seen)], n % 2 == 0)
        for n in range(plan.cases)
    ]


def dice(truth: NDArray[np.uint8], found: NDArray[np.uint8], label: int) -> float | None:
    """Overlap of one tissue, 0..1; None when it is not in view."""
    a, b = truth == label, found == label
    return 2.0 * int((a & b).sum()) / (int(a.sum()) + int(b.sum())) if a.any() else None


def invented_cm3(truth: NDArray[np.uint8], found: NDArray[np.uint8], label: int, voxel_mm3: float) -> float:
    """What is called this tissue and is background."""
    return _round(int(((found == label) & (truth == 0)).sum()) * voxel_mm3 / 1000, 1)


def scan_case(case: Case, number: int) -> tuple[Volume, SpinePhantom]:
    """The scan of an evaluation case, and who was scanned."""
    phantom = draw_phantom(case.phantom_seed)
    top, bottom, _ = VIEWS[number % len(VIEWS)]
    machine = scanner(case.scanner)
    geometry = field_of_view(
        phantom, VertebralLevel(top), VertebralLevel(bottom), pixels=320, pixel_mm=1.05,
        slice_mm=max(1.5, machine.spacing_mm), margin_mm=30.0, offset_mm=(0.0, -45.0),
    )  # fmt: skip
    contrast = (None, None, "venous")[number % 3]
    hounsfield, _ = scan(phantom, machine, geometry, seed=case.phantom_seed, contrast=contrast)
    uids = tuple(uid_from(f"{case} {k}") for k in range(geometry.shape[0]))
    return Volume(geometry, hounsfield, uid_from(str(case)), uids), phantom


def _spine(recipe: Recipe, session: Session) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    for number, case in enumerate(cases(recipe)):  # looking everywhere: ribs that run away from the spine count too
        volume, phantom = scan_case(case, number)
        found = segment(volume, session, SegmentationOptions(everywhere=True))
        truth = rasterise(phantom, found.geometry).labels
        scores = {name: dice(truth, found.labels, n) for n, name in enumerate(found.tissues) if n}
        voxel = found.geometry.voxel_volume_mm3
        invented = {name: invented_cm3(truth, found.labels, n, voxel) for n, name in enumerate(found.tissues) if n}
        rows.append({"seed": case.phantom_seed, "scanner": case.scanner, "seen": case.seen,
                     "view": VIEWS[number % len(VIEWS)][2], "dice": scores, "invented_cm3": invented})  # fmt: skip
    names = [name for name in session.manifest.labels if name != "background"]
    groups = {
        "all": rows,
        "seen": [row for row in rows if row["seen"]],
        "unseen": [row for row in rows if not row["seen"]],
    }
    means = {
        group: {name: _mean([row["dice"][name] for row in some]) for name in names} for group, some in groups.items()
    }
    invented = {name: _round(np.mean([row["invented_cm3"][name] for row in rows]), 1) for name in names}
    return {
        "dice": means,
        "invented_cm3": invented,
        "worst_vertebral_body": min(row["dice"]["vertebral_body"] for row in rows),
        "scans": rows,
    }


def write_figures(figures: dict[str, Any], folder: Path, told: str) -> Path:
    """Keep figures as JSON and put their table into the model's card, between its two marks.

    Args:
        folder: of the cards; `<model>.md` must be there with the marks in it.
        told: the figures as Markdown.

    Raises:
        BadOption: there is no card, or it has no place for figures.
    """
    card = folder / f"{figures['model']}.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    if BEGIN not in text or END not in text:
        raise BadOption(f"card '{card.name}' is missing, or has no place for figures: '{BEGIN}' ... '{END}'")
    (folder / f"{figures['model']}.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    card.write_text(f"{before}{BEGIN}\n\n{told}\n\n{END}{after}", encoding="utf-8")
    return card


def table(figures: dict[str, Any]) -> str:
    """Figures as a Markdown table."""
    unseen = f"unseen scanner ({figures['unseen_scanner']})"
    scans = f"{figures['cases']} scans of phantoms with seeds from {figures['first_seed']}"
    about = f"{scans}, version {figures['version']}, weights `{figures['sha256'][:12]}`, {figures['backend']}."
    lines = [
        f"| Dice | all | scanners of the training | {unseen} | invented in background, cm3 |",
        "|---|---|---|---|---|",
    ]
    for name in figures["dice"]["all"]:
        cells = [_cell(figures["dice"][group][name]) for group in ("all", "seen", "unseen")]
        lines.append(f"| {name} | {' | '.join(cells)} | {figures['invented_cm3'][name]:.1f} |")
    lines.append(f"\nWorst scan's vertebral bodies: {_cell(figures['worst_vertebral_body'])}.")
    return "\n".join([about, "", *lines])


def _mean(values: list[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return _round(float(np.mean(present)), 4) if present else None


def _round(value: float, digits: int = 2) -> float:
    return round(float(value), digits)


def _cell(value: float | None) -> str:
    return "not in view" if value is None else f"{value:.3f}"
