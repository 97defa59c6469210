"""Each rule fires on what it is for, and on nothing else."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.measurement.quality import QualityOptions, outliers, quality_flags, series_flags
from engine.measurement.shape_rules import scoliosis
from engine.records import Reason, VertebralLevel
from engine.volume import CANONICAL, Geometry, Segmentation, Volume

L = VertebralLevel
OPTIONS = QualityOptions()


def flags_of(spine, series, options=OPTIONS):
    """{(reason, level): withholds}"""
    found = quality_flags(series, spine.volume, spine.bodies, spine.cores, (), options)
    return {(flag.reason, flag.finding_site): flag.withholds for flag in found}


def test_a_sound_spine_has_no_flag(spine, series_with):
    assert flags_of(spine(), series_with()) == {}


@pytest.mark.parametrize(
    ("header", "reason", "withholds"),
    [
        ({"contrast_bolus_agent": True}, Reason.CONTRAST, True),
        ({"kvp": 100.0}, Reason.KVP, True),
        ({"kvp": 121.1}, Reason.KVP, True),
        ({"kvp": None}, Reason.KVP, True),
        ({"convolution_kernel": ("Bl57d", "3")}, Reason.SHARP_KERNEL, False),
        ({"manufacturer": "GE MEDICAL SYSTEMS", "convolution_kernel": ("LUNG",)}, Reason.SHARP_KERNEL, False),
        ({"kvp": 119.0}, None, None),
        ({"kvp": 121.0}, None, None),
        ({"convolution_kernel": ()}, None, None),
    ],
)
def test_the_header_speaks_for_the_whole_series(series_with, header, reason, withholds):
    found = [
        (flag.reason, flag.withholds, flag.finding_site) for flag in series_flags(series_with(**header), (), OPTIONS)
    ]
    assert found == ([(reason, withholds, None)] if reason else [])


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("end", ["first", "last"])
def test_a_body_at_any_border_is_cut(spine, series_with, axis, end):
    whole = spine()
    k, j, i = (slice(None),) * 3
    box = whole.bodies.boxes[1 if axis else (0 if end == "last" else 3)]
    cut = slice(box[axis].start + 4, None) if end == "first" else slice(0, box[axis].stop - 4)
    at = tuple(cut if a == axis else part for a, part in enumerate((k, j, i)))
    volume = Volume(whole.geometry, whole.volume.hounsfield[at], "1.2.2", ())
    geometry = Geometry(volume.hounsfield.shape, whole.geometry.spacing_mm, (0.0, 0.0, 0.0), whole.geometry.direction)
    volume = replace(volume, geometry=geometry)
    bodies, cores = (Segmentation(geometry, part.labels[at], part.segments) for part in (whole.bodies, whole.cores))
    found = quality_flags(series_with(), volume, bodies, cores, (), OPTIONS)
    cut_levels = {flag.finding_site for flag in found if flag.reason is Reason.FIELD_OF_VIEW and flag.withholds}
    assert Reason.COMPRESSION not in {flag.reason for flag in found}  # what is cut has no heights
    if axis:
        assert cut_levels == set(whole.bodies.segments)
    else:
        assert cut_levels == {L.T12 if end == "last" else L.L3}


def test_a_small_core_is_withheld(spine, series_with):
    crushed = spine(heights=[(27.0,) * 3, (7.0,) * 3, (27.0,) * 3])
    assert flags_of(crushed, series_with())[Reason.CORE_TOO_SMALL, L.L1] is True
    assert (Reason.CORE_TOO_SMALL, L.T12) not in flags_of(crushed, series_with())


@pytest.mark.parametrize(("noise", "slice_mm", "fires"), [(80.0, 1.0, True), (45.0, 1.0, False), (45.0, 3.0, True)])
def test_noise_is_held_against_the_slice_thickness(spine, series_with, noise, slice_mm, fires):
    found = flags_of(spine(noise=noise, spacing_mm=(slice_mm, 1.0, 1.0)), series_with())
    assert {key for key, _ in found} == ({Reason.NOISE} if fires else set())
    assert not any(found.values())


@pytest.mark.parametrize(
    ("heights", "fires"),
    [
        ((18.0, 22.5, 27.0), True),  # wedge
        ((27.0, 18.0, 27.0), True),  # biconcave
        ((20.0, 20.0, 20.0), True),  # crush: lower than its neighbours
        ((24.5, 26.0, 27.0), False),  # the normal wedge of T11 to L1
        ((27.0, 25.0, 27.0), False),  # the normal hollow
        ((24.0, 24.0, 24.0), False),
        ((34.0, 27.0, 27.0), False),  # spurs in front
    ],
)
def test_a_compressed_body_is_withheld(spine, series_with, heights, fires):
    found = flags_of(spine(heights=[(27.0,) * 3, (27.0,) * 3, heights, (27.0,) * 3]), series_with())
    assert found == ({(Reason.COMPRESSION, L.L2): True} if fires else {})


@pytest.mark.parametrize("slice_mm", [3.0, 5.0])
@pytest.mark.parametrize("height", [25.2, 26.0, 27.0, 28.3])
def test_thick_slices_alone_make_no_compression(spine, series_with, slice_mm, height):
    thick = spine(heights=[(height,) * 3] * 4, spacing_mm=(slice_mm, 1.0, 1.0), tilt=0.1)
    assert not [key for key in flags_of(thick, series_with()) if key[0] is Reason.COMPRESSION]


def test_a_bone_island_is_told_and_cement_is_withheld(spine, series_with):
    island = spine()
    island.hounsfield[island.ball((4.0, 0.0, 119.0), 4.5)] = 600
    assert flags_of(island, series_with()) == {(Reason.DENSE_FOCUS, L.T12): False}
    cement = spine()
    cement.hounsfield[cement.ball((4.0, 0.0, 85.0), 4.0)] = 1500
    assert flags_of(cement, series_with()) == {(Reason.CEMENT, L.L1): True}


def test_cement_that_the_outline_leaves_out_is_seen(spine, series_with):
    left_out = spine()
    inside = left_out.ball((4.0, 0.0, 85.0), 6.0)
    left_out.hounsfield[inside] = 1500
    left_out.bodies.labels[inside] = 0
    left_out.cores.labels[inside] = 0
    assert (Reason.CEMENT, L.L1) in flags_of(left_out, series_with())
    left_out.hounsfield[inside] = 150
    assert (Reason.CEMENT, L.L1) not in flags_of(left_out, series_with())


def test_noise_makes_no_dense_focus(spine, series_with):
    found = flags_of(spine(noise=120.0), series_with())
    assert {reason for reason, _ in found} == {Reason.NOISE}


def test_metal_near_a_body_is_withheld(spine, series_with):
    near = spine()
    near.hounsfield[near.ball((0.0, 28.0, 85.0), 5.0)] = 2900
    assert flags_of(near, series_with()) == {(Reason.METAL, L.L1): True}
    far = spine()
    far.hounsfield[far.ball((0.0, -39.0, 85.0), 4.0)] = 2900
    assert flags_of(far, series_with()) == {}
    clip = spine()
    clip.hounsfield[clip.ball((0.0, 25.0, 85.0), 2.0)] = 2900
    assert flags_of(clip, series_with()) == {}


@pytest.mark.parametrize(
    ("density", "odd"),
    [
        ({L.T12: 105.0, L.L1: 100.0, L.L2: 98.0, L.L3: 96.0}, []),
        ({L.T12: 105.0, L.L1: 200.0, L.L2: 98.0, L.L3: 96.0}, [L.L1]),
        ({L.L1: 180.0, L.L2: 100.0, L.L3: 104.0}, [L.L1]),
        ({L.T12: 100.0, L.L1: 240.0, L.L2: 30.0, L.L3: 104.0, L.L4: 99.0}, [L.L1, L.L2]),
        ({L.L1: 30.0, L.L2: 44.0, L.L3: 31.0}, []),  # within the floor
        ({L.L1: 60.0, L.L2: 160.0}, []),  # of two nobody can tell which is odd
        ({}, []),
    ],
)
def test_a_level_unlike_its_neighbours_is_said(density, odd):
    flags = outliers(density, OPTIONS)
    assert [flag.finding_site for flag in flags] == odd
    assert all(flag.reason is Reason.OUTLIER_LEVEL and not flag.withholds for flag in flags)


@given(st.lists(st.floats(10, 300), max_size=8))
def test_at_least_two_levels_are_left(values):
    density = dict(zip(list(L), values, strict=False))
    assert len(density) - len(outliers(density, OPTIONS)) >= min(2, len(density))


def test_hounsfield_far_from_the_spine_change_nothing(spine, series_with):
    odd = spine()
    odd.hounsfield[:, :3, :3] = 3000
    odd.hounsfield[:, -2:, :] = -1024
    assert flags_of(odd, series_with()) == {}


def test_a_level_without_voxels_is_passed_over(spine, series_with):
    sound = spine()
    empty = Segmentation(sound.geometry, np.where(sound.bodies.labels == 2, 0, sound.bodies.labels).astype(np.uint8),
                         sound.bodies.segments)  # fmt: skip
    cores = Segmentation(sound.geometry, np.where(empty.labels > 0, sound.cores.labels, 0).astype(np.uint8),
                         sound.bodies.segments)  # fmt: skip
    assert quality_flags(series_with(), sound.volume, empty, cores, (), OPTIONS) == ()


@pytest.mark.parametrize("values", [{"height_ratio": 1.2}, {"focus_share": -0.1}, {"kvp_tolerance": -1.0}])
def test_options_without_meaning_are_refused(values):
    with pytest.raises(ValueError, match=r"shares|negative"):
        QualityOptions(**values)


@pytest.mark.parametrize(("age", "fires"), [(19, True), (20, False), (90, False), (91, True), (None, False)])
def test_a_policy_may_bound_the_age(series_with, age, fires):
    options = QualityOptions(youngest=20, oldest=90)
    found = [(flag.reason, flag.withholds) for flag in series_flags(series_with(patient_age=age), (), options)]
    assert found == ([(Reason.AGE, True)] if fires else [])
    assert series_flags(series_with(patient_age=age), (), OPTIONS) == []


def test_coarse_columns_make_a_core_uneven_and_noise_does_not(spine, series_with):
    striped = spine(noise=30.0)
    x, y = striped.points[..., 0], striped.points[..., 1]
    body = striped.bodies.labels == 2
    striped.hounsfield[body] += np.where((np.round(x / 3) + np.round(y / 3)) % 2 > 0, 90.0, -90.0)[body]
    assert flags_of(striped, series_with())[Reason.UNEVEN_CORE, L.L1] is False
    assert (Reason.UNEVEN_CORE, L.L2) not in flags_of(striped, series_with())
    assert not [key for key in flags_of(spine(noise=60.0), series_with()) if key[0] is Reason.UNEVEN_CORE]


@pytest.mark.parametrize(("lean", "found"), [(2.0, None), (9.0, False), (22.0, True)])
def test_a_row_that_bends_sideways_is_told(lean, found):
    geometry = Geometry((90, 30, 60), (2.0, 3.0, 2.0), (-60.0, -45.0, 0.0), CANONICAL)
    x, y, z = np.moveaxis(geometry.to_patient(np.stack(np.indices(geometry.shape), axis=-1).astype(float)), -1, 0)
    labels = np.zeros(geometry.shape, dtype=np.uint8)
    for n, way in enumerate((1.5, 0.5, -0.5, 0.5, 1.5), start=1):  # an arc: it leans one way above, the other below
        middle = (34 * np.tan(np.radians(lean)) * way, 180 - 34 * n)
        labels[(np.hypot(x - middle[0], y) < 16) & (np.abs(z - middle[1]) < 11)] = n
    bodies = Segmentation(geometry, labels, tuple(list(L)[9:14]))
    flags = scoliosis(bodies, OPTIONS)
    assert [flag.withholds for flag in flags] == ([] if found is None else [found])


def test_an_outline_of_an_impossible_size_or_in_pieces_is_withheld(spine, series_with):
    whole = spine()
    grown = replace(OPTIONS, lumbar_cm3=(12.0, 20.0))
    assert flags_of(whole, series_with(), grown)[Reason.SEGMENTATION_IMPLAUSIBLE, L.L1] is True
    assert (Reason.SEGMENTATION_IMPLAUSIBLE, L.T12) not in flags_of(whole, series_with(), grown)
    labels = whole.bodies.labels.copy()
    labels[82:84][labels[82:84] == 2] = 0  # a gap through L1
    torn = Segmentation(whole.geometry, labels, whole.bodies.segments)
    found = quality_flags(series_with(), whole.volume, torn, whole.cores, (), OPTIONS)
    assert (Reason.SEGMENTATION_IMPLAUSIBLE, L.L1) in {(flag.reason, flag.finding_site) for flag in found}


def test_a_body_that_ends_a_slice_before_the_last_counts_as_cut(spine, series_with):
    whole = spine()
    box = whole.bodies.boxes[3]
    for spare, fires in ((1, True), (3, False)):
        first = box[0].start - spare
        geometry = Geometry((164 - first, 88, 66), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), CANONICAL)
        volume = Volume(geometry, whole.volume.hounsfield[first:], "1.2.2", ())
        bodies, cores = (
            Segmentation(geometry, part.labels[first:], part.segments) for part in (whole.bodies, whole.cores)
        )
        found = quality_flags(series_with(), volume, bodies, cores, (), OPTIONS)
        assert (Reason.FIELD_OF_VIEW in {flag.reason for flag in found}) is fires
