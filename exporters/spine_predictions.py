"""
What the engine says of whole scans of unseen phantoms, one row a true vertebral body.

Scans end where scans end: abdomens with the sacrum, lumbar spines, chests that stop anywhere between T11
and L3, pieces of a trunk with no anchor at all. The rows are what a benchmark counts; nothing is
averaged here.
"""

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.anatomy.levels import LEVELS, LOWEST, LevelOptions, NamedVertebrae, name_levels
from engine.errors import AnatomyNotFound
from engine.records import Reason, VertebralLevel
from engine.runtime.backends import RuntimeOptions, open_session
from engine.runtime.manifest import ModelPackage
from engine.runtime.session import Session
from engine.segmentation.vertebrae import SegmentationOptions, segment
from engine.volume import Geometry, Volume
from exporters.reference.kept_scans import kept_scan
from exporters.reference.phantom_series import uid_from
from exporters.reference.recipe import Recipe
from exporters.reference.scanner import UNSEEN, UNSEEN_KERNEL, Scanner, scanner
from exporters.reference.spine_phantom import SpinePhantom, draw_phantom, field_of_view

FIRST_SEED = 950_000  # of the phantoms; trainings draw below 900 000, the card's figures from there
WINGS_MM = 20.0  # of the sacrum below its upper endplate that must be in view for an anchor
VIEWS = ("abdomen", "chest", "lumbar spine", "trunk", "piece")


@dataclass(frozen=True, slots=True)
class BodyRow:
    """One true body in one scan. Empty strings where there is nothing to say."""

    case: int
    seed: int
    scanner: str
    unseen: int  # 1: no training met this machine or kernel
    view: str
    contrast: str
    level: str  # its anatomical name, counted from the neck
    expected: str  # its name by the rule of `expectations`
    whole: int  # 1: not cut by the images
    anchor: int  # 1: the sacrum, or the last ribs and the body below them, are in view
    transitional: int  # 1: a patient with four or six lumbar bodies
    dice: float  # with the segment that overlaps it most
    named: str  # what the engine calls it
    flagged: int  # 1: the engine said that one anchor held the names, or that anchors differ
    reason: str  # why it has no name
    findings: str
    sex: str
    age: int


@dataclass(frozen=True, slots=True)
class ScanCase:
    """Which patient, on which machine, seen how."""

    number: int
    phantom: SpinePhantom
    machine: Scanner
    unseen: bool
    view: str
    contrast: str | None
    geometry: Geometry


def draw_scan(recipe: Recipe, number: int, first_seed: int = FIRST_SEED) -> ScanCase:
    """One scan from its number; every other one is on a machine or with a kernel that no training met."""
    rng = np.random.default_rng([first_seed, number])
    phantom = draw_phantom(first_seed + number)
    unseen = number % 2 == 1
    strange = (*UNSEEN, UNSEEN_KERNEL)
    known = [key for key in recipe.data.scanners if key not in strange]
    machine = scanner(strange[number // 2 % len(strange)] if unseen else known[number // 2 % len(known)])
    view = VIEWS[int(rng.choice(len(VIEWS), p=(0.3, 0.3, 0.2, 0.1, 0.1)))]
    contrast = (None, None, "arterial", "venous")[int(rng.integers(4))]
    return ScanCase(number, phantom, machine, unseen, view, contrast, _view(rng, phantom, view, machine))


def _view(rng: np.random.Generator, phantom: SpinePhantom, view: str, machine: Scanner) -> Geometry:
    """A field of view; it ends anywhere, also within a body."""
    levels = phantom.levels
    order = {str(level): n for n, level in enumerate(levels)}
    last = len(levels) - 1
    top = {"abdomen": int(rng.integers(order["T9"], order["T12"])), "chest": int(rng.integers(0, 3)),
           "lumbar spine": int(rng.integers(order["T12"], order["L2"])), "trunk": 0,
           "piece": int(rng.integers(order["T3"], order["L1"]))}[view]  # fmt: skip
    bottom = {"chest": int(rng.integers(order["T11"], order["L3"] + 1)), "piece": min(top + 4, last)}.get(view, last)
    whole = field_of_view(
        phantom, levels[top], levels[bottom], pixels=300, pixel_mm=1.2, slice_mm=max(2.0, machine.spacing_mm),
        margin_mm=float(rng.uniform(-12, 12)), offset_mm=(0.0, -45.0),
    )  # fmt: skip
    if bottom < last or view == "piece":
        return whole
    below = int(rng.uniform(20, 90) / whole.spacing_mm[0])  # the sacrum, or a part of it
    k, j, i = whole.shape
    x, y, z = whole.origin_mm
    return Geometry((k + below, j, i), whole.spacing_mm, (x, y, z - below * whole.spacing_mm[0]), whole.direction)


def predict(case: ScanCase, session: Session, cache: Path | None = None) -> list[BodyRow]:
    """Scan, segment, name, and compare with the truth."""
    hounsfield, truth = kept_scan(
        cache, f"scan_{case.number:04}", case.phantom, case.machine, case.geometry, seed=case.phantom.seed,
        contrast=case.contrast,
    )  # fmt: skip
    uids = tuple(uid_from(f"{case.number} {k}") for k in range(case.geometry.shape[0]))
    volume = Volume(case.geometry, hounsfield, uid_from(str(case.number)), uids)
    try:
        named = name_levels(segment(volume, session, SegmentationOptions()), case.geometry, LevelOptions())
    except AnatomyNotFound as error:
        return compare(case, truth, None, error.reason)
    return compare(case, truth, named, None)


def compare(
    case: ScanCase, truth: NDArray[np.uint8], named: NamedVertebrae | None, reason: Reason | None
) -> list[BodyRow]:
    """Rows of all true bodies in view."""
    phantom = case.phantom
    expected, anchored = expectations(phantom, case.geometry)
    segments = named.bodies.segments if named else ()
    flags = {flag.reason for flag in named.flags} if named else set()
    withheld = next((flag.reason for flag in named.flags if flag.withholds), None) if named else reason
    rows = []
    for n, level in enumerate(phantom.levels, start=1):
        body = truth == n
        if not body.any():
            continue
        which, dice = _best_segment(body, named.bodies.labels if named else np.zeros_like(truth), len(segments))
        name = segments[which - 1] if which else None
        why = "" if name else str(withheld or (Reason.LEVEL_GAP if named else ""))
        told = phantom.findings.get(level, ())
        rows.append(BodyRow(
            case.number, phantom.seed, case.machine.key, int(case.unseen), case.view, case.contrast or "",
            str(level), expected.get(level, ""), int(_whole(phantom, level, case.geometry)), int(anchored),
            int(_transitional(phantom)), round(dice, 4), str(name) if name else "",
            int(bool(flags & {Reason.TRANSITIONAL, Reason.ONE_ANCHOR})), why,
            ";".join(f"{one.kind}:{one.size:.2f}" for one in told), phantom.sex, phantom.age,
        ))  # fmt: skip
    return rows


def expectations(phantom: SpinePhantom, view: Geometry) -> tuple[dict[VertebralLevel, str], bool]:
    """Each body's name by the stated rule, and whether an anchor is wholly in view.

    The rule: counted from the sacrum where that is in view, else from the last ribs where those are, else the
    anatomical name. It matters in patients with four or six lumbar bodies alone.
    """
    levels = phantom.levels
    ribbed = [n for n, level in enumerate(levels) if phantom.vertebra(level).rib]
    lowest = phantom.sacrum.point(0, 0, phantom.sacrum.height / 2 - WINGS_MM)
    sacrum = _whole(phantom, levels[-1], view) and bool(view.to_index(lowest)[0] >= 0)
    after = ribbed[-1] + 1
    ribs = after < len(levels) and all(_whole(phantom, levels[n], view) for n in (ribbed[-1], after))
    some = bool(view.to_index(np.asarray(phantom.vertebra(levels[ribbed[-1]]).centre))[0] >= 0)
    first = LOWEST - (len(levels) - 1) if sacrum else LEVELS.index(VertebralLevel.T12) - ribbed[-1] if some else 0
    names = {level: first + n for n, level in enumerate(levels)}
    return {level: str(LEVELS[n]) for level, n in names.items() if 0 <= n < len(LEVELS)}, sacrum or ribs


def _transitional(phantom: SpinePhantom) -> bool:
    return len(phantom.levels) != 17 or sum(bone.rib > 0 for bone in phantom.vertebrae) != 12


def _whole(phantom: SpinePhantom, level: VertebralLevel, view: Geometry) -> bool:
    bone = phantom.vertebra(level)
    a, b, h = bone.width / 2, bone.depth / 2, bone.height / 2
    corners = np.array([bone.point(u, v, w) for u in (-a, a) for v in (-b, b) for w in (-h, h)])
    index = view.to_index(corners)
    return bool((index >= -0.5).all() and (index <= np.asarray(view.shape) - 0.5).all())


def _best_segment(body: NDArray[np.bool_], labels: NDArray[np.uint8], count: int) -> tuple[int, float]:
    """The segment that overlaps a body most (0: none does), and their Dice."""
    overlap = np.bincount(labels[body], minlength=count + 1)
    if not overlap[1:].any():
        return 0, 0.0
    which = int(overlap[1:].argmax()) + 1
    return which, 2.0 * int(overlap[which]) / (int(body.sum()) + int(np.count_nonzero(labels == which)))


def predictions(
    recipe: Recipe, package: ModelPackage, count: int, threads: int = 1, cache: Path | None = None
) -> Iterator[list[BodyRow]]:
    """Rows of one scan after another."""
    with open_session(package, RuntimeOptions(threads=threads)) as session:
        for number in range(count):
            yield predict(draw_scan(recipe, number), session, cache)


def write_predictions(
    recipe: Recipe, package: ModelPackage, folder: Path, count: int, *, threads: int = 1,
    cache: Path | None = None, told: Callable[[int, int], object] = lambda done, total: None,
) -> dict[str, float | int]:  # fmt: skip
    """Write `bodies.csv.gz` and `bodies.json` into a folder.

    Args:
        cache: folder that keeps the scans for the next run.

    Returns:
        the main figures, see `figures`.
    """
    rows: list[BodyRow] = []
    for done, some in enumerate(predictions(recipe, package, count, threads, cache), start=1):
        rows += some
        told(done, count)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bodies.csv.gz").write_bytes(as_table(rows))
    about = {
        "models": {f"{package.manifest.name}@{package.manifest.version}": package.manifest.sha256},
        "seeds": {"first": FIRST_SEED, "scans": count}, "figures": figures(rows),
    }  # fmt: skip
    (folder / "bodies.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return figures(rows)


def as_table(rows: list[BodyRow]) -> bytes:
    """Rows as a gzipped CSV; the same rows, the same bytes."""
    names = [field.name for field in fields(BodyRow)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([[getattr(row, name) for name in names] for row in rows])
    return gzip.compress(text.getvalue().encode(), mtime=0)


def figures(rows: list[BodyRow]) -> dict[str, float | int]:
    """Dice of whole bodies, and how many of those whose name can be told have the right one.

    `abstains_otherwise` counts the scans without an anchor in view in which no body got a wrong name.
    """
    whole = [row for row in rows if row.whole]
    can = [row for row in whole if row.anchor]
    cannot = [row for row in rows if not row.anchor]
    wrong = {row.case for row in cannot if row.named and row.named != row.expected}
    scans = {row.case for row in cannot}
    by_anchor = {
        "level_accuracy": _share(row.named == row.expected for row in can),
        "level_wrong": _share(row.named not in ("", row.expected) for row in can),
        "level_wrong_unflagged": _share(row.named not in ("", row.expected) and not row.flagged for row in can),
        "abstains_otherwise": 1.0 - len(wrong) / len(scans) if scans else 1.0,
    }
    dice = {
        f"dice_body_{name}": float(np.mean([row.dice for row in whole if row.unseen == unseen] or [0.0]))
        for name, unseen in (("seen", 0), ("unseen", 1))
    }
    return {name: round(value, 4) for name, value in (dice | by_anchor).items()} | {
        "bodies": len(whole), "bodies_with_anchor": len(can), "scans": len({row.case for row in rows}),
    }  # fmt: skip


def _share(flags: Iterator[bool]) -> float:
    seen = [*flags]
    return sum(seen) / len(seen) if seen else 0.0
