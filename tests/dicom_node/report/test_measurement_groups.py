"""What was measured stands in the report, nothing else does, and each number leads back to its voxels."""

from dataclasses import replace

import numpy as np
import pytest
from highdicom.sr import srread
from PIL import Image, ImageDraw
from pydicom import dcmread
from pydicom.sr.coding import Code
from scipy import ndimage

from dicom_node.report import codes
from dicom_node.report.measurement_groups import LEADING, outline, why_withheld
from engine.records import CLASSES, BoneFinding, CalibrationMethod, Evaluation, Quantity, Reason, VertebralLevel

from .reading import code_items, groups_of, numbers_of, slice_of, words_of


@pytest.mark.parametrize("case", ["series", "withheld", "without_cores", "thick", "turned"])
def test_every_number_is_read_back_and_none_is_invented(case, written, request):
    analysis = request.getfixturevalue(case)
    groups = groups_of(written(analysis)["sr"])
    assert set(groups) == {*analysis.result.levels, None}
    for level, group in groups.items():
        expected = {
            m.quantity: (pytest.approx(m.value, abs=0.005001), m.quantity.ucum, m.model)
            for m in analysis.result.measurements
            if m.finding_site == level
        }
        found = numbers_of(group, level)
        assert found == expected
        assert len(group.get_measurements()) == len(expected)


def test_the_class_stands_beside_its_density(series, written):
    groups = groups_of(written(series)["sr"])
    for level in (VertebralLevel.L1, VertebralLevel.L2, None):
        assert (codes.DENSITY_CLASS, codes.FINDINGS[BoneFinding.OSTEOPENIA]) in words_of(groups[level])
    assert codes.DENSITY_CLASS not in [name for name, _ in words_of(groups[VertebralLevel.T12])]


@pytest.mark.parametrize("finding", BoneFinding)
def test_each_class_has_its_word(finding, series, written):
    said = replace(series, result=replace(series.result, evaluations=(Evaluation(finding, None, "vbmd@1"),)))
    assert (codes.DENSITY_CLASS, codes.FINDINGS[finding]) in words_of(groups_of(written(said)["sr"])[None])


def test_the_levels_that_went_in_and_the_policy_are_named(series, written):
    path = written(series)["sr"]
    patient = groups_of(path)[None]
    assert [site.value for site in patient.finding_sites] == [
        codes.LEVELS[level] for level in series.result.aggregated_levels
    ]
    assert [item.TextValue for item in code_items(path, codes.POLICY)] == [series.result.policy]


def test_flags_are_said_where_they_belong(series, written):
    groups = groups_of(written(series)["sr"])
    assert words_of(groups[VertebralLevel.L2])[-1] == (codes.QUALITY_FINDING, codes.reason_code(Reason.DENSE_FOCUS))
    assert (codes.QUALITY_FINDING, codes.reason_code(Reason.NEAR_CUT)) in words_of(groups[None])
    assert words_of(groups[VertebralLevel.L3]) == [
        (codes.DENSITY_WITHHELD, codes.reason_code(Reason.DENSITY_IMPLAUSIBLE))
    ]
    assert words_of(groups[VertebralLevel.T12]) == []


def test_a_withheld_density_is_replaced_by_its_reason(withheld, written):
    groups = groups_of(written(withheld)["sr"])
    for group in groups.values():
        assert (codes.DENSITY_WITHHELD, codes.reason_code(Reason.CONTRAST)) in words_of(group)
    assert why_withheld(withheld.result, None) == (Reason.CONTRAST,)


def test_why_nothing_could_be_measured_is_said(without_cores, written):
    groups = groups_of(written(without_cores)["sr"])
    assert (codes.DENSITY_WITHHELD, codes.reason_code(Reason.NO_ELIGIBLE_LEVEL)) in words_of(groups[None])
    assert (codes.DENSITY_WITHHELD, codes.reason_code(Reason.CORE_TOO_SMALL)) in words_of(groups[VertebralLevel.L1])


@pytest.mark.parametrize("case", ["series", "thick", "turned"])
def test_a_group_points_at_its_segment(case, written, request):
    analysis = request.getfixturevalue(case)
    paths = written(analysis)
    segmentation = dcmread(paths["seg"])
    described = {item.SegmentNumber: item for item in segmentation.SegmentSequence}
    report = srread(paths["sr"])
    groups = report.content.get_volumetric_roi_measurement_groups()
    assert 2 * len(groups) == len(described) == 2 * len(analysis.result.levels), "cores, then bodies"
    for group in groups:
        (reference,) = group.referenced_segment[0].ReferencedSOPSequence
        segment = described[reference.ReferencedSegmentNumber]
        assert reference.ReferencedSOPInstanceUID == segmentation.SOPInstanceUID
        assert (group.tracking_uid, group.tracking_identifier) == (segment.TrackingUID, segment.TrackingID)
        type_code = segment.SegmentedPropertyTypeCodeSequence[0]
        assert group.finding_sites[0].value == Code(type_code.CodeValue, type_code.CodingSchemeDesignator, "")


@pytest.mark.parametrize("case", ["series", "turned", "multiframe"])
def test_a_viewer_can_draw_each_core_on_its_middle_slice(case, written, request):
    """The outline's polygon, filled, is the core's slice: to the pixel inside, to half a pixel at its edge."""
    analysis = request.getfixturevalue(case)
    groups = srread(written(analysis)["sr"]).content.get_planar_roi_measurement_groups()
    assert len(groups) == len(analysis.result.levels)
    for level, group in zip(analysis.result.levels, groups, strict=True):
        assert group.finding_sites[0].value == codes.LEVELS[level]
        region = group.roi
        (reference,) = region.ContentSequence[0].ReferencedSOPSequence
        k = slice_of(analysis, reference)
        mask = analysis.trabecular.labels[k] == analysis.trabecular.segments.index(level) + 1
        shown = Image.new("1", mask.shape[::-1])
        ImageDraw.Draw(shown).polygon([(x - 0.5, y - 0.5) for x, y in region.value], fill=1)
        filled = ndimage.binary_fill_holes(mask)
        assert (np.asarray(shown) & filled).sum() > 0.95 * filled.sum()
        assert not (np.asarray(shown) & ~ndimage.binary_dilation(filled, np.ones((3, 3)))).any()
        assert np.array_equal(region.value[0], region.value[-1])
        leading = [number.name for number in group.get_measurements()]
        expected = {m.quantity for m in analysis.result.measurements if m.finding_site == level}
        assert leading == [codes.QUANTITIES[q].concept for q in Quantity if q in LEADING and q in expected]


def test_an_outline_goes_around_single_pixels_and_along_borders():
    alone = np.zeros((4, 6), dtype=bool)
    alone[0, 5] = True
    line = outline(alone)
    assert np.array_equal(line[0], line[-1])
    assert (line.min(axis=0).tolist(), line.max(axis=0).tolist()) == ([5.0, 0.0], [6.0, 1.0])


def test_areal_density_and_bone_score_have_a_group_of_their_own(complete, written):
    path = written(complete)["sr"]
    (areal,) = [g for g in srread(path).content.get_image_measurement_groups() if g.finding_type == codes.AREAL_BONE]
    assert [site.value for site in areal.finding_sites] == [codes.LEVELS[x] for x in complete.result.areal_levels]
    said = {m.name: (m.value, m.unit.value) for m in areal.get_measurements()}
    assert said == {
        codes.QUANTITIES[Quantity.AREAL_BMD].concept: (0.913, "g/cm2"),
        codes.QUANTITIES[Quantity.TRABECULAR_BONE_SCORE].concept: (1.287, "1"),
    }
    assert words_of(areal) == [
        (codes.CLASSES[Quantity.TRABECULAR_BONE_SCORE], codes.FINDINGS[BoneFinding.IMPAIRED_MICROARCHITECTURE])
    ]
    assert "tbs@1" in [item.TextValue for item in code_items(path, codes.POLICY)]


def test_a_calibrated_density_names_its_line_and_material(complete, written):
    path = written(complete)["sr"]
    groups = srread(path).content.get_image_measurement_groups()
    (calibrated,) = [group for group in groups if group.finding_type == codes.CALIBRATED_BONE]
    assert [site.value for site in calibrated.finding_sites] == [codes.LEVELS[VertebralLevel.L1]]
    texts = [item.TextValue for item in code_items(path, codes.CALIBRATION)]
    assert texts == [
        "volumetric_bmd: network reference-vbmd@0.1.0; reference material HA; 1 x + 0 mg/cm3",
        "calibrated_bmd: site_table CT 2; reference material K2HPO4; 0.81 x + 3.5 mg/cm3; corrected for kvp-2026",
    ]
    level = groups_of(path)[VertebralLevel.L1]
    (number,) = [m for m in level.get_measurements() if m.name == codes.QUANTITIES[Quantity.CALIBRATED_BMD].concept]
    assert number.method == codes.CALIBRATION_METHODS[CalibrationMethod.SITE_TABLE]


def test_each_anchor_says_how_it_counts(complete, written):
    levels = complete.result.levels
    assert (levels[0], levels[-1]) == (VertebralLevel.T12, VertebralLevel.L3)
    texts = [item.TextValue for item in code_items(written(complete)["sr"], codes.NUMBERING)]
    assert texts == ["sacrum: T12 to L3", "last ribs: L1 to L4"]


def test_probabilities_name_their_class(complete, written):
    groups = groups_of(written(complete)["sr"])
    for level in (VertebralLevel.L1, None):
        said = {m.name: float(m.value) for m in groups[level].get_measurements()}
        assert [said[codes.PROBABILITIES[finding]] for finding in CLASSES] == [0.1, 0.7, 0.2]
