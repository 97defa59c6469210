"""
Remakes the papers' tables and figures from kept predictions.

    python -m bench.accuracy

Writes bench/results/accuracy.json (the headline numbers at its top level, the tables below them, and what they came
from) and the figures beside the model cards. Takes seconds: no model runs here.
"""

import argparse
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.accuracy import areal, figures, outlines, volumetric
from bench.accuracy.page import write_page
from bench.accuracy.rows import KINDS, PREDICTIONS, about, plain, read_rows
from engine.statistics.agreement import RegressionTable

ROOT = Path(__file__).parent.parent.parent
HEADLINES = (
    "dice_body_seen", "dice_body_unseen", "level_accuracy", "vbmd_mae_test", "vbmd_mae_independent", "vbmd_r_test",
    "vbmd_r_independent", "auc_test", "auc_independent", "abmd_r", "tbs_r", "flag_sensitivity_min",
    "flag_false_alarm_max",
)  # fmt: skip


def remake(predictions: Path = PREDICTIONS) -> dict[str, Any]:
    """All tables; what can't be had from the rows that are there is None."""
    rows = {kind: read_rows(kind, predictions) for kind in KINDS}
    density, side = volumetric.tables(rows["vertebrae"]), areal.tables(rows["vertebrae"])
    bodies, flags = outlines.body_tables(rows["bodies"]), outlines.flag_tables(rows["flags"])
    return {
        **_headlines(density, side, bodies, flags),
        "volumetric": density,
        "areal": side,
        "outlines": bodies,
        "flags": flags,
        "from": about(predictions),
        "versions": {name: version(name) for name in ("trabecula", "numpy", "scipy")},
        "python": platform.python_version(),
    }


def _headlines(
    density: dict[str, Any], side: dict[str, Any], bodies: dict[str, Any], flags: dict[str, Any]
) -> dict[str, float | None]:
    told: dict[str, float | None] = dict.fromkeys(HEADLINES)
    for name in ("seen", "unseen"):
        if bodies and bodies[name]["dice"]:
            told[f"dice_body_{name}"] = bodies[name]["dice"].mean
    if bodies and bodies["names"]["right"]:
        told["level_accuracy"] = bodies["names"]["right"].value
    for name in ("test", "independent"):
        if name in density:
            regression: RegressionTable = density[name]["regression"]
            told[f"vbmd_mae_{name}"] = regression.mae
            told[f"vbmd_r_{name}"] = regression.r.value if regression.r else None
            told[f"auc_{name}"] = density[name]["macro_auc"].value if density[name]["macro_auc"] else None
    for what in ("abmd", "tbs"):
        if what in side.get("test", {}):
            r = side["test"][what]["vertebra"]["regression"].r
            told[f"{what}_r"] = r.value if r else None
    asked = [one["end_to_end"] for flag, one in flags.items() if flag in outlines.FLAGS and one["end_to_end"]]
    seen = [one["table"].sensitivity for one in asked if one["table"].sensitivity is not None]
    alarms = [one["table"].false_positive_rate for one in asked if one["table"].false_positive_rate is not None]
    told["flag_sensitivity_min"], told["flag_false_alarm_max"] = min(seen, default=None), max(alarms, default=None)
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--predictions", type=Path, default=PREDICTIONS)
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "accuracy.json")
    parser.add_argument("--pictures", type=Path, default=ROOT / "docs" / "models")
    chosen = parser.parse_args()
    told = remake(chosen.predictions)
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(plain(told), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    made = figures.draw(chosen.predictions, told, chosen.pictures)
    write_page(told, made, chosen.pictures / "accuracy.md")
    for name in HEADLINES:
        value = told[name]
        print(f"{name:24}{'not made yet' if value is None else f'{value:.4g}'}")
    for kind, maker in KINDS.items():
        if told["from"][kind]["sha256"] is None:
            print(f"no {kind}.csv.gz: it is made by {maker}")


if __name__ == "__main__":
    main()
