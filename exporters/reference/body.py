"""
What lies around a spine: skin, fat, muscles, lungs, vessels, organs, bowel, pelvis, the table.

None of it is anatomy for its own sake. It is what a network must learn not to take for a vertebra,
and what surrounds a rib so that the rib can be counted.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.volume import Geometry, Vector
from exporters.reference.canvas import Canvas, Field, Region, capsule, ellipsoid, ring
from exporters.reference.vertebra import Vertebra, paint_rod

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
    arms: bool
    metal: bool
    calcified: float  # 0..1
    table: float  # HU of its shell; 0: no table
    rib_drop: float

    def at(self, z: Field | float, values: Sequence[float] | NDArray[np.float64]) -> Field:
        """A curve at heights."""
        return np.interp(z, self.z, values).astype(np.float32)


def draw_trunk(
    rng: np.random.Generator, sex: str, scale: float, bones: tuple[Vertebra, ...], sacrum: Vertebra, *, metal: float,
    arms: float,
) -> Trunk:  # fmt: skip
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
        tuple(z), tuple(half_width), tuple(half_depth), tuple(map(tuple, middle)), tuple(map(tuple, spine)),
        tuple(map(tuple, half)), thin, float(rng.uniform(12, 18)), float(rng.normal(48, 7)), float(rng.normal(-98, 7)),
        float(rng.normal(52, 9)), float(rng.normal(78, 10)), float(rng.normal(43, 4)), float(rng.uniform(-870, -740)),
        float(by_name["T9"].centre[2] + rng.uniform(-12, 15)), by_name["T12"].centre[2], by_name["T1"].centre[2],
        sacrum.centre, int(rng.integers(2**31)), bool(rng.random() < arms), bool(rng.random() < metal),
        float(rng.beta(0.5, 1.2)), float(rng.choice([0.0, -300.0, -120.0, 60.0])), float(rng.uniform(0.8, 1.3)),
    )  # fmt: skip


def rib_path(trunk: Trunk, bone: Vertebra, side: int) -> NDArray[np.float64]:
    """Points along a rib: head, neck, the transverse process, then around the chest wall and down."""
    from scipy.interpolate import CubicSpline

    number = 13 if bone.name[0] == "L" else int(bone.name[1:])
    end = (125, 140, 150, 152, 152, 150, 146, 138, 128, 116, 84, 52, 34)[number - 1] * bone.rib
    drop = (32, 45, 58, 66, 70, 74, 78, 80, 80, 76, 64, 46, 30)[number - 1] * trunk.rib_drop
    a, b, h = bone.width / 2, bone.depth / 2, bone.height
    at_top = 0.42 * h if 2 <= number <= 10 else 0.18 * h  # heads of 11 and 12 sit on their own body
    reach = 0.36 * a + 4.0 + 12 * bone.process
    start = [bone.point(side * (a + 2.5), 0.62 * b, at_top), bone.point(side * (0.36 * a + 13), b + 7.5, 0.3 * h),
             bone.point(side * (reach + 7.5), b + 12 + 0.3 * reach, 0.2 * h)]  # fmt: skip
    angles = np.deg2rad(np.linspace(24, max(end, 30), 9))
    level = start[-1][2]
    around = []
    for angle in angles:
        z = level - drop * ((angle - angles[0]) / np.deg2rad(140)) ** 1.0 - 3
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


def paint_trunk(
    canvas: Canvas, trunk: Trunk, bones: tuple[Vertebra, ...], sacrum: Vertebra, contrast: str | None,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    """Paint everything that lies behind the bones of the spine."""
    draw = np.random.default_rng(trunk.organ_seed)
    table(canvas, trunk)
    for region in canvas.slabs():
        depth = _depth(trunk, region)  # signed distance to the inside of the fat
        canvas.paint(region, depth - np.float32(trunk.fat), 25.0)  # skin
        canvas.paint(region, depth - np.float32(trunk.fat - 2), trunk.fat_hu)
        canvas.paint(region, depth, trunk.muscle)
        below = np.maximum(depth + np.float32(trunk.wall), region.z - _diaphragm(trunk, region))
        canvas.paint(region, below, trunk.fat_hu)
    _organs(canvas, trunk, draw, contrast)
    grain = _coarse_noise(canvas.geometry, 6.0, draw)
    for region in canvas.slabs():
        _lungs(canvas, trunk, region, grain)
    if trunk.arms:
        _arms(canvas, trunk)
    _muscles(canvas, trunk)
    _vessels(canvas, trunk, contrast)
    _pelvis(canvas, trunk, sacrum)
    _shoulders(canvas, trunk)


def paint_foreground(canvas: Canvas, trunk: Trunk, bones: tuple[Vertebra, ...], rng: np.random.Generator) -> None:
    """Paint what may lie over the spine: rarely, a pair of screws."""
    if not trunk.metal:
        return
    for bone in [bone for bone in bones if bone.name in ("L3", "L4")]:
        for side in (-1, 1):
            a, b = bone.point(side * 9, -8, 2), bone.point(side * 15, bone.depth / 2 + 22, 4)
            paint_rod(canvas, np.array([a, b]), 2.6, 1.0, 0.0, 4500.0, 0.0, None)


def table(canvas: Canvas, trunk: Trunk) -> None:
    """Paint a thin curved shell under the back."""
    if not trunk.table:
        return
    back = max(m[1] + d for m, d in zip(trunk.middle, trunk.half_depth, strict=True)) + trunk.fat + 6
    region = canvas.region((-260, back - 90, trunk.z[0] - 400), (260, back + 60, trunk.z[-1] + 400))
    if region is None:
        return
    radius = 420.0
    x, y = region.x - trunk.middle[0][0], region.y - (back - radius)
    arc = np.sqrt(x * x + y * y) - radius
    shell = np.maximum(np.abs(np.abs(arc - 14) - 12) - 1.6, np.abs(x) - 215) + 0 * region.z
    canvas.paint(region, shell.astype(np.float32), trunk.table)


def _depth(trunk: Trunk, region: Region) -> Field:
    mx, my = (trunk.at(region.z, [m[axis] for m in trunk.middle]) for axis in (0, 1))
    width, depth = trunk.at(region.z, trunk.half_width), trunk.at(region.z, trunk.half_depth)
    return ring(region.x - mx, region.y - my, width, depth, SQUARE)[1]


def _diaphragm(trunk: Trunk, region: Region) -> Field:
    """Its height over each point of the plane; high in the middle and in front, low at the back and sides."""
    mx, my = (trunk.at(trunk.dome, [m[axis] for m in trunk.middle]) for axis in (0, 1))
    dy, dx = (region.y - my) / 90, np.abs(region.x - mx) / trunk.at(trunk.dome, trunk.half_width)
    behind, aside = 62 * np.clip(dy, -0.3, 1.0) * np.abs(dy), 38 * np.clip(dx - 0.45, 0, 1) ** 2 * 4
    return np.asarray(trunk.dome - behind - aside, dtype=np.float32)


def _lungs(canvas: Canvas, trunk: Trunk, region: Region, grain: Field) -> None:
    """Air above the diaphragm, on both sides of the mediastinum, back to the ribs beside the spine."""
    if float(region.z.max()) < trunk.dome - 110 or float(region.z.min()) > trunk.first_thoracic + 40:
        return
    sx, sy = (trunk.at(region.z, [s[axis] for s in trunk.spine]) for axis in (0, 1))
    half = trunk.at(region.z, [h[0] for h in trunk.body_half])
    mx, my = (trunk.at(region.z, [m[axis] for m in trunk.middle]) for axis in (0, 1))
    inside = _depth(trunk, region) + np.float32(trunk.wall)
    above = _diaphragm(trunk, region) - region.z  # negative above the diaphragm
    low = np.clip((trunk.dome + 90 - region.z) / 120, 0.2, 1)
    beside = 26 + 26 * np.clip((my - region.y) / 70, -0.2, 1.0) * low - np.abs(region.x - sx - 6)
    behind = np.where(region.y > sy - 0.35 * half, np.float32(-9.0), beside)  # the spine's sleeve is painted later
    apex = (region.z - trunk.first_thoracic - 12) + 0.35 * np.clip(np.abs(region.x - mx) - 40, 0, 100)
    lung = np.maximum(np.maximum(inside, above), np.maximum(behind, apex)).astype(np.float32)
    canvas.paint(region, lung, trunk.lung + 70 * np.clip(_enlarged(grain, canvas, region), -1.5, 4) ** 2)


def _organs(canvas: Canvas, trunk: Trunk, draw: np.random.Generator, contrast: str | None) -> None:
    extra = {None: 0.0, "arterial": 15.0, "venous": 55.0}[contrast]
    dome, bottom = trunk.dome, trunk.sacrum[2]
    width, depth = trunk.half_width[len(trunk.z) // 2], trunk.half_depth[len(trunk.z) // 2]
    my = float(trunk.at(dome - 80, [m[1] for m in trunk.middle]))

    def blob(centre: Sequence[float], radii: Sequence[float], hu: float) -> None:
        jitter = draw.normal(0, 6, 3)
        radii = [float(r) * float(draw.uniform(0.85, 1.15)) for r in radii]
        at = [float(c) + float(j) for c, j in zip(centre, jitter, strict=True)]
        region = canvas.region([a - r - 5 for a, r in zip(at, radii, strict=True)],
                               [a + r + 5 for a, r in zip(at, radii, strict=True)])  # fmt: skip
        if region is None:
            return
        distance = ellipsoid(region.x, region.y, region.z, at, radii)
        inside = _depth(trunk, region) + trunk.wall
        canvas.paint(region, np.maximum(distance, inside).astype(np.float32), hu)

    for _ in range(26):  # bowel: walls, then what fills them
        centre = (draw.uniform(-0.7, 0.7) * width, my - draw.uniform(-0.1, 0.75) * depth,
                  draw.uniform(bottom - 60, dome - 90))  # fmt: skip
        radius = draw.uniform(11, 26)
        stretch = draw.uniform(0.8, 2.0, 3)
        blob(centre, radius * stretch, float(draw.normal(38, 8)))
        if draw.random() < 0.35:
            blob(centre, 0.75 * radius * stretch, float(draw.choice([-900.0, -60.0, 20.0, 180.0])))
    blob((-0.45 * width, my - 0.15 * depth, dome - 72), (0.55 * width, 0.75 * depth, 72), trunk.liver + extra)
    blob((0.62 * width, my + 0.28 * depth, dome - 62), (30, 42, 50), trunk.liver - 6 + 1.3 * extra)
    blob((0.35 * width, my - 0.4 * depth, dome - 55), (42, 40, 45), float(draw.choice([25.0, 35.0, -850.0])))
    for side in (-1, 1):
        kidney = (side * 58.0, my + 0.30 * depth, trunk.last_thoracic - 48 - 8 * (side < 0))
        blob(kidney, (26, 27, 54), 33 + (150 if contrast else 0))
        blob(kidney, (9, 11, 24), trunk.fat_hu * 0.6)
    blob(
        (12, my - 0.45 * depth, dome - 5), (62, 45, 48), trunk.blood + (120 if contrast else 0)
    )  # heart, over the dome


def _muscles(canvas: Canvas, trunk: Trunk) -> None:
    """Erector spinae behind the spine, psoas beside the lumbar one, the soft sleeve around both, the canal."""
    for low, high in _chunks(trunk):
        sx, sy = (float(np.interp((low + high) / 2, trunk.z, [s[axis] for s in trunk.spine])) for axis in (0, 1))
        region = canvas.region((sx - 90, sy - 60, low), (sx + 90, sy + 90, high))
        if region is None:
            continue
        cx, cy = (trunk.at(region.z, [s[axis] for s in trunk.spine]) for axis in (0, 1))
        a, b = (trunk.at(region.z, [h[axis] for h in trunk.body_half]) for axis in (0, 1))
        side, v = np.abs(region.x - cx), region.y - cy
        lumbar = np.clip((trunk.last_thoracic - region.z) / 60, 0, 1)
        upper = np.clip((region.z - trunk.last_thoracic) / 220, 0, 1)
        sleeve = ring(side, v, a + 5, b + 5)[1]
        erector = ring(side - 27 + 6 * upper, v - b - 23, 27 + 3 * upper, 19 + 2 * upper)[1]
        canvas.paint(region, np.minimum(sleeve, erector + 0 * sleeve).astype(np.float32), trunk.muscle - 4)
        psoas = ring(side - a - 6 - 14 * lumbar, v - 2 + 6 * lumbar, 6 + 14 * lumbar, 10 + 12 * lumbar)[1]
        psoas = psoas + 40 * (lumbar <= 0.02)
        canvas.paint(region, psoas.astype(np.float32), trunk.muscle)
        canal = ring(region.x - cx, v - b - 8, 10.5 + 0 * b, 8.0 + 0 * b)[1]
        canvas.paint(region, canal, trunk.fat_hu * 0.5)
        canvas.paint(region, canal + 2.5, 22.0)


def _vessels(canvas: Canvas, trunk: Trunk, contrast: str | None) -> None:
    extra = {None: 0.0, "arterial": 240.0, "venous": 95.0}[contrast]
    late = {None: 0.0, "arterial": 10.0, "venous": 85.0}[contrast]
    z = np.asarray(trunk.z)
    spine, half = np.asarray(trunk.spine), np.asarray(trunk.body_half)
    up = np.clip((z - trunk.last_thoracic) / 60, 0, 1)
    bottom, top = trunk.sacrum[2] + 65, trunk.first_thoracic - 60
    use = (z > bottom) & (z < top)
    aorta = np.stack([spine[:, 0] + 9 + 14 * up, spine[:, 1] - half[:, 1] - 14 + 12 * up, z], axis=1)[use]
    cava = np.stack([spine[:, 0] - 17, spine[:, 1] - half[:, 1] - 13 - 10 * up, z], axis=1)[use & (z < trunk.dome)]
    paint_rod(canvas, cava, 11.0, 1.0, trunk.blood + late, 0.0, 0.0, None)
    paint_rod(canvas, aorta, 11.5, 1.0, trunk.blood + extra, 0.0, 0.0, None)
    draw = np.random.default_rng(trunk.organ_seed + 1)
    for _ in range(int(14 * max(0.0, trunk.calcified - 0.3))):
        centre = aorta[draw.integers(len(aorta))] if len(aorta) else None
        if centre is None:
            return
        angle = draw.uniform(0, 2 * np.pi)
        at = centre + np.array([10.5 * np.cos(angle), 10.5 * np.sin(angle), 0])
        paint_rod(
            canvas,
            np.array([at, at + draw.normal(0, 3, 3)]),
            float(draw.uniform(0.8, 2.0)),
            1.0,
            60.0,
            450.0,
            0.0,
            None,
        )


def _pelvis(canvas: Canvas, trunk: Trunk, sacrum: Vertebra) -> None:
    """Iliac wings: curved plates from the sacrum's sides forwards."""
    x0, y0, z0 = sacrum.centre
    for side in (-1, 1):
        region = canvas.region((min(x0 + side * 30, x0 + side * 160), y0 - 110, z0 - 130),
                               (max(x0 + side * 30, x0 + side * 160), y0 + 75, z0 + 70))  # fmt: skip
        if region is None:
            continue
        u, v, w = side * (region.x - x0), region.y - y0, region.z - z0
        forward = np.clip((42 - v) / 130, -0.2, 1.2)
        plate = u - (52 + 78 * np.clip(forward, 0, 1.2) ** 0.8 + 0.18 * w)
        thick = 5.0 + 4.0 * np.exp(-(((v - 30) / 25) ** 2))
        crest = w - (38 - 90 * (forward - 0.42) ** 2)
        bottom = -w - 95
        ends = np.maximum(v - 58, -v - 85)
        bone = np.maximum(np.maximum(np.abs(plate) * 0.8 - thick, crest), np.maximum(bottom, ends)).astype(np.float32)
        canvas.paint(region, bone, sacrum.marrow, 0.8 * sacrum.vbmd, 70.0)


def _shoulders(canvas: Canvas, trunk: Trunk) -> None:
    """Sternum, shoulder blades and collar bones: bone that is no spine and no rib."""
    top = trunk.first_thoracic
    mx, my, depth = (float(np.interp(top - 90, trunk.z, values)) for values in (
        [m[0] for m in trunk.middle], [m[1] for m in trunk.middle], trunk.half_depth))  # fmt: skip
    front = my - depth
    paint_rod(canvas, np.array([(mx, front + 16, top - 25), (mx, front + 7, top - 80), (mx, front + 5, top - 190)]),
              6.5, 0.9, 30.0, 90.0, 60.0, None)  # fmt: skip
    for side in (-1, 1):
        for n in range(5):
            start = (mx + side * (72 + 6 * n), my + 0.90 * depth - 4 * n, top - 8 - 6 * n)
            stop = (mx + side * (82 + 3 * n), my + 0.86 * depth - 6 * n, top - 118 + 14 * n)
            paint_rod(canvas, np.array([start, stop]), 3.2, 1.0, 20.0, 120.0, 60.0, None)
        collar = np.array([(mx + side * 14, front + 20, top - 20), (mx + side * 80, front + 30, top + 8),
                           (mx + side * 130, my + 10, top + 18)])  # fmt: skip
        paint_rod(canvas, collar, 5.0, 1.0, 20.0, 150.0, 80.0, None)


def _arms(canvas: Canvas, trunk: Trunk) -> None:
    out = max(trunk.half_width) + trunk.fat + 48
    for side in (-1, 1):
        x, y = trunk.middle[0][0] + side * out, trunk.middle[0][1] + 20
        region = canvas.region((x - 60, y - 60, trunk.z[0]), (x + 60, y + 60, trunk.first_thoracic - 40))
        if region is None:
            continue
        flesh = np.sqrt((region.x - x) ** 2 + (region.y - y) ** 2) - 40 + 0 * region.z
        canvas.paint(region, flesh.astype(np.float32), trunk.fat_hu)
        canvas.paint(region, (flesh + 8).astype(np.float32), trunk.muscle)
        rod = capsule(region.x, region.y, region.z, (x, y, trunk.z[0]), (x, y, trunk.first_thoracic), 11.0)
        canvas.paint(region, rod, -40.0, 0.0, 260.0)


def _chunks(trunk: Trunk) -> list[tuple[float, float]]:
    edges = np.arange(trunk.sacrum[2] - 60, trunk.z[-1], 40.0)
    return [(float(low), float(high)) for low, high in itertools.pairwise(edges)]


def _coarse_noise(geometry: Geometry, grain_mm: float, rng: np.random.Generator) -> Field:
    """Noise over a whole grid, SD 1, at a coarser step."""
    coarse = [
        max(2, int(np.ceil(n * mm / grain_mm)) + 1) for n, mm in zip(geometry.shape, geometry.spacing_mm, strict=True)
    ]
    return rng.standard_normal(coarse, dtype=np.float32)


def _enlarged(noise: Field, canvas: Canvas, region: Region) -> Field:
    """The part of coarse noise that lies under a region."""
    from scipy import ndimage

    factors = [(c - 1) / max(1, n - 1) for c, n in zip(noise.shape, canvas.geometry.shape, strict=True)]
    start = [part.start * factor for part, factor in zip(region.at, factors, strict=True)]
    shape = tuple(part.stop - part.start for part in region.at)
    return np.asarray(ndimage.affine_transform(noise, factors, start, shape, order=1, mode="nearest"), dtype=np.float32)


def _smooth(values: NDArray[np.float64], reach: int) -> NDArray[np.float64]:
    from scipy import ndimage

    return np.asarray(ndimage.gaussian_filter1d(values, reach, mode="nearest"))
