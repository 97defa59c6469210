"""
What a count can start from: the sacrum, the last ribs.

Each anchor is believed only where what surrounds it is in view and says the same; a rib on one side, a
sacrum without wings, a body that the field of view may have cut are no anchors. What is left open here
ends in no name instead of a wrong one. The first ribs are no anchor: their heads lie between two
bodies, so which of these is T1 can't be told safely.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # its parts load at first use
from numpy.typing import NDArray

from engine.anatomy.bodies import Body
from engine.anatomy.centreline import Centreline
from engine.anatomy.ribs import Bearing, Pair, bearing
from engine.records import Anchor, VertebralLevel
from engine.volume import TissueMap

LONGEST_LAST_RIB_MM = 150.0  # straight from end to end; a longer one is rather an eleventh (our choice)
SEEN_SHARE = 0.5  # of the height of those above it that a body shows whose lower part the images cut: its upper half,
#                   where pedicles and heads of ribs are (our choice after anatomy)
SACRUM_GAP_MM = (-8.0, 20.0)  # between the last body and the sacrum; a body missed between them leaves 35 and more
MIDLINE_MM = 25.0  # of the course: where the sacrum's own bodies lie, not its wings
WING_MM = 38.0  # the sacrum's wings reach this far from the midline on both sides; a body does not (26 mm at L5)
WING_DEPTH_MM = 15.0  # within this way below the sacrum's top: less than a small L5, should that be taken for sacrum
WING_CM3 = 0.3  # of each wing beyond that, within this depth
RISING_CM3 = 2.0  # of sacrum beside the upper half of a body: then the body is itself the sacrum's
SACRUM_CM3 = 2.0  # less is a speck


@dataclass(frozen=True, slots=True)
class Tie:
    """An anchor holds a body to a level."""

    anchor: Anchor
    body: int  # index into the run
    level: VertebralLevel


def find_ties(
    run: Sequence[Body], ribs: Sequence[Pair], tissues: TissueMap, course: Centreline, lowest: bool
) -> list[Tie]:
    """The anchors of one unbroken run of bodies.

    Args:
        run: neighbours, head to foot.
        ribs: what meets the sides of each of them.
        lowest: no body was seen below the run.
    """
    ties = []
    if lowest and _meets_sacrum(run[-1], tissues, course):
        ties.append(Tie(Anchor.SACRUM, len(run) - 1, VertebralLevel.L5))
    bearers = [n for n, pair in enumerate(ribs) if bearing(pair) is Bearing.BOTH]
    if not bearers:
        return ties
    last = bearers[-1]
    if _bare(run, ribs, range(last + 1, len(run))) and _goes_on(run, ribs, last - 1) and _short(ribs[last]):
        ties.append(Tie(Anchor.LAST_RIBS, last, VertebralLevel.T12))
    return ties


def _bare(run: Sequence[Body], ribs: Sequence[Pair], bodies: range) -> bool:
    """At least one of these bodies shows where a rib would be, and all of those surely carry none."""
    shown = [n for n in bodies if _shows_its_upper_half(run, n)]
    return bool(shown) and all(bearing(ribs[n]) is Bearing.NONE for n in shown)


def _shows_its_upper_half(run: Sequence[Body], n: int) -> bool:
    """It is wholly in view, or cut at its foot alone and then as high as half of those above it."""
    if not run[n].cut:
        return True
    above = [body.bottom_mm - body.top_mm for body in run[max(0, n - 3) : n] if not body.cut]
    last = n == len(run) - 1
    return last and bool(above) and run[n].bottom_mm - run[n].top_mm >= SEEN_SHARE * float(np.median(above))


def _goes_on(run: Sequence[Body], ribs: Sequence[Pair], above: int) -> bool:
    """The body above bears ribs too, at least one of them certain, or it is not wholly in view."""
    return above < 0 or run[above].cut or any(rib is not None and rib.certain for rib in ribs[above])


def _short(pair: Pair) -> bool:
    """These ribs are not too long for a last pair."""
    return all(rib is not None and rib.length_mm <= LONGEST_LAST_RIB_MM for rib in pair)


def _meets_sacrum(body: Body, tissues: TissueMap, course: Centreline) -> bool:
    """The sacrum begins right below a body, has wings, and the body is none of its own."""
    points = _sacrum(tissues)
    if body.cut or not len(points):
        return False
    way, distance = course.project(points)
    lateral = points[:, 0] - course.at(way)[:, 0]
    middle = way[distance < MIDLINE_MM]
    if not len(middle):
        return False
    top = float(np.percentile(middle, 2))
    if not SACRUM_GAP_MM[0] <= top - body.bottom_mm <= SACRUM_GAP_MM[1]:
        return False
    voxel_cm3 = tissues.geometry.voxel_volume_mm3 / 1000
    upper = lateral[way <= top + WING_DEPTH_MM]
    wings = min(np.count_nonzero(upper >= WING_MM), np.count_nonzero(upper <= -WING_MM)) * voxel_cm3
    rising = np.count_nonzero(way < body.middle_mm) * voxel_cm3
    return bool(wings >= WING_CM3 and rising <= RISING_CM3)


def _sacrum(tissues: TissueMap) -> NDArray[np.float64]:
    """(N, 3): the sacrum's voxels in the patient, in mm, without specks."""
    voxels = tissues.voxels("sacrum")
    if not len(voxels):
        return np.zeros((0, 3))
    low = voxels.min(axis=0)
    mask = np.zeros(voxels.max(axis=0) - low + 1, dtype=bool)
    mask[tuple((voxels - low).T)] = True
    pieces, _ = scipy.ndimage.label(mask)
    piece = pieces[tuple((voxels - low).T)]
    large = np.bincount(piece) * tissues.geometry.voxel_volume_mm3 / 1000 >= SACRUM_CM3
    return tissues.geometry.to_patient(voxels[large[piece]].astype(float))
