"""
What may be wrong with a vertebra, drawn from its own seed and told as truth.

A finding changes how a vertebra is painted and is listed with its kind, its size and its grade, so that a
rule or a network can be asked whether it saw it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np


class Kind(StrEnum):
    """What was found."""

    WEDGE = "wedge fracture"
    BICONCAVE = "biconcave fracture"
    CRUSH = "crush fracture"
    BONE_ISLAND = "bone island"
    HAEMANGIOMA = "haemangioma"
    OSTEOPHYTES = "osteophytes"
    SCHMORL_NODE = "Schmorl node"
    CEMENT = "cement"
    METAL = "metal"


FRACTURES = (Kind.WEDGE, Kind.BICONCAVE, Kind.CRUSH)


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding at one vertebra."""

    kind: Kind
    size: float  # share of the height that is lost (fractures); mm of radius or overhang (others)
    grade: int = 0  # of a fracture: 1 from 20 %, 2 from 25 %, 3 from 40 % of the height (Genant)


def grade_of(loss: float) -> int:
    """Genant's grade of a loss of height.

    >>> [grade_of(loss) for loss in (0.1, 0.2, 0.3, 0.5)]
    [0, 1, 2, 3]
    """
    return sum(loss >= step for step in (0.2, 0.25, 0.4))


@dataclass(frozen=True, slots=True)
class FindingShares:
    """How often each finding occurs, as shares of patients."""

    fracture: float
    osteophytes: float
    bone_island: float
    haemangioma: float
    schmorl: float
    cement: float
    metal: float


def draw_findings(
    rng: np.random.Generator, names: Sequence[str], age: int, shares: FindingShares
) -> dict[str, tuple[Finding, ...]]:
    """Findings of each numbered vertebra that has any.

    Args:
        names: of the thoracic and lumbar vertebrae, head to foot.
    """
    found: dict[str, list[Finding]] = {name: [] for name in names}
    draws = {
        kind: rng.random() for kind in ("fracture", "island", "haemangioma", "schmorl", "cement", "metal", "spurs")
    }

    def some(most: int) -> list[str]:
        return [str(name) for name in rng.choice(names, int(rng.integers(1, most + 1)), replace=False)]

    if draws["fracture"] < shares.fracture:
        for name in some(3):
            loss = float(rng.uniform(0.2, 0.6))
            found[name].append(Finding(Kind(rng.choice(FRACTURES)), loss, grade_of(loss)))
    if draws["spurs"] < shares.osteophytes:
        overhang = float(rng.uniform(1.5, 6)) * min(1.0, age / 60)
        for name in names:
            found[name].append(Finding(Kind.OSTEOPHYTES, overhang * float(rng.uniform(0.2, 1.0))))
    if draws["island"] < shares.bone_island:
        found[some(1)[0]].append(Finding(Kind.BONE_ISLAND, float(rng.uniform(2.5, 5))))
    if draws["haemangioma"] < shares.haemangioma:
        found[some(1)[0]].append(Finding(Kind.HAEMANGIOMA, float(rng.uniform(7, 13))))
    if draws["schmorl"] < shares.schmorl:
        for name in some(4):
            found[name].append(Finding(Kind.SCHMORL_NODE, float(rng.uniform(3, 6))))
    if draws["cement"] < shares.cement:
        for name in some(2):
            found[name].append(Finding(Kind.CEMENT, float(rng.uniform(6, 10))))
    if draws["metal"] < shares.metal:
        count = int(rng.integers(2, 5))
        first = int(rng.integers(names.index("T10"), len(names) - count + 1))
        for name in names[first : first + count]:
            found[name].append(Finding(Kind.METAL, 2.6))
    return {name: tuple(some) for name, some in found.items() if some}


def height_left(findings: Mapping[str, Sequence[Finding]], name: str) -> float:
    """Share of a vertebra's height that still parts its neighbours."""
    share = 1.0
    for finding in findings.get(name, ()):
        share -= {Kind.CRUSH: 1.0, Kind.WEDGE: 0.3, Kind.BICONCAVE: 0.1}.get(finding.kind, 0.0) * finding.size
    return share


def painted(findings: Sequence[Finding]) -> dict[str, Any]:
    """The fields of a Vertebra that findings set."""
    fields = {Kind.WEDGE: "wedge", Kind.BICONCAVE: "biconcave", Kind.CRUSH: "crush", Kind.BONE_ISLAND: "island",
              Kind.HAEMANGIOMA: "haemangioma", Kind.OSTEOPHYTES: "osteophyte", Kind.SCHMORL_NODE: "schmorl",
              Kind.CEMENT: "cement", Kind.METAL: "metal"}  # fmt: skip
    return {fields[finding.kind]: finding.size for finding in findings}
