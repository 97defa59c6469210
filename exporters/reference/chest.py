"""
Heart, great vessels and airways: what is brightest and darkest beside a spine.

Blood is one fluid in several compartments. Iodine reaches them at different times, so a scan may show a
right heart like bone beside a left heart like muscle; a network must take neither for a vertebra.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from exporters.reference.canvas import Canvas, Field, Region, ellipsoid
from exporters.reference.trunk import Trunk
from exporters.reference.vertebra import paint_rod

Path = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Blood:
    """HU of the blood in each compartment."""

    right: float  # right heart and the veins of the bolus
    lungs: float  # pulmonary vessels
    left: float  # left heart and arteries
    veins: float  # of the lower body
    arm: float  # the veins that the bolus comes through


def blood_of(trunk: Trunk, contrast: str | None) -> Blood:
    """How bright blood is.

    Source:
        Aorta 42 native, 155 to 350 after contrast: measured and usual; the bolus itself: our choice of 300 to 1500.
    """
    draw = np.random.default_rng([trunk.organ_seed, 2])
    native, iodine = trunk.blood, trunk.iodine
    if contrast is None:
        return Blood(native, native, native, native, native)
    if contrast == "venous":
        late = native + 95 * iodine
        return Blood(late, late, late, native + 85 * iodine, late + float(draw.uniform(0, 60)))
    early = draw.random() < 0.6  # the bolus is still on its way
    right = native + float(draw.uniform(250, 800) if early else draw.uniform(80, 260)) * iodine
    lungs = native + float(draw.uniform(200, 450)) * iodine
    arm = native + float(draw.uniform(500, 1500) if early else draw.uniform(80, 300))
    return Blood(right, lungs, native + 240 * iodine, native + 10 * iodine, arm)


def paint_chest(canvas: Canvas, trunk: Trunk, blood: Blood) -> None:
    """Paint heart, vessels of the chest, trachea, bronchi and gullet."""
    draw = np.random.default_rng([trunk.organ_seed, 3])
    dome, top = trunk.dome, trunk.first_thoracic
    mx, my = (float(trunk.at(dome + 30, [m[axis] for m in trunk.middle])) for axis in (0, 1))
    depth = float(trunk.at(dome + 30, trunk.half_depth))
    size = float(draw.uniform(0.8, 1.2))
    heart = np.array([mx + 20 + draw.normal(0, 6), my - 0.45 * depth, dome + 27 * size])
    arch = top - 75 + float(draw.normal(0, 8))
    _heart(canvas, trunk, blood, heart, size)
    _great_vessels(canvas, trunk, blood, heart, size, arch)
    _airways(canvas, trunk, arch, draw)
    _lung_vessels(canvas, trunk, blood, arch - 42, draw)


def _heart(canvas: Canvas, trunk: Trunk, blood: Blood, centre: Path, size: float) -> None:
    wall = trunk.muscle + 0.25 * (blood.left - trunk.blood)
    parts = (((0, 0, 0), (67, 46, 53), trunk.fat_hu), ((0, 0, 0), (62, 42, 49), wall),
             ((26, 3, -10), (26, 24, 32), blood.left), ((4, -20, -8), (36, 15, 31), blood.right),
             ((-40, -2, 0), (20, 22, 31), blood.right), ((2, 26, 16), (36, 18, 24), blood.left))  # fmt: skip
    for offset, radii, hu in parts:
        at, sizes = centre + size * np.array(offset), size * np.array(radii, dtype=float)
        region = canvas.region(list(at - sizes - 4), list(at + sizes + 4))
        if region is not None:
            chamber = ellipsoid(region.x, region.y, region.z, list(at), list(sizes))
            canvas.paint(region, chamber, _mixed(region, hu, trunk) if hu == blood.right else hu)


def _mixed(region: Region, hu: float, trunk: Trunk) -> Field:
    """Blood that iodine has not yet mixed with: swirls a centimetre wide, from unmixed to twice as bright."""
    draw = np.random.default_rng([trunk.organ_seed, 6])
    swirl = np.zeros(np.broadcast_shapes(region.x.shape, region.y.shape, region.z.shape), dtype=np.float32)
    for _ in range(6):
        a, b, c = draw.normal(0, 0.28, 3)  # 1/mm: wavelengths of one to four centimetres
        swirl += np.sin(a * region.x + b * region.y + c * region.z + draw.uniform(0, 2 * np.pi))
    share = np.clip(1 + float(draw.uniform(0, 0.6)) * swirl / np.sqrt(3), 0.1, 2)
    return np.asarray(trunk.blood + (hu - trunk.blood) * share, dtype=np.float32)


def _great_vessels(canvas: Canvas, trunk: Trunk, blood: Blood, heart: Path, size: float, arch: float) -> None:
    """Aorta from its root over the arch, pulmonary trunk, caval veins, the vessels of neck and arms."""
    mx, my = (float(trunk.at(arch, [m[axis] for m in trunk.middle])) for axis in (0, 1))
    sx, sy = (float(trunk.at(arch - 10, [s[axis] for s in trunk.spine])) for axis in (0, 1))
    half = float(trunk.at(arch - 10, [h[1] for h in trunk.body_half]))
    depth, top = float(trunk.at(arch, trunk.half_depth)), trunk.first_thoracic
    down = np.array([sx + 23, sy - half - 2, arch - 16])
    root = heart + size * np.array([0, -2, 20])
    _tube(canvas, [root, (mx - 14, my - 0.5 * depth, arch - 25), (mx - 6, my - 0.42 * depth, arch - 4),
                   (mx + 10, my - 0.15 * depth, arch + 4), down], 13.5, blood.left)  # fmt: skip
    fork = np.array([mx + 14, my - 0.4 * depth, arch - 40])
    _tube(canvas, [heart + size * np.array([14, -26, 22]), fork], 13.0, blood.lungs)
    _tube(canvas, [fork, (mx + 48, my - 0.1 * depth, arch - 42)], 9.5, blood.lungs)
    _tube(canvas, [fork, (mx - 20, my - 0.25 * depth, arch - 48), (mx - 50, my - 0.1 * depth, arch - 50)], 9.5,
          blood.lungs)  # fmt: skip
    joined: Path = np.array([mx - 26, my - 0.45 * depth, arch + 12])
    _tube(canvas, [joined, (mx - 27, my - 0.38 * depth, arch - 30), heart + size * np.array([-38, 2, 22])], 9.0,
          0.5 * (blood.arm + blood.right))  # fmt: skip
    for side, start in ((-1, joined), (1, joined)):
        out: list[ArrayLike] = [
            start,
            (mx + side * 38, my - 0.45 * depth, top - 22),
            (mx + side * 95, my - 0.3 * depth, top + 2),
        ]
        _tube(canvas, out, 6.0, blood.arm if side < 0 else 0.5 * (blood.veins + blood.right))
        _tube(canvas, [(mx + side * 8, my - 0.3 * depth, arch),
                       (mx + side * 24, my - 0.2 * depth, top + 10),
                       (mx + side * 27, my - 0.1 * depth, top + 90)], 3.8, blood.left)  # fmt: skip
        jugular = [(mx + side * 30, my - 0.25 * depth, top - 10), (mx + side * 34, my - 0.2 * depth, top + 90)]
        _tube(canvas, jugular, 5.5, blood.veins)


def _airways(canvas: Canvas, trunk: Trunk, arch: float, draw: np.random.Generator) -> None:
    """Trachea and main bronchi, the gullet before the spine; now and then a tube in it."""
    mx, my = (float(trunk.at(arch, [m[axis] for m in trunk.middle])) for axis in (0, 1))
    z = np.arange(trunk.dome, trunk.first_thoracic + 70, 15.0)
    sx, sy = (trunk.at(z, [s[axis] for s in trunk.spine]) for axis in (0, 1))
    half = trunk.at(z, [h[1] for h in trunk.body_half])
    gullet = np.stack([sx + 6, sy - half - 13, z], axis=1).astype(float)
    paint_rod(canvas, gullet, 7.0, 1.0, trunk.muscle - 8, 0.0, 0.0, None)
    if draw.random() < 0.4:
        paint_rod(canvas, gullet[: int(draw.integers(2, len(gullet)))], 2.5, 1.0, -700.0, 0.0, 0.0, None)
    if draw.random() < 0.06:  # a feeding tube
        paint_rod(canvas, gullet, 1.6, 1.0, 350.0, 0.0, 0.0, None)
    carina = np.array([mx - 2, my - 0.05 * float(trunk.at(arch, trunk.half_depth)), arch - 25])
    upper = z > arch - 20
    windpipe = np.stack([sx - 3, sy - half - 30, z], axis=1)[upper].astype(float)
    for radius, hu in ((10.5, trunk.muscle), (8.5, -1000.0)):
        if len(windpipe):
            _tube(canvas, [carina, *windpipe], radius, hu)
        for side in (-1, 1):
            _tube(canvas, [carina, carina + np.array([side * 38, 12, -28])], 0.7 * radius, hu)


def _lung_vessels(canvas: Canvas, trunk: Trunk, blood: Blood, hilum: float, draw: np.random.Generator) -> None:
    """Branches from each hilum into the lung, thinner outwards."""
    mx, my = (float(trunk.at(hilum, [m[axis] for m in trunk.middle])) for axis in (0, 1))
    wide, deep = float(trunk.at(hilum, trunk.half_width)), float(trunk.at(hilum, trunk.half_depth))
    for side in (-1, 1):
        root = np.array([mx + side * 50, my, hilum])
        for _ in range(11):
            aim = np.array([mx + side * draw.uniform(0.45, 0.85) * wide, my + draw.uniform(-0.65, 0.65) * deep,
                            hilum + draw.uniform(-100, 90)])  # fmt: skip
            bend = (root + aim) / 2 + draw.normal(0, 7, 3)
            _tube(canvas, [root, bend], float(draw.uniform(2.8, 5.5)), blood.lungs)
            _tube(canvas, [bend, aim], float(draw.uniform(1.3, 2.6)), blood.lungs)
            _tube(canvas, [bend, bend + 0.7 * (aim - bend) + draw.normal(0, 14, 3)], 1.5, blood.lungs)


def _tube(canvas: Canvas, points: Sequence[ArrayLike], radius: float, hu: float) -> None:
    """A rod along a smooth way through a few points."""
    path = np.array([np.asarray(point, dtype=float) for point in points])
    if len(path) > 2:
        from scipy.interpolate import CubicSpline

        along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1) + 1e-6)])
        path = CubicSpline(along, path)(np.linspace(0, along[-1], max(5, int(along[-1] / 12))))
    paint_rod(canvas, path, radius, 1.0, hu, 0.0, 0.0, None)
