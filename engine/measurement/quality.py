"""
What a reader of the numbers must know: each rule looks at one thing and says it with its reason.

A rule that withholds takes the density at its place away; Hounsfield units stay.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import hypot

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from engine.measurement.heights import Heights, body_heights
from engine.records import QualityFlag, Reason, SeriesRef, VertebralLevel
from engine.selection import Kernel, kernel_class
from engine.volume import Box, Segmentation, Volume


@dataclass(frozen=True, slots=True)
class QualityOptions:
    """Limits of the rules."""

    kvp: float = 120.0  # that models and cuts were made for (Yoshida 2023, Peng 2023)
    kvp_tolerance: float = 1.0
    smallest_core_cm3: float = 1.5  # our choice: about what a QCT region of interest holds
    noise_hounsfield: float = 40.0  # SD at 1 mm slices; our choice: low-dose chest CT has 28-50
    structure_hounsfield: float = 30.0  # SD of the trabeculae themselves: 28 measured in a native T12
    height_ratio: float = 0.8  # below it a body is compressed: 20 % of height (Genant)
    focus_hounsfield: float = 200.0  # above the median; a measured bone island's core has 3.1 % there, others 1.2 %
    focus_share: float = 0.02
    cement_hounsfield: float = 800.0  # in a core: no bone is so dense there; our choice
    cement_cm3: float = 0.1
    metal_hounsfield: float = 2000.0  # denser than any bone
    metal_cm3: float = 0.2  # our choice: a screw has more, a clip far off does no harm
    metal_distance_mm: float = 15.0
    outlier_share: float = 0.25  # from the neighbours' median; L2-L4 of 11 % of normals differ by more
    outlier_floor: float = 20.0  # mg/cm3; our choice: at low densities a quarter is less than the error

    def __post_init__(self) -> None:
        """Refuse numbers without meaning."""
        if not (0 < self.height_ratio < 1 and 0 <= self.focus_share < 1):
            raise ValueError("height_ratio and focus_share are shares below 1")
        if min(self.kvp_tolerance, self.smallest_core_cm3, self.noise_hounsfield, self.outlier_floor) < 0:
            raise ValueError("tolerances and limits can't be negative")


def quality_flags(
    series: SeriesRef, volume: Volume, bodies: Segmentation, cores: Segmentation, options: QualityOptions
) -> tuple[QualityFlag, ...]:
    """All that can be said before densities are known, the series first, then head to foot.

    Args:
        bodies, cores: on the volume's grid, with the same segments.
    """
    flags = series_flags(series, options)
    cut = {n for n, box in enumerate(bodies.boxes, start=1) if box is not None and _ends(box, bodies)}
    heights = {n: found for n, found in body_heights(bodies).items() if n not in cut}
    metal = _metal(volume, bodies, options)
    for n, (level, box) in enumerate(zip(bodies.segments, bodies.boxes, strict=True), start=1):
        if level is None or box is None:
            continue
        inside = cores.labels[box] == n
        hounsfield = volume.hounsfield[box].astype(np.float32)
        flags += [
            *_field_of_view(level, box, bodies),
            *_core_size(level, inside, cores, options),
            *_noise(level, hounsfield[inside], cores.geometry.spacing_mm[0], options),
            *_compression(level, n, heights, options),
            *_dense_focus(level, hounsfield, inside, cores.geometry.voxel_volume_mm3, options),
            *_near_metal(level, bodies, n, box, metal, options),
        ]
    return tuple(flags)


def series_flags(series: SeriesRef, options: QualityOptions) -> list[QualityFlag]:
    """What the header says against a density."""
    flags = []
    if series.contrast_bolus_agent:
        flags.append(QualityFlag(Reason.CONTRAST, None, withholds=True, detail="the header names a contrast agent"))
    if series.kvp is None or abs(series.kvp - options.kvp) > options.kvp_tolerance:
        found = "not stated" if series.kvp is None else f"{series.kvp:g} kV"
        flags.append(QualityFlag(Reason.KVP, None, withholds=True, detail=f"{found}, not {options.kvp:g} kV"))
    if kernel_class(series) is Kernel.SHARP:
        flags.append(QualityFlag(Reason.SHARP_KERNEL, None, withholds=False, detail=series.convolution_kernel[0]))
    return flags


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


def _field_of_view(level: VertebralLevel, box: Box, bodies: Segmentation) -> list[QualityFlag]:
    ends = _ends(box, bodies)
    detail = f"touches the first or last {' and '.join(ends)}"
    return [QualityFlag(Reason.FIELD_OF_VIEW, level, withholds=True, detail=detail)] if ends else []


def _ends(box: Box, bodies: Segmentation) -> list[str]:
    """Along which axes a body reaches the border of the volume."""
    return [
        name
        for part, size, name in zip(box, bodies.geometry.shape, ("slice", "row", "column"), strict=True)
        if part.start == 0 or part.stop == size
    ]


def _core_size(
    level: VertebralLevel, inside: NDArray[np.bool_], cores: Segmentation, options: QualityOptions
) -> list[QualityFlag]:
    cm3 = np.count_nonzero(inside) * cores.geometry.voxel_volume_mm3 / 1000
    if cm3 >= options.smallest_core_cm3:
        return []
    return [QualityFlag(Reason.CORE_TOO_SMALL, level, withholds=True, detail=f"{cm3:.1f} cm3")]


def _noise(
    level: VertebralLevel, hounsfield: NDArray[np.float32], slice_mm: float, options: QualityOptions
) -> list[QualityFlag]:
    """Noise falls with the root of the slice's thickness; the trabeculae's own spread stays."""
    if not hounsfield.size:
        return []
    limit = hypot(options.structure_hounsfield, options.noise_hounsfield / slice_mm**0.5)
    found = _robust_sd(hounsfield)
    detail = f"SD {found:.0f} HU in the core, limit {limit:.0f} HU"
    return [QualityFlag(Reason.NOISE, level, withholds=False, detail=detail)] if found > limit else []


def _compression(
    level: VertebralLevel, n: int, heights: Mapping[int, Heights], options: QualityOptions
) -> list[QualityFlag]:
    """Lower in front or in the middle than at the back, or at the back than its neighbours; by more than a slice.

    Source:
        Genant 1993: wedge, biconcave and crush deformities. The back is the reference, as spurs heighten a front.
    """
    own = heights.get(n)
    if own is None:
        return []
    around = [heights[m].posterior for m in (n - 1, n + 1) if m in heights]
    usual = float(np.mean(around)) if around else own.posterior
    for low, high, what in (
        (min(own.anterior, own.middle), own.posterior, "of its posterior height"),
        (own.posterior, usual, "of its neighbours' posterior height"),
    ):
        if low < options.height_ratio * high and high - low > own.step_mm:
            detail = (
                f"anterior {own.anterior:.0f}, middle {own.middle:.0f}, posterior {own.posterior:.0f} mm: "
                f"{low / high:.0%} {what}"
            )
            return [QualityFlag(Reason.COMPRESSION, level, withholds=True, detail=detail)]
    return []


def _dense_focus(
    level: VertebralLevel, hounsfield: NDArray[np.float32], inside: NDArray[np.bool_], voxel_mm3: float,
    options: QualityOptions,
) -> list[QualityFlag]:  # fmt: skip
    """A bone island or sclerosis is told; cement withholds."""
    core = hounsfield[inside]
    if not core.size:
        return []
    cement = _largest(inside & (hounsfield > options.cement_hounsfield)) * voxel_mm3 / 1000
    if cement >= options.cement_cm3:
        detail = f"{cement:.1f} cm3 above {options.cement_hounsfield:.0f} HU"
        return [QualityFlag(Reason.DENSE_FOCUS, level, withholds=True, detail=detail)]
    above = np.median(core) + max(
        options.focus_hounsfield, 4 * _robust_sd(core)
    )  # 4 SD: noise alone has no share there
    share = float(np.mean(core > above))
    detail = f"{share:.1%} of the core is far denser than its median"
    return (
        [QualityFlag(Reason.DENSE_FOCUS, level, withholds=False, detail=detail)] if share > options.focus_share else []
    )


def _robust_sd(values: NDArray[np.float32]) -> float:
    """Spread that a bone island does not change: 1.4826 times the median deviation, the SD of a normal law."""
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def _largest(mask: NDArray[np.bool_]) -> int:
    """Voxels of the largest connected piece."""
    pieces, count = ndimage.label(mask)
    return int(np.bincount(pieces.ravel())[1:].max()) if count else 0


def _metal(volume: Volume, bodies: Segmentation, options: QualityOptions) -> NDArray[np.float64]:
    """(N, 3): where metal lies around the spine, mm in the patient."""
    boxes = [box for box in bodies.boxes if box is not None]
    if not boxes:
        return np.zeros((0, 3))
    near = _around(boxes, options.metal_distance_mm, bodies)
    pieces, count = ndimage.label(volume.hounsfield[near] > options.metal_hounsfield)
    if not count:
        return np.zeros((0, 3))
    large = np.bincount(pieces.ravel()) * bodies.geometry.voxel_volume_mm3 / 1000 >= options.metal_cm3
    large[0] = False
    index = np.argwhere(large[pieces]) + [part.start for part in near]
    return bodies.geometry.to_patient(index.astype(float))


def _near_metal(
    level: VertebralLevel, bodies: Segmentation, n: int, box: Box, metal: NDArray[np.float64], options: QualityOptions
) -> list[QualityFlag]:
    if not len(metal):
        return []
    index = np.argwhere(bodies.labels[box] == n) + [part.start for part in box]
    points = bodies.geometry.to_patient(index.astype(float))
    distance, _ = cKDTree(metal).query(points, distance_upper_bound=options.metal_distance_mm)
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
