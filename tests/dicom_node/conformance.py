"""The conformance statement, as tests read it."""

import re
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs" / "conformance.md").read_text()


def rows(mark: str) -> list[list[str]]:
    """Cells of the table below a mark, without its head."""
    (table,) = re.findall(rf"<!-- {mark} -->\n(.*?)<!-- end -->", PAGE, flags=re.DOTALL)
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines[2:]]


def uids(cell: str) -> list[str]:
    """The unique identifiers of a cell, in their order."""
    return re.findall(r"1\.2\.840\.10008[.\d]*\d", cell)
