"""How benchmarks print and keep what they measured."""

import json
import platform
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"


def keep(name: str, figures: dict[str, Any]) -> Path:
    """Write figures beside the machine that they were measured on; returns the file."""
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{name}.json"
    machine = {"processor": _processor(), "cpus": _cpus(), "python": platform.python_version(),
               "date": datetime.now(UTC).date().isoformat(), **figures.pop("machine", {})}  # fmt: skip
    file.write_text(json.dumps({"machine": machine, **figures}, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return file


def show(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table."""
    table = Table(title=title, title_justify="left")
    for n, column in enumerate(columns):
        table.add_column(column, justify="left" if n == 0 else "right")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def spread(values: list[float]) -> dict[str, float]:
    """Median with the smallest and largest value."""
    return {"median": median(values), "min": min(values), "max": max(values), "n": len(values)}


def _cpus() -> int:
    import os

    return len(os.sched_getaffinity(0))


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
