"""Rules about what a trabecular core holds: size, noise, foci, cement, unevenness."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import hypot

import numpy as np
import scipy  # its parts load at first use
from numpy.typing import NDArray

from engine.measurement.limits import QualityOptions
from engine.records import QualityFlag, Reason, VertebralLevel
from engine.volume import Segmentation, Volume

RIM_MM = 3.0  # around a hole in a body: as much as parts a core from the body's surface
DEEP_MM = 8.0  # of a column that tells; our choice: shallower ones are of an endplate's rim


@dataclass(frozen=True, eq=False)
class Core:
    """One level's core, cut out."""

    level: VertebralLevel
    hounsfield: NDArray[np.float32]  # (K, J, I)
    inside: NDArray[np.bool_]  # (K, J, I)
    cement_voxels: int  # of the largest piece as dense as cement, in the core or in a hole of the body
    spacing_mm: tuple[float, float, float]

    @property
    def voxel_mm3(self) -> float:
        """Volume of a voxel."""
        return float(np.prod(self.spacing_mm))

    @property
    def cm3(self) -> float:
        """Volume of the core."""
        return float(np.count_nonzero(self.inside)) * self.voxel_mm3 / 1000


def cores_of(volume: Volume, bodies: Segmentation, cores: Segmentation, options: QualityOptions) -> Mapping[int, Core]:
    """Cores by their labels; a nameless one is nobody's."""
    found = {}
    for n, (level, box) in enumerate(zip(cores.segments, cores.boxes, strict=True), start=1):
        if level is not None and box is not None:
            inside = cores.labels[box] == n
            cement = _cement(volume, bodies, cores, n, options.cement_hounsfield)
            hounsfield = volume.hounsfield[box].astype(np.float32)
            found[n] = Core(level, hounsfield, inside, cement, cores.geometry.spacing_mm)
    return found


def core_flags(core: Core, usual: float | None, options: QualityOptions) -> list[QualityFlag]:
    """All that one core says.

    Args:
        usual: what the neighbours' unevenness is.
    """
    return [*_size(core, options), *_noise(core, options), *_foci(core, options), *_uneven(core, usual, options)]


def no_core(level: VertebralLevel) -> QualityFlag:
    """A body without any core."""
    return QualityFlag(Reason.CORE_TOO_SMALL, level, withholds=True, detail="0.0 cm3")


def unevenness(core: Core) -> float | None:
    """Spread of columns along the body, HU from the tenth to the ninetieth percentile; None: too few columns.

    Along a column noise averages out, coarse upright trabeculae and holes stay; a small island is no tenth.
    """
    depth = np.count_nonzero(core.inside, axis=0)
    deep = depth * core.spacing_mm[0] >= DEEP_MM
    if np.count_nonzero(deep) < 20:
        return None
    sums = np.where(core.inside, core.hounsfield, 0).sum(axis=0)
    low, high = np.percentile(sums[deep] / depth[deep], (10, 90))
    return float(high - low)


def _size(core: Core, options: QualityOptions) -> list[QualityFlag]:
    if core.cm3 >= options.smallest_core_cm3:
        return []
    return [QualityFlag(Reason.CORE_TOO_SMALL, core.level, withholds=True, detail=f"{core.cm3:.1f} cm3")]


def _noise(core: Core, options: QualityOptions) -> list[QualityFlag]:
    """Noise falls with the root of the slice's thickness; the trabeculae's own spread stays."""
    if not core.inside.any():
        return []
    limit = hypot(options.structure_hounsfield, options.noise_hounsfield / core.spacing_mm[0] ** 0.5)
    found = _robust_sd(core.hounsfield[core.inside])
    detail = f"SD {found:.0f} HU in the core, limit {limit:.0f} HU"
    return [QualityFlag(Reason.NOISE, core.level, withholds=False, detail=detail)] if found > limit else []


def _foci(core: Core, options: QualityOptions) -> list[QualityFlag]:
    """Bone islands and the like; cement takes the level away. Single noisy voxels are no focus."""
    if not core.inside.any():
        return []
    hounsfield, inside = core.hounsfield, core.inside
    cement = core.cement_voxels * core.voxel_mm3 / 1000
    if cement > options.cement_cm3:
        detail = f"{cement:.2f} cm3 above {options.cement_hounsfield:g} HU"
        return [QualityFlag(Reason.CEMENT, core.level, withholds=True, detail=detail)]
    dense = inside & (hounsfield > float(np.median(hounsfield[inside])) + options.focus_hounsfield)
    share = _largest(dense) / np.count_nonzero(inside)
    detail = f"{share:.1%} of the core is far denser than its median"
    flag = QualityFlag(Reason.DENSE_FOCUS, core.level, withholds=False, detail=detail)
    return [flag] if share > options.focus_share else []


def _cement(volume: Volume, bodies: Segmentation, cores: Segmentation, n: int, hounsfield: float) -> int:
    """Voxels of the largest piece that is denser than any bone; a network may leave cement out of its outline."""
    box = bodies.boxes[n - 1]
    if box is None:
        return 0
    dense = volume.hounsfield[box] > hounsfield
    if not dense.any():
        return 0
    body, where = bodies.labels[box] == n, cores.labels[box] == n
    hollow = holes(body)
    if hollow.any():
        away = scipy.ndimage.distance_transform_edt(~hollow, sampling=bodies.geometry.spacing_mm)
        where |= (body | hollow) & (away <= RIM_MM)
    return _largest(dense & where)


def holes(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """What a mask closes around within a slice.

    >>> holes(np.array([[[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]]], dtype=bool)).astype(int)
    array([[[0, 0, 0, 0],
            [0, 1, 0, 0],
            [0, 0, 0, 0],
            [0, 0, 0, 0]]])
    """
    around = np.pad(~mask, ((0, 0), (1, 1), (1, 1)), constant_values=True)
    within = np.zeros((3, 3, 3), dtype=bool)
    within[1] = scipy.ndimage.generate_binary_structure(2, 1)
    pieces, _ = scipy.ndimage.label(around, within)
    enclosed = around & ~np.isin(pieces, np.unique(pieces[:, 0]))
    return np.asarray(enclosed[:, 1:-1, 1:-1], dtype=bool)


def _uneven(core: Core, usual: float | None, options: QualityOptions) -> list[QualityFlag]:
    own = unevenness(core)
    if own is None or usual is None or own <= options.uneven_ratio * usual:
        return []
    detail = f"spread {own:.0f} HU across the core, its neighbours' {usual:.0f} HU"
    return [QualityFlag(Reason.UNEVEN_CORE, core.level, withholds=False, detail=detail)]


def _robust_sd(values: NDArray[np.float32]) -> float:
    """Spread that a bone island does not change: 1.4826 times the median deviation, the SD of a normal law."""
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def _largest(mask: NDArray[np.bool_]) -> int:
    """Voxels of the largest connected piece."""
    pieces, count = scipy.ndimage.label(mask)
    return int(np.bincount(pieces.ravel())[1:].max()) if count else 0
