"""
All that was measured against what was wanted, on one page: `make results` writes bench/RESULTS.md.

It is made from bench/results/*.json alone, so it says what the last run of each benchmark found, on which machine.
"""

import json
from pathlib import Path
from typing import Any

from bench.report import RESULTS
from bench.targets import TARGETS

PAGE = RESULTS.parent / "RESULTS.md"
MADE_BY = {"accuracy": "make accuracy"}  # the others: python -m bench.NAME
WORDS = {
    "loader": "Loading", "throughput": "The whole program", "stages": "Stages", "receive": "The front door",
    "database": "The database", "accuracy": "The reference models, on phantoms", "gpu": "On a GPU",
}  # fmt: skip


def page(results: Path = RESULTS) -> str:
    """The page's text."""
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))}
    measured = [(one, value) for one in TARGETS if (value := one.found(found.get(one.file, {}))) is not None]
    musts = [one.held(value) for one, value in measured if one.must]
    lines = [
        "# Results", "",
        "Made by `make results` from `bench/results/*.json`; edit nothing here. Where something is compared, a speed",
        "is the median ratio of runs in turns on the same machine. What has no target is in the files alone.", "",
        f"**{sum(musts)} of {len(musts)} targets are held.** Not held:", "",
        *(f"- {WORDS[one.file]}: {one.words}: {_number(value)}, {_bound(one)}"
          for one, value in measured if not one.held(value)),
    ]  # fmt: skip
    for name in [*WORDS, *sorted(found.keys() - WORDS.keys())]:
        lines += _section(name, found.get(name))
    return "\n".join(lines).rstrip() + "\n"


def _section(name: str, figures: dict[str, Any] | None) -> list[str]:
    by = MADE_BY.get(name, f"python -m bench.{name}")
    title = ["", f"## {WORDS.get(name, name)}", ""]
    if figures is None:
        return [*title, f"Not measured: `{by}` has not run yet."]
    rows = []
    for one in TARGETS:
        if one.file == name:
            value = one.found(figures)
            told = ("-", "not measured") if value is None else (_number(value), "yes" if one.held(value) else "**no**")
            rows.append(f"| {one.words} | {_bound(one)} | {told[0]} | {told[1]} |")
    table = ["", "| figure | target | measured | held |", "|---|---|---|---|", *rows] if rows else ["", "No targets."]
    return [*title, f"`{by}`; {_machine(figures)}.", *table]


def _bound(one: Any) -> str:
    return f"{'' if one.must else 'aim: '}{'at least' if one.least else 'at most'} {_number(one.bound)}"


def _number(value: float) -> str:
    """Three figures that count, large numbers whole."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _machine(figures: dict[str, Any]) -> str:
    machine = figures.get("machine")
    if machine is None:
        return "from kept predictions, the same on any machine"
    device = f"{machine['device']}, " if "device" in machine else ""
    return f"{machine.get('date', 'without a date')}, {device}{machine['cpus']} cores of {machine['processor']}"


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")
    print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
