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
    tissues = segment(volume, session, SegmentationOptions(TileOptions(overlap), bone_volume_cm3=0.0, everywhere=True))
    grid, labels = expected(volume)
    assert tissues.geometry == grid
    assert tissues.tissues == LABELS
    assert tissues.labels.dtype == np.uint8
    assert np.array_equal(tissues.labels, labels)
    assert (tissues.body_probability[labels == 1] > 0.49).all()
    assert (tissues.body_probability[labels != 1] < 0.51).all()


def test_a_volume_smaller_than_a_tile_is_mapped_whole(session):
    volume = a_volume(shape=(13, 20, 90))
    tissues = segment(volume, session, SegmentationOptions(bone_volume_cm3=0.0, everywhere=True))
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
    tissues = segment(volume, counting, SegmentationOptions(TileOptions(0.0), everywhere=True))
    _, labels = expected(volume)
    assert counting.count == 1
    assert np.array_equal(tissues.labels, labels)
    assert tissues.body_probability[tissues.labels == 0].max() < 0.5
    assert tissues.body_probability[:10, :10, :10].max() < 1e-6
    assert tissues.looked == ()
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
    options = SegmentationOptions(bone_volume_cm3=0.0, everywhere=True)
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


def a_winding_column(seed, decoy=False, shape=(120, 150, 160)) -> Volume:
    """A column of body through all slices that wanders aside; perhaps beside a larger one of rib."""
    random = np.random.default_rng(seed)
    hounsfield = np.full(shape, -50, dtype=np.int16)
    at, drift = np.array([70.0, 60.0]), random.normal(0, 0.4, 2)
    for k in range(shape[0]):
        drift = np.clip(drift + random.normal(0, 0.15, 2), -0.9, 0.9)
        at = np.clip(at + drift, 12, np.array(shape[1:]) - 12)
        j, i = np.round(at).astype(int)
        hounsfield[k, j - 8 : j + 8, i - 8 : i + 8] = 440
    if decoy:
        free = hounsfield[:, 100:140, 110:150]
        free[free < 0] = 940
    return Volume(Geometry(shape, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), CANONICAL), hounsfield, "1.2.3", ())


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("decoy", [False, True])
def test_the_spine_is_followed_wherever_it_winds(session, seed, decoy):
    volume, counting = a_winding_column(seed, decoy), Counting(session)
    everywhere = segment(volume, counting, SegmentationOptions(everywhere=True))
    all_tiles, counting.count = counting.count, 0
    followed = segment(volume, counting, SegmentationOptions())
    body = everywhere.labels == 1
    assert body.any(axis=(1, 2)).all()
    assert np.array_equal(followed.labels == 1, body)
    assert counting.count < (0.9 if decoy else 0.6) * all_tiles
    unseen = np.ones(body.shape, dtype=bool)
    for at in followed.looked:
        unseen[at] = False
    assert unseen.any()
    assert not followed.labels[unseen].any()
    assert not followed.body_probability[unseen].any()


def test_what_a_guess_can_t_see_is_searched_for(session):
    """The only body of a slab lies far from where bone stands upright in all others."""
    volume = a_winding_column(1)
    volume.hounsfield[:30] = -50
    volume.hounsfield[4:24, 120:140, 130:150] = 440
    everywhere = segment(volume, session, SegmentationOptions(everywhere=True))
    assert np.array_equal(segment(volume, session, SegmentationOptions()).labels == 1, everywhere.labels == 1)


def test_the_lowest_ribs_are_followed_and_others_are_known_to_go_on(session):
    volume = a_winding_column(3, shape=(240, 150, 180))
    for slice_ in (60, 210):  # across the whole field, from side to side
        row = (
            int(np.argwhere(volume.hounsfield[slice_] == 440)[:, 0].mean()) // 2 * 2
        )  # no mixture of rib and air looks like a body
        rib = volume.hounsfield[slice_ : slice_ + 6, row : row + 6]
        rib[rib < 0] = 940
    tissues = segment(volume, session, SegmentationOptions())
    everywhere = segment(volume, session, SegmentationOptions(everywhere=True))
    low, high = (tissues.labels[part] == 2 for part in (slice(28, 36), slice(103, 111)))
    assert np.array_equal(low, everywhere.labels[28:36] == 2)
    assert high.sum() < (everywhere.labels[103:111] == 2).sum()
    rib = np.argwhere(tissues.labels == 2)
    ends = rib[rib[:, 0] > 100]
    outermost = ends[np.isin(ends[:, 2], (ends[:, 2].min(), ends[:, 2].max()))]
    assert tissues.on_side(outermost).all()
    assert not tissues.on_side(np.array([[30, 36, 75]])).any()
