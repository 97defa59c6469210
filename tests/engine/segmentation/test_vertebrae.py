"""Whatever the tiles, the map says what the network says of each voxel, over the whole field of view."""

import hashlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engine.errors import UnsupportedSeries
from engine.records import Reason
from engine.resampling import canonical_grid, resample
from engine.runtime.backends import RuntimeOptions, open_session
from engine.runtime.manifest import ModelManifest, ModelPackage, Parity, TrainingData
from engine.segmentation.tiles import TileOptions
from engine.segmentation.vertebrae import SegmentationOptions, segment
from engine.volume import CANONICAL, Geometry, Volume

LABELS = ("background", "vertebral_body", "rib")
TILE = (16, 24, 24)
SPACING = (2.0, 2.0, 2.0)


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """A network of one voxel's sight: body above 300 HU, rib above 700, else background."""
    path = tmp_path_factory.mktemp("model") / "weights.onnx"
    weights = np.array([0.0, 30.0, 60.0], dtype=np.float32).reshape(3, 1, 1, 1, 1)
    bias = np.array([0.0, 0.0, -24.0], dtype=np.float32)  # scaled HU: 300 is 0.0, 700 is 0.8
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w", "b"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, *TILE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, *TILE])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(bias, "b")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))
    manifest = ModelManifest(
        name="threshold",
        version="1",
        task="spine_segmentation",
        file=path.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        input_shape=TILE,
        input_spacing_mm=SPACING,
        hounsfield_window=(-200.0, 800.0),
        output="logits",
        training_data=TrainingData("nothing", reference_only=True),
        parity=Parity("max_abs", 1e-4, 0.0),
        labels=LABELS,
    )
    with open_session(ModelPackage(manifest, path), RuntimeOptions()) as session:
        yield session


def a_volume(shape=(40, 70, 80), spacing=(1.0, 1.0, 1.0), seed=5) -> Volume:
    random = np.random.default_rng(seed)
    hounsfield = np.full(shape, -50, dtype=np.int16)
    for _ in range(6):
        at = tuple(slice(n := int(random.integers(0, size - 12)), n + 12) for size in shape)
        hounsfield[at] = random.choice([440, 940])  # mixes of these never fall on a cut
    geometry = Geometry(shape, spacing, (-40.0, -30.0, 100.0), CANONICAL)
    return Volume(geometry, hounsfield, "1.2.3", ())


def expected(volume: Volume):
    grid = canonical_grid(volume.geometry, SPACING)
    hounsfield = resample(volume.hounsfield, volume.geometry, grid)
    return grid, np.digitize(np.clip(hounsfield, -200, 800), [300.0, 700.0])


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_blending_changes_nothing_that_all_tiles_agree_on(session, overlap):
    volume = a_volume()
    tissues = segment(volume, session, SegmentationOptions(TileOptions(overlap), bone_volume_cm3=0.0))
    grid, labels = expected(volume)
    assert tissues.geometry == grid
    assert tissues.tissues == LABELS
    assert tissues.labels.dtype == np.uint8
    assert np.array_equal(tissues.labels, labels)
    assert (tissues.body_probability[labels == 1] > 0.49).all()
    assert (tissues.body_probability[labels != 1] < 0.51).all()


def test_a_volume_smaller_than_a_tile_is_mapped_whole(session):
    volume = a_volume(shape=(13, 20, 90))
    tissues = segment(volume, session, SegmentationOptions(bone_volume_cm3=0.0))
    grid, labels = expected(volume)
    assert tissues.labels.shape == grid.shape
    assert min(grid.shape) < min(TILE)
    assert np.array_equal(tissues.labels, labels)


class Counting:
    """A session that counts the tiles it is given."""

    def __init__(self, session):
        self.session, self.manifest, self.model, self.count = session, session.manifest, session.model, 0

    def infer(self, batch):
        self.count += len(batch)
        return self.session.infer(batch)


def test_tiles_without_bone_are_background_and_cost_nothing(session):
    volume = a_volume(shape=(96, 96, 96))
    volume.hounsfield[:] = -1000
    volume.hounsfield[70:90, 70:90, 70:90] = 450
    counting = Counting(session)
    tissues = segment(volume, counting, SegmentationOptions(TileOptions(0.0)))
    _, labels = expected(volume)
    assert counting.count == 1
    assert np.array_equal(tissues.labels, labels)
    assert tissues.body_probability[tissues.labels == 0].max() < 0.5
    assert tissues.body_probability[:10, :10, :10].max() < 1e-6
    nothing = Volume(volume.geometry, np.full(volume.hounsfield.shape, -1000, np.int16), "1.2.3", ())
    assert not segment(nothing, counting, SegmentationOptions()).labels.any()
    assert counting.count == 1


def test_slices_from_foot_to_head_give_the_same_map(session):
    volume = a_volume()
    upside = Geometry(
        volume.geometry.shape,
        volume.geometry.spacing_mm,
        tuple(volume.geometry.to_patient(np.array([volume.geometry.shape[0] - 1, 0, 0]))),
        ((0.0, 0.0, -1.0), *CANONICAL[1:]),
    )
    turned = Volume(upside, volume.hounsfield[::-1], "1.2.3", ())
    options = SegmentationOptions(bone_volume_cm3=0.0)
    assert np.array_equal(segment(turned, session, options).labels, segment(volume, session, options).labels)


def test_a_field_of_view_beyond_any_patient_takes_no_memory(session):
    giant = Geometry((40, 40, 40), (400.0, 400.0, 400.0), (0.0, 0.0, 0.0), CANONICAL)
    with pytest.raises(UnsupportedSeries) as caught:
        segment(Volume(giant, np.zeros(giant.shape, np.int16), "1.2.3", ()), session, SegmentationOptions())
    assert caught.value.reason is Reason.IMAGE_TOO_LARGE


@pytest.mark.parametrize("values", [{"max_voxels": 0}, {"bone_volume_cm3": -1.0}])
def test_options_without_meaning_are_refused(values):
    with pytest.raises(ValueError, match="at least"):
        SegmentationOptions(**values)
