"""
What a reader of the numbers must know: each rule looks at one thing and says it with its reason.

A rule that withholds takes the density at its place away; Hounsfield units stay.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import scipy  # its parts load at first use
from numpy.typing import NDArray

from engine.measurement.core_rules import core_flags, cores_of, no_core, unevenness
from engine.measurement.heights import body_heights
from engine.measurement.limits import QualityOptions as QualityOptions
from engine.measurement.shape_rules import compression, cut_ends, field_of_view, implausible, scoliosis
from engine.measurement.surroundings import Slab, truncated_mm, vessel_hounsfield
from engine.records import QualityFlag, Reason, SeriesRef, VertebralLevel
from engine.selection import Kernel, kernel_class
from engine.volume import Box, Segmentation, Volume, places


def quality_flags(
    series: SeriesRef,
    volume: Volume,
    bodies: Segmentation,
    cores: Segmentation,
    around: Sequence[Slab],
    options: QualityOptions,
) -> tuple[QualityFlag, ...]:
    """All that can be said before densities are known, the series first, then head to foot.

    Args:
        bodies, cores: on the volume's grid, with the same segments.
        around: slabs through the bodies.
    """
    flags = [*series_flags(series, around, options), *scoliosis(bodies, options)]
    cut = {n for n, box in enumerate(bodies.boxes, start=1) if box is not None and cut_ends(box, bodies, options)}
    heights = {n: found for n, found in body_heights(bodies).items() if n not in cut}
    metal = _metal(volume, bodies, options)
    found = cores_of(volume, bodies, cores, options)
    uneven = {n: value for n, core in found.items() if (value := unevenness(core)) is not None}
    for n, (level, box) in enumerate(zip(bodies.segments, bodies.boxes, strict=True), start=1):
        if level is None or box is None:
            continue
        near = [uneven[m] for m in (n - 2, n - 1, n + 1, n + 2) if m in uneven]
        usual = float(np.median(near)) if near else None
        flags += [
            *field_of_view(level, box, bodies, options),
            *implausible(level, n, box, n in cut, bodies, options),
            *(core_flags(found[n], usual, options) if n in found else [no_core(level)]),
            *compression(level, n, heights, options),
            *_near_metal(level, bodies, n, box, metal, options),
        ]
    return tuple(flags)


def series_flags(series: SeriesRef, around: Sequence[Slab], options: QualityOptions) -> list[QualityFlag]:
    """What the header and the soft tissue say against a density."""
    flags = [*_contrast(series, around, options)]
    if series.kvp is None or abs(series.kvp - options.kvp) > options.kvp_tolerance:
        found = "not stated" if series.kvp is None else f"{series.kvp:g} kV"
        flags.append(QualityFlag(Reason.KVP, None, withholds=True, detail=f"{found}, not {options.kvp:g} kV"))
    age = series.patient_age
    if age is not None and not options.youngest <= age <= options.oldest:
        limits = f"{options.youngest} to {options.oldest}"
        flags.append(QualityFlag(Reason.AGE, None, withholds=True, detail=f"not of {limits} years"))
    if kernel_class(series) is Kernel.SHARP:
        flags.append(QualityFlag(Reason.SHARP_KERNEL, None, withholds=False, detail=series.convolution_kernel[0]))
    outside = max((truncated_mm(slab) for slab in around), default=0.0)
    if outside > options.truncated_mm:
        detail = f"{outside:.0f} mm of the outline lie beyond the field of view"
        flags.append(QualityFlag(Reason.TRUNCATED_BODY, None, withholds=False, detail=detail))
    return flags


def _contrast(series: SeriesRef, around: Sequence[Slab], options: QualityOptions) -> list[QualityFlag]:
    """Headers are often silent about an agent; the vessel is not."""
    if series.contrast_bolus_agent:
        return [QualityFlag(Reason.CONTRAST, None, withholds=True, detail="the header names a contrast agent")]
    vessel = vessel_hounsfield(around)
    if vessel is None or vessel <= options.contrast_hounsfield:
        return []
    detail = f"the vessel before the spine has {vessel:.0f} HU"
    return [QualityFlag(Reason.CONTRAST, None, withholds=True, detail=detail)]


def outliers(density: Mapping[VertebralLevel, float], options: QualityOptions) -> tuple[QualityFlag, ...]:
    """Levels whose density differs from their neighbours' median; the worst first, and again without it.

    Args:
        density: mg/cm3 by level, head to foot. Two alone can't be told which is odd.

    Source:
        ISCD leaves out levels that differ by more than a T-score of 1; there is none for this density, so
        the limit is a share of the median (see QualityOptions).
    """
    left = dict(density)
    flags = []
    while len(left) > 2:
        levels = list(left)
        excess = {}
        for n, level in enumerate(levels):
            near = float(np.median([left[other] for other in (*levels[max(0, n - 2) : n], *levels[n + 1 : n + 3])]))
            excess[level] = abs(left[level] - near) - max(options.outlier_share * near, options.outlier_floor)
        worst = max(levels, key=excess.__getitem__)
        if excess[worst] <= 0:
            break
        detail = f"{left.pop(worst):.0f} mg/cm3, unlike its neighbours"
        flags.append(QualityFlag(Reason.OUTLIER_LEVEL, worst, withholds=False, detail=detail))
    return tuple(flags)


def _metal(volume: Volume, bodies: Segmentation, options: QualityOptions) -> NDArray[np.float64]:
    """(N, 3): where metal lies around the spine, mm in the patient."""
    boxes = [box for box in bodies.boxes if box is not None]
    if not boxes:
        return np.zeros((0, 3))
    near = _around(boxes, options.metal_distance_mm, bodies)
    dense = volume.hounsfield[near] > options.metal_hounsfield
    if not dense.any():
        return np.zeros((0, 3))
    pieces, _ = scipy.ndimage.label(dense)
    large = np.bincount(pieces.ravel()) * bodies.geometry.voxel_volume_mm3 / 1000 >= options.metal_cm3
    large[0] = False
    index = places(large[pieces]) + [part.start for part in near]
    return bodies.geometry.to_patient(index.astype(float))


def _near_metal(
    level: VertebralLevel, bodies: Segmentation, n: int, box: Box, metal: NDArray[np.float64], options: QualityOptions
) -> list[QualityFlag]:
    if not len(metal):
        return []
    index = places(bodies.labels[box] == n) + [part.start for part in box]
    points = bodies.geometry.to_patient(index.astype(float))
    distance, _ = scipy.spatial.cKDTree(metal).query(points, distance_upper_bound=options.metal_distance_mm)
    nearest = float(np.min(distance))
    if not np.isfinite(nearest):
        return []
    return [QualityFlag(Reason.METAL, level, withholds=True, detail=f"{nearest:.0f} mm from the body")]


def _around(boxes: Sequence[Box], margin_mm: float, bodies: Segmentation) -> Box:
    """One box around all, with a margin, inside the grid."""
    wide = []
    for axis, (step, size) in enumerate(zip(bodies.geometry.spacing_mm, bodies.geometry.shape, strict=True)):
        margin = int(np.ceil(margin_mm / step))
        first, last = min(box[axis].start for box in boxes), max(box[axis].stop for box in boxes)
        wide.append(slice(max(0, first - margin), min(size, last + margin)))
    k, j, i = wide
    return k, j, i
