"""A name is right, or there is none and a reason says why."""

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from engine.anatomy.levels import Confidence, LevelOptions, NamedVertebrae, name_levels
from engine.errors import AnatomyNotFound
from engine.records import Anchor, Reason, VertebralLevel
from engine.volume import CANONICAL, Geometry, TissueMap
from exporters.reference.vertebra import TISSUES

L = VertebralLevel
BODY, DISC, RIB, SACRUM = 1, 3, 4, 5


def named(tissues: TissueMap) -> NamedVertebrae:
    return name_levels(tissues, tissues.geometry, LevelOptions())


def reasons(found: NamedVertebrae) -> set[Reason]:
    return {flag.reason for flag in found.flags}


def anchors(found: NamedVertebrae) -> str:
    return ", ".join(one.anchor for one in found.numberings)


def wrong_names(truth, found: NamedVertebrae) -> list[tuple[str, str]]:
    """(name, truth) of each segment that lies on another body than its name says."""
    shift = round((found.bodies.geometry.origin_mm[2] - truth.geometry.origin_mm[2]) / 2.0)
    true = truth.bodies[shift : shift + found.bodies.labels.shape[0]]
    wrong = []
    for n, level in enumerate(found.bodies.segments, start=1):
        counts = np.bincount(true[found.bodies.labels == n], minlength=len(truth.phantom.levels) + 1)
        real = truth.phantom.levels[int(counts[1:].argmax())] if counts[1:].any() else None
        if real != level:
            wrong.append((str(level), str(real)))
    return wrong


def refused(tissues: TissueMap) -> Reason:
    """Why no name is given; the bodies are shown without."""
    found = named(tissues)
    assert set(found.bodies.segments) == {None}
    assert found.bodies.labels.max() == len(found.bodies.segments)
    assert (found.numberings, found.confidence) == ((), Confidence.NONE)
    (flag,) = found.flags
    assert flag.withholds
    assert flag.finding_site is None
    return flag.reason


@pytest.mark.parametrize(
    ("top", "bottom", "anchor", "confidence"),
    [
        (L.T8, None, "sacrum, last ribs", Confidence.HIGH),
        (L.L2, None, "sacrum", Confidence.MEDIUM),
        (L.T8, L.L3, "last ribs", Confidence.MEDIUM),
        (L.T10, L.L2, "last ribs", Confidence.MEDIUM),
    ],
)
def test_names_are_counted_from_what_is_in_view(truths, top, bottom, anchor, confidence):
    for truth in truths:
        first = truth.slice_at(bottom, -0.9) if bottom else 0
        found = named(truth.tissues(first, truth.slice_at(top, 0.3)))
        assert (anchors(found), found.confidence) == (anchor, confidence)
        assert {one.shift for one in found.numberings} == {0}
        assert not wrong_names(truth, found)
        last = bottom or L.L5
        levels = list(L)[list(L).index(top) : list(L).index(last) + 1]
        assert [level for level in found.bodies.segments if level in levels] == levels
        assert reasons(found) == (set() if confidence is Confidence.HIGH else {Reason.ONE_ANCHOR})


@pytest.mark.parametrize(
    ("top", "bottom"),
    [
        (L.T3, L.T9),  # the middle of a chest
        (L.T1, L.T12),  # a chest that ends at T12: no rib-free body shows that these ribs are the last
        (L.T9, L.T12),
        (L.L1, L.L4),  # lumbar bodies alone
    ],
)
def test_without_an_anchor_nothing_is_named(truths, top, bottom):
    for truth in truths:
        tissues = truth.tissues(truth.slice_at(bottom, -0.55), truth.slice_at(top, 0.55))
        assert refused(tissues) is Reason.LEVEL_UNCERTAIN


def test_a_body_of_which_little_is_seen_does_not_show_that_ribs_ended(truths):
    for truth in truths:
        tissues = truth.tissues(truth.slice_at(L.L1, 0.2), truth.slice_at(L.T6, 0.5))
        assert refused(tissues) is Reason.LEVEL_UNCERTAIN


def test_a_body_that_is_cut_below_its_pedicles_shows_that_ribs_ended(truths):
    for truth in truths:
        found = named(truth.tissues(truth.slice_at(L.L1, -0.25), truth.slice_at(L.T6, 0.5)))
        assert (anchors(found), found.bodies.segments[-1]) == ("last ribs", L.L1)
        assert reasons(found) == {Reason.ONE_ANCHOR}
        assert not wrong_names(truth, found)


def test_a_chest_that_ends_below_the_pedicles_of_t12_is_not_named(truths):
    for truth in truths:
        assert refused(truth.tissues(truth.slice_at(L.T12, -0.25), truth.slice_at(L.T4))) is Reason.LEVEL_UNCERTAIN


def test_a_last_rib_that_is_broken_off_on_one_side_still_counts(truths):
    for truth in truths:
        bone = truth.phantom.vertebra(L.T12)
        voxels = np.argwhere(truth.labels == RIB)
        points = truth.geometry.to_patient(voxels.astype(float)) - np.asarray(bone.centre)
        far = (points[:, 0] > bone.width / 2 + 38) & (points[:, 2] < bone.height)
        labels = truth.labels.copy()
        labels[tuple(voxels[far & (points[:, 2] > -70)].T)] = 0
        found = named(truth.tissues(truth.slice_at(L.L3, -0.9), truth.slice_at(L.T10, 0.6), labels))
        assert anchors(found) == "last ribs"
        assert not wrong_names(truth, found)


def test_no_vertebra_is_said_so(truths):
    labels = truths[0].labels.copy()
    labels[labels == BODY] = 0
    with pytest.raises(AnatomyNotFound) as caught:
        named(truths[0].tissues(labels=labels))
    assert caught.value.reason is Reason.NO_VERTEBRA


def test_a_rib_on_one_side_is_no_anchor(truths):
    for truth in truths:
        middle = truth.geometry.to_index(np.asarray(truth.phantom.vertebra(L.T12).centre))[2]
        left = np.arange(truth.labels.shape[2]) > middle
        low, high = truth.slice_at(L.L2), truth.slice_at(L.T12, 0.6)
        labels = truth.labels.copy()
        labels[low:high][(labels[low:high] == RIB) & left] = 0
        assert (
            refused(truth.tissues(truth.slice_at(L.L3, -0.9), truth.slice_at(L.T8), labels)) is Reason.LEVEL_UNCERTAIN
        )
        found = named(truth.tissues(0, truth.slice_at(L.T8), labels))
        assert anchors(found) == "sacrum"
        assert not wrong_names(truth, found)


def test_a_transverse_process_taken_for_a_rib_is_no_anchor(truths):
    for truth in truths:
        bone = truth.phantom.vertebra(L.L1)
        labels = truth.labels.copy()
        for side in (-1, 1):
            tip = truth.geometry.to_index(bone.point(side * (bone.width / 2 + 8), bone.depth / 2, 0.1 * bone.height))
            k, j, i = (round(float(n)) for n in tip)
            labels[k - 3 : k + 4, j - 3 : j + 4, i - 6 : i + 7] = RIB
        tissues = truth.tissues(truth.slice_at(L.L3, -0.9), truth.slice_at(L.T8), labels)
        assert refused(tissues) is Reason.LEVEL_UNCERTAIN


def test_a_sacrum_that_swallowed_l5_is_no_anchor(truths):
    for truth in truths:
        labels = np.where(truth.body(L.L5), SACRUM, truth.labels).astype(np.uint8)
        assert refused(truth.tissues(0, truth.slice_at(L.L1), labels)) is Reason.LEVEL_UNCERTAIN


def test_a_first_sacral_body_taken_for_a_vertebra_is_no_l5(truths):
    for truth in truths:
        centre = truth.geometry.to_index(np.asarray(truth.phantom.sacrum.centre))
        k, j, i = (np.arange(n) for n in truth.labels.shape)
        away = (
            (k - centre[0])[:, None, None] ** 2 + (j - centre[1])[None, :, None] ** 2 + (i - centre[2])[None, None] ** 2
        )
        labels = np.where((away * 4.0 < 20.0**2) & (truth.labels == SACRUM), BODY, truth.labels).astype(np.uint8)
        assert refused(truth.tissues(0, truth.slice_at(L.L1), labels)) is Reason.LEVEL_UNCERTAIN


def test_bodies_beyond_a_break_are_left_out_and_that_is_said(truths):
    for truth in truths:
        labels = np.where(truth.body(L.L2), 0, truth.labels).astype(np.uint8)
        found = named(truth.tissues(0, truth.slice_at(L.T8), labels))
        assert not wrong_names(truth, found)
        assert {L.L3, L.L4, L.L5, L.T12, L.L1} <= set(found.bodies.segments)  # each side has its anchor
        labels = np.where(truth.body(L.T9) | truth.body(L.T12), 0, truth.labels).astype(np.uint8)
        found = named(truth.tissues(0, truth.slice_at(L.T6), labels))
        assert not wrong_names(truth, found)
        assert found.bodies.segments == (L.L1, L.L2, L.L3, L.L4, L.L5)
        assert Reason.LEVEL_GAP in reasons(found)


def test_a_break_before_the_only_anchor_is_a_gap(truths):
    for truth in truths:
        labels = np.where(truth.body(L.L1), 0, truth.labels).astype(np.uint8)
        tissues = truth.tissues(truth.slice_at(L.L3, -0.9), truth.slice_at(L.T9, 0.55), labels)
        assert refused(tissues) is Reason.LEVEL_GAP


def test_four_or_six_lumbar_bodies_are_told_and_counted_from_the_sacrum(transitional_truths):
    for truth in transitional_truths:
        found = named(truth.tissues(0, truth.slice_at(L.T8)))
        (flag,) = found.flags
        assert flag.reason is Reason.TRANSITIONAL
        assert found.confidence is Confidence.MEDIUM
        assert "sacrum" in flag.detail
        assert "last ribs" in flag.detail
        assert found.bodies.segments[-1] is L.L5
        sacrum, ribs = found.numberings
        assert (sacrum.anchor, sacrum.shift, ribs.anchor) == (Anchor.SACRUM, 0, Anchor.LAST_RIBS)
        assert sacrum.name(L.L5) is L.L5
        if truth.phantom.levels[-1] is L.L5:  # ribs at L1
            assert not wrong_names(truth, found)
            assert (ribs.shift, ribs.name(L.L5), ribs.name(L.L1), ribs.name(L.T1)) == (-1, L.L4, L.T12, None)
        else:
            assert (ribs.shift, ribs.name(L.L5), ribs.name(L.T12)) == (1, L.L6, L.L1)


def damaged(truth, random: np.random.Generator):
    """Labels with the errors of a bad network."""
    labels, phantom = truth.labels.copy(), truth.phantom
    slices, rows, columns = np.ogrid[tuple(slice(0, n) for n in labels.shape)]

    def ball(centre_mm, radius_mm):
        k, j, i = truth.geometry.to_index(np.asarray(centre_mm, dtype=float))
        return ((slices - k) ** 2 + (rows - j) ** 2 + (columns - i) ** 2) * 4.0 < radius_mm**2

    for _ in range(random.integers(1, 4)):
        level = phantom.levels[random.integers(len(phantom.levels))]
        bone, body = phantom.vertebra(level), truth.body(level)
        centre = np.asarray(bone.centre)
        match random.integers(11):
            case 0:
                labels[body] = 0
            case 1:
                labels[body] = SACRUM
            case 2:
                labels[body & ball(centre + random.normal(0, 10, 3), random.uniform(6, 18))] = 0
            case 3:
                labels[body & (slices > truth.slice_at(level))] = 0
            case 4:
                gap = ball(bone.point(0, 0, -bone.height / 2 - bone.disc / 2), random.uniform(10, 30))
                labels[gap & (labels == DISC)] = BODY
            case 5:
                labels[labels == DISC] = random.choice([0, BODY])
            case 6:
                aside = (random.uniform(-100, 100), random.uniform(-150, 20), random.uniform(-30, 30))
                labels[ball(centre + aside, random.uniform(4, 20)) & (labels != BODY)] = BODY
            case 7:
                head = bone.point(random.choice([-1, 1]) * (bone.width / 2 + 10), bone.depth / 2, 0)
                labels[ball(head, random.uniform(10, 35)) & (labels == RIB)] = 0
            case 8:
                labels.ravel()[random.integers(0, labels.size, 2000)] = random.integers(0, 6, 2000)
            case 9:
                labels[ball(phantom.sacrum.centre, 22.0) & (labels == SACRUM)] = BODY
            case 10:
                labels[truth.body(L.L5)] = SACRUM
    return labels


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1))
@example(seed=304)  # the view begins in T12, and its lower disc is gone: half of T12 and L1 are one piece with ribs
def test_whatever_a_network_does_wrong_no_wrong_name_is_given_silently(truths, seed):
    random = np.random.default_rng(seed)
    truth = truths[random.integers(len(truths))]
    labels = damaged(truth, random)
    first, stop = 0, labels.shape[0]
    if random.random() < 0.7:
        first = int(random.integers(0, stop - 60)) if random.random() < 0.6 else 0
        stop = int(random.integers(first + 50, stop + 1))
    try:
        found = named(truth.tissues(first, stop, labels))
    except AnatomyNotFound:
        return
    if found.confidence is Confidence.NONE:
        assert set(found.bodies.segments) == {None}
    else:
        assert not wrong_names(truth, found) or Reason.TRANSITIONAL in reasons(found)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), shape=st.tuples(*[st.integers(1, 40)] * 3))
def test_rubbish_gets_no_name_and_does_no_harm(seed, shape):
    random = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(random.normal(size=shape), random.uniform(0, 3))
    labels = np.digitize(noise, np.quantile(noise, [0.3, 0.6, 0.7, 0.8, 0.9])).astype(np.uint8)
    grid = Geometry(shape, (2.0,) * 3, (0.0,) * 3, CANONICAL)
    tissues = TissueMap(grid, labels, (labels == BODY).astype(np.float32), TISSUES)
    try:
        found = name_levels(tissues, grid, LevelOptions(smallest_body_cm3=0.05))
    except AnatomyNotFound as error:
        assert error.reason is Reason.NO_VERTEBRA  # noqa: PT017
    else:
        assert set(found.bodies.segments) == {None}


@pytest.mark.parametrize("values", [{"smallest_body_cm3": 0.0}, {"nearest_mm": 60.0}])
def test_options_without_meaning_are_refused(values):
    with pytest.raises(ValueError, match="must be above"):
        LevelOptions(**values)
