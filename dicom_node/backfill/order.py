"""
What a person asks of an archive: days or a list of examinations, a modality, a description.

Accession numbers stay in the person's file and in memory: rows hold them only as keyed hashes.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from fnmatch import fnmatchcase
from pathlib import Path

from dicom_node.backfill.options import Archive, BackfillOptions
from dicom_node.backfill.source import Part, Source
from engine.errors import BadOption
from engine.selection import SelectionOptions

COLUMNS = ("AccessionNumber", "StudyInstanceUID")
LONGEST_IDENTIFIER = 64  # a UID; an accession number (VR SH) has at most 16


@dataclass(frozen=True, slots=True)
class Identifiers:
    """Examinations by name."""

    attribute: str  # one of COLUMNS
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked for; either days or identifiers."""

    since: date | None
    until: date | None
    identifiers: Identifiers | None
    modality: str = "CT"  # of the studies; empty: any, so that each examination of a list ends in a reason
    description: str = ""  # pattern with * and ?

    def __post_init__(self) -> None:
        """Refuse an order of everything, of both, or of no day."""
        if (self.since is None) == (self.identifiers is None):
            raise BadOption("an order needs days (--since, --until) or a list (--csv), and not both")
        if self.since is not None and self.until is not None and self.until < self.since:
            raise BadOption("the last day is before the first")

    @property
    def said(self) -> str:
        """In words, without an identifier."""
        if self.identifiers is not None:
            what = f"a list of {len(self.identifiers.values)} by {self.identifiers.attribute}"
        else:
            what = f"{self.since} to {self.until}"
        return f"{what}, {self.modality or 'any modality'}" + (
            f", described as '{self.description}'" if self.description else ""
        )

    @property
    def key(self) -> str:
        """All of it; becomes a row only as a keyed hash."""
        values = "" if self.identifiers is None else "\n".join(sorted(self.identifiers.values))
        return f"{self.said}\n{values}"

    def parts(self) -> Iterator[Part]:
        """Each day, or each identifier: "StudyDate=20260301"."""
        if self.identifiers is not None:
            for value in self.identifiers.values:
                yield Part(f"{self.identifiers.attribute}={value}")
            return
        assert self.since is not None and self.until is not None  # noqa: PT018
        for n in range((self.until - self.since).days + 1):
            yield Part(f"StudyDate={self.since + timedelta(days=n):%Y%m%d}")

    def describes(self, *descriptions: str) -> bool:
        """Whether one of the descriptions of a series is asked for; always, where no pattern is given."""
        pattern = self.description.lower()
        return not pattern or any(fnmatchcase(text.lower(), pattern) for text in descriptions)


def read_csv(path: Path) -> Identifiers:
    """The identifiers of a table with a head; a column is named as DICOM names it, whatever else there is.

    Raises:
        BadOption: it can't be read, has no such column, or nothing in it.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            sample = file.read(4096)
            file.seek(0)
            delimiter = max(",;\t", key=sample.partition("\n")[0].count)
            rows = csv.DictReader(file, delimiter=delimiter)
            names = {name.strip().lower().replace(" ", ""): name for name in rows.fieldnames or ()}
            column = next((column for column in COLUMNS if column.lower() in names), None)
            if column is None:
                raise BadOption(f"the table '{path.name}' has no column {' or '.join(COLUMNS)}")
            found = [(row[names[column.lower()]] or "").strip() for row in rows]
    except OSError as bad:
        raise BadOption(f"the table '{path.name}' can't be read ({bad.strerror})") from None
    except (UnicodeDecodeError, csv.Error):
        raise BadOption(f"the table '{path.name}' is no table of UTF-8 text") from None
    values = tuple(dict.fromkeys(value for value in found if value))
    if not values:
        raise BadOption(f"the table '{path.name}' names nothing")
    if any(len(value) > LONGEST_IDENTIFIER or set(value) & set("*?\\") for value in values):
        raise BadOption(f"the table '{path.name}' holds what is no {column}: too long, or with * ? or \\ in it")
    return Identifiers(column, values)


def archive_source(
    archive: Archive, order: Order, options: BackfillOptions, pseudonym_key: bytes, selection: SelectionOptions
) -> Source:
    """An archive of the configuration, with an order."""
    if archive.url:
        from dicom_node.backfill.web import WebSource

        return WebSource(archive, order, options, pseudonym_key, selection)
    from dicom_node.backfill.pacs import PacsSource

    return PacsSource(archive, order, options, pseudonym_key, selection)
