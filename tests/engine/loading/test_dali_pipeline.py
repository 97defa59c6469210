"""The graph's CPU twin gives what the engine's own resampling gives, in order, and a bad volume takes only itself."""

import importlib.util

import numpy as np
import pytest

from engine.errors import BackendUnavailable, SeriesError
from engine.loading.dali_pipeline import DaliOptions, Preparation, is_along_axes, prepare
from engine.resampling import canonical_grid, centred_grid, resample
from engine.volume import CANONICAL, Geometry

WINDOW = (-200.0, 600.0)
FLIPPED = ((0.0, 0.0, -1.0), (0.0, 1.0, 0.0), (-1.0, 0.0, 0.0))  # feet first

needs_dali = pytest.mark.skipif(importlib.util.find_spec("nvidia.dali") is None, reason="DALI is not installed")


def volume(seed: int, shape=(21, 30, 26)) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1024, 3000, shape).astype(np.int16)


def grids() -> list[tuple[Geometry, Geometry]]:
    pairs = []
    for direction in (CANONICAL, FLIPPED):
        for spacing in ((1.0, 0.8, 0.8), (2.5, 0.7, 0.9), (0.4, 0.5, 0.6)):
            source = Geometry((21, 30, 26), spacing, (3.0, -4.0, 5.0), direction)
            pairs += [(source, canonical_grid(source, (mm, mm, mm))) for mm in (0.7, 1.5, 2.0)]
            middle = source.to_patient(np.array([10.0, 15.0, 2.0]))
            pairs.append((source, centred_grid(tuple(map(float, middle)), (9, 12, 14), (1.5, 1.5, 1.5))))
    return pairs


@needs_dali
def test_the_graph_gives_what_the_engines_own_resampling_gives():
    pairs = grids()
    wanted = [Preparation(volume(n), *pair, WINDOW) for n, pair in enumerate(pairs)]
    count = 0
    for one, tensor in zip(wanted, prepare(wanted, DaliOptions(normalise=False)), strict=True):
        expected = resample(one.stored, one.source, one.target)
        np.testing.assert_allclose(np.from_dlpack(tensor)[..., 0], expected, atol=0.05)
        count += 1
    assert count == len(pairs)


@needs_dali
def test_values_are_rescaled_slice_by_slice_and_scaled_to_the_window():
    source, target = grids()[1]
    stored = volume(1)
    slope, intercept = np.linspace(0.5, 2, 21).astype(np.float32), np.linspace(-1000, 0, 21).astype(np.float32)
    one = Preparation(stored, source, target, WINDOW, slope, intercept)
    (tensor,) = (np.from_dlpack(found)[..., 0].copy() for found in prepare([one], DaliOptions()))
    hounsfield = np.floor(stored * slope[:, None, None] + intercept[:, None, None] + np.float32(0.5))
    expected = resample(np.clip(hounsfield, -1024, 32767), source, target)
    expected = (np.clip(expected, *WINDOW) - WINDOW[0]) * (2 / (WINDOW[1] - WINDOW[0])) - 1
    np.testing.assert_allclose(tensor, expected, atol=1e-4)
    assert tensor.min() == -1
    assert tensor.max() == 1


@needs_dali
def test_no_more_volumes_are_taken_than_are_under_way():
    taken = []

    def wanted():
        for n in range(6):
            taken.append(n)
            yield Preparation(volume(n), *grids()[n], WINDOW)

    for n, _ in enumerate(prepare(wanted(), DaliOptions(prefetch=2))):
        assert len(taken) <= n + 2
    assert len(taken) == 6


@needs_dali
def test_a_volume_that_fails_takes_only_itself(monkeypatch):
    """The graph is told to reshape one volume to more voxels than it has: DALI gives up its whole pipeline then."""
    from dataclasses import replace

    from engine.loading import dali_pipeline

    pairs = grids()
    wanted = [Preparation(volume(n), *pairs[n], WINDOW) for n in range(4)]
    right = dali_pipeline._places

    def places(source, target):
        found = right(source, target)
        return replace(found, blocks=found.blocks + np.int32(1)) if source is pairs[2][0] and target is wrong else found

    wrong = pairs[2][1]
    monkeypatch.setattr(dali_pipeline, "_places", places)
    found = []
    for one, tensor in zip(wanted, prepare(wanted, DaliOptions(normalise=False)), strict=True):
        failed = isinstance(tensor, SeriesError)
        found.append(failed)
        if not failed:
            expected = resample(one.stored, one.source, one.target)
            np.testing.assert_allclose(np.from_dlpack(tensor)[..., 0], expected, atol=0.05)
    assert found == [False, False, True, False]


@needs_dali
def test_what_the_graph_can_not_do_is_refused():
    source, target = grids()[0]
    turned = Geometry((9, 9, 9), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), ((0.0, 0.6, 0.8), (0.0, 0.8, -0.6), (1.0, 0.0, 0.0)))
    far = centred_grid((900.0, 900.0, 900.0), (5, 5, 5), (1.0, 1.0, 1.0))
    assert not is_along_axes(source, turned)
    for other in (turned, far):
        with pytest.raises(ValueError, match=r"aslant|nothing"):
            list(prepare([Preparation(volume(0), source, other, WINDOW)], DaliOptions()))
    with pytest.raises(ValueError, match="contiguous"):
        list(prepare([Preparation(volume(0)[:, :, ::2], source, target, WINDOW)], DaliOptions()))


@needs_dali
def test_a_gpu_that_is_not_there_is_named():
    with pytest.raises(BackendUnavailable, match="63"):
        list(prepare([Preparation(volume(0), *grids()[0], WINDOW)], DaliOptions(device=63)))
