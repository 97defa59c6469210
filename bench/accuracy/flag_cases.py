"""
Quality rules against phantoms whose findings are known: which flags were raised, by truth masks and end to end.

    python -m bench.accuracy.flag_cases 120 --out bench/results/predictions/flags.csv.gz

A case is a patient drawn with findings far more often than in life, on a scanner of the seven, in some field of view.
One row a question: a finding at a level (or of the series) that is there or not, and what the rule said to it. With
truth masks it is the rule alone that is asked; end to end, the network's outlines and names stand between.
"""

import argparse
import csv
import gzip
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path

import numpy as np

from engine.anatomy.levels import LevelOptions, name_levels
from engine.anatomy.trabecular import trabecular_core
from engine.errors import SeriesError
from engine.measurement.limits import QualityOptions
from engine.measurement.quality import quality_flags
from engine.measurement.surroundings import slabs
from engine.records import QualityFlag, Reason, SeriesRef, VertebralLevel
from engine.runtime.backends import RuntimeOptions, open_session
from engine.runtime.manifest import find_package
from engine.runtime.session import Session
from engine.runtime.sharing import ask_together
from engine.segmentation.vertebrae import SegmentationOptions, segmenting
from engine.volume import Geometry, Segmentation, Volume
from exporters.reference.findings import FRACTURES, Finding, Kind
from exporters.reference.kept_scans import kept_scan
from exporters.reference.scanner import SCANNERS, Scanner
from exporters.reference.spine_phantom import PhantomOptions, SpinePhantom, draw_phantom, field_of_view, levels_in_view

FIRST_SEED = 7_300_000  # of patients that no training has seen
OFTEN = PhantomOptions(
    fracture=0.45, osteophytes=0.3, bone_island=0.35, transitional=0.0, metal=0.15, haemangioma=0.15, cement=0.2
)
ALWAYS = PhantomOptions(
    fracture=0.6, osteophytes=0.3, bone_island=1.0, transitional=0.0, metal=0.15, haemangioma=0.4, cement=0.8
)
FIRST_HALF = 60  # cases of OFTEN; those after them are of ALWAYS, for the rarer findings
COLUMNS = ("case", "scanner", "flag", "level", "size", "present", "asked", "by_truth", "end_to_end")
FOCUS_SHARE = 0.02  # of the core, from which an island is one that the rule is for
"""The columns: `present` 1, 0, or empty where the finding is of a size that is neither; `asked` 1 where the level was
found and named end to end; `by_truth` and `end_to_end` 1 where the flag was raised."""


@dataclass(frozen=True, eq=False)
class Scan:
    """One case."""

    phantom: SpinePhantom
    machine: Scanner
    volume: Volume
    truth: Segmentation
    contrast: str | None


def draw_case(number: int, cache: Path | None = None) -> Scan:
    """A patient with a field of view, a scanner, and contrast in one of three; the scan may come from the cache."""
    rng = np.random.default_rng([FIRST_SEED, number])
    phantom, machine = draw_phantom(FIRST_SEED + number, options=_odds(number)), SCANNERS[number % len(SCANNERS)]
    contrast = (None, None, None, None, "arterial", "venous")[int(rng.integers(6))]
    lowest = (VertebralLevel.L2, VertebralLevel.L4, VertebralLevel.S1)[int(rng.integers(3))]
    margin = float(rng.uniform(-14.0, 6.0)) if lowest is VertebralLevel.L2 else 10.0
    pixels, pixel = 256, float(rng.uniform(1.35, 1.7))
    grid = field_of_view(
        phantom, VertebralLevel.T9, lowest, pixels=pixels, pixel_mm=pixel, slice_mm=float(rng.choice([1.25, 2.0, 2.5])),
        margin_mm=10.0, offset_mm=(0.0, -45.0),
    )  # fmt: skip
    if margin < 10.0:
        grid = _raised(grid, 10.0 - margin)
    hounsfield, bodies = kept_scan(cache, f"case_{number:04}", phantom, machine, grid, seed=number, contrast=contrast)
    return Scan(
        phantom, machine, Volume(grid, hounsfield, str(number), ()), Segmentation(grid, bodies, phantom.levels),
        contrast,
    )  # fmt: skip


def ask(case: Scan, session: Session | None) -> Iterator[dict[str, object]]:
    """Every question of one case, answered."""
    header = _header(case.machine)
    cores = trabecular_core(case.truth, 3.0)
    by_truth = _raised_flags(header, case.volume, case.truth, cores)
    end_to_end, named = _end_to_end(case, header, session)
    whole = set(levels_in_view(case.phantom, case.volume.geometry))
    seen = [level for level, box in zip(case.truth.segments, case.truth.boxes, strict=True) if box is not None]
    row = {"case": case.phantom.seed - FIRST_SEED, "scanner": case.machine.key}

    def answer(
        flag: Reason, level: VertebralLevel | None, present: bool | None, size: float = 0.0
    ) -> dict[str, object]:
        asked = named is not None and (level is None or level in named)
        return row | {
            "flag": flag.value, "level": level or "", "size": f"{size:.3g}",
            "present": "" if present is None else int(present), "asked": int(asked),
            "by_truth": int((flag, level) in by_truth), "end_to_end": int((flag, level) in end_to_end),
        }  # fmt: skip

    yield answer(Reason.CONTRAST, None, case.contrast is not None)
    for level in seen:
        box = case.truth.boxes[case.truth.segments.index(level)]
        assert box is not None
        if box[0].start > 0 and level not in whole:
            continue  # cut by rows or columns, or lies on the border's last voxel
        yield answer(Reason.FIELD_OF_VIEW, level, level not in whole)
        if level not in whole:
            continue
        found = case.phantom.findings.get(level, ())
        core = case.truth.segments.index(level) + 1
        core_mm3 = float(np.count_nonzero(cores.labels == core)) * case.volume.geometry.voxel_volume_mm3
        lost = max((one.size for one in found if one.kind in FRACTURES), default=0.0)
        other = bool(_size(found, Kind.CEMENT) or _size(found, Kind.METAL))
        fractured = True if lost >= 0.25 else None if lost > 0 else False
        yield answer(Reason.COMPRESSION, level, None if other else fractured, lost)
        island = _size(found, Kind.BONE_ISLAND)
        share = 4.19 * island**3 / max(core_mm3, 1.0)
        yield answer(
            Reason.DENSE_FOCUS, level, None if other or 0 < share < FOCUS_SHARE else share >= FOCUS_SHARE, island
        )
        yield answer(Reason.CEMENT, level, None if _size(found, Kind.METAL) else _size(found, Kind.CEMENT) > 0)
        yield answer(Reason.UNEVEN_CORE, level, None if other else _size(found, Kind.HAEMANGIOMA) > 0)
        screws = {one for one, some in case.phantom.findings.items() if _size(some, Kind.METAL)}
        beside = any(abs(case.truth.segments.index(one) + 1 - core) == 1 for one in screws)
        yield answer(Reason.METAL, level, True if level in screws else (None if beside else False))


def _end_to_end(
    case: Scan, header: SeriesRef, session: Session | None
) -> tuple[set[tuple[Reason, VertebralLevel | None]], set[VertebralLevel | None] | None]:
    """Flags and named levels of the whole way; no names: nothing was found or named, and nothing is told."""
    if session is None:
        return set(), None
    (tissues,) = ask_together([segmenting(case.volume, session.manifest, SegmentationOptions())], session)
    if isinstance(tissues, Exception):
        return set(), None
    try:
        named = name_levels(tissues, case.volume.geometry, LevelOptions())
    except SeriesError:
        return set(), None
    cores = trabecular_core(named.bodies, 3.0)
    raised = _raised_flags(header, case.volume, named.bodies, cores)
    return raised, set(named.bodies.segments)


def _raised_flags(
    header: SeriesRef, volume: Volume, bodies: Segmentation, cores: Segmentation
) -> set[tuple[Reason, VertebralLevel | None]]:
    flags: Sequence[QualityFlag] = quality_flags(header, volume, bodies, cores, slabs(volume, bodies), QualityOptions())
    return {(flag.reason, flag.finding_site) for flag in flags}


def _odds(number: int) -> PhantomOptions:
    return OFTEN if number < FIRST_HALF else ALWAYS


def _raised(grid: Geometry, by_mm: float) -> Geometry:
    """The same grid without its lowest slices."""
    first = round(by_mm / grid.spacing_mm[0])
    return grid.box((slice(first, grid.shape[0]), slice(0, grid.shape[1]), slice(0, grid.shape[2])))


def _size(found: Sequence[Finding], kind: Kind) -> float:
    return max((one.size for one in found if one.kind is kind), default=0.0)


def _header(machine: Scanner) -> SeriesRef:
    """A header that is silent about contrast."""
    return SeriesRef(
        study_instance_uid="1.2", series_instance_uid="1.3", patient_key="", patient_sex=None, patient_age=None,
        study_date=None, acquisition_date=None, modality="CT", image_type=(), body_part_examined=None,
        manufacturer=machine.manufacturer, manufacturer_model_name=machine.model, convolution_kernel=machine.kernel,
        slice_thickness=None, kvp=120.0, contrast_bolus_agent=False, gantry_detector_tilt=None,
        lossy_image_compression=False, has_rescale=True, transfer_syntax_uid="", image_orientation_patient=None,
        extent_mm=None, instances=(),
    )  # fmt: skip


def _keep_about(file: Path, cases: int, session: Session | None) -> None:
    """What made the rows, beside them."""
    model = {} if session is None else {f"{session.manifest.name}@{session.manifest.version}": session.manifest.sha256}
    told = {
        "models": model,
        "seeds": {"first_phantom": FIRST_SEED, "cases": cases},
        "limits": {one.name: getattr(QualityOptions(), one.name) for one in fields(QualityOptions)},
        "versions": {name: version(name) for name in ("trabecula", "numpy", "scipy", "openvino", "onnxruntime")},
    }
    beside = file.with_name(file.name.removesuffix(".csv.gz") + ".json")
    beside.write_text(json.dumps(told, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("cases", type=int)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("bench/results/predictions/flags.csv.gz"))
    parser.add_argument("--cache", type=Path, help="folder that keeps the scans, for the next run")
    parser.add_argument("--truth-only", action="store_true", help="no network: the rules alone")
    chosen = parser.parse_args()
    runtime = RuntimeOptions(threads=1)
    session = None
    if not chosen.truth_only:
        session = open_session(find_package(runtime.model_folder, "spine_segmentation"), runtime)
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for number in range(chosen.first, chosen.first + chosen.cases):
        writer.writerows(ask(draw_case(number, chosen.cache), session))
        print(f"\rcase {number}", end="", flush=True)
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        chosen.out.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))
    _keep_about(chosen.out, chosen.cases, session)
    print()


if __name__ == "__main__":
    main()
