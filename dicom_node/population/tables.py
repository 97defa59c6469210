"""
Answers as files and on the screen: CSV for people and spreadsheets, Parquet for programs.
"""

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from db.population.query import Answer
from engine.errors import BadOption, DeploymentError, StorageFull

FORMS = (".csv", ".parquet")


def write(answer: Answer, path: Path) -> None:
    """Write an answer, by the file's ending; aside first, so that nobody reads half of it.

    Raises:
        BadOption: the ending is of no form that is written, or the folder can't be made.
        DeploymentError: Parquet's package is not installed.
        StorageFull: the disk does not take it.
    """
    if path.suffix not in FORMS:
        raise BadOption(f"'{path.name}' ends in no form that is written: {' or '.join(FORMS)}")
    with aside(path) as unfinished:
        if path.suffix == ".csv":
            with unfinished.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(answer.columns)
                writer.writerows(answer.rows)
        else:
            _write_parquet(answer, unfinished)


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """A file beside the wanted one, which takes its place once it is whole.

    Raises:
        BadOption: the folder can't be made.
        StorageFull: the disk does not take it; nothing is left.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as bad:
        raise BadOption(f"the folder of '{path.name}' can't be made: {bad.strerror}") from None
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield unfinished
        unfinished.replace(path)
    except OSError as bad:
        raise StorageFull(f"'{path.name}' can't be written: {bad.strerror}") from None
    finally:
        unfinished.unlink(missing_ok=True)


def on_screen(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """A table for the terminal; NULL is empty, numbers stand right."""
    shown = [tuple(row) for row in rows]
    table = Table(box=None, pad_edge=False, header_style="dim")
    for n, column in enumerate(columns):
        is_number = any(isinstance(row[n], (int, float)) and not isinstance(row[n], bool) for row in shown)
        table.add_column(column, justify="right" if is_number else "left", overflow="fold")
    for row in shown:
        table.add_row(*(Text(_cell(value)) for value in row))
    return table


def in_width(columns: Sequence[str], rows: Iterable[Sequence[Any]], width: int) -> RenderableType:
    """A table where its lines fit into so many characters; else each row by itself, a line a column."""
    shown = [tuple(row) for row in rows]
    if not shown:
        return Text("no rows", "dim")
    for headings in (columns, [column.replace("_", "_\n") for column in columns]):
        if _width(headings, shown) <= width:
            return on_screen(headings, shown)
    parts: list[RenderableType] = []
    for number, row in enumerate(shown, start=1):
        record = Table(box=None, pad_edge=False, show_header=False)
        record.add_column(style="dim", min_width=max(map(len, columns)))
        record.add_column(overflow="fold")
        for column, value in zip(columns, row, strict=True):
            record.add_row(column, Text(_cell(value)))
        parts += [Text(f"row {number}", "bold"), record, Text()]
    return Group(*parts)


def _width(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> int:
    """Characters of a table's lines, two between columns."""
    columns = zip(
        *([heading.split("\n") for heading in headings], *([[_cell(v)] for v in row] for row in rows)), strict=True
    )
    return sum(max(len(line) for cell in column for line in cell) + 2 for column in columns) - 2


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _write_parquet(answer: Answer, path: Path) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise DeploymentError("Parquet needs more packages: pip install '.[population]'") from None
    cells: list[Sequence[Any]] = list(zip(*answer.rows, strict=True)) or [()] * len(answer.columns)
    pq.write_table(pa.Table.from_arrays([pa.array(column) for column in cells], names=list(answer.columns)), path)
