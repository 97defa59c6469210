"""A stack is one regular grid whatever the order of its slices, or it is refused for what is wrong with it."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import BadOption, SeriesError
from engine.loading.slices import Plane, SliceOptions, stack
from engine.options import read_options
from engine.records import Reason

OPTIONS = SliceOptions()
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def planes(heights=None, orientation=AXIAL, along=None) -> list[Plane]:
    """Planes at distances along their normal, or along another direction."""
    heights = np.arange(12) * 2.5 if heights is None else np.asarray(heights, dtype=float)
    way = np.cross(orientation[:3], orientation[3:]) if along is None else np.asarray(along, dtype=float)
    return [
        Plane(64, 48, (0.75, 0.5), orientation, tuple(np.array([-100.0, -120.0, 30.0]) + h * way), "1.2.3")
        for h in heights
    ]


def refusal(parts, options=OPTIONS) -> SeriesError:
    with pytest.raises(SeriesError) as caught:
        stack(parts, options)
    return caught.value


def test_the_grid_lies_where_the_slices_lie():
    geometry = stack(planes(), OPTIONS).geometry
    assert geometry.shape == (12, 64, 48)
    assert geometry.spacing_mm == pytest.approx((2.5, 0.75, 0.5))
    assert geometry.direction == ((0, 0, 1), (0, 1, 0), (1, 0, 0))
    assert geometry.to_patient(np.array([3.0, 10.0, 20.0])) == pytest.approx([-100 + 10, -120 + 7.5, 30 + 7.5])
    assert geometry.frame_of_reference_uid == "1.2.3"


@st.composite
def orientations(draw) -> tuple[float, ...]:
    """Any two perpendicular unit vectors."""
    q = np.array([draw(st.floats(-1, 1)) for _ in range(4)])
    q[3] += 1.5
    w, x, y, z = q / np.linalg.norm(q)
    row = (1 - 2 * (y * y + z * z), 2 * (x * y + z * w), 2 * (x * z - y * w))
    column = (2 * (x * y - z * w), 1 - 2 * (x * x + z * z), 2 * (y * z + x * w))
    return tuple(float(value) for value in row + column)


@given(orientation=orientations(), order=st.permutations(range(12)), printed=st.integers(3, 7))
def test_any_order_and_any_orientation_give_the_same_grid(orientation, order, printed):
    parts = [
        replace(
            part,
            image_position_patient=tuple(round(x, printed) for x in part.image_position_patient),
            image_orientation_patient=tuple(round(x, printed) for x in part.image_orientation_patient),
        )
        for part in planes(orientation=orientation)
    ]
    found = stack([parts[n] for n in order], OPTIONS)
    assert [order[place[0]] for place in found.places] == list(range(12))
    for k, part in enumerate(parts):  # rounded cosines point elsewhere by their rounding times the extent
        assert found.geometry.to_patient(np.array([k, 0.0, 0.0])) == pytest.approx(
            part.image_position_patient, abs=100 * 10.0**-printed
        )


def test_slices_from_head_to_feet_are_turned_along_the_normal():
    found = stack(planes(np.arange(12)[::-1] * 3.0), OPTIONS)
    assert [place[0] for place in found.places] == list(range(11, -1, -1))
    assert found.geometry.direction[0] == (0, 0, 1)


@given(gone=st.sets(st.integers(1, 28), min_size=1, max_size=8))
def test_missing_slices_are_never_bridged(gone):
    left = [k for k in range(30) if k not in gone]
    assert refusal(planes(np.array(left) * 1.25)).reason is Reason.SLICES_MISSING


def test_the_message_counts_missing_slices():
    assert "about 3 of 30" in refusal(planes([k * 2.0 for k in range(30) if k not in (5, 6, 20)])).message


def test_images_at_one_place_are_handed_on_together():
    found = stack(planes([*np.arange(12) * 2.5, 5.0, 5.01]), OPTIONS)
    assert found.geometry.shape[0] == 12
    assert found.places[2] == (2, 12, 13)


@pytest.mark.parametrize(
    ("heights", "reason"),
    [
        ([1.14 * k if k < 6 else 6.84 + 4.22 * (k - 6) for k in range(14)], Reason.SLICES_INCONSISTENT),
        ([*np.arange(12) * 2.0, 3.0], Reason.SLICES_INCONSISTENT),  # one between two others
        ([k * 1.0 + 0.02 * k * k / 12 for k in range(30)], Reason.SLICES_INCONSISTENT),  # steps that grow
        (np.arange(9) * 2.5, Reason.GRID_TOO_SMALL),
        ([0.0] * 40, Reason.GRID_TOO_SMALL),
        ([], Reason.GRID_TOO_SMALL),
    ],
)
def test_uneven_and_short_stacks_are_refused(heights, reason):
    assert refusal(planes(heights)).reason is reason


@pytest.mark.parametrize("printed", [1, 2, 3])
def test_positions_printed_short_are_still_even(printed):
    step = {1: 0.8, 2: 0.63, 3: 0.625}[printed]
    parts = planes([round(k * step, printed) for k in range(200)])
    assert stack(parts, OPTIONS).geometry.spacing_mm[0] == pytest.approx(step, rel=1e-3)


@pytest.mark.parametrize("angle", [1.0, 5.0, 18.5, -30.0])
def test_a_tilted_gantry_is_refused_with_its_angle(angle):
    tilt = np.radians(angle)
    orientation = (1.0, 0.0, 0.0, 0.0, float(np.cos(tilt)), float(np.sin(tilt)))
    found = refusal(planes(np.arange(40) * 3.0, orientation, along=(0, 0, 1)))
    assert found.reason is Reason.GRID_SHEARED
    assert f"{abs(angle):.1f} degrees" in found.message


def test_slices_that_are_oblique_but_stacked_along_their_normal_are_fine():
    tilt = np.radians(18.5)
    orientation = (1.0, 0.0, 0.0, 0.0, float(np.cos(tilt)), float(np.sin(tilt)))
    assert stack(planes(np.arange(40) * 3.0, orientation), OPTIONS).geometry.spacing_mm[0] == pytest.approx(3.0)


def changed(n: int, **values) -> list[Plane]:
    parts = planes()
    parts[n] = replace(parts[n], **values)
    return parts


CONTRADICTIONS = [
    {"image_position_patient": None},
    {"image_orientation_patient": None},
    {"image_orientation_patient": (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)},
    {"image_orientation_patient": (1.0, 0.0, 0.0, 0.0, -1.0, 0.0)},
    {"rows": 65},
    {"columns": 47},
    {"pixel_spacing": None},
    {"pixel_spacing": (0.75, 0.6)},
    {"frame_of_reference_uid": "1.2.4"},
    {"frame_of_reference_uid": None},
    {"image_position_patient": (-90.0, -120.0, 35.0)},  # its origin is elsewhere
]


@pytest.mark.parametrize("n", [0, 2, 11])
@pytest.mark.parametrize("change", CONTRADICTIONS)
def test_one_slice_that_contradicts_the_others_is_refused(n, change):
    assert refusal(changed(n, **change)).reason in (Reason.SLICES_INCONSISTENT, Reason.SLICES_MISSING)
    if n == 2:
        assert refusal(changed(n, **change)).reason is Reason.SLICES_INCONSISTENT


@pytest.mark.parametrize("spacing", [(0.0, 0.5), (0.5, -0.5), (float("nan"), 0.5), (1e9, 0.5), (1e-9, 0.5)])
def test_a_spacing_without_meaning_is_refused(spacing):
    assert refusal([replace(part, pixel_spacing=spacing) for part in planes()]).reason is Reason.SLICES_INCONSISTENT


@pytest.mark.parametrize(
    "orientation", [(0.0,) * 6, (1.0, 0.0, 0.0, 1.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.5, 0.5, 0.0), (2.0, 0, 0, 0, 2.0, 0)]
)
def test_an_orientation_that_is_no_plane_is_refused(orientation):
    assert refusal([replace(part, image_orientation_patient=orientation) for part in planes()]).reason is (
        Reason.SLICES_INCONSISTENT
    )


@pytest.mark.parametrize(
    "table", [{"min_slices": 1}, {"step_tolerance": 0.0}, {"gap_factor": 1.0}, {"position_tolerance_mm": -1.0}]
)
def test_options_without_meaning_are_refused(table):
    with pytest.raises(BadOption):
        read_options(SliceOptions, table)
