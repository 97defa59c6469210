"""
Tell the vertebral bodies apart: the spine is a rhythm of bone and disc along its course.

Bone and disc areas are counted across the course, millimetre by millimetre, and the course is cut into
cells, one a vertebra, so that cuts fall into discs, middles into bone, and neighbours are about equally
long. All cuts are chosen at once: bodies that touch are parted, fragments of one are kept together, and
a body that was not seen leaves an empty cell instead of shifting the count.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy  # its parts load at first use
from numpy.typing import NDArray

from engine.anatomy.centreline import STEP_MM, TUBE_MM, Centreline
from engine.volume import Geometry, TissueMap

SHORTEST_MM, LONGEST_MM = 13, 50  # of a cell: from a small upper thoracic vertebra to a tall L3 with its disc
EVEN = 2.0  # cost of (ln ratio)^2 of neighbouring cells; our choice: doubling costs as much as a lost vertebra
CUT = 2.0  # weight of a cut against a cell's middle; our choice: cutting a body in two must not pay
WINDOW_MM = 61  # over which the usual bone area is taken: about two vertebrae
BLUR_MM = 1.2  # sigma of the counts; 2-mm voxels fall unevenly into 1-mm bins
CROWDED = 0.5  # share of the usual bone area at a cut, less the disc's, above which no gap is seen (waists: 0.65)
CORE_MM = 10.0  # of the course: inside every body, whatever else lies in the tube
FRAGMENT_MM = 5.0  # from the main piece; our choice: a cleft is narrower, the next structure farther
REGULAR = 0.35  # of a cell: how far cells without gaps may be off in all; our choice: well below a half
TOO_LONG = 1.45  # times those nearby: it may hold two
NEARBY = 3  # cells on each side
TOO_TALL = 1.3  # times whole bodies nearby: of a cut body less is in view than of them; with a neighbour's half and the
#                 disc between it has 1.5 and more (our choice)


@dataclass(frozen=True, eq=False)
class Body:
    """One vertebral body: where it lies along the course, and its voxels."""

    cell: int  # number of its cell, from the head; an unseen body leaves a number out
    top_mm: float  # along the course, of its bone
    middle_mm: float
    bottom_mm: float
    voxels: NDArray[np.int_]  # (N, 3) indices into the tissue map
    cut: bool  # it reaches the border of the field of view
    doubtful: bool  # it may be more than one body, or less


def find_bodies(tissues: TissueMap, course: Centreline, view: Geometry, smallest_cm3: float) -> tuple[Body, ...]:
    """The vertebral bodies along the course, head to foot.

    Args:
        view: the volume's grid: what lies at its border may be cut.
        smallest_cm3: less bone than this in a cell is a speck.
    """
    body, disc = tissues.voxels("vertebral_body"), tissues.voxels("disc")
    (body, way, core), (_, disc_way, _) = (_in_tube(voxels, tissues, course) for voxels in (body, disc))
    if not len(body):
        return ()
    voxel = tissues.geometry.voxel_volume_mm3
    length = len(course.points)
    bone, soft = (_area(ways, length, voxel) for ways in (way, disc_way))
    usual = np.maximum(scipy.ndimage.percentile_filter(bone, 85, size=WINDOW_MM, mode="constant"), 0.2 * bone.max())
    bone, soft = np.minimum(bone / usual, 1), np.minimum(soft / usual, 1)
    cuts = _cuts(bone, soft)
    cell = np.searchsorted(cuts, way, side="right") - 1
    cell = np.clip(_whole_pieces(body, cell, tissues), 0, len(cuts) - 2)
    doubtful = _doubts(cuts, bone - soft)
    bodies = []
    for n in range(len(cuts) - 1):
        kept = _one_body(body[cell == n], core[cell == n], tissues)
        if len(kept) * voxel < smallest_cm3 * 1000:
            continue
        ways, _ = course.project(tissues.geometry.to_patient(kept.astype(float)))
        top, middle, bottom = (float(value) for value in np.percentile(ways, (4, 50, 96)))
        cut = _at_border(kept, tissues, view)
        bodies.append(Body(n, top, middle, bottom, kept, cut, doubtful[n]))
    return tuple(replace(one, doubtful=one.doubtful or _is_too_tall(one, bodies)) for one in bodies)


def _is_too_tall(body: Body, bodies: Sequence[Body]) -> bool:
    """The field of view cuts it, and yet it shows more than whole bodies nearby: it holds another one's part."""
    whole = [one.bottom_mm - one.top_mm for one in bodies if not one.cut and abs(one.cell - body.cell) <= NEARBY]
    return body.cut and bool(whole) and body.bottom_mm - body.top_mm > TOO_TALL * float(np.median(whole))


def _at_border(voxels: NDArray[np.int_], tissues: TissueMap, view: Geometry) -> bool:
    """Some voxel lies within a voxel of the border of what the volume shows."""
    index = view.to_index(tissues.geometry.to_patient(voxels.astype(float)))
    margin = max(tissues.geometry.spacing_mm) / np.asarray(view.spacing_mm)
    return bool((index < margin - 0.5).any() or (index > np.asarray(view.shape) - 0.5 - margin).any())


def _in_tube(
    voxels: NDArray[np.int_], tissues: TissueMap, course: Centreline
) -> tuple[NDArray[np.int_], NDArray[np.float64], NDArray[np.bool_]]:
    """Those voxels that lie near the course, their way along it, and which of them lie very near."""
    if not len(voxels):
        return voxels, np.zeros(0), np.zeros(0, dtype=bool)
    way, distance = course.project(tissues.geometry.to_patient(voxels.astype(float)))
    near = distance <= TUBE_MM
    return voxels[near], way[near], distance[near] <= CORE_MM


def _area(way: NDArray[np.float64], length: int, voxel_mm3: float) -> NDArray[np.float64]:
    """(S,): cross-section in mm2 at each sample of the course."""
    counts = np.bincount(np.round(way / STEP_MM).astype(int), minlength=length)[:length]
    return np.asarray(scipy.ndimage.gaussian_filter1d(counts * voxel_mm3 / STEP_MM, BLUR_MM / STEP_MM))


def _cuts(bone: NDArray[np.float64], soft: NDArray[np.float64]) -> NDArray[np.int_]:
    """Samples of the course at which it is best cut, the first and the last included.

    Args:
        bone, soft: (S,) share of the usual bone area that is bone, and that is disc.

    The first and the last cell may be of any length: the field of view may have cut a vertebra.
    """
    seen = np.flatnonzero(bone > 0.1)
    start, stop = max(0, int(seen[0]) - 3), min(len(bone) - 1, int(seen[-1]) + 3)
    gain = np.concatenate([[0.0], np.cumsum(bone - soft)])
    lengths = np.arange(SHORTEST_MM, LONGEST_MM + 1)
    uneven = EVEN * np.log(lengths[:, None] / lengths[None, :]) ** 2
    free = len(lengths)  # a last column: reached from the first cell, whose length says nothing
    total = np.full((stop + 1, free + 1), -np.inf)
    came = np.zeros((stop + 1, free + 1), dtype=int)
    result = (-np.inf, start, 0)
    for at in range(start + 1, stop + 1):
        cut = CUT * (soft[at] - bone[at])
        if at - start <= LONGEST_MM:
            total[at, free] = _middle(gain, start, at) + cut
            came[at, free] = start
        fitting = min(free, at - start - SHORTEST_MM)
        if fitting > 0:
            before = at - lengths[:fitting]
            choices = total[before]
            choices[:, :free] -= uneven[:fitting]
            came[at, :fitting] = choices.argmax(axis=1)
            total[at, :fitting] = choices.max(axis=1) + _middles(gain, before, at) + cut
        rest = stop - at
        if rest <= LONGEST_MM and (ending := total[at].max() + (_middle(gain, at, stop) if rest else 0)) > result[0]:
            result = (ending, at, int(total[at].argmax()))
    return np.array(_way_back(result, came, free, start, stop))


def _middle(gain: NDArray[np.float64], first: int, stop: int) -> float:
    """How much more bone than disc the middle half of a cell holds, per millimetre."""
    return float(_middles(gain, np.array([first]), stop)[0])


def _middles(gain: NDArray[np.float64], first: NDArray[np.int_], stop: int) -> NDArray[np.float64]:
    """The same of many cells with one end."""
    quarter = (stop - first) // 4
    return np.asarray((gain[stop - quarter] - gain[first + quarter]) / np.maximum(1, stop - first - 2 * quarter))


def _way_back(result: tuple[float, int, int], came: NDArray[np.int_], free: int, start: int, stop: int) -> list[int]:
    _, at, n = result
    cuts = [stop] if at < stop else []
    while True:
        cuts.append(at)
        if n == free:
            return [start, *reversed(cuts)]
        at, n = at - (n + SHORTEST_MM), int(came[at, n])


def _whole_pieces(body: NDArray[np.int_], cell: NDArray[np.int_], tissues: TissueMap) -> NDArray[np.int_]:
    """Give a connected piece of bone to one cell, when nearly all of it lies there: planes cut tilted bodies' rims."""
    low, high = body.min(axis=0), body.max(axis=0)
    mask = np.zeros(high - low + 1, dtype=bool)
    mask[tuple((body - low).T)] = True
    pieces, _ = scipy.ndimage.label(mask)
    piece = pieces[tuple((body - low).T)]
    counts = np.zeros((piece.max() + 1, cell.max() + 1), dtype=int)
    np.add.at(counts, (piece, cell), 1)
    share = counts.max(axis=1) / np.maximum(1, counts.sum(axis=1))
    return np.where(share[piece] > 0.8, counts.argmax(axis=1)[piece], cell)


def _one_body(voxels: NDArray[np.int_], core: NDArray[np.bool_], tissues: TissueMap) -> NDArray[np.int_]:
    """The piece that holds most of the course's surroundings, and its fragments: those of some size that lie near it.

    Args:
        voxels: (N, 3) bone of one cell.
        core: (N,) lies near the course.
    """
    if not len(voxels):
        return voxels
    low = voxels.min(axis=0)
    mask = np.zeros(voxels.max(axis=0) - low + 1, dtype=bool)
    mask[tuple((voxels - low).T)] = True
    pieces, count = scipy.ndimage.label(mask)
    piece = pieces[tuple((voxels - low).T)]
    if count == 1:
        return voxels
    sizes = np.bincount(piece)
    main = int((np.bincount(piece[core], minlength=count + 1) + sizes / sizes.sum()).argmax())
    spacing = np.asarray(tissues.geometry.spacing_mm)
    tree = scipy.spatial.cKDTree(voxels[piece == main] * spacing)
    kept = [main]
    for n in range(1, count + 1):
        if n != main and sizes[n] >= 0.05 * sizes[main]:
            gap, _ = tree.query(voxels[piece == n] * spacing)
            kept += [n] if np.min(gap) <= FRAGMENT_MM else []
    return voxels[np.isin(piece, kept)]


def _doubts(cuts: NDArray[np.int_], bone_less_disc: NDArray[np.float64]) -> list[bool]:
    """For each cell: it may be more than one body, or less.

    Cells that run into each other without a gap are believed where they are together just as long as so
    many cells nearby; a single cell, unless it is much longer than those nearby.
    """
    lengths = np.diff(cuts).astype(float)
    count = len(lengths)
    gap = [bool(bone_less_disc[max(0, at - 2) : at + 3].min() <= CROWDED) for at in cuts[1:-1].tolist()]
    whole = [0 < n < count - 1 for n in range(count)]  # the end cells may be cut short
    plain = [whole[n] and gap[n - 1] and gap[n] for n in range(count)]
    usual = np.full(count, np.nan)
    for n in range(count):
        nearby = [lengths[m] for m in range(max(0, n - NEARBY), min(count, n + NEARBY + 1)) if plain[m] and m != n]
        usual[n] = np.median(nearby) if len(nearby) >= 2 else np.nan
    share = lengths / usual
    doubtful = [bool(n) for n in share > TOO_LONG]
    first = 0
    for stop in range(1, count + 1):
        if stop < count and not gap[stop - 1]:
            continue
        crowd = range(first, stop)  # cells without a gap between them
        regular = all(whole[n] for n in crowd) and abs(share[first:stop].sum() - len(crowd)) <= REGULAR
        if len(crowd) > 1 and not regular:
            doubtful[first:stop] = [True] * len(crowd)
        first = stop
    return doubtful
