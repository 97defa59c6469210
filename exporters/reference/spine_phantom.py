"""
A procedural spine in a body, with known truth: the patient that nobody has to protect.

A phantom is a value drawn from a seed; it has no voxels. `rasterise` puts it on any grid, so that the
same anatomy can be scanned by several scanners at any crop. What is known exactly: each level's
trabecular density, each voxel's tissue, each body's name.

The patient's frame is DICOM's (x left, y back, z head) with the middle lumbar body at the origin.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.records import VertebralLevel
from engine.volume import CANONICAL, Geometry
from exporters.reference.body import paint_along_spine, paint_screws, paint_trunk
from exporters.reference.canvas import Canvas
from exporters.reference.chest import blood_of, paint_chest
from exporters.reference.column import TILTS, Habit, draw_names, filled, frame_below, make_vertebrae, stack
from exporters.reference.findings import Finding, FindingShares, draw_findings, height_left
from exporters.reference.girdle import Worn, cartilage, draw_worn, paint_girdle, paint_limbs, paint_worn
from exporters.reference.trunk import Trunk, draw_trunk, rib_path
from exporters.reference.vertebra import (
    RIB,
    Vertebra,
    paint_arch,
    paint_body,
    paint_disc,
    paint_rod,
    paint_sacrum,
)


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
    habit = Habit(density, 25 - 80 * fat + float(rng.normal(0, 5)))
    names, ribbed = draw_names(rng, odd.transitional)
    scale = float(np.clip(rng.normal(1.0, 0.05), 0.85, 1.15)) * (0.90 if sex == "F" else 1.0)
    tall = scale * (1.05 if sex == "F" else 1.0)
    shares = FindingShares(odd.fracture, odd.osteophytes, odd.bone_island, odd.haemangioma, odd.schmorl, odd.cement,
                           odd.metal)  # fmt: skip
    numbered = [name for name in names if name[0] != "C"]
    findings = draw_findings(np.random.default_rng([seed, 31]), numbered, age, shares)
    left = [height_left(findings, name) for name in names]
    vertebrae = make_vertebrae(rng, names, ribbed, stack(rng, names, scale, tall, left), habit, findings)
    vertebrae = filled(vertebrae, np.random.default_rng([seed, 13]))
    factor = vertebrae[-1].tilt / np.deg2rad(TILTS[names[-1]])
    sacrum = frame_below(vertebrae[-1], float(np.deg2rad(TILTS["S1"]) * (0.6 + 0.4 * factor)), scale, tall)
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
