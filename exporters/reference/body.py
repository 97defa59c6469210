"""
What lies around a spine: skin, fat, muscles, lungs, vessels of the belly, organs, bowel, the table.

None of it is anatomy for its own sake. It is what a network must learn not to take for a vertebra,
and what surrounds a rib so that the rib can be counted.
"""

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from engine.volume import Geometry
from exporters.reference.canvas import Canvas, Field, Region, ellipsoid, ring
from exporters.reference.chest import Blood
from exporters.reference.trunk import SQUARE, Trunk
from exporters.reference.vertebra import Vertebra, paint_rod


def paint_trunk(canvas: Canvas, trunk: Trunk, contrast: str | None) -> None:
    """Paint everything soft that lies behind the bones of the spine, but for the chest's vessels."""
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
    fluid = float(draw.uniform(10, 50)) if draw.random() < 0.15 else 0.0
    for region in canvas.slabs():
        _lungs(canvas, trunk, region, grain, fluid)


def paint_along_spine(canvas: Canvas, trunk: Trunk, blood: Blood) -> None:
    """Paint what lies right beside the spine: muscles, the canal, aorta and caval vein."""
    _muscles(canvas, trunk)
    _vessels(canvas, trunk, blood)


def paint_screws(canvas: Canvas, bones: tuple[Vertebra, ...]) -> None:
    """Paint a pair of screws into each vertebra that has metal, and the rods that join them."""
    held = [bone for bone in bones if bone.metal]
    for side in (-1, 1):
        heads = [bone.point(side * 15, bone.depth / 2 + 22, 4) for bone in held]
        for bone, head in zip(held, heads, strict=True):
            paint_rod(canvas, np.array([bone.point(side * 9, -8, 2), head]), bone.metal, 1.0, 0.0, 4500.0, 0.0, None)
        if len(heads) > 1:
            paint_rod(canvas, np.array(heads), 2.8, 1.0, 0.0, 4500.0, 0.0, None)


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


def _lungs(canvas: Canvas, trunk: Trunk, region: Region, grain: Field, fluid: float) -> None:
    """Air above the diaphragm, on both sides of the mediastinum, back to the ribs; `fluid` mm deep lies behind it."""
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
    if fluid:
        canvas.paint(region, np.maximum(lung, sy + half + np.float32(18 - fluid) - region.y).astype(np.float32), 14.0)


def _organs(canvas: Canvas, trunk: Trunk, draw: np.random.Generator, contrast: str | None) -> None:
    extra = {None: 0.0, "arterial": 15.0, "venous": 55.0}[contrast] * trunk.iodine
    dome, bottom = trunk.dome, trunk.sacrum[2]
    width, depth = trunk.half_width[len(trunk.z) // 2], trunk.half_depth[len(trunk.z) // 2]
    my = float(trunk.at(dome - 80, [m[1] for m in trunk.middle]))

    def blob(centre: Sequence[float], radii: Iterable[float], hu: float) -> None:
        jitter = draw.normal(0, 6, 3)
        sizes = [float(r) * float(draw.uniform(0.85, 1.15)) for r in radii]
        at = [float(c) + float(j) for c, j in zip(centre, jitter, strict=True)]
        region = canvas.region([a - r - 5 for a, r in zip(at, sizes, strict=True)],
                               [a + r + 5 for a, r in zip(at, sizes, strict=True)])  # fmt: skip
        if region is None:
            return
        distance = ellipsoid(region.x, region.y, region.z, at, sizes)
        inside = _depth(trunk, region) + trunk.wall
        canvas.paint(region, np.maximum(distance, inside).astype(np.float32), hu)

    for _ in range(26):  # bowel: walls, then what fills them
        centre = (draw.uniform(-0.7, 0.7) * width, my - draw.uniform(-0.1, 0.75) * depth,
                  draw.uniform(bottom - 60, dome - 90))  # fmt: skip
        radius = draw.uniform(11, 26)
        stretch = draw.uniform(0.8, 2.0, 3)
        blob(centre, radius * stretch, float(draw.normal(38, 8)))
        if draw.random() < 0.35:
            blob(centre, 0.75 * radius * stretch, float(draw.choice([-900.0, -60.0, 20.0, 180.0, 400.0])))
    blob((-0.45 * width, my - 0.15 * depth, dome - 72), (0.55 * width, 0.75 * depth, 72), trunk.liver + extra)
    blob((0.62 * width, my + 0.28 * depth, dome - 62), (30, 42, 50), trunk.liver - 6 + 1.3 * extra)
    blob((0.35 * width, my - 0.4 * depth, dome - 55), (42, 40, 45), float(draw.choice([25.0, 35.0, -850.0])))
    for side in (-1, 1):
        kidney = (side * 58.0, my + 0.30 * depth, trunk.last_thoracic - 48 - 8 * (side < 0))
        blob(kidney, (26, 27, 54), 33 + (150 if contrast else 0))
        pelvis = 600.0 if contrast == "venous" and trunk.iodine > 1.2 else trunk.fat_hu * 0.6  # late: iodine in urine
        blob(kidney, (9, 11, 24), pelvis)


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


def _vessels(canvas: Canvas, trunk: Trunk, blood: Blood) -> None:
    """Aorta and caval vein, their branches to kidneys and legs, calcium in the wall."""
    z = np.asarray(trunk.z)
    spine, half = np.asarray(trunk.spine), np.asarray(trunk.body_half)
    up = np.clip((z - trunk.last_thoracic) / 60, 0, 1)
    bottom, top = trunk.sacrum[2] + 65, trunk.first_thoracic - 85
    use = (z > bottom) & (z < top)
    aorta = np.stack([spine[:, 0] + 9 + 14 * up, spine[:, 1] - half[:, 1] - 14 + 12 * up, z], axis=1)[use]
    cava = np.stack([spine[:, 0] - 17, spine[:, 1] - half[:, 1] - 13 - 10 * up, z], axis=1)[use & (z < trunk.dome + 15)]
    azygos = np.stack([spine[:, 0] - 7, spine[:, 1] - half[:, 1] - 5, z], axis=1)[use & (z > trunk.last_thoracic)]
    for path, radius, hu in ((cava, 11.0, blood.veins), (azygos, 3.2, 0.5 * (blood.veins + blood.left)),
                             (aorta, 11.5, blood.left)):  # fmt: skip
        paint_rod(canvas, path, radius, 1.0, hu, 0.0, 0.0, None)
    branches = [(aorta, blood.left, side, reach, drop, height) for side, reach, drop, height in (
        (-1, 55.0, 8.0, -45.0), (1, 45.0, 8.0, -42.0), (1, -14.0, 60.0, -20.0))]  # fmt: skip
    branches += [(cava, blood.veins, -1, 40.0, 10.0, -48.0), (cava, blood.veins, 1, 75.0, 4.0, -44.0)]
    for path, hu, side, reach, drop, height in branches:
        start = _at_height(path, trunk.last_thoracic + height)
        bend = start + np.array([side * 0.4 * reach, -6.0, -0.3 * drop])
        stop = start + np.array([side * reach, 12.0 if reach > 0 else -18.0, -drop])
        paint_rod(canvas, np.array([start, bend, stop]), 3.4, 1.0, hu, 0.0, 0.0, None)
    for path, hu in ((aorta, blood.left), (cava, blood.veins)):
        for side in (-1, 1):
            stop = path[0] + np.array([side * 48.0, -12.0, -75.0])
            paint_rod(
                canvas,
                np.array([path[0], stop, stop + np.array([side * 15.0, -35.0, -60.0])]),
                6.0,
                1.0,
                hu,
                0.0,
                0.0,
                None,
            )
    _calcium(canvas, trunk, aorta)


def _at_height(path: NDArray[np.float64], z: float) -> NDArray[np.float64]:
    return np.asarray(path[int(np.abs(path[:, 2] - z).argmin())])


def _calcium(canvas: Canvas, trunk: Trunk, aorta: NDArray[np.float64]) -> None:
    """Plaques in the wall of the aorta."""
    draw = np.random.default_rng(trunk.organ_seed + 1)
    for _ in range(int(14 * max(0.0, trunk.calcified - 0.3))):
        centre = aorta[draw.integers(len(aorta))]
        angle = draw.uniform(0, 2 * np.pi)
        at = centre + np.array([10.5 * np.cos(angle), 10.5 * np.sin(angle), 0])
        path = np.array([at, at + draw.normal(0, 3, 3)])
        paint_rod(canvas, path, float(draw.uniform(0.8, 2.0)), 1.0, 60.0, 450.0, 0.0, None)


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
