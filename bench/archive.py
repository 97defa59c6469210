"""
A small archive of phantom CT studies, as a PACS would hold them.

Four studies, chest and abdomen, of two scanners. One has the same scan twice (soft and sharp kernel), of
which the engine must choose one; one is not eligible: its slices are too thick. Nobody in it exists.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from engine.records import VertebralLevel
from exporters.reference.phantom_series import SeriesTruth, write_series
from exporters.reference.scanner import scanner
from exporters.reference.spine_phantom import PLAIN, draw_phantom, field_of_view


@dataclass(frozen=True)
class Entry:
    """One series of the archive."""

    study: str
    series: str
    seed: int
    age: int
    sex: str
    vbmd: float  # mg/cm3, mean of L1-L3
    body_part: str
    top: VertebralLevel
    bottom: VertebralLevel
    scanner: str
    slice_mm: float
    margin_mm: float = 12.0


ARCHIVE = (
    Entry("1_abdomen", "soft", 101, 48, "M", 158.0, "ABDOMEN", VertebralLevel.T11, VertebralLevel.L5, "siemens_force",
          2.0, 25.0),
    Entry("1_abdomen", "sharp", 101, 48, "M", 158.0, "ABDOMEN", VertebralLevel.T11, VertebralLevel.L5, "siemens_lung",
          2.0, 25.0),
    Entry("2_abdomen", "soft", 102, 69, "F", 97.0, "ABDOMEN", VertebralLevel.T12, VertebralLevel.L5, "ge_revolution",
          2.5, 25.0),
    Entry("3_chest", "soft", 103, 81, "F", 62.0, "CHEST", VertebralLevel.T7, VertebralLevel.L3, "ge_revolution", 2.5),
    Entry("4_abdomen_thick", "soft", 104, 74, "M", 110.0, "ABDOMEN", VertebralLevel.T12, VertebralLevel.L5,
          "siemens_force", 8.0, 25.0),
)  # fmt: skip


def write_archive(folder: Path, step: Callable[[str], None] = lambda _: None) -> dict[str, SeriesTruth]:
    """Write the archive, one folder a study and one a series in it.

    Args:
        step: called with the name of each series when it is written.

    Returns:
        The truth of each series, by "study/series".
    """
    truths = {}
    with ProcessPoolExecutor(max_workers=2, mp_context=get_context("spawn")) as pool:
        writing = {
            pool.submit(write_entry, entry, folder / entry.study / entry.series): f"{entry.study}/{entry.series}"
            for entry in ARCHIVE
        }
        for done in as_completed(writing):
            truths[writing[done]] = done.result()
            step(writing[done])
    return truths


def write_entry(entry: Entry, folder: Path, *, pixels: int = 384, field_mm: float = 400.0) -> SeriesTruth:
    """Scan one entry and write its files."""
    phantom = draw_phantom(entry.seed, age=entry.age, sex=entry.sex, vbmd=entry.vbmd, options=PLAIN)
    grid = field_of_view(phantom, entry.top, entry.bottom, pixels=pixels, pixel_mm=field_mm / pixels,
                         slice_mm=entry.slice_mm, margin_mm=entry.margin_mm, offset_mm=(0.0, -45.0))  # fmt: skip
    return write_series(
        folder,
        phantom,
        scanner(entry.scanner),
        grid,
        patient_name=f"Phantom^{entry.study.partition('_')[0]}",
        body_part=entry.body_part,
        accession_number=f"DEMO{entry.seed}",
        series_number=3 if entry.series == "sharp" else 2,
    )


def files_of(folder: Path) -> Iterator[Path]:
    """All files of the archive, study by study."""
    yield from sorted(folder.rglob("*.dcm"))
