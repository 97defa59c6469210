"""
Areal density: what DXA would say of a phantom's vertebra, from its mineral alone.

The vertebra is painted by itself on a fine grid and its mineral is projected from back to front. No
scanner has a part in it.
"""

import numpy as np

from engine.records import VertebralLevel
from engine.volume import CANONICAL, Geometry
from exporters.reference.canvas import Canvas
from exporters.reference.spine_phantom import SpinePhantom
from exporters.reference.vertebra import paint_arch, paint_body

STEP_MM = 1.2  # of the grid; half of it changes a value by less than 2 %
BEHIND_MM = 60.0  # from the back of the body to the tip of its spinous process


def areal_density(phantom: SpinePhantom, level: VertebralLevel, step_mm: float = STEP_MM) -> float:
    """Areal BMD of a level, g/cm2.

    The region is the body's own projection, as wide as the body and from end plate to end plate; mineral of the
    vertebra's posterior elements that projects into it counts, as it does in DXA.
    """
    bone = phantom.vertebra(level)
    size = np.array([bone.height + 18, bone.depth + BEHIND_MM + 10, bone.width + 14])  # along z, y, x
    x, y, z = bone.centre
    origin = (x - size[2] / 2, y - bone.depth / 2 - 10, z - size[0] / 2)
    k, j, i = (int(n) for n in size / step_mm)
    grid = Geometry((k, j, i), (step_mm, step_mm, step_mm), origin, CANONICAL)
    canvas = Canvas(grid, densest=np.inf)  # mass, not what a voxel can hold: so the grid's step does not matter
    paint_arch(canvas, bone)
    paint_body(canvas, bone)
    region = (canvas.levels == bone.number).any(axis=1)
    mass = canvas.mineral.sum(axis=1, dtype=np.float64)[region].sum() * step_mm**3 * 1e-6  # g
    return float(mass / (region.sum() * step_mm**2 * 1e-2))
