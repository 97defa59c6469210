"""
Whose posterior elements are whose: each belongs to the body that its pedicles lead to.

Neighbours touch at their facets, and a spinous process hangs behind the next body; so what counts is not
the straight distance but the way through bone.
"""

from itertools import product

import numpy as np
import scipy  # its parts load at first use
from numpy.typing import NDArray

from engine.volume import Box, Geometry, Segmentation, TissueMap, Vector, places

STEPS = [step for step in product((-1, 0, 1), repeat=3) if step > (0, 0, 0)]  # to half of a voxel's 26 neighbours
PEDICLE_MM = 4.5  # from a body's voxels: where a way may begin; our choice: two voxels and a gap's width
LOOSE_MM = 5.0  # a piece without a way to any body goes with bone so near; our choice: farther, it may be a neighbour


def whole_vertebrae(bodies: Segmentation, tissues: TissueMap) -> Segmentation:
    """Bodies with their posterior elements, on the tissue map's grid.

    Args:
        bodies: on any grid in the patient; the segments stay the same.

    Returns:
        A map where n is the body and what belongs to it; posterior elements of no body in `bodies` stay background.
    """
    found = _onto(bodies, tissues.geometry)
    labels, near = found.labels, list(found.boxes)
    if "posterior_elements" in tissues.tissues:
        voxels = tissues.voxels("posterior_elements")
        voxels = voxels[labels[tuple(voxels.T)] == 0]
        if len(voxels) and labels.any():
            owners = _owners(voxels, found)
            near = [_with(box, voxels[owners == n]) for n, box in enumerate(found.boxes, start=1)]
            labels[tuple(voxels.T)] = owners
    return Segmentation(tissues.geometry, labels, bodies.segments, tuple(near))


def _with(box: Box | None, voxels: NDArray[np.int_]) -> Box | None:
    """A box that holds voxels (N, 3) too."""
    if box is None or not len(voxels):
        return box
    low, high = voxels.min(axis=0).tolist(), voxels.max(axis=0).tolist()
    k, j, i = (slice(min(own.start, a), max(own.stop, b + 1)) for own, a, b in zip(box, low, high, strict=True))
    return k, j, i


def _onto(bodies: Segmentation, grid: Geometry) -> Segmentation:
    """The label of the body's voxel under each of the grid's centres; grids lie as they like."""
    from engine.kernels.sampling import put_under

    labels = np.zeros(grid.shape, dtype=np.uint8)
    found: list[Box | None] = [None] * len(bodies.segments)
    for n, box in enumerate(bodies.boxes, start=1):
        if box is None:
            continue
        ends = [(part.start - 0.5, part.stop - 0.5) for part in box]
        corners = np.array([[k, j, i] for k in ends[0] for j in ends[1] for i in ends[2]])
        near = grid.to_index(bodies.geometry.to_patient(corners))
        low = np.clip(np.floor(near.min(axis=0)).astype(int), 0, grid.shape)
        high = np.clip(np.ceil(near.max(axis=0)).astype(int) + 1, 0, grid.shape)
        put_under(bodies.labels, n, bodies.geometry.inverse, grid.affine, low, high, labels)
        k, j, i = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        found[n - 1] = (k, j, i)
    return Segmentation(grid, labels, bodies.segments, tuple(found))


def _owners(voxels: NDArray[np.int_], bodies: Segmentation) -> NDArray[np.uint8]:
    """The body that each voxel (N, 3) belongs to; 0: to none."""
    labels, boxes, grid = bodies.labels, bodies.boxes, bodies.geometry
    points = grid.to_patient(voxels.astype(float))
    starts, ends, ways = _neighbours(voxels, grid.spacing_mm)
    count, numbers = len(voxels), np.array([n for n, box in enumerate(boxes, start=1) if box is not None])
    for source, n in enumerate(numbers.tolist(), start=count):
        box = boxes[n - 1] or (slice(0),) * 3
        body = places(labels[box] == n) + [part.start for part in box]
        distance, _ = scipy.spatial.cKDTree(grid.to_patient(body.astype(float))).query(
            points, distance_upper_bound=PEDICLE_MM
        )
        away = np.asarray(distance)
        near = np.flatnonzero(np.isfinite(away))
        starts.append(np.full(len(near), source))
        ends.append(near)
        ways.append(away[near])
    size = count + len(numbers)
    graph = scipy.sparse.coo_array(
        (np.concatenate(ways), (np.concatenate(starts), np.concatenate(ends))), (size, size)
    ).tocsr()
    sources = list(range(count, size))
    found, _, nearest = scipy.sparse.csgraph.dijkstra(
        graph, directed=False, indices=sources, min_only=True, return_predecessors=True
    )
    reached = np.isfinite(found[:count])
    owners = np.zeros(count, dtype=np.uint8)
    owners[reached] = numbers[nearest[:count][reached] - count]
    if reached.any() and not reached.all():
        distance, at = scipy.spatial.cKDTree(points[reached]).query(points[~reached], distance_upper_bound=LOOSE_MM)
        at = np.minimum(at, reached.sum() - 1)
        owners[~reached] = np.where(np.isfinite(distance), owners[reached][at], 0)
    return owners


def _neighbours(
    voxels: NDArray[np.int_], spacing_mm: Vector
) -> tuple[list[NDArray[np.int_]], list[NDArray[np.int_]], list[NDArray[np.float64]]]:
    """Pairs of voxels (N, 3) that touch by a face, an edge or a corner, and how far apart they are; each pair once."""
    low = voxels.min(axis=0) - 1
    number = np.full(voxels.max(axis=0) - low + 2, -1, dtype=np.int32)
    at = voxels - low
    number[tuple(at.T)] = np.arange(len(voxels))
    firsts, seconds, lengths = [], [], []
    for step in STEPS:
        other = number[tuple((at + step).T)]
        first = np.flatnonzero(other >= 0)
        firsts.append(first)
        seconds.append(other[first].astype(int))
        lengths.append(np.full(len(first), float(np.linalg.norm(np.multiply(step, spacing_mm)))))
    return firsts, seconds, lengths
