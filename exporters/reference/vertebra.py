"""
The bones of a spine as signed distances: bodies, arches, discs, ribs, sacrum.

Each vertebra has a frame: u to its left, v to its back, w to its head, origin in the body's centre.
Sizes follow adult CT (see the table); what a single level needs is drawn elsewhere and handed in.
"""

import itertools
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from engine.volume import Vector
from exporters.reference.canvas import Canvas, Field, Region, capsule, ring, rounded_box
from exporters.reference.trabecular import Texture, grain_of

BODY, POSTERIOR, DISC, RIB, SACRUM = 1, 2, 3, 4, 5
TISSUES = ("background", "vertebral_body", "posterior_elements", "disc", "rib", "sacrum")

# width (left-right), depth (front-back), height, disc below, mm, of an adult man.
# T10-L5: measured on CT masks and published ranges (height 20-30, depth 30-35, width 40-50 mm); above T10: our choice.
SIZES: dict[str, tuple[float, float, float, float]] = {
    "C5": (19, 15, 12, 4.5), "C6": (20, 16, 12, 4.5), "C7": (23, 16.5, 13.5, 4),
    "T1": (28, 17, 16, 3), "T2": (28, 18, 17, 3), "T3": (27, 19.5, 17.5, 3), "T4": (27, 21, 18, 3.5),
    "T5": (28, 23, 18.5, 3.5), "T6": (28, 25, 19, 4), "T7": (29, 26, 19.5, 4), "T8": (31, 27, 20, 4.5),
    "T9": (33, 28, 21, 4.5), "T10": (36, 29, 22, 5), "T11": (39, 31, 23.5, 6), "T12": (42, 32, 25.5, 7),
    "L1": (43, 33, 27, 8), "L2": (45, 34, 28, 9), "L3": (48, 35, 28.5, 10), "L4": (50, 35.5, 28.5, 11),
    "L5": (52, 36, 28, 10), "L6": (52, 36, 27, 9),
}  # fmt: skip

CEMENT = 1000.0  # mg/cm3 that attenuate like cement with barium in it: about 1300 HU, below metal; our choice
MARROW_SHELL = 31.0  # mg/cm2: cortex of a body, 0.35 mm of 900 mg/cm3 (Silva 1994)


@dataclass(frozen=True)
class Vertebra:
    """One vertebra: where it lies, how large it is, what it is made of."""

    name: str
    number: int  # 1 + index into the phantom's levels; 0 for cervical ones
    centre: Vector
    tilt: float  # radians, leaning forward
    lean: float  # radians, leaning to the left
    turn: float  # radians about its own axis
    width: float  # mm
    depth: float
    height: float  # at the back
    disc: float  # below, mm
    vbmd: float  # mg/cm3 of the trabecular core
    marrow: float  # HU of what fills the trabeculae
    shell: float  # mg/cm2
    wedge: float = 0.0  # share of the front height that is lost
    biconcave: float = 0.0  # share of the height in the middle that is lost
    crush: float = 0.0  # share of the whole height that is lost
    osteophyte: float = 0.0  # mm
    island: float = 0.0  # radius of a bone island, mm
    haemangioma: float = 0.0  # radius, mm
    schmorl: float = 0.0  # radius of a dent in an endplate, mm
    cement: float = 0.0  # radius, mm
    metal: float = 0.0  # radius of screws in the pedicles, mm
    rib: float = 0.0  # share of the usual length of its ribs; 0: none
    process: float = 1.0  # factor of the processes' lengths
    arch: float = 1.0  # factor of the posterior elements' mineral
    texture: Texture = field(default_factory=Texture)

    @cached_property
    def axes(self) -> NDArray[np.float64]:
        """(3, 3): rows are u, v, w in the patient."""
        ct, st, cl, sl = np.cos(self.tilt), np.sin(self.tilt), np.cos(self.lean), np.sin(self.lean)
        cr, sr = np.cos(self.turn), np.sin(self.turn)
        w = np.array([sl, -st * cl, ct * cl])
        v = np.array([0.0, ct, st])
        v -= w * (v @ w)
        v /= np.linalg.norm(v)
        u = np.cross(v, w)
        return np.stack([cr * u + sr * v, cr * v - sr * u, w])

    def point(self, u: float, v: float, w: float) -> NDArray[np.float64]:
        """A point of the vertebra's frame, in the patient."""
        return np.asarray(self.centre) + np.array([u, v, w]) @ self.axes

    def local(self, region: Region) -> tuple[Field, Field, Field]:
        """The region's voxels in the vertebra's frame."""
        dx, dy, dz = region.x - self.centre[0], region.y - self.centre[1], region.z - self.centre[2]
        u, v, w = (np.asarray(r[0] * dx + r[1] * dy + r[2] * dz, dtype=np.float32) for r in self.axes)
        return u, v, w


def body_distance(bone: Vertebra, u: Field, v: Field, w: Field) -> tuple[Field, Field]:
    """A waisted body with hollow endplates and a slightly hollow back.

    Returns:
        signed distance to the body, and to its endplates alone (negative between them).
    """
    a, b = bone.width / 2, bone.depth / 2
    height = bone.height * (1 - bone.crush) * (1 - bone.wedge * np.clip(0.5 - v / (2 * b), 0, 1.1))
    rise = np.clip(np.abs(w) / (height / 2), 0, 1.2)
    flare = 0.90 + 0.10 * rise**2 + (bone.osteophyte / a) * np.clip(rise - 0.55, 0, 1) ** 2 * 4
    hollow = np.where(v > 0, 1 - 0.13 * np.exp(-((u / (0.38 * a)) ** 2)), 1.0)
    out, side = ring(u, v, a * flare, b * flare * hollow, 0.28)
    ends = np.abs(w) - height / 2 + (0.045 + bone.biconcave / 2) * bone.height * np.clip(1 - out * out, 0, 1)
    distance = np.maximum(side, ends)
    corner = np.sqrt(np.maximum(side + 2, 0) ** 2 + np.maximum(ends + 2, 0) ** 2) - 2  # rims are round, 2 mm
    distance = np.maximum(distance, corner)
    if bone.schmorl:
        end = 1.0 if bone.number % 2 else -1.0  # the upper or the lower endplate
        dent = np.sqrt((u - 0.15 * a) ** 2 + (v - 0.1 * b) ** 2 + (w - end * height / 2) ** 2) - bone.schmorl
        distance, ends = np.maximum(distance, -dent), np.maximum(ends, -dent)
    return distance.astype(np.float32), ends.astype(np.float32)


def arch_distance(bone: Vertebra, u: Field, v: Field, w: Field) -> Field:
    """Pedicles, laminae, facets, transverse and spinous processes, as one surface."""
    a, b, h = bone.width / 2, bone.depth / 2, bone.height
    lumbar, cervical = bone.name[0] == "L", bone.name[0] == "C"
    s, long = bone.width / 45, bone.process
    side = np.abs(u)  # the arch is symmetric in its own frame
    r = 4.6 * s if lumbar else 3.4 * s + 0.6
    canal = 0.36 * a + (5.0 if lumbar else 4.0)  # half width of the canal
    back = b + (15.0 if lumbar else 13.5)  # back of the canal
    parts = [
        capsule(side, v, 0.75 * w, (canal + 0.7 * r, 0.6 * b, 0.15 * h), (canal + r, b + 9, 0.13 * h), r),
        capsule(side, v, 0.62 * w, (canal + r, b + 10, 0.04 * h), (1.0, back + 4, -0.12 * h), 3.3),
        capsule(side, v, 0.7 * w, (canal + r + 2, b + 11, 0.3 * h), (canal + r + 1, b + 12, 0.42 * h), 4.6 * s + 1.2),
        capsule(side, v, 0.7 * w, (canal + r - 1, b + 14, -0.25 * h), (canal + r - 1, b + 15, -0.5 * h), 4.3 * s + 1.2),
    ]
    if lumbar:
        tip = (a + 20 * long, b + 11, 0.16 * h)
        parts.append(capsule(side, v, 0.75 * w, (canal + r, b + 10, 0.1 * h), tip, 3.3))
        slope = 0.25
        parts.append(rounded_box(u, v - back - 14 * long, w + 0.25 * h + slope * (v - back - 14 * long),
                                 (3.4, 14 * long + 3, 0.36 * h), 3.0))  # fmt: skip
    elif cervical:
        parts.append(capsule(side, v, w, (canal, b + 3, 0), (a + 8, b + 2, -1), 3.2))
        parts.append(capsule(u, v, w, (0, back, -2), (0, back + 22, -10), 3.4))
    else:
        reach = (12 + 3.5 * bone.rib) * long
        tip = (canal + reach + 8, b + 15 + 0.35 * reach, 0.2 * h)
        parts.append(capsule(side, v, w, (canal + r, b + 11, 0.12 * h), tip, 4.0 * s + 0.9))
        down = 0.95 * h if bone.name not in ("T11", "T12") else 0.45 * h
        parts.append(capsule(u, v, 0.8 * w, (0, back + 3, -0.15 * h), (0, back + 27 * long, -0.8 * down), 3.4))
    distance = parts[0]
    for part in parts[1:]:
        distance = np.minimum(distance, part)
    return distance


def paint_body(canvas: Canvas, bone: Vertebra) -> None:
    """Paint a vertebral body: cortex, endplates, trabecular bone with texture, the vein at its back."""
    reach = max(bone.width, bone.depth, bone.height) / 2 + 8
    region = canvas.around([bone.centre], reach)
    if region is None:
        return
    u, v, w = bone.local(region)
    distance, ends = body_distance(bone, u, v, w)
    grain = grain_of(region, bone.axes, np.asarray(bone.centre), bone.texture)
    mineral = bone.vbmd * np.clip(1 + bone.texture.contrast * grain, 0, None)
    vein = np.maximum(np.sqrt((u * 0.8) ** 2 + w**2) - 0.16 * np.maximum(v + 2, 0) - 0.6, -v)  # funnel, no mineral
    mineral = mineral * np.clip(0.5 + vein / canvas.edge_mm, 0.05, 1.0)
    soft: float | Field = bone.marrow
    if bone.haemangioma:  # fat between a few thick struts that stand upright
        there = np.sqrt((u + 3) ** 2 + (v + 3) ** 2 + w**2) - bone.haemangioma < 0
        struts = np.sin(u * 1.6) * np.sin(v * 1.6) > 0.35
        mineral = np.where(there, np.where(struts, 2.6, 0.25) * bone.vbmd, mineral)
        soft = np.where(there, -60.0, bone.marrow).astype(np.float32)
    if bone.island:
        lump = np.sqrt((u + 0.35 * bone.width / 2) ** 2 + (v + 2) ** 2 + (w - 3) ** 2) - bone.island
        mineral = np.where(lump < 0, 700.0, mineral)
    if bone.cement:
        knobs = 0.25 * np.sin(0.7 * u + 1) * np.sin(0.8 * v) * np.sin(0.9 * w + 2)
        lump = np.sqrt((u - 2) ** 2 + (v + 3) ** 2 + (1.3 * w) ** 2) - bone.cement * (1 + knobs)
        mineral = np.where(lump < 0, CEMENT, mineral)
    shell = np.where(ends > -1.5, 1.8, 1.0).astype(np.float32) * bone.shell  # endplates are thicker
    broken = bone.crush + bone.wedge + bone.biconcave > 0.15
    shell = shell * (1.6 if broken else 1.0)  # healed trabeculae lie close together under the plate
    canvas.paint(region, distance, soft, mineral.astype(np.float32), shell, BODY, bone.number)


def paint_arch(canvas: Canvas, bone: Vertebra) -> None:
    """Paint the posterior elements."""
    wide, high = bone.width / 2 + 30 * bone.process, bone.height
    corners = [bone.point(u, v, w) for u in (-wide, wide)
               for v in (0.1 * bone.depth, bone.depth / 2 + 48 * bone.process)
               for w in (-1.05 * high - 10, 0.65 * high + 12)]  # fmt: skip
    region = canvas.around(np.array(corners), canvas.edge_mm)
    if region is None:
        return
    u, v, w = bone.local(region)
    distance = arch_distance(bone, u, v, w)
    interior = bone.arch * (90 + 0.9 * bone.vbmd)
    canvas.paint(region, distance, bone.marrow, interior, 2.6 * bone.arch * bone.shell, POSTERIOR)


def paint_disc(canvas: Canvas, above: Vertebra, below: Vertebra, soft: float) -> None:
    """Paint the disc between two vertebrae; the bodies are painted over it."""
    top = above.point(0, 0, -above.height / 2)
    bottom = below.point(0, 0, below.height / 2)
    centre = (top + bottom) / 2
    x, y, z = (float(value) for value in centre)
    width, depth = (above.width + below.width) / 2, (above.depth + below.depth) / 2
    between = Vertebra("disc", 0, (x, y, z), (above.tilt + below.tilt) / 2, (above.lean + below.lean) / 2,
                       0.0, width, depth, above.disc, 0, 0, 0, 0)  # fmt: skip
    region = canvas.around([(x, y, z)], width / 2 + 6)
    if region is None:
        return
    u, v, w = between.local(region)
    _, side = ring(u, v, width / 2 * 0.99, depth / 2 * 0.99, 0.28)
    gap = sum(bone.height * (bone.crush + bone.wedge / 2 + bone.biconcave) / 2 for bone in (above, below))
    flat = np.abs(w) - (above.disc / 2 + 3.5 + gap + abs(above.tilt - below.tilt) * depth / 4)
    canvas.paint(region, np.maximum(side, flat).astype(np.float32), soft, 0.0, 0.0, DISC)


def paint_rod(canvas: Canvas, path: NDArray[np.float64], radius: float, squeeze: float, soft: float, mineral: float,
              shell: float, label: int | None) -> None:  # fmt: skip
    """Paint a bent bone along a path; `squeeze` < 1 makes its section higher (z) than wide."""
    for first in range(0, len(path) - 1, 6):
        part = path[first : first + 7]
        region = canvas.around(part, radius / squeeze + 3 * canvas.edge_mm)
        if region is None:
            continue
        distance: Field | None = None
        z = region.z * squeeze
        for a, b in itertools.pairwise(part):
            near = capsule(region.x, region.y, z, (a[0], a[1], a[2] * squeeze), (b[0], b[1], b[2] * squeeze), radius)
            distance = near if distance is None else np.minimum(distance, near)
        assert distance is not None
        canvas.paint(region, distance, soft, mineral, shell, label)


def paint_sacrum(canvas: Canvas, first: Vertebra, count: int) -> list[NDArray[np.float64]]:
    """Paint the fused sacrum below the last vertebra; `first` is the frame of S1.

    Returns:
        centres of S1 .. Sn, in the patient.
    """
    centres, frames = [], []
    centre, tilt = np.asarray(first.centre), first.tilt
    for n in range(count):
        shrink = 1 - 0.15 * n
        frames.append(Vertebra("S", 0, tuple(centre), tilt, first.lean, 0, first.width * shrink, first.depth * shrink,
                               first.height * (1 - 0.1 * n), 0, 0, 0, 0))  # fmt: skip
        centres.append(centre.copy())
        centre = frames[-1].point(0, 0, -first.height * (0.93 - 0.1 * n))
        tilt -= 0.20 + 0.04 * n
    region = canvas.around(np.array(centres), 75)
    if region is None:
        return centres
    distance: Field | None = None
    for n, frame in enumerate(frames):
        u, v, w = frame.local(region)
        side = np.abs(u)
        body, _ = body_distance(frame, u, v, w)
        wing = (first.width / 2 + 34) * (1 - 0.13 * n)
        ala = capsule(side, v * 0.8, w * 0.9, (frame.width * 0.35, 2, 1), (wing - 10, 8.0, -4), 13.5 * (1 - 0.12 * n))
        back = capsule(side, v, w * 0.7, (14.0, frame.depth / 2 + 12, 0), (0, frame.depth / 2 + 20, -3), 4.0)
        link = capsule(side, v, w, (20.0, 6.0, 0), (17.0, frame.depth / 2 + 12, 0), 6.0 * (1 - 0.1 * n))
        part = np.minimum(np.minimum(body - 0.4, ala), np.minimum(back, link))
        distance = part if distance is None else np.minimum(distance, part)
        if n < count - 1:  # foramina
            hole = capsule(side, v, w, (17.5, -25, -first.height / 2), (17.5, 45, -first.height / 2), 4.5)
            distance = np.maximum(distance, -hole)
    assert distance is not None
    grain = grain_of(region, first.axes, np.asarray(first.centre), first.texture)
    mineral = 0.75 * first.vbmd * np.clip(1 + first.texture.contrast * grain, 0, None)
    canvas.paint(region, distance, first.marrow, mineral.astype(np.float32), 1.6 * first.shell, SACRUM)
    return centres
