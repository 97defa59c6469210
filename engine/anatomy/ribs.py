"""
Which bodies bear ribs: what meets each side of each body.

A rib is a rib where its head meets the upper part of a body and its other end reaches farther aside, or
farther down, than a transverse process. What meets a body and does neither is said to be uncertain, not
left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import scipy  # its parts load at first use
from numpy.typing import NDArray

from engine.anatomy.bodies import Body
from engine.anatomy.centreline import Centreline
from engine.volume import TissueMap

HEAD_MM = 12.0  # from a body's surface to its rib; our choice: heads touch the body, a network may miss their tip
BRIDGE_MM = 18.0  # across: a transverse process parts a rib's head from its shaft by no more
RISE = 2.2  # along the patient distances count so much more: the next rib lies above or below
NECK_MM = 70.0  # from a rib's head: farther away no transverse process parts it
ASIDE_MM = 55.0  # a rib reaches this far from the midline, a lumbar transverse process does not (48 mm at L3)
FALLS_MM = 24.0  # a rib falls this far from its head to its end; a transverse process is half as high (our choice)
BROKEN_MM = 32.0  # beside a certain rib the other side's may be broken off, but it is longer than a transverse process
STUB_MM = 20.0  # shorter, it is a piece of a transverse process; short last ribs of phantoms have 50 and more
SPECK_CM3 = 0.1  # a smaller piece is no part of a rib; our choice: a centimetre of one has three times as much
LOW_RIB = 0.25  # of a body's height below its middle: a rib meets its own body above that


class Bearing(StrEnum):
    """Whether a body bears ribs."""

    BOTH = "both"
    NONE = "none"
    UNSURE = "unsure"


@dataclass(frozen=True, slots=True)
class Rib:
    """What meets one side of a body."""

    certain: bool  # False: it may be a transverse process, or another body's rib
    length_mm: float  # from its head to its farthest point


Pair = tuple[Rib | None, Rib | None]
"""What meets the right and the left side of a body."""


@dataclass(frozen=True, eq=False)
class RibCage:
    """All rib voxels of a map, and which of them are one piece."""

    points: NDArray[np.float64]  # (N, 3) mm in the patient
    pieces: NDArray[np.int_]  # (N,) number of the connected piece
    lateral: NDArray[np.float64]  # (N,) mm to the left of the course
    way: NDArray[np.float64]  # (N,) mm along the course
    beyond: NDArray[np.bool_]  # (N,) on the side border of what was looked at

    def rib(self, head: int) -> NDArray[np.bool_]:
        """(N,): the rib that a voxel belongs to: its piece and those that a transverse process parts from it."""
        near = np.linalg.norm(self.points - self.points[head], axis=1) <= NECK_MM
        own = near & (self.pieces == self.pieces[head])
        steep = self.points * (1.0, 1.0, RISE)
        gap, _ = scipy.spatial.cKDTree(steep[own]).query(steep[near], distance_upper_bound=BRIDGE_MM)
        return np.isin(self.pieces, np.unique(self.pieces[near][np.isfinite(gap)]))


def bearing(pair: Pair) -> Bearing:
    """Whether a body bears ribs, from what meets its sides; a stub on one side alone is no rib."""
    met = [rib for rib in pair if rib is not None]
    if not met or (len(met) == 1 and met[0].length_mm < STUB_MM):
        return Bearing.NONE
    long = [rib for rib in met if rib.certain or rib.length_mm >= BROKEN_MM]
    return Bearing.BOTH if len(long) == 2 and any(rib.certain for rib in met) else Bearing.UNSURE


def find_ribs(bodies: Sequence[Body], tissues: TissueMap, course: Centreline) -> list[Pair]:
    """For each body what meets its sides."""
    cage = _cage(tissues, course)
    if not len(cage.points) or not bodies:
        return [(None, None) for _ in bodies]
    owner = np.repeat(np.arange(len(bodies)), [len(body.voxels) for body in bodies])
    surface = tissues.geometry.to_patient(np.concatenate([body.voxels for body in bodies]).astype(float))
    found, nearest = scipy.spatial.cKDTree(surface).query(cage.points, distance_upper_bound=HEAD_MM)
    distance = np.asarray(found)
    owners = np.where(np.isfinite(distance), owner[np.minimum(nearest, len(owner) - 1)], -1)
    pairs = []
    for n, body in enumerate(bodies):
        right, left = (np.flatnonzero((owners == n) & ((cage.lateral > 0) == side)) for side in (False, True))
        pairs.append((_rib(body, right, distance, cage), _rib(body, left, distance, cage)))
    return pairs


def _rib(body: Body, near: NDArray[np.int_], distance: NDArray[np.float64], cage: RibCage) -> Rib | None:
    """What a body's side meets, given the rib voxels near that side."""
    if not len(near):
        return None
    head = int(near[distance[near].argmin()])
    rib = cage.rib(head)
    length = float(np.linalg.norm(cage.points[rib] - cage.points[head], axis=1).max())
    low = cage.way[head] > body.middle_mm + LOW_RIB * (body.bottom_mm - body.top_mm)
    aside = np.abs(cage.lateral[rib]).max() >= ASIDE_MM or cage.beyond[rib].any()
    falls = cage.points[head, 2] - cage.points[rib, 2].min() >= FALLS_MM
    return Rib(bool((aside or falls) and not low), length)


def _cage(tissues: TissueMap, course: Centreline) -> RibCage:
    """The rib voxels of a map."""
    voxels = tissues.voxels("rib")
    if not len(voxels):
        none = np.zeros(0)
        return RibCage(np.zeros((0, 3)), none.astype(int), none, none, none.astype(bool))
    low = voxels.min(axis=0)
    mask = np.zeros(voxels.max(axis=0) - low + 1, dtype=bool)
    mask[tuple((voxels - low).T)] = True
    labels, _ = scipy.ndimage.label(mask, np.ones((3, 3, 3)))
    pieces = np.asarray(labels[tuple((voxels - low).T)])
    large = (np.bincount(pieces) * tissues.geometry.voxel_volume_mm3 >= SPECK_CM3 * 1000)[pieces]
    voxels, pieces = voxels[large], pieces[large]
    points = tissues.geometry.to_patient(voxels.astype(float))
    way, _ = course.project(points)
    lateral = points[:, 0] - course.at(way)[:, 0]
    return RibCage(points, pieces, lateral, way, tissues.on_side(voxels))
