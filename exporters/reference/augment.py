"""
What may differ between two CTs of the same anatomy, at random: the network must not care.

Domain randomisation in the spirit of SynthSeg (Billot et al., Medical Image Analysis 86:102789, 2023),
around a physical scanner model instead of free intensities: bone may be thin or dense, vessels may be
bright, slices thick, noise strong, the field of view cut. Patches are (K, J, I), HU.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from engine.resampling import AIR
from exporters.reference.spine_cases import Case

Patch = tuple[NDArray[np.float32], NDArray[np.uint8]]
KNOTS = np.array([-1100.0, -900, -100, 0, 40, 90, 160, 300, 600, 3100])


def draw_patch(case: Case, shape: tuple[int, ...], rng: np.random.Generator) -> Patch:
    """A patch of a case, on the spine more often than not, as some scanner might see it."""
    soft, mineral, labels = case
    centre = _centre(case, rng)
    reach = [int(np.ceil(0.72 * n)) for n in shape]
    low = [c - r for c, r in zip(centre, reach, strict=True)]
    size = [2 * r for r in reach]
    slope = float(np.exp(rng.normal(np.log(1.33), 0.25)))
    block = _cut(soft, low, size, AIR)
    if rng.random() < 0.3:
        block = _repaint(block, rng)
    block += slope * _cut(mineral, low, size, 0.0)
    truth = _cut(labels, low, size, 0).astype(np.uint8)
    hounsfield, tissue = _warp(block, truth, shape, rng)
    if rng.random() < 0.5:
        hounsfield, tissue = hounsfield[:, :, ::-1], tissue[:, :, ::-1]
    return randomise(np.ascontiguousarray(hounsfield), np.ascontiguousarray(tissue), rng)


def randomise(hounsfield: NDArray[np.float32], tissue: NDArray[np.uint8], rng: np.random.Generator) -> Patch:
    """Change what a scanner, a dose or a patient may change; the arrays may be changed in place."""
    if rng.random() < 0.4:  # tissues darker and brighter
        jitter = rng.normal(0, [5, 40, 25, 18, 18, 22, 35, 50, 90, 150])
        hounsfield = np.interp(hounsfield, KNOTS, np.maximum.accumulate(KNOTS + jitter)).astype(np.float32)
    if rng.random() < 0.3:
        for label in range(1, 6):
            hounsfield += (tissue == label) * np.float32(rng.normal(0, 35))
    if rng.random() < 0.35:
        _add_lumps(hounsfield, tissue, rng)
    if rng.random() < 0.35:
        _enhance(hounsfield, tissue, rng)
    if rng.random() < 0.12:
        _streaks(hounsfield, rng)
    if rng.random() < 0.3:
        hounsfield += _smooth_field(hounsfield.shape, 6, rng) * np.float32(rng.uniform(5, 30))
    if rng.random() < 0.5:
        hounsfield = ndimage.gaussian_filter(hounsfield, rng.uniform(0, 0.7, 3))
    if rng.random() < 0.2:
        hounsfield = _thick(hounsfield, float(rng.uniform(1.3, 2.6)))
    hounsfield += _noise(hounsfield.shape, rng)
    if rng.random() < 0.12:
        _cut_field(hounsfield, tissue, rng)
    return np.asarray(hounsfield, dtype=np.float32), tissue


def _centre(case: Case, rng: np.random.Generator) -> list[int]:
    """A voxel of some tissue of the spine, or one as bright as bone that is none, or any."""
    soft, mineral, labels = case
    draw = rng.random()
    for _ in range(60 if draw < 0.85 else 0):
        k = int(rng.integers(labels.shape[0]))
        if draw < 0.65:
            wanted = labels[k] == int(rng.choice([1, 1, 2, 3, 4, 4, 4, 5]))
        else:
            wanted = (labels[k] == 0) & (soft[k] + mineral[k] > 110)
        found = np.argwhere(wanted)
        if len(found):
            j, i = found[int(rng.integers(len(found)))]
            return [k, int(j), int(i)]
    return [int(rng.integers(n)) for n in labels.shape]


def _cut(values: NDArray[np.generic], low: list[int], size: list[int], outside: float) -> NDArray[np.float32]:
    block = np.full(size, outside, dtype=np.float32)
    inside, source = [], []
    for start, length, n in zip(low, size, values.shape, strict=True):
        a, b = max(start, 0), min(start + length, n)
        if b <= a:
            return block
        inside.append(slice(a - start, b - start))
        source.append(slice(a, b))
    block[tuple(inside)] = values[tuple(source)]
    return block


def _repaint(soft: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Tissues in other intensities: any fluid may be as bright as bone, fat and muscle may lie close together."""
    knots = np.array([-1100.0, -600, -130, -60, 0, 30, 55, 90, 180, 330, 700, 1600])
    values = knots + rng.normal(0, [5, 60, 25, 25, 20, 25, 25, 60, 120, 160, 200, 200])
    lit = int(rng.integers(5, 10))  # one range of intensities stands out
    values[lit] += float(rng.choice([-60.0, 150.0, 400.0]))
    return np.interp(soft, knots, values).astype(np.float32)


def _streaks(hounsfield: NDArray[np.float32], rng: np.random.Generator) -> None:
    """Rays in the slices from something too dense for the beam, in place."""
    k, j, i = hounsfield.shape
    x, y = np.meshgrid(np.arange(i) - rng.uniform(-0.2, 1.2) * i, np.arange(j) - rng.uniform(-0.2, 1.2) * j)
    rays = np.sin(np.arctan2(y, x) * int(rng.integers(6, 30)) + rng.uniform(0, 6)) / (1 + np.hypot(x, y) / 12)
    along = np.exp(-(((np.arange(k) - rng.uniform(0, k)) / rng.uniform(3, 20)) ** 2))
    hounsfield += (along[:, None, None] * rays * rng.uniform(40, 250)).astype(np.float32)


def _warp(
    block: NDArray[np.float32], truth: NDArray[np.uint8], shape: tuple[int, ...], rng: np.random.Generator
) -> Patch:
    """The middle of a block, turned and scaled."""
    centre = (np.array(block.shape) - 1) / 2
    if rng.random() < 0.4:
        low = [(n - m) // 2 for n, m in zip(block.shape, shape, strict=True)]
        at = tuple(slice(a, a + m) for a, m in zip(low, shape, strict=True))
        return block[at].copy(), truth[at].copy()
    angles = rng.normal(0, np.deg2rad([6, 5, 5]))
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        c, s = np.cos(angle), np.sin(angle)
        turn = np.eye(3)
        a, b = [n for n in range(3) if n != axis]
        turn[a, a], turn[a, b], turn[b, a], turn[b, b] = c, -s, s, c
        matrix = matrix @ turn
    matrix = matrix @ np.diag(rng.uniform(0.82, 1.2) * rng.uniform(0.94, 1.06, 3))
    offset = centre - matrix @ ((np.array(shape) - 1) / 2)
    hounsfield = ndimage.affine_transform(block, matrix, offset, shape, order=1, mode="constant", cval=AIR)
    tissue = ndimage.affine_transform(truth, matrix, offset, shape, order=0, mode="constant", cval=0)
    return hounsfield, tissue


def _smooth_field(shape: tuple[int, ...], parts: int, rng: np.random.Generator) -> NDArray[np.float32]:
    coarse = rng.standard_normal([parts] * 3, dtype=np.float32)
    factors = [(parts - 1) / (n - 1) for n in shape]
    return np.asarray(ndimage.affine_transform(coarse, factors, output_shape=shape, order=1), dtype=np.float32)


def _add_lumps(hounsfield: NDArray[np.float32], tissue: NDArray[np.uint8], rng: np.random.Generator) -> None:
    """Bright, dark or textured things beside the spine: vessels, calcium, bowel, bone that is no spine."""
    field = _smooth_field(hounsfield.shape, int(rng.integers(8, 22)), rng)
    lump = (field > rng.uniform(1.1, 1.8)) & (tissue == 0)
    lump &= ~ndimage.binary_dilation(tissue == 1, iterations=1) | (rng.random() < 0.2)
    bright = float(rng.choice([rng.uniform(-900, -100), rng.uniform(60, 250), rng.uniform(150, 700)]))
    hounsfield[lump] += np.float32(0.85) * (bright - hounsfield[lump])


def _enhance(hounsfield: NDArray[np.float32], tissue: NDArray[np.uint8], rng: np.random.Generator) -> None:
    """Iodine, in place: parts of the soft tissue, large ones as a heart or small ones as vessels, grow bright."""
    field = _smooth_field(hounsfield.shape, int(rng.integers(3, 12)), rng)
    lit = (field > rng.uniform(0.2, 1.0)) & (tissue == 0) & (hounsfield > 20) & (hounsfield < 400)
    grain = _smooth_field(hounsfield.shape, int(rng.integers(6, 24)), rng)[lit]  # it has not mixed yet
    hounsfield[lit] += np.float32(rng.uniform(40, 600)) * np.clip(1 + rng.uniform(0, 0.8) * grain, 0, 2)


def _thick(hounsfield: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """As if slices were thicker: averaged along k, then interpolated back."""
    n = hounsfield.shape[0]
    blurred = ndimage.gaussian_filter1d(hounsfield, factor / 2.4, axis=0)
    few = max(2, round(n / factor))
    coarse = ndimage.affine_transform(blurred, [(n - 1) / (few - 1), 1, 1], output_shape=(few, *hounsfield.shape[1:]),
                                      order=1)  # fmt: skip
    return np.asarray(
        ndimage.affine_transform(coarse, [(few - 1) / (n - 1), 1, 1], output_shape=hounsfield.shape, order=1)
    )


def _noise(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    noise = rng.standard_normal(shape, dtype=np.float32)
    if rng.random() < 0.6:
        noise = ndimage.gaussian_filter(noise, rng.uniform(0.2, 0.9, 3))
        noise /= noise.std() + 1e-6
    return noise * np.float32(np.exp(rng.uniform(np.log(2), np.log(45))))


def _cut_field(hounsfield: NDArray[np.float32], tissue: NDArray[np.uint8], rng: np.random.Generator) -> None:
    """End the field of view inside the patch, in place."""
    axis = int(rng.integers(3))
    n = hounsfield.shape[axis]
    edge = int(rng.integers(n // 8, n // 2))
    part = slice(0, edge) if rng.random() < 0.5 else slice(n - edge, n)
    at = tuple(part if a == axis else slice(None) for a in range(3))
    hounsfield[at] = AIR
    tissue[at] = 0
