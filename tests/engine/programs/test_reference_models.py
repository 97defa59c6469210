"""The packaged reference models find, name and measure what is known of phantoms, and know their limits on real CT."""

import gzip
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from engine.batch import analyse_many
from engine.loading.headers import read_header
from engine.programs.vertebral import VertebralOptions, VertebralProgram
from engine.records import Quantity, Reason, SeriesRef, VertebralLevel
from engine.runtime.backends import RuntimeOptions
from engine.segmentation.vertebrae import SegmentationOptions
from engine.series import series_of
from engine.volume import Analysis, Volume
from exporters.reference.phantom_series import SeriesTruth, write_series
from exporters.reference.scanner import scanner
from exporters.reference.spine_phantom import PLAIN, draw_phantom, field_of_view

L, Q = VertebralLevel, Quantity
DENSITY_ERROR = 20.0  # mg/cm3, of one level: twice the paper's error on scanners that it had not seen


@pytest.fixture(scope="module")
def program() -> Iterator[VertebralProgram]:
    with VertebralProgram(VertebralOptions(), RuntimeOptions()) as program:
        yield program


def series_in(folder: Path) -> SeriesRef:
    files = sorted(folder.rglob("*.dcm"))
    (series,) = series_of((read_header(path, b"a secret of the site"), str(path)) for path in files)
    return series


def series_like(truth: SeriesTruth) -> SeriesRef:
    return series_in(truth.paths[0].parent)


def dice(analysis: Analysis, truth: SeriesTruth, level: VertebralLevel, number: int) -> float:
    found = analysis.bodies.labels == analysis.bodies.segments.index(level) + 1
    true = truth.bodies == number
    return float(2 * np.count_nonzero(found & true) / (np.count_nonzero(found) + np.count_nonzero(true)))


def test_a_phantom_s_levels_are_found_and_named(program, small_series):
    analysis = program.analyse(series_like(small_series))
    assert set(small_series.levels) <= set(analysis.result.levels)
    order = draw_phantom(11, age=66, sex="F", vbmd=105.0, options=PLAIN).levels
    for level in small_series.levels:
        assert dice(analysis, small_series, level, order.index(level) + 1) > 0.85, level


def test_a_phantom_s_densities_come_out_right(program, tmp_path):
    phantom = draw_phantom(31, age=60, sex="F", vbmd=110.0, options=PLAIN)
    grid = field_of_view(phantom, L.T12, L.L5, pixels=180, pixel_mm=0.95, slice_mm=1.5, margin_mm=25.0)
    truth = write_series(tmp_path, phantom, scanner("siemens_force"), grid)
    result = program.analyse(series_like(truth)).result
    assert result.reason is None
    assert result.aggregated_levels == (L.L1, L.L2, L.L3)
    for level in truth.levels:
        density = result.value(Q.VOLUMETRIC_BMD, level)
        assert density is not None, (level, result.flags(level))
        assert abs(density - truth.vbmd[level]) < DENSITY_ERROR, level
    true = np.mean([truth.vbmd[level] for level in result.aggregated_levels])
    assert abs(result.value(Q.VOLUMETRIC_BMD, None) - true) < DENSITY_ERROR / 2


def test_a_chest_is_counted_from_its_last_ribs(program, tmp_path):
    phantom = draw_phantom(23, age=50, sex="M", vbmd=150.0, options=PLAIN)
    grid = field_of_view(phantom, L.T9, L.L2, pixels=160, pixel_mm=1.5, slice_mm=2.5, margin_mm=20.0)
    truth = write_series(tmp_path, phantom, scanner("uct_780"), grid, body_part="CHEST")
    result = program.analyse(series_like(truth)).result
    assert set(truth.levels) <= set(result.levels)
    assert Reason.ONE_ANCHOR in {flag.reason for flag in result.flags(None)}
    true = np.mean([truth.vbmd[level] for level in result.aggregated_levels])
    assert abs(result.value(Q.VOLUMETRIC_BMD, None) - true) < DENSITY_ERROR


def test_backends_agree_on_the_packaged_models(small_series):
    """Bounds: a voxel of bone in a thousand may fall on the other side; 0.1 mg/cm3 is a fiftieth of the error."""
    series = series_like(small_series)
    labels, densities = [], []
    for backend in ("openvino", "onnxruntime"):
        with VertebralProgram(VertebralOptions(), RuntimeOptions(backend=backend, precision="f32")) as program:
            analysis = program.analyse(series)
        assert {model.backend.split()[0] for model in analysis.result.models} == {backend}
        labels.append(analysis.bodies.labels)
        densities.append([one.value for one in analysis.result.measurements if one.quantity is Q.VOLUMETRIC_BMD])
    bone = np.count_nonzero(labels[0])
    assert np.count_nonzero(labels[0] != labels[1]) <= 1e-3 * bone
    assert len(densities[0]) > 3
    assert densities[0] == pytest.approx(densities[1], abs=0.1)


def densities(analysis: Analysis) -> dict[VertebralLevel | None, float]:
    return {one.finding_site: one.value for one in analysis.result.measurements if one.quantity is Q.VOLUMETRIC_BMD}


def test_a_batch_gives_what_each_series_gives_alone(program, small_series):
    """To the bit: levels, voxels and numbers, whoever else is under way."""
    series = series_like(small_series)
    alone = program.analyse(series)
    for together in analyse_many([series] * 3, program, in_flight=3):
        assert isinstance(together, Analysis)
        assert together.result.measurements == alone.result.measurements
        assert together.result.quality_flags == alone.result.quality_flags
        assert np.array_equal(together.bodies.labels, alone.bodies.labels)


@pytest.mark.parametrize(
    ("segmentation", "runtime"),
    [
        (SegmentationOptions(everywhere=True), RuntimeOptions()),
        (SegmentationOptions(), RuntimeOptions(precision="f32")),
    ],
)
def test_following_the_spine_and_a_lower_precision_cost_nothing_that_is_read(
    program, small_series, segmentation, runtime
):
    """Bounds: the same levels; 1 mg/cm3, half of what QCT itself repeats to; bodies meet to 97 %."""
    series = series_like(small_series)
    quick = program.analyse(series)
    with VertebralProgram(VertebralOptions(segmentation=segmentation), runtime) as other:
        slow = other.analyse(series)
    assert quick.result.levels == slow.result.levels
    assert densities(quick) == pytest.approx(densities(slow), abs=1.0)
    both = np.count_nonzero((quick.bodies.labels == slow.bodies.labels) & (quick.bodies.labels > 0))
    assert 2 * both >= 0.97 * (np.count_nonzero(quick.bodies.labels) + np.count_nonzero(slow.bodies.labels))


@pytest.mark.real_data
def test_no_body_of_a_real_chest_is_lost_by_following_the_spine(program, real_ct):
    series = series_in(real_ct / "ct_thorax_contrast")
    everywhere = VertebralOptions(segmentation=SegmentationOptions(everywhere=True))
    with VertebralProgram(everywhere, RuntimeOptions()) as other:
        one, all_over = program.analyse(series), other.analyse(series)
    assert len(one.bodies.boxes) == len(all_over.bodies.boxes)
    assert np.mean((one.bodies.labels > 0) == (all_over.bodies.labels > 0)) > 0.999


@pytest.mark.real_data
def test_a_real_chest_with_contrast_gives_no_density(program, real_ct):
    series = series_in(real_ct / "ct_thorax_contrast")
    analysis = program.analyse(series)
    result = analysis.result
    assert Reason.CONTRAST in {flag.reason for flag in result.flags(None)}
    assert result.reason in (Reason.CONTRAST, Reason.LEVEL_UNCERTAIN, Reason.LEVEL_GAP)
    assert not [one for one in result.measurements if one.quantity is Q.VOLUMETRIC_BMD]
    assert result.evaluations == ()
    if result.reason is not Reason.CONTRAST:
        assert result.levels == result.measurements == ()  # no name, no number
    assert len(analysis.bodies.boxes) >= 9  # some eleven bodies are in view


def nifti_mask(path: Path, volume: Volume) -> NDArray[np.bool_]:
    """A NIfTI label map on a volume's grid of the same spacing; its affine is RAS, a volume's LPS."""
    raw = gzip.decompress(path.read_bytes())
    shape = struct.unpack("<3h", raw[42:48])
    (kind,), (offset,) = struct.unpack("<h", raw[70:72]), struct.unpack("<f", raw[108:112])
    values = np.frombuffer(raw, {2: "u1", 4: "<i2", 16: "<f4", 64: "<f8"}[kind], int(np.prod(shape)), int(offset))
    rows = np.diag([-1.0, -1.0, 1.0]) @ np.array(struct.unpack("<12f", raw[280:328])).reshape(3, 4)
    inside = np.argwhere(values.reshape(shape, order="F") > 0)
    index = np.rint(volume.geometry.to_index(inside @ rows[:, :3].T + rows[:, 3])).astype(int)
    mask = np.zeros(volume.geometry.shape, dtype=bool)
    mask[tuple(index.T)] = True
    return mask


def body_part(vertebra: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """What lies before the spinal canal: the canal is the hole that a vertebra's slices close around."""
    holes = np.stack([ndimage.binary_fill_holes(plane) & ~plane for plane in vertebra])
    holes &= holes.sum(axis=(1, 2), keepdims=True) > 40  # voxels; smaller gaps are pores
    first_rows = [np.flatnonzero(plane.any(axis=1))[0] for plane in holes if plane.any()]
    body = vertebra.copy()
    body[:, int(np.median(first_rows)) :] = False
    return body


@pytest.mark.real_data
def test_a_real_chest_s_vertebrae_are_told_apart_without_a_jump(program, real_ct):
    """T12's mask is the only truth at hand; its body part, by the rule of `body_part`, must overlap with one body."""
    analysis = program.analyse(series_in(real_ct / "ct_thorax_contrast"))
    labels, segments = analysis.bodies.labels, analysis.bodies.segments
    true = body_part(nifti_mask(real_ct / "ct_thorax_contrast_T12.nii.gz", analysis.volume))
    found = int(np.bincount(labels[true], minlength=len(segments) + 1)[1:].argmax()) + 1
    overlap = 2 * np.count_nonzero(true & (labels == found)) / (true.sum() + np.count_nonzero(labels == found))
    assert overlap >= 0.80
    assert segments[found - 1] in (None, L.T12)  # the right name or none
    centres = ndimage.center_of_mass(labels > 0, labels, range(1, len(segments) + 1))
    apart = np.linalg.norm(np.diff(centres, axis=0) * analysis.volume.geometry.spacing_mm, axis=1)
    assert (apart > 15).all()
    assert (apart < 32).all()
    names = [list(L).index(name) for name in segments if name is not None]
    assert names == list(range(names[0], names[0] + len(names))) if names else True
