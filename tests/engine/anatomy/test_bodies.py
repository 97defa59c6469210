"""The spine's course is found, and its bodies are told apart, whatever a network leaves out or adds."""

import numpy as np
import pytest

from engine.anatomy.bodies import find_bodies
from engine.anatomy.centreline import find_centreline
from engine.records import VertebralLevel
from engine.volume import Geometry, TissueMap

SPECK_CM3 = 1.5


def course_of(tissues):
    course = find_centreline(tissues)
    assert course is not None
    return course


def bodies_of(tissues):
    return find_bodies(tissues, course_of(tissues), tissues.geometry, SPECK_CM3)


def found_in(truth, tissues, bodies):
    """(true level, share of it that was found, share of the find that is it) of each found body."""
    shift = round((tissues.geometry.origin_mm[2] - truth.geometry.origin_mm[2]) / 2.0)
    result = []
    for body in bodies:
        k, j, i = body.voxels.T
        counts = np.bincount(truth.bodies[k + shift, j, i], minlength=len(truth.phantom.levels) + 1)
        n = int(counts[1:].argmax()) + 1
        level = truth.phantom.levels[n - 1] if counts[n] else None
        result.append((level, counts[n] / max(1, np.count_nonzero(truth.bodies == n)), counts[n] / counts.sum()))
    return result


def ball(truth, centre_mm, radius_mm):
    index = truth.geometry.to_index(np.asarray(centre_mm, dtype=float))
    k, j, i = (np.arange(n) for n in truth.labels.shape)
    away = (k - index[0])[:, None, None] ** 2 + (j - index[1])[None, :, None] ** 2 + (i - index[2])[None, None, :] ** 2
    return away * 4.0 < radius_mm**2


def test_the_course_runs_through_every_body(truths):
    for truth in truths:
        course = course_of(truth.tissues())
        centres = np.array([truth.phantom.vertebra(level).centre for level in truth.phantom.levels])
        way, distance = course.project(centres)
        assert distance.max() < 2.0
        assert (np.diff(way) > 0).all()  # head to foot


def test_without_bodies_there_is_no_course(truths):
    labels = truths[0].labels.copy()
    labels[labels == 1] = 0
    assert find_centreline(truths[0].tissues(labels=labels)) is None


def test_false_bone_elsewhere_does_not_bend_the_course(truths):
    truth = truths[0]
    labels = truth.labels.copy()
    for level, aside in ((VertebralLevel.T6, (10.0, -110.0, 0.0)), (VertebralLevel.L4, (95.0, -10.0, -20.0))):
        labels[ball(truth, np.add(truth.phantom.vertebra(level).centre, aside), 14.0)] = 1
    course = course_of(truth.tissues(labels=labels))
    centres = np.array([truth.phantom.vertebra(level).centre for level in truth.phantom.levels])
    assert course.project(centres)[1].max() < 2.0


@pytest.mark.parametrize("discs", ["seen", "not seen"])
def test_every_body_is_found_whole_and_alone(truths, discs):
    for truth in truths:
        labels = truth.labels.copy()
        if discs == "not seen":
            labels[labels == 3] = 0
        tissues = truth.tissues(truth.slice_at(VertebralLevel.L5, -1.0), truth.slice_at(VertebralLevel.T2, 1.0), labels)
        bodies = bodies_of(tissues)
        whole = {level: (found, pure) for level, found, pure in found_in(truth, tissues, bodies)}
        for level in truth.phantom.levels[1:]:
            assert min(whole[level]) > 0.99, (truth.phantom.seed, level)
        assert not any(body.doubtful for body in bodies)
        cells = [body.cell for body in bodies]
        assert cells == list(range(cells[0], cells[0] + len(cells)))


def test_two_bodies_that_run_into_each_other_are_parted(truths):
    for truth in truths:
        above = truth.phantom.vertebra(VertebralLevel.L2)
        gap = ball(truth, above.point(0, 0, -above.height / 2 - above.disc / 2), 30.0) & (truth.labels == 3)
        labels = np.where(gap, 1, truth.labels).astype(np.uint8)
        tissues = truth.tissues(labels=labels)
        bodies = bodies_of(tissues)
        pairs = {level: (found, pure) for level, found, pure in found_in(truth, tissues, bodies)}
        assert min(*pairs[VertebralLevel.L2], *pairs[VertebralLevel.L3]) > 0.75
        assert not any(body.doubtful for body in bodies)


@pytest.mark.parametrize("shown", [-0.2, 0.0, 0.2])
def test_half_a_body_that_runs_into_the_whole_one_beside_it_is_doubted(truths, shown):
    for truth in truths:
        half = truth.phantom.vertebra(VertebralLevel.T12)
        gap = ball(truth, half.point(0, 0, -half.height / 2 - half.disc / 2), 30.0) & (truth.labels == 3)
        labels = np.where(gap, 1, truth.labels).astype(np.uint8)
        uppermost, *others = bodies_of(truth.tissues(0, truth.slice_at(VertebralLevel.T12, shown), labels))
        assert uppermost.cut
        assert uppermost.doubtful
        assert not any(body.doubtful for body in others)


def test_a_spine_without_gaps_is_doubted(truths):
    truth = truths[0]
    labels = truth.labels.copy()
    labels[labels == 3] = 1
    tissues = truth.tissues(truth.slice_at(VertebralLevel.L5), truth.slice_at(VertebralLevel.T9), labels)
    bodies = bodies_of(tissues)
    assert bodies
    assert all(body.doubtful for body in bodies)


def test_a_cleft_body_stays_one(truths):
    truth = truths[0]
    bone = truth.phantom.vertebra(VertebralLevel.L1)
    points = truth.geometry.to_patient(np.argwhere(truth.body(VertebralLevel.L1)).astype(float))
    height = (points - np.asarray(bone.centre)) @ bone.axes[2]
    cleft = np.argwhere(truth.body(VertebralLevel.L1))[np.abs(height) < 2.0]
    labels = truth.labels.copy()
    labels[tuple(cleft.T)] = 0
    tissues = truth.tissues(labels=labels)
    whole = {level: found for level, found, _ in found_in(truth, tissues, bodies_of(tissues))}
    assert whole[VertebralLevel.L1] > 0.8


def test_an_unseen_body_leaves_a_number_out(truths):
    for truth in truths:
        labels = truth.labels.copy()
        labels[truth.body(VertebralLevel.T11)] = 0
        tissues = truth.tissues(labels=labels)
        bodies = bodies_of(tissues)
        cells = dict(zip((level for level, *_ in found_in(truth, tissues, bodies)), bodies, strict=True))
        assert cells[VertebralLevel.T12].cell - cells[VertebralLevel.T10].cell == 2


def test_a_blob_beside_a_body_is_not_taken_for_it(truths):
    truth = truths[0]
    centre = np.add(truth.phantom.vertebra(VertebralLevel.T7).centre, (0.0, -34.0, 0.0))
    labels = np.where(ball(truth, centre, 13.0) & (truth.labels == 0), 1, truth.labels).astype(np.uint8)
    tissues = truth.tissues(labels=labels)
    found = {level: pure for level, _, pure in found_in(truth, tissues, bodies_of(tissues))}
    assert found[VertebralLevel.T7] > 0.9


def test_specks_are_no_bodies(truths):
    truth = truths[0]
    labels = np.zeros_like(truth.labels)
    labels[ball(truth, truth.phantom.vertebra(VertebralLevel.L3).centre, 5.0)] = 1
    tissues = truth.tissues(labels=labels)
    assert bodies_of(tissues) == ()


def test_a_body_at_the_end_of_the_view_is_marked(truths):
    truth = truths[0]
    tissues: TissueMap = truth.tissues(truth.slice_at(VertebralLevel.L4), truth.slice_at(VertebralLevel.T10))
    ends = [body.cut for body in bodies_of(tissues)]
    assert ends[0]
    assert ends[-1]
    assert not any(ends[1:-1])


def test_an_oblique_view_cuts_bodies_at_its_own_border(truths):
    truth = truths[0]
    tissues = truth.tissues(truth.slice_at(VertebralLevel.L5, -1.0), truth.slice_at(VertebralLevel.T10, 1.0))
    k, j, i = tissues.geometry.shape
    lean = np.deg2rad(8.0)
    up, back = (0.0, -np.sin(lean), np.cos(lean)), (0.0, np.cos(lean), np.sin(lean))
    centre = truth.phantom.vertebra(VertebralLevel.L3).centre
    corner = np.asarray(centre) - np.multiply(back, j) - np.multiply((1.0, 0.0, 0.0), i)  # first slice: through L3
    view = Geometry((k, j, i), (2.0, 2.0, 2.0), tuple(corner), (up, back, (1.0, 0.0, 0.0)))
    seen = view.to_index(tissues.geometry.to_patient(np.indices(tissues.labels.shape).reshape(3, -1).T.astype(float)))
    labels = np.where((seen[:, 0] < -0.5).reshape(tissues.labels.shape), 0, tissues.labels)
    oblique = TissueMap(tissues.geometry, labels.astype(np.uint8), (labels == 1).astype(np.float32), tissues.tissues)
    bodies = find_bodies(oblique, course_of(oblique), view, SPECK_CM3)
    assert bodies[-1].cut
    assert not any(body.cut for body in bodies[1:-1])
