"""The whole program through DALI's graph, here its CPU twin, gives the numbers that it gives through the kernels."""

from dataclasses import replace

import numpy as np
import pytest

from engine.loading.dali_resampling import DaliResampler, Resampler, ResamplingOptions
from engine.loading.headers import read_header
from engine.options import read_options
from engine.programs.vertebral import VertebralOptions, VertebralProgram
from engine.records import Quantity
from engine.resampling import centred_grid, resample
from engine.runtime.backends import RuntimeOptions
from engine.series import series_of
from engine.volume import CANONICAL, Geometry, Volume

pytest.importorskip("nvidia.dali")

DALI = read_options(VertebralOptions, {"resampling": {"by": "dali", "device": -1, "threads": 1}})
WINDOW = (-200.0, 600.0)


def test_a_phantom_has_the_same_answers_through_the_graph(small_series):
    (series,) = series_of((read_header(path, b"a secret of the site"), str(path)) for path in small_series.paths)
    analyses = []
    for options in (VertebralOptions(), DALI):
        with VertebralProgram(options, RuntimeOptions(threads=1)) as program:
            analyses.append(program.analyse(series))
    plain, graph = analyses
    assert [name for name, _ in graph.result.stage_seconds][:3] == ["load", "prepare", "segment"]
    assert graph.result.levels == plain.result.levels != ()
    assert graph.result.aggregated_levels == plain.result.aggregated_levels != ()
    assert [(flag.reason, flag.finding_site) for flag in graph.result.quality_flags] == [
        (flag.reason, flag.finding_site) for flag in plain.result.quality_flags
    ]
    assert np.mean(graph.bodies.labels != plain.bodies.labels) < 1e-4
    bounds = {Quantity.VOLUMETRIC_BMD: 0.5, Quantity.ATTENUATION_MEAN: 0.5}
    for one in plain.result.measurements:
        if one.quantity in bounds:
            found = graph.result.value(one.quantity, one.finding_site)
            assert found == pytest.approx(one.value, abs=bounds[one.quantity])
    assert plain.result.engine_version != graph.result.engine_version  # whoever reads it can tell


@pytest.fixture(scope="module")
def volume():
    geometry = Geometry((41, 60, 52), (1.0, 0.8, 0.8), (3.0, -4.0, 5.0), CANONICAL)
    return Volume(geometry, np.random.default_rng(3).integers(-1024, 3000, geometry.shape).astype(np.int16), "1.2", ())


def test_a_part_of_the_source_is_enough_wherever_the_target_lies(volume):
    dali = DaliResampler(replace(DALI.resampling))
    for index in ((20.0, 30.0, 26.0), (0.0, 0.0, 0.0), (40.0, 59.0, 3.0), (20.0, 30.0, 900.0)):
        middle = tuple(map(float, volume.geometry.to_patient(np.array(index))))
        for spacing in (0.5, 1.0, 2.0):
            target = centred_grid(middle, (9, 12, 14), (spacing,) * 3)
            found = dali.resample(volume.hounsfield, volume.geometry, target)
            np.testing.assert_allclose(found, resample(volume.hounsfield, volume.geometry, target), atol=0.05)


def test_what_lies_aslant_goes_the_kernels_way(volume):
    dali = DaliResampler(DALI.resampling)
    turned = ((0.0, 0.6, 0.8), (0.0, 0.8, -0.6), (1.0, 0.0, 0.0))
    target = Geometry((9, 9, 9), (1.0, 1.0, 1.0), volume.geometry.origin_mm, turned)
    assert dali.image(volume, target, WINDOW) is None
    assert np.array_equal(
        dali.resample(volume.hounsfield, volume.geometry, target), resample(volume.hounsfield, volume.geometry, target)
    )


@pytest.mark.parametrize("values", [{"device": -2}, {"threads": 0}])
def test_options_without_meaning_are_refused(values):
    with pytest.raises(ValueError, match="at least"):
        ResamplingOptions(Resampler.DALI, **values)
