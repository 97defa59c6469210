"""
Name the vertebral bodies, or say why they can't be named.

Bodies are found along the spine's course, parted into unbroken runs of neighbours, and each run is
counted from its own anchors: up from the sacrum, down from the last ribs. Where anchors agree, the names
are sure; where they differ by one, the sacrum's count is taken and both are told; where they contradict
each other or none is in view, nothing is named.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from engine.anatomy.anchors import Tie, find_ties
from engine.anatomy.bodies import Body, find_bodies
from engine.anatomy.centreline import find_centreline
from engine.anatomy.onto_volume import onto_volume
from engine.anatomy.ribs import find_ribs
from engine.errors import AnatomyNotFound
from engine.records import Anchor, Numbering, QualityFlag, Reason, VertebralLevel
from engine.volume import Geometry, Segmentation, TissueMap

LEVELS = tuple(VertebralLevel)
LOWEST = LEVELS.index(VertebralLevel.L5)


class Confidence(StrEnum):
    """How sure the names are."""

    HIGH = "high"  # two anchors agree
    MEDIUM = "medium"  # one anchor, or two that differ by one
    NONE = "none"  # no names were given


@dataclass(frozen=True, slots=True)
class LevelOptions:
    """What a vertebra is, and when it is believed."""

    smallest_body_cm3: float = 1.5  # less is a speck; our choice: a third of a small woman's T1
    nearest_mm: float = 13.0  # between neighbours' middles; C7-T1 of a small woman is 15
    farthest_mm: float = 50.0  # measured 22-38 from T9 to L5 (two adults); our choice leaves room for tall ones

    def __post_init__(self) -> None:
        """Refuse numbers without meaning."""
        if not (self.smallest_body_cm3 > 0 and 0 < self.nearest_mm < self.farthest_mm):
            raise ValueError("smallest_body_cm3 must be above 0, and nearest_mm below farthest_mm")


@dataclass(frozen=True, eq=False)
class NamedVertebrae:
    """Vertebral bodies with names, and what the names rest on."""

    bodies: Segmentation  # on the volume's grid, head to foot
    numberings: tuple[Numbering, ...]  # what the names rest on: one an anchor; none where there are no names
    confidence: Confidence
    flags: tuple[QualityFlag, ...]


@dataclass(frozen=True, eq=False)
class _Count:
    """A run of bodies and the level of its first one."""

    run: Sequence[Body]
    first: int  # index into LEVELS; negative: cervical bodies come first
    numberings: tuple[Numbering, ...]
    confidence: Confidence
    flags: tuple[QualityFlag, ...]


def name_levels(tissues: TissueMap, onto: Geometry, options: LevelOptions) -> NamedVertebrae:
    """Find the vertebral bodies, name them, and bring them onto the volume's grid.

    Returns:
        Bodies with their names; or, where names can't be told, bodies without any and a flag that withholds:
        there is no anchor to count from, or anchors contradict each other (LEVEL_UNCERTAIN), or a break lies
        between bodies and anchor (LEVEL_GAP).

    Raises:
        AnatomyNotFound: there is no body (NO_VERTEBRA).

    Source:
        PMC3948909: lumbarisation 6.2 %, sacralisation 2.7 %, lumbar ribs 5.8 %; so one anchor alone is
        never sure, and two that differ by one are a finding rather than an error.
    """
    course = find_centreline(tissues)
    bodies = find_bodies(tissues, course, onto, options.smallest_body_cm3) if course else ()
    if course is None or not bodies:
        raise AnatomyNotFound(Reason.NO_VERTEBRA, "no vertebral body was seen")
    ribs = find_ribs(bodies, tissues, course)
    counts, start = [], 0
    runs = _runs(bodies, options)
    for run in runs:
        own = ribs[start : start + len(run)]
        start += len(run)
        if run[0].doubtful:
            continue
        count = count_from(run, find_ties(run, own, tissues, course, lowest=start == len(bodies)))
        counts += [count] if count else []
    if not counts:
        broken = len(runs) > 1 and bool(find_ties(bodies, ribs, tissues, course, lowest=True))
        return _nameless(bodies, len(runs), broken, tissues, onto)
    return _named(_consistent(counts), bodies, tissues, onto)


def count_from(run: Sequence[Body], ties: Sequence[Tie]) -> _Count | None:
    """The level of a run's first body, where its anchors allow to tell it."""
    firsts = {tie.anchor: LEVELS.index(tie.level) - tie.body for tie in ties}
    if not firsts or max(firsts.values()) - min(firsts.values()) > 1:
        return None
    agree = len(set(firsts.values())) == 1
    if not agree and Anchor.SACRUM not in firsts:
        return None
    first = firsts.get(Anchor.SACRUM, next(iter(firsts.values())))
    if first + len(run) - 1 > LOWEST:  # more than five below the last ribs: S1, or ribs that were not seen
        return None
    flags: tuple[QualityFlag, ...] = ()
    if not agree:
        told = "; ".join(f"by the {anchor} it is {_level(value + len(run) - 1)}" for anchor, value in firsts.items())
        flags = (QualityFlag(Reason.TRANSITIONAL, None, withholds=False, detail=f"lowest body: {told}"),)
    sure = agree and len(firsts) > 1
    if len(firsts) == 1:
        (only,) = firsts
        flags = (QualityFlag(Reason.ONE_ANCHOR, None, withholds=False, detail=f"counted from the {only} alone"),)
    numberings = tuple(Numbering(anchor, value - first) for anchor, value in firsts.items())
    return _Count(run, first, numberings, Confidence.HIGH if sure else Confidence.MEDIUM, flags)


def _level(index: int) -> str:
    return LEVELS[index].value if 0 <= index < len(LEVELS) else f"the {index + 1}th below C7"


def _runs(bodies: Sequence[Body], options: LevelOptions) -> list[list[Body]]:
    """Unbroken runs: no empty cell, no odd distance between neighbours; a doubtful body stands alone."""
    runs = [[bodies[0]]]
    for above, below in pairwise(bodies):
        apart = below.middle_mm - above.middle_mm
        whole = not (above.cut or below.cut)
        odd = apart > options.farthest_mm or (whole and apart < options.nearest_mm)
        if below.cell != above.cell + 1 or above.doubtful or below.doubtful or odd:
            runs.append([])
        runs[-1].append(below)
    return runs


def _consistent(counts: Sequence[_Count]) -> list[_Count]:
    """The counts that go together with the lowest one, across the breaks between them."""
    base = counts[-1]
    return [count for count in counts if count.first - count.run[0].cell == base.first - base.run[0].cell]


def _nameless(bodies: Sequence[Body], runs: int, broken: bool, tissues: TissueMap, onto: Geometry) -> NamedVertebrae:
    """Bodies that are there to be seen, with the reason why they have no names."""
    if broken:
        reason, why = Reason.LEVEL_GAP, "no anchor reaches them without a break"
    else:
        reason, why = Reason.LEVEL_UNCERTAIN, "neither sacrum nor last ribs hold them safely"
    flag = QualityFlag(reason, None, withholds=True, detail=f"{len(bodies)} bodies in {runs} unbroken run(s): {why}")
    found = onto_volume([(None, body) for body in bodies], [], tissues, onto)
    return NamedVertebrae(found, (), Confidence.NONE, (flag,))


def _named(counts: Sequence[_Count], bodies: Sequence[Body], tissues: TissueMap, onto: Geometry) -> NamedVertebrae:
    named, counted = [], 0
    for count in counts:
        counted += len(count.run)
        named += [(LEVELS[n], body) for n, body in enumerate(count.run, start=count.first) if n >= 0]
    flags = [flag for count in counts for flag in count.flags]
    if counted < len(bodies):
        detail = f"{len(bodies) - counted} bodies beyond a break are not named"
        flags.append(QualityFlag(Reason.LEVEL_GAP, None, withholds=False, detail=detail))
    mine = {id(body) for _, body in named}
    others = [body for body in bodies if id(body) not in mine]
    numberings = tuple(dict.fromkeys(one for count in counts for one in count.numberings))
    sure = all(count.confidence is Confidence.HIGH for count in counts)
    segmentation = onto_volume(named, others, tissues, onto)
    return NamedVertebrae(segmentation, numberings, Confidence.HIGH if sure else Confidence.MEDIUM, tuple(flags))
