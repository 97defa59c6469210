"""A crop like the training's passes; one of another world is flagged, and its density still given."""

from dataclasses import replace

import numpy as np
import pytest

from engine.errors import BadOption
from engine.options import read_options
from engine.prediction.bone_density import predict_density
from engine.prediction.familiarity import statistics_of, strangeness
from engine.records import Reason, VertebralLevel
from engine.runtime.manifest import PACKAGED_MODELS, TrainingStatistics, find_package
from engine.volume import CANONICAL, Geometry, VertebraCrop
from tests.engine.prediction.test_bone_density import MANIFEST, Mean

SHAPE = (8, 12, 12)
HOUNSFIELD = {"usual": (150.0, 40.0), "noise": (150.0, 300.0), "without grain": (150.0, 0.0), "metal": (990.0, 40.0)}


def crops(seed: int, count: int, mean: float = 150.0, sd: float = 40.0) -> np.ndarray:
    """HU: a level that differs from patient to patient, with grain."""
    random = np.random.default_rng(seed)
    level, grain = random.normal(0, 30, (count, 1, 1, 1)), random.normal(0, sd, (count, *SHAPE))
    return np.asarray(mean + level + grain, dtype=np.float32)


TRAINING = statistics_of(MANIFEST.normalise(crops(1, 400)))


class Trained(Mean):
    manifest = replace(MANIFEST, training_statistics=TRAINING, output_range=())


@pytest.mark.parametrize("kind", HOUNSFIELD)
def test_only_a_crop_unlike_the_training_is_flagged(kind):
    grid = Geometry(SHAPE, (1.0,) * 3, (0.0,) * 3, CANONICAL)
    shown = [VertebraCrop(VertebralLevel.L2, grid, one) for one in crops(2, 20, *HOUNSFIELD[kind])]
    for crop in shown:
        measured, flags = predict_density([crop], Trained())
        assert len(measured) == 1  # flagged, not withheld
        assert [flag.reason for flag in flags] == ([] if kind == "usual" else [Reason.UNLIKE_TRAINING])
        assert not any(flag.withholds for flag in flags)


def test_a_manifest_without_statistics_calls_nothing_strange():
    grid = Geometry(SHAPE, (1.0,) * 3, (0.0,) * 3, CANONICAL)
    (noise,) = crops(3, 1, 150.0, 300.0)
    assert predict_density([VertebraCrop(VertebralLevel.L2, grid, noise)], Mean())[1] == ()


def test_the_packaged_density_network_knows_its_training():
    manifest = find_package(PACKAGED_MODELS, "vertebral_bmd").manifest
    assert manifest.training_statistics is not None
    air = np.full(manifest.tile, -1.0, dtype=np.float32)
    assert strangeness(air, manifest.training_statistics) > manifest.training_statistics.limit


def test_statistics_that_do_not_fit_are_refused():
    with pytest.raises(BadOption, match="inverse_covariance"):
        read_options(TrainingStatistics, {"mean": [0.0, 1.0], "inverse_covariance": [1.0], "limit": 3.0}, "model")
