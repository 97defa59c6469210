"""
A folder of DICOM files analysed in one go: no network, no database.

Every file is accounted for in `result.json`, and every series ends there in a result or in a reason. docs/result.md
tells its form; a change of that form raises RESULT_VERSION.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dicom_node.config import NodeConfig
from dicom_node.result_json import result_table
from dicom_node.worker import place_of
from engine.batch import Pipeline, Work
from engine.errors import BadOption, DeploymentError, SeriesError, UnreadableInstance
from engine.loading.headers import read_header
from engine.programs.vertebral import VertebralProgram
from engine.records import InstanceHeader, Program, Reason, Selection, SeriesRef
from engine.selection import select
from engine.series import series_of
from engine.volume import Analysis

RESULT_FORM = "trabecula.result"
RESULT_VERSION = 1

Told = Callable[[str, int, int], None]
"""What is told while it runs: a stage in words, how many files or series are done, of how many (0: not known)."""


@dataclass(slots=True)
class _Files:
    """What the folder's files were."""

    found: int = 0
    not_dicom: int = 0
    repeated: int = 0  # the same instance with the same bytes once more
    refused: Counter[Reason] = field(default_factory=Counter)
    instances: list[tuple[InstanceHeader, str]] = field(default_factory=list)


def analyse_folder(
    folder: Path, output: Path, config: NodeConfig, pseudonym_key: bytes | None, told: Told = lambda *_: None
) -> dict[str, Any]:
    """Analyse what a folder holds and write `result.json`, and a folder of report objects for each analysed series.

    Args:
        folder: searched with all folders in it; names mean nothing.
        output: made where missing; it may lie inside `folder`. An earlier `result.json` in it is replaced.
        pseudonym_key: of the site; None: a random one, so that patient keys mean nothing beyond this run.

    Returns:
        What was written to `result.json`.

    Raises:
        DeploymentError: a folder can't be read or written, or no model can run here.
    """
    if not folder.is_dir():
        raise DeploymentError("the folder to analyse is no folder")
    if output.resolve() == folder.resolve():
        raise BadOption("the output must be another folder than the one to analyse")
    output = _prepared(output)
    files = _read_files(folder, output, pseudonym_key or os.urandom(32), told)
    series = series_of(files.instances)
    chosen = {choice.series_instance_uid: choice for choice in select(series, Program.VERTEBRAL, config.selection)}
    entries = list(_analysed(series, chosen, output, config, told))
    table = {
        "form": RESULT_FORM,
        "version": RESULT_VERSION,
        "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "patient_key_scope": "run" if pseudonym_key is None else "site",
        "files": {
            "found": files.found,
            "not_dicom": files.not_dicom,
            "repeated": files.repeated,
            "refused": {str(reason): count for reason, count in sorted(files.refused.items())},
        },
        "series": entries,
    }
    _write_whole(output / "result.json", json.dumps(table, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return table


def _read_files(folder: Path, output: Path, key: bytes, told: Told) -> _Files:
    """Read the header of everything that says it is DICOM."""
    told("finding files", 0, 0)
    paths = sorted(_paths(folder, output))
    files = _Files(found=len(paths))
    digests: dict[str, str] = {}
    for n, path in enumerate(paths):
        told("reading headers", n, len(paths))
        try:
            if not _says_dicom(path):
                files.not_dicom += 1
                continue
            header = read_header(path, key)
        except UnreadableInstance as bad:
            files.refused[bad.reason] += 1
            continue
        first = digests.setdefault(header.sop_instance_uid, str(path))
        if first == str(path):
            files.instances.append((header, str(path)))
        elif _digest(Path(first)) == _digest(path):
            files.repeated += 1
        else:  # as at the front door: what came first stays, nothing is merged
            files.refused[Reason.INSTANCE_CONFLICT] += 1
    told("reading headers", len(paths), len(paths))
    return files


def _analysed(
    series: tuple[SeriesRef, ...], chosen: dict[str, Selection], output: Path, config: NodeConfig, told: Told
) -> Iterator[dict[str, Any]]:
    """One entry of `result.json` for each series, in the order given."""
    wanted = [one for one in series if chosen[one.series_instance_uid].reason is None]
    if not wanted:
        yield from (_entry(one, chosen[one.series_instance_uid]) for one in series)
        return
    told("opening models", 0, len(wanted))
    with VertebralProgram(config.vertebral, config.runtime) as program:
        found = _outcomes(program, wanted, output, config, told)
    told("analysed", len(wanted), len(wanted))
    for one in series:
        yield _entry(one, chosen[one.series_instance_uid]) | found.get(one.series_instance_uid, {})


def _outcomes(
    program: VertebralProgram, wanted: list[SeriesRef], output: Path, config: NodeConfig, told: Told
) -> dict[str, dict[str, Any]]:
    """What analysis and report add to each series' entry, by its UID; several are under way at the same time."""
    known = {one.series_instance_uid: one for one in wanted}
    found: dict[str, dict[str, Any]] = {}

    def tell(stage: str) -> None:
        told(f"analysing: {stage}", len(found), len(known))

    pipeline = Pipeline[str]({Program.VERTEBRAL: program}, config.worker.in_flight, tell)
    for uid, end in pipeline.run(Work(uid, Program.VERTEBRAL, one) for uid, one in known.items()):
        tell("report")
        found[uid] = _outcome(end, known[uid], output, config)
    return found


def _entry(series: SeriesRef, choice: Selection) -> dict[str, Any]:
    return {
        "study_instance_uid": series.study_instance_uid,
        "series_instance_uid": series.series_instance_uid,
        "patient_key": series.patient_key,
        "study_date": series.study_date,
        "modality": series.modality,
        "instances": len(series.instances),
        "outcome": "not_selected",
        "reason": choice.reason and str(choice.reason),
        "detail": choice.detail,
        "result": None,
        "objects": [],
        "picture": None,
    }


def _outcome(end: Analysis | Exception, series: SeriesRef, output: Path, config: NodeConfig) -> dict[str, Any]:
    """What the end of one series' analysis adds to its entry."""
    from dicom_node.report.write import write_report  # here: it takes long to load, and most commands write none

    try:
        if isinstance(end, Exception):
            raise end
        folder = output / folder_name(series)
        folder.mkdir(exist_ok=True)
        written = write_report(end, folder, config.report)
    except SeriesError as aside:
        return {"outcome": "set_aside", "reason": str(aside.reason), "detail": aside.message}
    except DeploymentError:
        raise
    except Exception as bug:  # of a foreign exception only the kind is told: its words may hold anything
        return {
            "outcome": "set_aside",
            "reason": str(Reason.ANALYSIS_FAILED),
            "detail": f"{type(bug).__name__} in {place_of(bug)}",
        }
    objects = [
        {
            "kind": item.kind,
            "sop_instance_uid": item.sop_instance_uid,
            "path": Path(item.path).relative_to(output).as_posix(),
        }
        for item in written.objects
    ]
    picture = written.picture_path and Path(written.picture_path).relative_to(output).as_posix()
    result = result_table(end.result)
    return {
        "outcome": "analysed",
        "reason": result["reason"],
        "detail": "",
        "result": result,
        "objects": objects,
        "picture": picture,
    }


def folder_name(series: SeriesRef) -> str:
    """Where a series' report lies: no two series share a folder, in one run or in several."""
    return f"series-{hashlib.sha256(series.series_instance_uid.encode()).hexdigest()[:12]}"


def _prepared(output: Path) -> Path:
    """The output folder, without the `result.json` of an earlier run: an old answer must not look like the new one."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / "result.json").unlink(missing_ok=True)
    except OSError as bad:
        raise DeploymentError(f"the output folder can't be written ({bad.strerror})") from None
    return output.resolve()


def _paths(folder: Path, output: Path) -> Iterator[Path]:
    """Every regular file below a folder; links to folders are not followed, the output is left out."""

    def stop(bad: OSError) -> None:
        raise DeploymentError(f"a folder can't be read ({bad.strerror})") from None

    for place, folders, names in os.walk(folder, onerror=stop):
        folders[:] = [name for name in folders if (Path(place) / name).resolve() != output]
        if Path(place).resolve() != output:
            yield from (path for name in names if (path := Path(place) / name).is_file())


def _says_dicom(path: Path) -> bool:
    """Whether a file begins as PS3.10 7.1 wants it: 128 bytes, then DICM."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError as bad:
        raise UnreadableInstance(Reason.HEADER_UNREADABLE, f"the file can't be read ({bad.strerror})") from None


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _write_whole(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.part")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    except OSError as bad:
        raise DeploymentError(f"result.json can't be written ({bad.strerror})") from None
