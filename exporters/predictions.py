"""
What models said about vertebrae whose truth is known: one row a vertebra, kept small beside the benchmarks.

Every figure of bench/accuracy is remade from these rows. Each model fills its own columns; a row is told by
cohort, patient and level.
"""

import csv
import gzip
import io
import json
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Key = tuple[str, str, str]

ROWS, ABOUT = "vertebrae.csv.gz", "vertebrae.json"
WHO = ("cohort", "patient", "split", "batch", "scanner", "manufacturer", "kernel", "unseen", "sex", "age", "bmi",
       "body_part", "level", "fold")  # fmt: skip
TRUTH = ("vbmd", "abmd", "tbs", "hu_core", "hu_roi")
SAID = ("vbmd_predicted", "p_normal", "p_osteopenia", "p_osteoporosis", "abmd_predicted", "tbs_predicted")
COLUMNS = (*WHO, *TRUTH, *SAID)
"""mg/cm3 (vbmd), g/cm2 (abmd), HU; empty: not applicable."""
DIGITS = {"bmi": 2, "vbmd": 3, "vbmd_predicted": 3, "hu_core": 2, "hu_roi": 2}


def read_rows(folder: Path) -> list[Row]:
    """Kept rows, as text; none where nothing was kept."""
    path = folder / ROWS
    if not path.exists():
        return []
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def keep_rows(folder: Path, rows: Iterable[Mapping[str, Any]], about: Mapping[str, Mapping[str, Any]]) -> int:
    """Put rows to those that are kept: a known vertebra's columns are filled or replaced, others are added.

    Args:
        about: "models" (name@version: checksum) and "seeds"; put to what is kept.

    Returns:
        how many rows are kept now. The same rows make the same bytes.
    """
    kept: dict[Key, Row] = {_key(row): row for row in read_rows(folder)}
    for row in rows:
        said = {name: _text(name, value) for name, value in row.items()}
        kept.setdefault(_key(said), {}).update({name: value for name, value in said.items() if value})
    folder.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(kept[key] for key in sorted(kept, key=lambda key: (key[0], int(key[1]), key[2])))
    (folder / ROWS).write_bytes(gzip.compress(text.getvalue().encode(), compresslevel=9, mtime=0))
    _keep_about(folder / ABOUT, about)
    return len(kept)


def _keep_about(path: Path, about: Mapping[str, Mapping[str, Any]]) -> None:
    kept: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name, values in about.items():
        kept[name] = {**kept.get(name, {}), **values}
    kept["versions"] = {"python": platform.python_version(), **{name: version(name) for name in
                        ("numpy", "scipy", "torch", "openvino", "onnxruntime", "monai")}}  # fmt: skip
    path.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _key(row: Mapping[str, Any]) -> Key:
    return str(row["cohort"]), str(row["patient"]), str(row["level"])


def _text(name: str, value: Any) -> str:
    if value is None or value != value:  # a number that is none
        return ""
    return f"{value:.{DIGITS.get(name, 4)}f}" if isinstance(value, float) else str(value)
