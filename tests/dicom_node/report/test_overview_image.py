"""The picture shows the bodies where they are, in true proportions, and says what the result says."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from dicom_node.report import overview_style
from dicom_node.report.overview_image import draw_overview
from dicom_node.report.overview_style import SIZE
from dicom_node.report.spine_cuts import FINE, Plane, cut_spine, frame_spine, trace_spine
from engine.records import QualityFlag, Quantity, Reason, VertebralLevel
from engine.volume import Geometry, Segmentation, Volume

HEIGHT, WIDTH = 812, 852


def cuts_of(analysis):
    curve = trace_spine(analysis.bodies)
    frame = frame_spine(curve, analysis.volume.geometry, HEIGHT, WIDTH)
    return frame, {plane: cut_spine(analysis, curve, frame, plane) for plane in Plane}


@pytest.fixture
def said(monkeypatch):
    """All words that are drawn."""
    words: list[str] = []
    say = overview_style.say

    def listen(draw, at, text, *rest, **more):
        words.append(text)
        say(draw, at, text, *rest, **more)

    monkeypatch.setattr(overview_style, "say", listen)
    return words


@pytest.mark.parametrize("case", ["series", "thick", "turned"])
def test_each_body_and_core_is_cut_at_its_centre(case, request):
    analysis = request.getfixturevalue(case)
    frame, cuts = cuts_of(analysis)
    for plane, cut in cuts.items():
        assert cut.hounsfield.shape == frame.shape(plane)
        assert {analysis.bodies.segments[number - 1] for number in cut.anchors} == set(analysis.result.levels)
        for number, (row, column) in cut.anchors.items():
            assert cut.bodies[row * FINE, column * FINE] == number
            assert cut.cores[row * FINE, column * FINE] == number
        heights = [cut.anchors[analysis.bodies.segments.index(level) + 1][0] for level in analysis.result.levels]
        assert heights == sorted(heights)  # the head is above, however the slices lay


@pytest.mark.parametrize("spacing", [(1.0, 0.7, 0.7), (5.0, 0.9, 0.9), (2.5, 0.5, 1.5)])
def test_proportions_are_true_in_millimetres(series, spacing):
    """A block of 30 mm (x), 24 mm (y), 40 mm (z) measures the same in both cuts, whatever the voxels."""
    shape = tuple(round(160 / step) for step in spacing)
    geometry = Geometry(shape, spacing, (0.0, 0.0, 0.0), series.volume.geometry.direction)
    points = geometry.to_patient(np.moveaxis(np.indices(shape), 0, -1).astype(float))
    inside = (np.abs(points - 80.0) <= np.array([15.0, 12.0, 20.0])).all(axis=-1)
    block = Segmentation(geometry, inside.astype(np.uint8), (VertebralLevel.L1,))
    volume = Volume(geometry, np.where(inside, 300, 0).astype(np.int16), "1.2", ())
    frame, cuts = cuts_of(replace(series, volume=volume, bodies=block, trabecular=block))
    for plane, wide in ((Plane.SAGITTAL, 24.0), (Plane.CORONAL, 30.0)):
        rows, columns = (np.flatnonzero(cuts[plane].bodies.any(axis=axis)) for axis in (1, 0))
        step = frame.mm_per_pixel / FINE
        assert len(rows) * step == pytest.approx(40.0, abs=1.1 * spacing[0])
        assert len(columns) * step == pytest.approx(wide, abs=1.1 * max(spacing[1:]))
        grey = cuts[plane].hounsfield > 150
        assert grey.any(axis=1).sum() * frame.mm_per_pixel == pytest.approx(40.0, abs=1.1 * spacing[0])
        assert grey.any(axis=0).sum() * frame.mm_per_pixel == pytest.approx(wide, abs=1.1 * max(spacing[1:]))


def test_front_is_left_and_the_patients_right_is_left(series):
    """A bright rod in front of the spine and to its right lies on the left of both cuts."""
    hounsfield = np.full(series.volume.geometry.shape, -1000, dtype=np.int16)
    curve = trace_spine(series.bodies)
    centre = curve.centres.mean(axis=0)
    points = series.volume.geometry.to_patient(np.moveaxis(np.indices(hounsfield.shape), 0, -1).astype(float))
    for axis in (0, 1):  # x falls towards the patient's right, y towards the front
        hounsfield[np.abs(points[..., axis] - (centre[axis] - 35.0)) < 4.0] = 1000
    _, cuts = cuts_of(replace(series, volume=replace(series.volume, hounsfield=hounsfield)))
    for plane, cut in cuts.items():
        bright = (cut.hounsfield > 0).mean(axis=0) > 0.9
        (columns,) = np.nonzero(bright)
        middle = np.mean([column for _, column in cut.anchors.values()])
        assert len(columns), plane
        assert columns.max() < middle


def test_both_cuts_have_one_scale_and_fit(series, thick):
    for analysis in (series, thick):
        _, cuts = cuts_of(analysis)
        shapes = [cut.hounsfield.shape for cut in cuts.values()]
        assert len({rows for rows, _ in shapes}) == 1
        assert shapes[0][0] <= HEIGHT
        assert sum(columns for _, columns in shapes) <= WIDTH


def test_it_says_every_number_of_the_result(series, said):
    picture = draw_overview(series)
    assert (picture.size, picture.mode) == (SIZE, "RGB")
    result = series.result
    for level in result.levels:
        assert f"{level.value}*" in said if level in result.aggregated_levels else level.value in said
    assert f"{result.value(Quantity.VOLUMETRIC_BMD, None):.1f} mg/cm3" in said
    for level in result.aggregated_levels:
        assert f"{result.value(Quantity.VOLUMETRIC_BMD, level):.1f}" in said
    for level in result.levels:
        assert f"{result.value(Quantity.ATTENUATION_MEAN, level):.0f}" in said
    assert "OSTEOPENIA" in said
    assert said.count("Osteopenia") == len(result.aggregated_levels)
    assert "Mean trabecular density* of L1, L2" in said
    assert "Dense focus in the core" in said
    assert "Whole series: Near a class boundary" in said
    assert any(word.startswith("NOT FOR DIAGNOSIS") for word in said)


def test_it_says_what_the_other_networks_and_calibrations_gave(complete, said):
    draw_overview(complete)
    assert "aBMD 0.913 g/cm2, bone score 1.29 (impaired): mean of L1, L2, L3" in said
    assert "By calibrated HU 88.0 mg/cm3, mean of L1" in said
    assert {"by HU", "aBMD", "TBS"} <= set(said)
    assert (said.count("88.0"), said.count("0.913"), said.count("1.29")) == (1, 3, 3)
    assert "Policy vbmd@1, tbs@1" in said


def test_a_withheld_density_is_said_with_its_reason(withheld, said):
    draw_overview(withheld)
    assert "No density given" in said
    assert "Because: Contrast agent. HU below include the agent." in said
    assert said.count("withheld") == len(withheld.result.levels)
    assert not any("mg/cm3" in word and word != "vBMD mg/cm3" for word in said)
    mean = withheld.result.value(Quantity.ATTENUATION_MEAN, withheld.result.levels[0])
    assert f"{mean:.0f}" in said


def test_both_counts_of_a_transitional_spine_are_said(complete, said):
    flag = QualityFlag(Reason.TRANSITIONAL, None, False)
    draw_overview(replace(complete, result=replace(complete.result, quality_flags=(flag,))))
    assert "Whole series: Transitional vertebra (lowest: L3 by the sacrum, L4 by the last ribs)" in said


def test_released_models_carry_no_banner(series, said):
    released = tuple(replace(model, reference_only=False) for model in series.result.models)
    draw_overview(replace(series, result=replace(series.result, models=released)))
    assert not any("DIAGNOSIS" in word for word in said)


def test_bodies_cores_and_withheld_cores_differ_without_colour(series, withheld):
    """The same picture in grey: a withheld core's line has gaps."""
    grey = [np.asarray(draw_overview(one).convert("L"), dtype=int) for one in (series, withheld)]
    panels = [one[112:924, 24:880] for one in grey]
    assert (panels[0] != panels[1]).any()
    assert abs(panels[0] - panels[1]).max() > 60


@pytest.mark.parametrize("count", [1, 19])
def test_any_number_of_levels_and_notes_fits(count, series, said):
    levels = tuple(VertebralLevel)[:count]
    flags = tuple(QualityFlag(reason, level, False) for level in levels for reason in Reason)
    crowded = replace(series.result, levels=levels, quality_flags=flags)
    assert draw_overview(replace(series, result=crowded)).size == SIZE
    assert any(word.endswith("...") for word in said)


def test_nothing_named_gives_a_picture_all_the_same(without_cores, said):
    nothing = replace(without_cores.bodies, segments=(None,) * len(without_cores.bodies.segments))
    result = replace(without_cores.result, levels=(), quality_flags=())
    picture = draw_overview(replace(without_cores, bodies=nothing, result=result))
    assert isinstance(picture, Image.Image)
    assert "Because: Too few usable levels" in said
    assert said.count("?") == 2 * len(nothing.segments)  # each body is shown in both cuts


def test_odd_words_in_a_header_are_drawn_in_what_the_font_has(series, said):
    odd = replace(series.series, convolution_kernel=("Br40ü骨",), kvp=None)
    draw_overview(replace(series, series=odd))
    assert any("kernel Br40??" in word for word in said)
    assert all(word.isascii() for word in said)
