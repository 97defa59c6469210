"""
A procedural spine in a body, with known truth: the patient that nobody has to protect.

A phantom is a value drawn from a seed; it has no voxels. `rasterise` puts it on any grid, so that the
same anatomy can be scanned by several scanners at any crop. What is known exactly: each level's
trabecular density, each voxel's tissue, each body's name.

The patient's frame is DICOM's (x left, y back, z head) with the middle lumbar body at the origin.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from engine.records import VertebralLevel
from engine.volume import CANONICAL, Geometry, Vector
from exporters.reference.body import paint_along_spine, paint_screws, paint_trunk
from exporters.reference.canvas import Canvas
from exporters.reference.chest import blood_of, paint_chest
from exporters.reference.findings import FRACTURES, Finding, FindingShares, draw_findings, height_left, painted
from exporters.reference.girdle import Worn, cartilage, draw_worn, paint_girdle, paint_limbs, paint_worn
from exporters.reference.trabecular import draw_habitus, draw_texture
from exporters.reference.trunk import Trunk, draw_trunk, rib_path
from exporters.reference.vertebra import (
    MARROW_SHELL,
    RIB,
    SIZES,
    Vertebra,
    paint_arch,
    paint_body,
    paint_disc,
    paint_rod,
    paint_sacrum,
)

# Forward lean of each body's axis in degrees: lordosis with its front at L3/L4, kyphosis with its back at T6/T7.
# Segment angles add up to the means of Harrison (T12-S1 61-65) within the accepted range 30-80.
TILTS = {"C5": 20, "C6": 23, "C7": 26, "T1": 27, "T2": 24, "T3": 20, "T4": 16, "T5": 11, "T6": 6, "T7": 1, "T8": -3,
         "T9": -7, "T10": -10, "T11": -12, "T12": -13, "L1": -12, "L2": -8, "L3": 0, "L4": 10, "L5": 24, "L6": 32,
         "S1": 42}  # fmt: skip


Frame = tuple[Vector, float, float, tuple[float, float, float, float]]
"""A vertebra's centre, tilt, lean, and its width, depth, height and disc."""


@dataclass(frozen=True, slots=True)
class PhantomOptions:
    """How often the odd things happen. All are shares of patients."""

    fracture: float = 0.15
    osteophytes: float = 0.4
    bone_island: float = 0.06
    transitional: float = 0.04  # an L6, or ribs at L1
    metal: float = 0.02
    arms: float = 0.3  # lie beside the trunk; as often they are held up
    haemangioma: float = 0.06
    schmorl: float = 0.1
    cement: float = 0.02


RICH = PhantomOptions(fracture=0.45, bone_island=0.3, metal=0.08, haemangioma=0.15, cement=0.12)
"""What is rare happens often: for a network that is to outline crushed, plated and filled bodies as they are."""

PLAIN = PhantomOptions(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
"""Nothing odd happens."""


@dataclass(frozen=True, slots=True)
class Habit:
    """What all vertebrae of one patient share."""

    density: float  # mg/cm3 at L2
    marrow: float  # HU
    age: int  # years


@dataclass(frozen=True)
class SpinePhantom:
    """One patient without voxels."""

    seed: int
    sex: str  # "M" | "F"
    age: int  # years
    trunk: Trunk
    vertebrae: tuple[Vertebra, ...]  # head to foot, cervical ones first
    sacrum: Vertebra  # frame of S1
    levels: tuple[VertebralLevel, ...]  # that have a number: T1 .. L5 (or L6)
    findings: dict[VertebralLevel, tuple[Finding, ...]]  # what is wrong, by level; a healthy level is not there
    worn: Worn

    def vertebra(self, level: VertebralLevel) -> Vertebra:
        """The vertebra of a level; S1 is the sacrum's frame."""
        if level is VertebralLevel.S1:
            return self.sacrum
        return next(bone for bone in self.vertebrae if bone.name == level)

    @property
    def vbmd(self) -> dict[VertebralLevel, float]:
        """The drawn trabecular density of each level, mg/cm3 (hydroxyapatite)."""
        return {level: self.vertebra(level).vbmd for level in self.levels}

    @property
    def bone_score(self) -> dict[VertebralLevel, float]:
        """The trabecular bone score of each level."""
        return {level: self.vertebra(level).texture.score for level in self.levels}

    @property
    def bmi(self) -> float:
        """Body mass index, kg/m2: a trunk's section over a stature that goes with L3's height, 22 for a usual one."""
        bone = self.vertebra(VertebralLevel.L3)
        wide, deep = (float(self.trunk.at(bone.centre[2], half)) + self.trunk.fat
                      for half in (self.trunk.half_width, self.trunk.half_depth))  # fmt: skip
        return 22.0 * (wide * deep / 15_900) / (bone.height / 27.6)


@dataclass(frozen=True, eq=False)
class Raster:
    """A phantom on a grid."""

    geometry: Geometry
    soft: NDArray[np.float32]  # (K, J, I) HU without mineral, at 120 kV
    mineral: NDArray[np.float32]  # (K, J, I) mg/cm3
    labels: NDArray[np.uint8]  # (K, J, I) index into TISSUES
    bodies: NDArray[np.uint8]  # (K, J, I) n: levels[n - 1] of the phantom


def draw_phantom(
    seed: int, *, age: int | None = None, sex: str | None = None, vbmd: float | None = None,
    options: PhantomOptions | None = None,
) -> SpinePhantom:  # fmt: skip
    """Draw a patient.

    Args:
        seed: same seed, same patient, same bytes.
        age: years; drawn from 20 to 90 when None.
        vbmd: mean density of L1-L3 in mg/cm3; drawn by age and sex when None.

    Source:
        Densities: about 190 (women) and 183 (men) mg/cm3 at 31.7 years, 0.70 and 0.83 mg lost a year;
        about 80 in women of 78. Marrow: HU from +20 (red) to -60 (fatty); fat grows with age and fills what bone
        gave up: the direction is known, the shares are our choice.
    """
    rng = np.random.default_rng(seed)
    odd = options or PhantomOptions()
    drawn_sex, drawn_age = str(rng.choice(["M", "F"])), int(rng.integers(20, 91))
    sex, age = sex or drawn_sex, drawn_age if age is None else age
    mean = 190 - 2.15 * (age - 30) if sex == "F" and age > 45 else 186 - (0.70 if sex == "F" else 1.25) * (age - 30)
    drawn = float(np.clip(rng.normal(mean, 30), 22, 280))
    density = drawn if vbmd is None else vbmd
    fat = 0.45 * float(np.clip((age - 20) / 70, 0, 1)) + 0.55 * float(np.clip(1 - density / 230, 0, 1))
    habit = Habit(density, 25 - 80 * fat + float(rng.normal(0, 5)), age)
    names, ribbed = _names(rng, odd)
    scale = float(np.clip(rng.normal(1.0, 0.05), 0.85, 1.15)) * (0.90 if sex == "F" else 1.0)
    tall = scale * (1.05 if sex == "F" else 1.0)
    shares = FindingShares(odd.fracture, odd.osteophytes, odd.bone_island, odd.haemangioma, odd.schmorl, odd.cement,
                           odd.metal)  # fmt: skip
    numbered = [name for name in names if name[0] != "C"]
    findings = draw_findings(np.random.default_rng([seed, 31]), numbered, age, shares)
    left = [height_left(findings, name) for name in names]
    vertebrae = _vertebrae(rng, names, ribbed, _stack(rng, names, scale, tall, left), habit, findings)
    vertebrae = _filled(vertebrae, np.random.default_rng([seed, 13]))
    factor = vertebrae[-1].tilt / np.deg2rad(TILTS[names[-1]])
    sacrum = _below(vertebrae[-1], float(np.deg2rad(TILTS["S1"]) * (0.6 + 0.4 * factor)), scale, tall)
    trunk = draw_trunk(rng, sex, scale, vertebrae, sacrum)
    worn = draw_worn(np.random.default_rng([seed, 37]), sex, odd.arms)
    levels = tuple(VertebralLevel(name) for name in names if name[0] != "C")
    told = {VertebralLevel(name): some for name, some in findings.items()}
    return SpinePhantom(seed, sex, age, trunk, vertebrae, sacrum, levels, told, worn)


def rasterise(phantom: SpinePhantom, geometry: Geometry, *, contrast: str | None = None) -> Raster:
    """Put a phantom on a grid.

    Args:
        contrast: None, "arterial" or "venous".
    """
    canvas = Canvas(geometry)
    bones, trunk, blood = phantom.vertebrae, phantom.trunk, blood_of(phantom.trunk, contrast)
    paint_limbs(canvas, trunk, phantom.worn)
    paint_trunk(canvas, trunk, contrast)
    paint_chest(canvas, trunk, blood)
    paint_along_spine(canvas, trunk, blood)
    paint_girdle(canvas, trunk, phantom.sacrum)
    for above, below in zip(bones, (*bones[1:], phantom.sacrum), strict=True):
        paint_disc(canvas, above, below, trunk.disc)
    _paint_ribs(canvas, phantom)
    for bone in bones:
        paint_arch(canvas, bone)
    paint_sacrum(canvas, phantom.sacrum, 5)
    for bone in bones:
        paint_body(canvas, bone)
    paint_screws(canvas, bones)
    paint_worn(canvas, trunk, phantom.worn)
    return Raster(geometry, canvas.soft, canvas.mineral, canvas.labels, canvas.levels)


def _paint_ribs(canvas: Canvas, phantom: SpinePhantom) -> None:
    """Ribs from their heads to their ends, and the cartilage of those that reach the breastbone."""
    trunk = phantom.trunk
    for bone in phantom.vertebrae:
        for side in (-1, 1) if bone.rib else ():
            path = rib_path(trunk, bone, side)
            radius = (3.4 if bone.name not in ("T1", "T12", "L1") else 2.9) * trunk.rib_size
            paint_rod(canvas, path, radius, 0.58, bone.marrow, 60 + 0.6 * bone.vbmd, 75.0, RIB)
            number = int(bone.name[1:])
            if bone.name[0] == "T" and number <= 10:
                cartilage(canvas, trunk, path[-1], number, phantom.age)


def levels_in_view(phantom: SpinePhantom, geometry: Geometry) -> tuple[VertebralLevel, ...]:
    """Levels whose bodies lie wholly inside a grid, head to foot."""
    inside = []
    for level in phantom.levels:
        bone = phantom.vertebra(level)
        a, b, h = bone.width / 2, bone.depth / 2, bone.height / 2
        corners = np.array([bone.point(u, v, w) for u in (-a, a) for v in (-b, b) for w in (-h, h)])
        index = geometry.to_index(corners)
        if (index >= -0.5).all() and (index <= np.asarray(geometry.shape) - 0.5).all():
            inside.append(level)
    return tuple(inside)


def field_of_view(
    phantom: SpinePhantom,
    top: VertebralLevel = VertebralLevel.T10,
    bottom: VertebralLevel = VertebralLevel.L5,
    *,
    pixels: int = 512,
    pixel_mm: float = 0.8,
    slice_mm: float = 1.5,
    margin_mm: float = 12.0,
    offset_mm: tuple[float, float] = (0.0, 0.0),
) -> Geometry:
    """An axial grid around the spine from one level to another.

    Args:
        margin_mm: above the upper body and below the lower one.
        offset_mm: (x, y) from the spine to the field's centre; a trunk's centre lies about 45 mm before its spine.
    """
    first, last = phantom.vertebra(top), phantom.vertebra(bottom)
    high = first.centre[2] + first.height / 2 + margin_mm
    low = last.centre[2] - last.height / 2 - margin_mm
    count = max(1, int(np.ceil((high - low) / slice_mm)))
    between = [bone for bone in (*phantom.vertebrae, phantom.sacrum) if low - 1 <= bone.centre[2] <= high + 1]
    x = float(np.mean([bone.centre[0] for bone in between])) + offset_mm[0]
    y = float(np.mean([bone.centre[1] for bone in between])) + offset_mm[1]
    half = (pixels - 1) / 2 * pixel_mm
    return Geometry((count, pixels, pixels), (slice_mm, pixel_mm, pixel_mm), (x - half, y - half, low), CANONICAL)


def _names(rng: np.random.Generator, odd: PhantomOptions) -> tuple[list[str], list[str]]:
    names = [name for name in SIZES if name != "L6"]
    ribbed = [name for name in names if name[0] == "T"]
    draw = rng.random()
    if draw < odd.transitional / 2:
        names.append("L6")
    elif draw < odd.transitional:
        ribbed.append("L1")
    return names, ribbed


def _vertebrae(
    rng: np.random.Generator, names: Sequence[str], ribbed: Sequence[str], frames: Sequence[Frame], habit: Habit,
    findings: Mapping[str, Sequence[Finding]],
) -> tuple[Vertebra, ...]:  # fmt: skip
    """What a patient's vertebrae are made of, head to foot."""
    numbered = [name for name in names if name[0] != "C"]
    processes, last_rib = float(rng.uniform(0.8, 1.2)), float(rng.choice([1.0, 0.7, 0.45]))
    vertebrae = []
    for name, (centre, tilt, lean, (width, depth, height, disc)) in zip(names, frames, strict=True):
        number = 1 + numbered.index(name) if name in numbered else 0
        below_l2 = number - 1 - numbered.index("L2")
        own = habit.density * float(1 - 0.008 * below_l2 + rng.normal(0, 0.035))
        wrong = findings.get(name, ())
        own *= 1.15 if any(finding.kind in FRACTURES for finding in wrong) else 1.0
        share = (last_rib if name == ribbed[-1] else 1.0) * float(rng.uniform(0.9, 1.1))
        shell = MARROW_SHELL * float(rng.uniform(0.8, 1.3)) * (0.6 + 0.4 * habit.density / 120)
        vertebrae.append(Vertebra(
            name, number, centre, tilt, lean, float(rng.normal(0, 0.02)), width, depth, height, disc, own,
            habit.marrow + float(rng.normal(0, 2)), shell,
            rib=share if name in ribbed else 0.0, process=processes * float(rng.uniform(0.9, 1.1)), **painted(wrong),
        ))  # fmt: skip
    return tuple(vertebrae)


def _filled(vertebrae: tuple[Vertebra, ...], rng: np.random.Generator) -> tuple[Vertebra, ...]:
    """Vertebrae with what varies apart from the density of their cores: cortex, posterior elements, marrow, texture.

    Source:
        Independent variation is what leaves r of HU and areal BMD at 0.60 (Yoshida 2023); its sizes: our choice.
    """
    patient, marrow = draw_habitus(rng), float(rng.normal(0, 4))
    cortex, arch = (float(np.exp(sd * rng.standard_normal())) for sd in (0.20, 0.20))
    return tuple(
        replace(bone, shell=bone.shell * cortex, marrow=bone.marrow + marrow,
                arch=arch * float(np.exp(0.06 * rng.standard_normal())),
                texture=draw_texture(rng, patient, bone.vbmd))
        for bone in vertebrae
    )  # fmt: skip


def _stack(
    rng: np.random.Generator, names: Sequence[str], scale: float, tall: float, left: Sequence[float]
) -> list[Frame]:
    """Centres, tilts and sizes of the vertebrae, head to foot; L3 at the origin."""
    lordosis, kyphosis = float(rng.uniform(0.5, 1.3)), float(rng.uniform(0.6, 1.5))
    bend, phase = float(abs(rng.normal(0, 0.05))), float(rng.uniform(0, 2 * np.pi))
    thin = float(rng.uniform(0.6, 1.15))  # discs
    sizes, tilts, leans = [], [], []
    for n, name in enumerate(names):
        width, depth, height, disc = SIZES[name]
        own = rng.normal(1, 0.02, 3)
        sizes.append((width * scale * own[0], depth * scale * own[1], height * tall * own[2], disc * tall * thin))
        curve = lordosis if (TILTS[name] < 0 and name[0] == "L") or name in ("L4", "L5", "L6") else kyphosis
        tilts.append(float(np.deg2rad(TILTS[name] * curve + rng.normal(0, 1.0))))
        leans.append(float(bend * np.sin(n * 0.45 + phase) + rng.normal(0, 0.008)))
    centres = [np.zeros(3)]
    for n in range(len(names) - 1, 0, -1):
        below, above = _up(tilts[n], leans[n]), _up(tilts[n - 1], leans[n - 1])
        middle = (below + above) / 2
        halves = [sizes[m][2] * left[m] / 2 for m in (n, n - 1)]
        step = below * halves[0] + middle * sizes[n - 1][3] + above * halves[1]
        centres.insert(0, centres[0] + step)
    origin = centres[names.index("L3")]
    return [
        ((float(c[0]), float(c[1]), float(c[2])), tilt, lean, (float(s[0]), float(s[1]), float(s[2]), float(s[3])))
        for c, tilt, lean, s in zip((c - origin for c in centres), tilts, leans, sizes, strict=True)
    ]


def _up(tilt: float, lean: float) -> NDArray[np.float64]:
    return np.array([np.sin(lean), -np.sin(tilt) * np.cos(lean), np.cos(tilt) * np.cos(lean)])


def _below(last: Vertebra, tilt: float, scale: float, tall: float) -> Vertebra:
    """The frame of S1 under the last lumbar vertebra."""
    height = 30 * tall
    down = (
        _up(last.tilt, last.lean) * (last.height * (1 - last.crush) / 2)
        + _up((last.tilt + tilt) / 2, last.lean) * last.disc
    )
    centre = np.asarray(last.centre) - down - _up(tilt, last.lean) * height / 2
    x, y, z = (float(value) for value in centre)
    return Vertebra("S1", 0, (x, y, z), tilt, last.lean / 2, 0.0, 50 * scale, 33 * scale, height, 0.0,
                    last.vbmd, last.marrow, last.shell)  # fmt: skip
