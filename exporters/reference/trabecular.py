"""
The trabecular texture of a vertebra: a random field that belongs to the patient, not to any grid.

It is a sum of waves with a spacing of its own, longer along the vertebra's axis than across it. A voxel
averages each wave over its box, so the same bone looks smoother on a coarser grid, as it does in a scanner.
The bone score follows from the texture. It has a part that no CT resolves: rods and plates finer than any
voxel, which would vanish if they were painted and therefore are not.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from exporters.reference.canvas import Field, Region

WAVES = 40  # of a field; our choice: its values are then nearly normal
SPREAD = 0.22  # SD of the logarithm of the waves' lengths; our choice
SCORE_MEAN, SCORE_SD = 1.36, 0.13  # TBS of a vertebra in Yoshida 2023
SCORE_RANGE = (0.9, 1.6)
# correlations of the score with what it is made of: visible structure, density (HU and TBS: 0.25 in Yoshida 2023), rest
BY_SPACING, BY_ANISOTROPY, BY_DENSITY = 0.68, 0.25, 0.25
BY_REST = float(np.sqrt(1 - BY_SPACING**2 - BY_ANISOTROPY**2 - BY_DENSITY**2))
OF_PATIENT = 0.7  # share of the variance that a patient's vertebrae have in common (SD of patients 0.11 of 0.13)


@dataclass(frozen=True, slots=True)
class Texture:
    """What the trabeculae of one vertebra are like."""

    spacing_mm: float = 1.6  # mean length of the waves across the axis
    stretch: float = 1.5  # how much longer they are along it
    contrast: float = 0.2  # SD of the mineral, as a share of its mean
    score: float = SCORE_MEAN  # the trabecular bone score
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Habitus:
    """Standard scores that a patient's vertebrae have in common."""

    spacing: float
    stretch: float
    rest: float
    contrast: float


def draw_habitus(rng: np.random.Generator) -> Habitus:
    """What a patient's trabeculae are like, apart from their density."""
    spacing, stretch, rest, contrast = (float(value) for value in rng.standard_normal(4))
    return Habitus(spacing, stretch, rest, contrast)


def draw_texture(rng: np.random.Generator, patient: Habitus, density: float) -> Texture:
    """The texture of one vertebra.

    Args:
        density: mg/cm3; denser bone scores a little higher.

    Source:
        Wide spacing is a low score (trabecular separation, Silva 2014); its size in mm and the shares: our choice.
    """
    own = rng.standard_normal(3) * np.sqrt(1 - OF_PATIENT)
    common = np.array([patient.spacing, patient.stretch, patient.rest]) * np.sqrt(OF_PATIENT)
    narrow, long, rest = (float(value) for value in common + own)
    dense = float(np.clip((density - 125) / 50, -2.2, 2.2))
    z = BY_SPACING * narrow + BY_ANISOTROPY * long + BY_DENSITY * dense + BY_REST * rest
    return Texture(
        spacing_mm=float(1.7 * np.exp(-0.35 * narrow)), stretch=float(1.55 * np.exp(0.18 * long)),
        contrast=float(0.22 * np.exp(0.15 * patient.contrast)),
        score=float(np.clip(SCORE_MEAN + SCORE_SD * z, *SCORE_RANGE)), seed=int(rng.integers(2**31)),
    )  # fmt: skip


def grain_of(region: Region, axes: NDArray[np.float64], centre: NDArray[np.float64], texture: Texture) -> Field:
    """The texture over a region, mean 0; SD 1 where voxels are small, less where they average it.

    Args:
        axes: (3, 3), rows are the vertebra's u, v, w in the patient.
        centre: mm in the patient.

    Returns:
        (K, J, I) float32.
    """
    waves, phases = _waves(texture)
    in_patient = waves @ axes
    x, y, z = (np.asarray(values, dtype=np.float64) for values in (region.x, region.y, region.z))
    strength = np.sqrt(2 / WAVES) * np.prod(np.sinc(in_patient * _steps(x, y, z) / (2 * np.pi)), axis=1)
    if (x.shape[:2], y.shape[::2], z.shape[1:]) != ((1, 1), (1, 1), (1, 1)):
        total = np.zeros(np.broadcast_shapes(x.shape, y.shape, z.shape), dtype=np.float32)
        for wave, phase, much in zip(in_patient, phases, strength, strict=True):
            along = wave[0] * (x - centre[0]) + wave[1] * (y - centre[1]) + wave[2] * (z - centre[2])
            total += (much * np.cos(along + phase)).astype(np.float32)
        return total
    first, second, third = (  # axes of the grid are those of the patient: the waves are products
        np.exp(1j * (in_patient[:, n, None] * (values.ravel() - centre[n]))) for n, values in enumerate((x, y, z))
    )
    third = third * (strength * np.exp(1j * phases))[:, None]
    planes = np.einsum("nk,nj->kjn", third, second)
    left = np.concatenate([planes.real, -planes.imag], axis=2).astype(np.float32)
    right = np.concatenate([first.real, first.imag]).astype(np.float32)
    return left @ right


def _waves(texture: Texture) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Wave vectors (N, 3) in the vertebra's frame, radians a mm, and phases."""
    rng = np.random.default_rng([texture.seed, 29])
    direction = rng.standard_normal((WAVES, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    length = texture.spacing_mm * np.exp(rng.normal(0, SPREAD, WAVES))
    waves = direction * (2 * np.pi / length)[:, None]
    waves[:, 2] /= texture.stretch
    return waves, rng.uniform(0, 2 * np.pi, WAVES)


def _steps(x: NDArray[np.float64], y: NDArray[np.float64], z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Edges of a voxel along x, y, z; 0 along an axis of one voxel, or on a turned grid."""
    return np.array([
        abs(x[0, 0, 1] - x[0, 0, 0]) if x.shape[2] > 1 else 0.0,
        abs(y[0, 1, 0] - y[0, 0, 0]) if y.shape[1] > 1 else 0.0,
        abs(z[1, 0, 0] - z[0, 0, 0]) if z.shape[0] > 1 else 0.0,
    ])  # fmt: skip
