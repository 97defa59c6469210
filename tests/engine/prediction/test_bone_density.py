"""Numbers come back in the manifest's unit, in order, or not at all."""

import numpy as np
import pytest

from engine.prediction.bone_density import predict_density
from engine.records import ModelRef, Quantity, Reason, VertebralLevel
from engine.runtime.manifest import ModelManifest, Parity, TrainingData
from engine.volume import CANONICAL, Geometry, VertebraCrop

L = VertebralLevel
MODEL = ModelRef("mean", "3", "0" * 64, True, "f32", "none 1")
MANIFEST = ModelManifest(
    name="mean", version="3", task="vertebral_bmd", file="weights.onnx", sha256="0" * 64, input_shape=(2, 3, 4),
    input_spacing_mm=(1.0, 1.0, 1.0), hounsfield_window=(0.0, 1000.0), output="value",
    training_data=TrainingData("nothing", reference_only=True), parity=Parity("max_abs", 0.1, 0.0),
    output_scale=100.0, output_offset=120.0, output_unit="mg/cm3", output_range=(30.0, 210.0),
)  # fmt: skip


class Mean:
    """A session whose answer is the mean of what it is given; it counts its batches."""

    manifest, model = MANIFEST, MODEL

    def __init__(self):
        self.batches = []

    def infer(self, batch):
        self.batches.append(len(batch))
        assert batch.dtype == np.float32
        return batch.mean(axis=(1, 2, 3, 4))[:, None]


def crop(level, hounsfield):
    grid = Geometry((2, 3, 4), (1.0,) * 3, (0.0,) * 3, CANONICAL)
    return VertebraCrop(level, grid, np.full((2, 3, 4), hounsfield, dtype=np.float32))


def test_scale_offset_order_and_batches():
    levels = (L.T10, L.T11, L.T12, L.L1, L.L2, L.L3)
    session = Mean()
    found, flags = predict_density([crop(level, 250 + 100 * n) for n, level in enumerate(levels)], session)
    assert [one.finding_site for one in found] == list(levels)
    assert [one.value for one in found] == pytest.approx([70.0 + 20 * n for n in range(6)], abs=1e-3)
    assert {one.quantity for one in found} == {Quantity.VOLUMETRIC_BMD}
    assert {one.model for one in found} == {"mean@3"}
    assert flags == ()
    assert sum(session.batches) == 6


@pytest.mark.parametrize("hounsfield", [20.0, 990.0, np.nan])
def test_what_lies_outside_the_range_is_withheld(hounsfield):
    found, (flag,) = predict_density([crop(L.L1, hounsfield), crop(L.L2, 500.0)], Mean())
    assert [one.finding_site for one in found] == [L.L2]
    assert (flag.reason, flag.finding_site, flag.withholds) == (Reason.DENSITY_IMPLAUSIBLE, L.L1, True)


def test_without_crops_nothing_is_asked():
    session = Mean()
    assert predict_density([], session) == ((), ())
    assert session.batches == []
