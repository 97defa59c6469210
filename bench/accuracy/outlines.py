"""Outlines and names of vertebral bodies, and the quality flags, in numbers."""

from collections.abc import Sequence
from typing import Any

from bench.accuracy.rows import Row, column, where
from engine.records import Reason
from engine.statistics.discrimination import BinaryTable, binary_table
from engine.statistics.estimate import proportion
from engine.statistics.groups import describe

FLAGS = tuple(
    str(reason)
    for reason in (
        Reason.COMPRESSION, Reason.METAL, Reason.CEMENT, Reason.DENSE_FOCUS, Reason.FIELD_OF_VIEW, Reason.CONTRAST
    )
)  # fmt: skip
"""The flags that are held to targets."""
ALSO = (str(Reason.UNEVEN_CORE),)
"""Told beside them."""


def body_tables(rows: Sequence[Row]) -> dict[str, Any]:
    """Dice of whole bodies, and how often the name was right where an anchor was in view."""
    if not rows:
        return {}
    whole = where(rows, lambda row: row["whole"] == "1")
    told: dict[str, Any] = {}
    for name, unseen in (("seen", "0"), ("unseen", "1")):
        own = where(whole, lambda row, unseen=unseen: row["unseen"] == unseen)  # type: ignore[misc]
        found = where(own, lambda row: float(row["dice"]) > 0)
        told[name] = {
            "dice": describe(column(own, "dice")),
            "bodies": len(own),
            "missed": len(own) - len(found),
            "by_scanner": {
                key: describe(column(where(own, lambda row, key=key: row["scanner"] == key), "dice"))  # type: ignore[misc]
                for key in sorted({row["scanner"] for row in own})
            },
        }
    anchored = where(whole, lambda row: row["anchor"] == "1")
    free = where(whole, lambda row: row["anchor"] == "0")
    right = where(anchored, lambda row: row["named"] == row["expected"])
    named = where(anchored, lambda row: bool(row["named"]))
    told["names"] = {
        "with_anchor": len(anchored),
        "right": proportion(len(right), len(anchored)),
        "right_of_named": proportion(len(where(named, lambda row: row["named"] == row["expected"])), len(named)),
        "abstained": proportion(len(anchored) - len(named), len(anchored)),
        "without_anchor": len(free),
        "abstained_without_anchor": proportion(len(where(free, lambda row: not row["named"])), len(free)),
        "wrong_without_anchor": proportion(
            len(where(free, lambda row: bool(row["named"]) and row["named"] != row["expected"])), len(free)
        ),
    }
    return told


def flag_tables(rows: Sequence[Row]) -> dict[str, Any]:
    """Each flag against what is there: the rule alone on true outlines, and end to end where the level was named."""
    told: dict[str, Any] = {}
    for flag in (*FLAGS, *ALSO):
        own = where(rows, lambda row, flag=flag: row["flag"] == flag and bool(row["present"]))  # type: ignore[misc]
        asked = where(own, lambda row: row["asked"] == "1")
        if own:
            told[flag] = {
                "by_truth": _flag_table(own, "by_truth"),
                "end_to_end": _flag_table(asked, "end_to_end") if asked else None,
                "level_not_named": len(own) - len(asked),
                "present_not_named": len(where(own, lambda row: row["asked"] == "0" and row["present"] == "1")),
            }
    return told


def _flag_table(rows: Sequence[Row], answer: str) -> dict[str, Any]:
    table: BinaryTable = binary_table([row["present"] == "1" for row in rows], [row[answer] == "1" for row in rows])
    return {"table": table, "sensitivity": table.sensitivity_interval(), "specificity": table.specificity_interval()}
