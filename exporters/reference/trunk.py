"""
The soft body around a spine as curves along its height, and the ribs that follow its wall.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.volume import Vector
from exporters.reference.canvas import Field, Number
from exporters.reference.vertebra import Vertebra

# half width and half depth of the trunk inside its fat, mm, at a level of a man; our choice after adult CT
GIRTH = {"C5": (58, 62), "C7": (75, 66), "T1": (118, 72), "T2": (138, 84), "T4": (150, 98), "T6": (150, 108),
         "T8": (148, 112), "T10": (144, 110), "T12": (140, 104), "L2": (136, 98), "L4": (138, 94), "L5": (148, 94),
         "S1": (158, 98)}  # fmt: skip


SQUARE = 0.28  # a trunk is a bit more than an ellipse


@dataclass(frozen=True)
class Trunk:
    """The soft body of one patient. Curves are sampled along z, upwards."""

    z: tuple[float, ...]
    half_width: tuple[float, ...]  # of what lies inside the fat
    half_depth: tuple[float, ...]
    middle: tuple[Vector, ...]  # of the trunk, inside the fat
    spine: tuple[Vector, ...]  # centreline
    body_half: tuple[tuple[float, float], ...]  # half width and depth of the vertebral bodies
    fat: float  # mm
    wall: float  # mm of muscle and ribs
    muscle: float  # HU
    fat_hu: float
    liver: float
    disc: float
    blood: float
    lung: float
    dome: float  # z of the diaphragm's top
    last_thoracic: float  # z
    first_thoracic: float
    sacrum: Vector
    organ_seed: int
    calcified: float  # 0..1
    table: float  # HU of its shell; 0: no table
    rib_drop: float  # how far ribs fall on their way to the front, 1 is about 8 cm
    rib_size: float
    iodine: float  # how strongly a patient enhances, 1 is usual

    def at(self, z: Number, values: Sequence[float] | NDArray[np.float64]) -> Field:
        """A curve at heights."""
        return np.asarray(np.interp(z, self.z, values), dtype=np.float32)


def draw_trunk(
    rng: np.random.Generator, sex: str, scale: float, bones: tuple[Vertebra, ...], sacrum: Vertebra
) -> Trunk:
    """Draw the soft body around a spine."""
    by_name = {bone.name: bone for bone in (*bones, sacrum)}
    names = [name for name in GIRTH if name in by_name]
    anchors = np.array([by_name[name].centre[2] for name in names])
    wide, deep = float(rng.uniform(0.88, 1.12)) * scale, float(rng.uniform(0.85, 1.15)) * scale
    z = np.arange(sacrum.centre[2] - 200, max(bone.centre[2] for bone in bones) + 80, 4.0)
    half_width = np.interp(z, anchors[::-1], [GIRTH[name][0] * wide for name in names][::-1])
    half_depth = np.interp(z, anchors[::-1], [GIRTH[name][1] * deep for name in names][::-1])
    order = sorted((*bones, sacrum), key=lambda bone: bone.centre[2])
    heights = [bone.centre[2] for bone in order]
    spine = np.stack([np.interp(z, heights, [bone.centre[axis] for bone in order]) for axis in (0, 1)] + [z], axis=1)
    half = np.stack([np.interp(z, heights, [bone.width / 2 for bone in order]),
                     np.interp(z, heights, [bone.depth / 2 for bone in order])], axis=1)  # fmt: skip
    tips = spine[:, 1] + half[:, 1] + 42 * scale
    back = _smooth(tips, 25) * 0.6 + 0.4 * tips.max()  # a lying back is flatter than its spine
    back = np.maximum(back, tips + 2)
    middle = np.stack([_smooth(spine[:, 0], 20), back - half_depth, z], axis=1)
    thin = float(rng.uniform(4, 32)) * (1.1 if sex == "F" else 0.9)
    return Trunk(
        z=_floats(z), half_width=_floats(half_width), half_depth=_floats(half_depth),
        middle=tuple((a, b, c) for a, b, c in middle.tolist()), spine=tuple((a, b, c) for a, b, c in spine.tolist()),
        body_half=tuple((a, b) for a, b in half.tolist()), fat=thin, wall=float(rng.uniform(12, 18)),
        muscle=float(rng.normal(48, 7)), fat_hu=float(rng.normal(-98, 7)), liver=float(rng.normal(52, 9)),
        disc=float(rng.normal(78, 10)), blood=float(rng.normal(43, 4)), lung=float(rng.uniform(-870, -740)),
        dome=float(by_name["T9"].centre[2] + rng.uniform(-12, 15)), last_thoracic=by_name["T12"].centre[2],
        first_thoracic=by_name["T1"].centre[2], sacrum=sacrum.centre, organ_seed=int(rng.integers(2**31)),
        calcified=float(rng.beta(0.5, 1.2)),
        table=float(rng.choice([0.0, -300.0, -120.0, 60.0])), rib_drop=float(rng.uniform(0.9, 1.9)),
        rib_size=float(rng.uniform(0.85, 1.2)),
        iodine=float(rng.uniform(0.6, 1.5)),
    )  # fmt: skip


def rib_path(trunk: Trunk, bone: Vertebra, side: int) -> NDArray[np.float64]:
    """Points along a rib: head, neck, the transverse process, then around the chest wall and down."""
    from scipy.interpolate import CubicSpline

    number = 13 if bone.name[0] == "L" else int(bone.name[1:])
    end = (125, 140, 150, 152, 152, 150, 146, 138, 128, 116, 84, 52, 34)[number - 1] * bone.rib
    fall = (23, 37, 52, 60, 64, 67, 68, 70, 74, 72, 62, 40, 22)[number - 1] * trunk.rib_drop * min(1.0, bone.rib)
    a, b, h = bone.width / 2, bone.depth / 2, bone.height
    at_top = 0.42 * h if 2 <= number <= 10 else 0.18 * h  # heads of 11 and 12 sit on their own body
    reach = 0.36 * a + 4.0 + 12 * bone.process
    start = [bone.point(side * (a + 2.5), 0.62 * b, at_top), bone.point(side * (0.36 * a + 13), b + 7.5, 0.3 * h),
             bone.point(side * (reach + 7.5), b + 12 + 0.3 * reach, 0.2 * h)]  # fmt: skip
    angles = np.deg2rad(np.linspace(24, max(end, 30), 9))
    level = start[-1][2]
    around = []
    for angle, share in zip(angles, np.linspace(0, 1, 9), strict=True):  # the last ribs fall as far as they reach aside
        z = level - fall * share - 3
        inside = 0.45 * trunk.wall
        width, depth = trunk.at(z, trunk.half_width) - inside, trunk.at(z, trunk.half_depth) - inside
        mx, my = (trunk.at(z, [m[axis] for m in trunk.middle]) for axis in (0, 1))
        sn, cs = np.sin(angle), np.cos(angle)
        out = (1 - SQUARE) + SQUARE * (sn**4 + cs**4) ** 0.25
        around.append(np.array([mx + side * width * sn / out, my + depth * cs / out, z]))
    if around[0][1] < start[-1][1] - 4:  # a deep chest wall: leave the process backwards, not forwards
        around[0][1] = start[-1][1] - 2
    points = np.array(start + around)
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    steps = np.linspace(0, along[-1], max(8, int(along[-1] / 9)))
    return np.asarray(CubicSpline(along, points)(steps))


def _smooth(values: NDArray[np.float64], reach: int) -> NDArray[np.float64]:
    from scipy import ndimage

    return np.asarray(ndimage.gaussian_filter1d(values, reach, mode="nearest"))


def _floats(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(values.tolist())
