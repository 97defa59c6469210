"""A patient's vertebrae: which there are, how they stand on each other, and what they are made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from engine.volume import Vector
from exporters.reference.findings import FRACTURES, Finding, painted
from exporters.reference.trabecular import draw_habitus, draw_texture
from exporters.reference.vertebra import MARROW_SHELL, SIZES, Vertebra

# Forward lean of each body's axis in degrees: lordosis with its front at L3/L4, kyphosis with its back at T6/T7.
# Segment angles add up to the means of Harrison (T12-S1 61-65) within the accepted range 30-80.
TILTS = {"C5": 20, "C6": 23, "C7": 26, "T1": 27, "T2": 24, "T3": 20, "T4": 16, "T5": 11, "T6": 6, "T7": 1, "T8": -3,
         "T9": -7, "T10": -10, "T11": -12, "T12": -13, "L1": -12, "L2": -8, "L3": 0, "L4": 10, "L5": 24, "L6": 32,
         "S1": 42}  # fmt: skip

Frame = tuple[Vector, float, float, tuple[float, float, float, float]]
"""A vertebra's centre, tilt, lean, and its width, depth, height and disc."""


@dataclass(frozen=True, slots=True)
class Habit:
    """What all vertebrae of one patient share."""

    density: float  # mg/cm3 at L2
    marrow: float  # HU


def draw_names(rng: np.random.Generator, transitional: float) -> tuple[list[str], list[str]]:
    """The names of the vertebrae, head to foot, and of those that have ribs.

    Args:
        transitional: share of patients with an L6, or with ribs at L1.
    """
    names = [name for name in SIZES if name != "L6"]
    ribbed = [name for name in names if name[0] == "T"]
    draw = rng.random()
    if draw < transitional / 2:
        names.append("L6")
    elif draw < transitional:
        ribbed.append("L1")
    return names, ribbed


def make_vertebrae(
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


def filled(vertebrae: tuple[Vertebra, ...], rng: np.random.Generator) -> tuple[Vertebra, ...]:
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


def stack(
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


def frame_below(last: Vertebra, tilt: float, scale: float, tall: float) -> Vertebra:
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
