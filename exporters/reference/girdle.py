"""
Bone that is neither spine nor rib: breastbone, shoulder blades, collar bones, arms, pelvis; and what people wear.

A network that has never seen them takes a manubrium for a sacrum and a wire for a rib.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from exporters.reference.canvas import Canvas, Field, Region, capsule, ellipsoid, rounded_box
from exporters.reference.trunk import Trunk
from exporters.reference.vertebra import Vertebra, paint_rod

METAL = 4500.0  # mg/cm3, in place of its own attenuation: far above what 12 bits hold


@dataclass(frozen=True, slots=True)
class Worn:
    """What one patient carries."""

    arms: str  # "down" | "up" | "away"
    breast: float  # mm of radius; 0: none
    implant: bool  # in the breast
    sternotomy: bool  # wires in the breastbone
    port: bool  # a chamber under the skin with a catheter into the caval vein
    pacemaker: bool
    electrodes: bool  # on the skin


def draw_worn(rng: np.random.Generator, sex: str, arms: float) -> Worn:
    """Draw it.

    Args:
        arms: share of patients whose arms lie beside the trunk; as many hold them up.
    """
    draws = rng.random(7)
    where = "down" if draws[0] < arms else "up" if draws[0] < 2 * arms else "away"
    breast = float(rng.uniform(30, 62)) if sex == "F" else 0.0
    return Worn(where, breast, bool(sex == "F" and draws[1] < 0.04), bool(draws[2] < 0.08), bool(draws[3] < 0.08),
                bool(draws[4] < 0.05), bool(draws[5] < 0.2))  # fmt: skip


def paint_limbs(canvas: Canvas, trunk: Trunk, worn: Worn) -> None:
    """Paint breast, arms and the flesh of the shoulders; the trunk is painted over them."""
    if worn.breast:
        _breast(canvas, trunk, worn)
    _arms(canvas, trunk, worn)
    z = trunk.first_thoracic - 45
    x, y, wide = (
        _middle(trunk, z),
        float(trunk.at(z, [m[1] for m in trunk.middle])),
        float(trunk.at(z, trunk.half_width)),
    )
    for side in (-1, 1):
        at, radii = [x + side * 0.85 * wide, y + 0.3 * float(trunk.at(z, trunk.half_depth)), z], [62.0, 68.0, 85.0]
        region = canvas.region([a - r for a, r in zip(at, radii, strict=True)],
                               [a + r for a, r in zip(at, radii, strict=True)])  # fmt: skip
        if region is not None:
            flesh = ellipsoid(region.x, region.y, region.z, at, radii)
            canvas.paint(region, flesh, trunk.fat_hu)
            canvas.paint(region, flesh + np.float32(9), trunk.muscle)


def paint_girdle(canvas: Canvas, trunk: Trunk, sacrum: Vertebra) -> None:
    """Paint shoulder blades, collar bones, breastbone and pelvis."""
    _shoulders(canvas, trunk)
    _breastbone(canvas, trunk)
    _pelvis(canvas, trunk, sacrum)


def paint_worn(canvas: Canvas, trunk: Trunk, worn: Worn) -> None:
    """Paint wires, catheters and leads over all else."""
    top = trunk.first_thoracic
    if worn.sternotomy:
        for n in range(6):
            z = top - 55 - 27 * n
            x, y = _middle(trunk, z), _front(trunk, z)
            turn = np.linspace(0, 2 * np.pi, 13)
            loop = np.stack([x + 13 * np.cos(turn), y + 9 + 9 * np.sin(turn), z + 0 * turn], axis=1)
            paint_rod(canvas, loop, 0.7, 1.0, 0.0, METAL, 0.0, None)
    z = top - 35
    x, y = _middle(trunk, z), _front(trunk, z)
    caval = [(x - 26, y + 48, top - 60), (x - 27, y + 58, top - 105)]
    if worn.port:
        _box(canvas, (x - 85, y + 2 - trunk.fat / 2, z), (13, 6, 13), 200.0, 1500.0)
        paint_rod(canvas, np.array([(x - 85, y + 4, z), (x - 60, y + 20, top + 5), *caval]), 1.2, 1.0, 500.0, 0.0, 0.0,
                  None)  # fmt: skip
    if worn.pacemaker:
        _box(canvas, (x + 80, y + 2 - trunk.fat / 2, z - 10), (24, 5, 22), 0.0, METAL)
        lead = np.array([(x + 60, y + 10, z), (x + 30, y + 25, top - 5), *caval, (x + 20, y + 45, trunk.dome + 15)])
        paint_rod(canvas, lead, 0.9, 1.0, 0.0, 0.5 * METAL, 0.0, None)
    if worn.electrodes:
        draw = np.random.default_rng([trunk.organ_seed, 5])
        for _ in range(4):
            x, z = float(draw.uniform(-110, 110)), float(draw.uniform(trunk.dome - 60, top - 40))
            y = _front(trunk, z) - trunk.fat + 30 * (x / 110) ** 2 - 6
            paint_rod(canvas, np.array([(x, y, z), (x, y - 5, z)]), 3.0, 1.0, 0.0, 1500.0, 0.0, None)


def cartilage(canvas: Canvas, trunk: Trunk, end: NDArray[np.float64], n: int, age: int) -> None:
    """Paint the cartilage from the end of the n-th rib to the breastbone."""
    z = trunk.first_thoracic - 38 - 22 * min(n, 7)
    target = np.array([_middle(trunk, z) + np.sign(end[0]) * 17, _front(trunk, z) + 6, z])
    bend = (0.5 * (end + target)) + np.array([0, 0, -7.0 - 2.5 * max(0, n - 5)])
    lime = 90.0 * max(0.0, (age - 40) / 50)
    paint_rod(canvas, np.array([end, bend, target]), 5.5, 0.75, 85.0, 0.5 * lime, 0.25 * lime, None)


def _front(trunk: Trunk, z: float) -> float:
    """y of the chest's front, inside its fat."""
    y = float(trunk.at(z, [m[1] for m in trunk.middle]))
    return y - float(trunk.at(z, trunk.half_depth))


def _middle(trunk: Trunk, z: float) -> float:
    return float(trunk.at(z, [m[0] for m in trunk.middle]))


def _breastbone(canvas: Canvas, trunk: Trunk) -> None:
    """Manubrium, body and xiphoid: plates that follow the front of the chest."""
    top = trunk.first_thoracic
    for centre, half in ((top - 48, (27.0, 7.0, 24.0)), (top - 125, (18.0, 6.0, 51.0)), (top - 192, (7.0, 3.5, 15.0))):
        x, y = _middle(trunk, centre), _front(trunk, centre)
        region = canvas.region((x - 40, y - 30, centre - half[2] - 6), (x + 40, y + 50, centre + half[2] + 6))
        if region is None:
            continue
        front = trunk.at(region.z, [m[1] for m in trunk.middle]) - trunk.at(region.z, trunk.half_depth)
        u, v, w = region.x - x, region.y - front - np.float32(half[1] + 2), region.z - centre
        waist = half[0] * (1 + 0.18 * np.clip(w / half[2], -1, 1))
        plate = rounded_box(u * half[0] / waist, v, w, half, 3.4)
        canvas.paint(region, plate, 15.0, 85.0, 42.0)


def _shoulders(canvas: Canvas, trunk: Trunk) -> None:
    """Collar bones and shoulder blades, which are thin plates with a ridge and a socket."""
    top = trunk.first_thoracic
    mx, my = _middle(trunk, top - 60), float(trunk.at(top - 60, [m[1] for m in trunk.middle]))
    depth, wide = float(trunk.at(top - 60, trunk.half_depth)), float(trunk.at(top - 60, trunk.half_width))
    front = _front(trunk, top - 30)
    for side in (-1, 1):
        x, y, z = mx + side * 0.70 * wide, my + 0.72 * depth, top - 62
        region = canvas.region((x - 75, y - 60, z - 85), (x + 75, y + 60, z + 75))
        if region is not None:
            canvas.paint(region, _blade(region, side, (x, y, z)), 10.0, 140.0, 60.0)
        socket = np.array([mx + side * (wide + 12), my + 0.15 * depth, top - 12])
        tip, shoulder = np.array([x + side * 38, y - 18, z + 48]), socket + np.array([0, -4, 22])
        paint_rod(canvas, np.array([(x - side * 20, y + 8, z + 32), tip, shoulder]), 5.0, 0.8, 20.0, 150.0,
                  70.0, None)  # fmt: skip
        collar = np.array([(mx + side * 22, front + 10, top - 26), (mx + side * 75, front + 26, top + 4),
                           tuple((socket + np.array([-side * 14, -14, 22])).tolist())])  # fmt: skip
        paint_rod(canvas, collar, 5.6, 0.9, 20.0, 130.0, 80.0, None)
        reach = 26.0
        near = canvas.region(list(socket - reach), list(socket + reach))
        if near is not None:  # the upper end of the arm
            ball = ellipsoid(near.x, near.y, near.z, list(socket), [22.0, 22.0, 22.0])
            canvas.paint(near, ball, -30.0, 110.0, 60.0)


def _blade(region: Region, side: int, at: tuple[float, float, float]) -> Field:
    """A triangular plate that lies on the back of the chest."""
    turn = np.deg2rad(35.0) * side
    dx, dy, w = region.x - at[0], region.y - at[1], region.z - at[2]
    u = dx * np.cos(turn) - dy * np.sin(turn)
    v = dx * np.sin(turn) + dy * np.cos(turn)
    narrow = 48 * np.clip((w + 75) / 120, 0.05, 1.0)
    outline = np.maximum(np.abs(side * u + 0.12 * w) - narrow, np.abs(w) - 68)
    rim = 2.2 + 2.2 * np.clip((outline + 14) / 14, 0, 1)
    return np.asarray(np.maximum(outline, np.abs(v) - rim), dtype=np.float32)


def _arms(canvas: Canvas, trunk: Trunk, worn: Worn) -> None:
    """Arms beside the trunk, or held up beside the head."""
    if worn.arms == "away":
        return
    wide = float(trunk.at(trunk.first_thoracic - 60, trunk.half_width))
    out = max(trunk.half_width) + trunk.fat + 48 if worn.arms == "down" else wide + 22
    for side in (-1, 1):
        x, y = trunk.middle[0][0] + side * out, trunk.middle[0][1] + 20
        low, high = trunk.z[0], trunk.first_thoracic - 40
        ends = ((x, y, low), (x, y, high + 30))
        if worn.arms == "up":
            y = float(trunk.at(trunk.first_thoracic, [m[1] for m in trunk.middle]))
            low, high = trunk.first_thoracic - 10, trunk.first_thoracic + 200
            ends = ((x, y, low), (x + side * 35, y - 30, high))
        region = canvas.region((x - 75, y - 85, low), (x + 75, y + 60, high))
        if region is None:
            continue
        flesh = capsule(region.x, region.y, region.z, *ends, 41.0)
        canvas.paint(region, flesh, trunk.fat_hu)
        canvas.paint(region, (flesh + 8).astype(np.float32), trunk.muscle)
        rod = capsule(region.x, region.y, region.z, *ends, 11.0)
        canvas.paint(region, rod, -40.0, 0.0, 260.0)


def _breast(canvas: Canvas, trunk: Trunk, worn: Worn) -> None:
    z = trunk.first_thoracic - 130
    y = _front(trunk, z) - trunk.fat
    draw = np.random.default_rng([trunk.organ_seed, 4])
    gland = float(draw.uniform(0.3, 0.75))
    for side in (-1, 1):
        at = [_middle(trunk, z) + side * 72.0, y + 12.0, z]
        radii = [worn.breast, 0.7 * worn.breast, worn.breast]
        region = canvas.region([a - r - 4 for a, r in zip(at, radii, strict=True)],
                               [a + r + 4 for a, r in zip(at, radii, strict=True)])  # fmt: skip
        if region is None:
            continue
        mound = ellipsoid(region.x, region.y, region.z, at, radii)
        inner = ellipsoid(region.x, region.y, region.z, at, [gland * r for r in radii])
        canvas.paint(region, mound, trunk.fat_hu)
        canvas.paint(region, inner, 60.0 if worn.implant else 15.0)


def _pelvis(canvas: Canvas, trunk: Trunk, sacrum: Vertebra) -> None:
    """Iliac wings: curved plates from the sacrum's sides forwards; below them the heads of the thighs."""
    x0, y0, z0 = sacrum.centre
    for side in (-1, 1):
        region = canvas.region((min(x0 + side * 30, x0 + side * 160), y0 - 110, z0 - 130),
                               (max(x0 + side * 30, x0 + side * 160), y0 + 75, z0 + 70))  # fmt: skip
        if region is not None:
            u, v, w = side * (region.x - x0), region.y - y0, region.z - z0
            forward = np.clip((42 - v) / 130, -0.2, 1.2)
            plate = u - (52 + 78 * np.clip(forward, 0, 1.2) ** 0.8 + 0.18 * w)
            thick = 5.0 + 4.0 * np.exp(-(((v - 30) / 25) ** 2))
            crest = w - (38 - 90 * (forward - 0.42) ** 2)
            ends = np.maximum(v - 58, -v - 85)
            bone = np.maximum(np.maximum(np.abs(plate) * 0.8 - thick, crest), np.maximum(-w - 95, ends))
            canvas.paint(region, bone.astype(np.float32), sacrum.marrow, 0.8 * sacrum.vbmd, 70.0)
        hip = [x0 + side * 92.0, y0 - 28.0, z0 - 118.0]
        near = canvas.region([a - 40 for a in hip], [a + 40 for a in hip])
        if near is not None:
            ball = ellipsoid(near.x, near.y, near.z, hip, [24.0, 24.0, 24.0])
            cup = np.maximum(np.abs(ball - 4.5) - 3.5, near.y - hip[1] - 22)
            canvas.paint(near, cup.astype(np.float32), sacrum.marrow, 200.0, 60.0)
            canvas.paint(near, ball, sacrum.marrow, 180.0, 50.0)


def _box(
    canvas: Canvas, at: tuple[float, float, float], half: tuple[float, float, float], soft: float, mineral: float
) -> None:
    region = canvas.region([a - h - 2 for a, h in zip(at, half, strict=True)],
                           [a + h + 2 for a, h in zip(at, half, strict=True)])  # fmt: skip
    if region is not None:
        block = rounded_box(region.x - at[0], region.y - at[1], region.z - at[2], half, 2.0)
        canvas.paint(region, block, soft, mineral)
