"""
Write everything that a series' report consists of, so that it is there whole or not at all.

UIDs and file names follow from input and identity: a second writing after a crash replaces the
first with the same objects. A file gets its name only once its bytes are safe on disk.
"""

import hashlib
import os
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from traceback import extract_tb

from pydicom import Dataset

from dicom_node.durable import sync_folder, write_new
from dicom_node.report.options import ReportOptions
from dicom_node.report.overview_image import draw_overview
from dicom_node.report.secondary_capture import build_secondary_capture
from dicom_node.report.segmentation_object import build_segmentation, measured_cores
from dicom_node.report.source_headers import read_source, unquoted
from dicom_node.report.structured_report import build_report
from dicom_node.report.uids import report_uid
from engine.errors import ScreeningError, SeriesError, StorageFull
from engine.records import ObjectUids, Reason, ReportObject
from engine.volume import Analysis

__all__ = ["ReportOptions", "WrittenReport", "write_report"]


@dataclass(frozen=True, slots=True)
class WrittenReport:
    """What was written."""

    objects: tuple[ReportObject, ...]  # to be sent: "sr", "seg" (where a core was measured), "picture"
    picture_path: str | None  # the same picture as PNG, for people at the machine; never sent


def write_report(
    analysis: Analysis, folder: Path, options: ReportOptions, predecessor: ObjectUids | None = None
) -> WrittenReport:
    """Write the report on one analysis.

    Args:
        folder: exists, and is on a disk that keeps what is written.
        predecessor: the document that a peer was sent before on the same series, and that this one replaces.

    Raises:
        SeriesError: the source's headers do not let a report be written, or its files are gone.
        StorageFull: the folder does not take the files.
    """
    try:
        objects, picture = _build(analysis, options, predecessor)
    except ScreeningError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError, UnicodeError) as bad:
        place = extract_tb(bad.__traceback__)[-1]
        where = f"{type(bad).__name__} in {Path(place.filename).name}, line {place.lineno}"
        # the cause may quote what the header says, so only its kind and place are told
        raise SeriesError(Reason.REPORT_FAILED, f"no report can be written from these headers ({where})") from None
    written = tuple(_write_object(kind, dataset, folder) for kind, dataset in objects)
    picture_path = None
    if picture is not None:
        stem = _file_stem(report_uid("picture", analysis.series, analysis.result))
        picture_path = str(_write_whole(folder / f"{stem}.png", picture))
    sync_folder(folder)
    return WrittenReport(written, picture_path)


def _build(
    analysis: Analysis, options: ReportOptions, predecessor: ObjectUids | None
) -> tuple[list[tuple[str, Dataset]], bytes | None]:
    """All objects by kind, and the picture's PNG."""
    cores = measured_cores(analysis, options.bodies)
    covered = range(cores.start, cores.start + len(cores.labels))
    source = read_source(analysis, covered)
    objects: list[tuple[str, Dataset]] = []
    segmentation = None
    if (cores.levels or cores.bodies) and source.has_frame_of_reference:
        segmentation = build_segmentation(analysis, cores, source, options)
        objects.append(("seg", segmentation))
    objects.insert(0, ("sr", build_report(analysis, cores, segmentation, source, options, predecessor)))
    if not options.picture:
        return objects, None
    overview = draw_overview(analysis)
    objects.append(("picture", build_secondary_capture(overview, analysis, source, options)))
    png = BytesIO()
    overview.save(png, format="PNG", optimize=False)
    return objects, png.getvalue()


def _write_object(kind: str, dataset: Dataset, folder: Path) -> ReportObject:
    content = BytesIO()
    with unquoted():
        dataset.save_as(content, enforce_file_format=True)
    path = _write_whole(folder / f"{_file_stem(dataset.SOPInstanceUID)}.dcm", content.getvalue())
    uids = (str(dataset.SOPClassUID), str(dataset.SeriesInstanceUID), str(dataset.SOPInstanceUID))
    return ReportObject(kind, *uids, str(path))


def _file_stem(sop_instance_uid: str) -> str:
    return hashlib.sha256(sop_instance_uid.encode("ascii")).hexdigest()[:32]


def _write_whole(path: Path, content: bytes) -> Path:
    """Write aside, flushed, then give it its name; a former writing of the same is replaced."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        aside.unlink(missing_ok=True)
        write_new(aside, content)
        aside.replace(path)
    except OSError as bad:
        raise StorageFull(f"the folder for reports does not take a file ({bad.strerror})") from None
    return path
