"""One series a study is chosen, whatever the order; each of the others says why it was not."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import BadOption
from engine.options import read_options
from engine.records import InstanceRef, Program, Reason, SeriesRef
from engine.selection import (
    CT_IMAGE,
    LOSSY_TRANSFER_SYNTAXES,
    READABLE_TRANSFER_SYNTAXES,
    Kernel,
    SelectionOptions,
    kernel_class,
    obliquity_degrees,
    select,
)

OPTIONS = SelectionOptions()


def series(uid: str = "1.2.1", count: int = 301, sop_class_uid: str = CT_IMAGE, **values) -> SeriesRef:
    """A native soft-tissue CT of the abdomen, as good as any."""
    known = {
        "study_instance_uid": "1.2.0",
        "series_instance_uid": uid,
        "patient_key": "00" * 16,
        "modality": "CT",
        "image_type": ("ORIGINAL", "PRIMARY", "AXIAL"),
        "manufacturer": "SIEMENS",
        "convolution_kernel": ("Br40f", "3"),
        "slice_thickness": 1.0,
        "kvp": 120.0,
        "contrast_bolus_agent": False,
        "lossy_image_compression": False,
        "has_rescale": True,
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "image_orientation_patient": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        "extent_mm": 300.0,
        "instances": tuple(InstanceRef(f"{uid}.{n + 1}", sop_class_uid, "") for n in range(count)),
    }
    return SeriesRef(**(dict.fromkeys(SeriesRef.__slots__) | known | values))


def reason_of(candidate: SeriesRef, options: SelectionOptions = OPTIONS) -> Reason | None:
    (selection,) = select([candidate], Program.VERTEBRAL, options)
    assert selection.series_instance_uid == candidate.series_instance_uid
    assert bool(selection.detail) is (selection.reason is not None)
    return selection.reason


SET_ASIDE = [
    ({"modality": "MR"}, Reason.NOT_CT),
    ({"modality": ""}, Reason.NOT_CT),
    ({"modality": "SR"}, Reason.NOT_CT),
    ({"sop_class_uid": "1.2.840.10008.5.1.4.1.1.128"}, Reason.NOT_CT),  # PET with modality CT
    ({"sop_class_uid": "1.2.840.10008.5.1.4.1.1.13.1.3"}, Reason.NOT_CT),  # breast tomosynthesis
    ({"sop_class_uid": "1.2.840.10008.5.1.4.1.1.7"}, Reason.NOT_PRIMARY),  # screen save, dose page
    ({"sop_class_uid": "1.2.840.10008.5.1.4.1.1.7.4"}, Reason.NOT_PRIMARY),
    ({"image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER")}, Reason.LOCALIZER),
    ({"image_type": ("ORIGINAL", "PRIMARY", "REF_SURVIEW")}, Reason.LOCALIZER),
    ({"image_type": ("ORIGINAL", "SECONDARY", "AXIAL")}, Reason.NOT_PRIMARY),
    ({"image_type": ("DERIVED", "SECONDARY", "DOSE_INFO")}, Reason.NOT_PRIMARY),
    ({"image_type": ("DERIVED", "PRIMARY", "AXIAL")}, Reason.NOT_PRIMARY),
    ({"image_type": ("DERIVED", "SECONDARY", "REFORMATTED", "MIP")}, Reason.NOT_PRIMARY),
    ({"image_type": ("ORIGINAL", "PRIMARY", "AXIAL", "VNC")}, Reason.NOT_PRIMARY),
    ({"lossy_image_compression": True}, Reason.LOSSY_COMPRESSION),
    ({"transfer_syntax_uid": "1.2.840.10008.1.2.4.50"}, Reason.LOSSY_COMPRESSION),
    ({"transfer_syntax_uid": "1.2.840.10008.1.2.4.110"}, Reason.TRANSFER_SYNTAX_UNSUPPORTED),
    ({"transfer_syntax_uid": "1.2.840.113619.5.2"}, Reason.TRANSFER_SYNTAX_UNSUPPORTED),
    ({"has_rescale": False}, Reason.RESCALE_MISSING),
    ({"gantry_detector_tilt": 18.5}, Reason.GANTRY_TILT),
    ({"gantry_detector_tilt": -1.5}, Reason.GANTRY_TILT),
    ({"image_orientation_patient": (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)}, Reason.NOT_AXIAL),  # sagittal
    ({"image_orientation_patient": (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)}, Reason.NOT_AXIAL),  # coronal
    ({"image_orientation_patient": (1.0, 0.0, 0.0, 0.0, 0.9703, 0.2419)}, Reason.NOT_AXIAL),  # 14 degrees
    ({"slice_thickness": 5.0}, Reason.SLICES_TOO_THICK),
    ({"slice_thickness": 3.75}, Reason.SLICES_TOO_THICK),
    ({"slice_thickness": 1.0, "extent_mm": 290.0, "count": 30}, Reason.SLICES_TOO_THICK),  # 1 mm every 10 mm
    ({"slice_thickness": None, "extent_mm": 300.0, "count": 61}, Reason.SLICES_TOO_THICK),
    ({"count": 9, "extent_mm": 8.0}, Reason.TOO_FEW_SLICES),
    ({"count": 40, "extent_mm": 39.0}, Reason.TOO_FEW_SLICES),
    ({"body_part_examined": "HEAD"}, Reason.BODY_PART),
    ({"body_part_examined": "NECK"}, Reason.BODY_PART),
    ({"body_part_examined": "KNEE"}, Reason.BODY_PART),
]


@pytest.mark.parametrize(("values", "reason"), SET_ASIDE)
def test_a_rule_sets_a_series_aside_by_name(values, reason):
    assert reason_of(series(**values)) is reason


ALLOWED = [
    {},
    {"sop_class_uid": "1.2.840.10008.5.1.4.1.1.2.1", "count": 1, "number_of_frames": 300},  # enhanced
    {"sop_class_uid": "1.2.840.10008.5.1.4.1.1.2.2", "count": 3, "number_of_frames": 300},  # legacy converted
    {"image_type": ()},
    {"image_type": ("ORIGINAL", "PRIMARY", "", "CT_SOM5 SPI")},
    {"image_type": ("ORIGINAL", "PRIMARY")},
    {"gantry_detector_tilt": None},
    {"gantry_detector_tilt": -0.5},
    {"image_orientation_patient": None},
    {"image_orientation_patient": (0.0,) * 6},  # loading refuses it with a better reason
    {"image_orientation_patient": (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0)},  # feet first
    {"image_orientation_patient": (0.9, 0.43589, 0.0, -0.43589, 0.9, 0.0)},  # turned in its plane
    {"slice_thickness": 3.0},
    {"slice_thickness": 3.00001},
    {"slice_thickness": 2.0, "extent_mm": 240.0, "count": 70},  # slices still to come
    {"slice_thickness": None, "extent_mm": None},
    {"extent_mm": None, "count": 12},
    {"count": 64, "extent_mm": 63.0},
    {"count": 45, "extent_mm": 132.0, "slice_thickness": 3.0},
    {"body_part_examined": "ABDOMEN"},
    {"body_part_examined": None},
    {"body_part_examined": "SPINE"},
    {"kvp": 80.0},
    {"kvp": None},
    {"contrast_bolus_agent": True},
    {"convolution_kernel": ()},
    {"convolution_kernel": ("Bl64",)},
    {"manufacturer": None},
    *({"transfer_syntax_uid": uid} for uid in sorted(READABLE_TRANSFER_SYNTAXES)),
]


@pytest.mark.parametrize("values", ALLOWED)
def test_what_is_unknown_or_harmless_is_not_held_against_a_series(values):
    assert reason_of(series(**values)) is None


PREFERRED = [
    # better, worse, the preference that decides
    ({"slice_thickness": 3.0, "kvp": 100.0}, {"contrast_bolus_agent": True}, "contrast"),
    ({"convolution_kernel": ("Br64",)}, {"kvp": 80.0}, "kvp"),
    ({"kvp": 120.5, "convolution_kernel": ("Br64",)}, {"kvp": None}, "kvp"),
    ({"slice_thickness": 3.0}, {"convolution_kernel": ("Bl57", "3")}, "kernel"),
    ({"slice_thickness": 3.0}, {"convolution_kernel": ("something new",)}, "kernel"),
    ({"convolution_kernel": ()}, {"convolution_kernel": ("Bl57",)}, "kernel"),
    ({"slice_thickness": 1.5, "extent_mm": 160.0}, {"slice_thickness": 2.0, "extent_mm": 400.0}, "thickness"),
    ({"slice_thickness": 0.5}, {"slice_thickness": 0.45, "count": 901}, "thickness"),
    ({"extent_mm": 400.0, "slice_thickness": 1.25}, {"extent_mm": 200.0}, "extent"),
    ({"slice_thickness": 0.75, "count": 401}, {"slice_thickness": 1.25}, "finer thickness"),
    ({"extent_mm": 310.0}, {"extent_mm": 305.0}, "extent in mm"),
    ({"acquisition_date": "20200102"}, {"acquisition_date": "20200101"}, "date"),
    ({}, {}, "order of UIDs"),
]


@pytest.mark.parametrize(("better", "worse", "rule"), PREFERRED)
def test_the_first_preference_that_differs_decides_and_is_named(better, worse, rule):
    chosen, other = series("1.2.1", **better), series("1.2.2", **worse)
    first, second = select([chosen, other], Program.VERTEBRAL, OPTIONS)
    assert first.reason is None
    assert second.reason is Reason.BETTER_SERIES
    assert second.detail == f"{rule}: 1.2.1 is preferred"
    assert first.score >= second.score
    assert select([other, chosen], Program.VERTEBRAL, OPTIONS) == (second, first)
    if rule != "order of UIDs":  # and not by its UID
        swapped = select([replace(chosen, series_instance_uid="1.2.9"), other], Program.VERTEBRAL, OPTIONS)
        assert [selection.reason for selection in swapped] == [None, Reason.BETTER_SERIES]


candidates = st.builds(
    series,
    uid=st.integers(1, 40).map(lambda n: f"1.2.{n}"),
    count=st.sampled_from([8, 30, 301]),
    study_instance_uid=st.sampled_from(["1.2.100", "1.2.101"]),
    modality=st.sampled_from(["CT", "CT", "CT", "MR"]),
    contrast_bolus_agent=st.booleans(),
    kvp=st.sampled_from([None, 80.0, 120.0]),
    convolution_kernel=st.sampled_from([(), ("Br40",), ("Br64",), ("FC08",)]),
    slice_thickness=st.sampled_from([None, 0.4, 1.0, 2.5, 5.0]),
    extent_mm=st.sampled_from([None, 60.0, 200.0, 420.0]),
    acquisition_date=st.sampled_from([None, "20200101", "20210101"]),
)
archives = st.lists(candidates, max_size=9, unique_by=lambda candidate: candidate.series_instance_uid)


@given(archives, st.randoms(use_true_random=False))
def test_at_most_one_series_a_study_whatever_the_order(archive, chance):
    selections = select(archive, Program.VERTEBRAL, OPTIONS)
    assert [part.series_instance_uid for part in selections] == [part.series_instance_uid for part in archive]
    chosen = [s for s, part in zip(archive, selections, strict=True) if part.reason is None]
    beaten = [s for s, part in zip(archive, selections, strict=True) if part.reason is Reason.BETTER_SERIES]
    assert all(count == 1 for count in Counter(part.study_instance_uid for part in chosen).values())
    assert {part.study_instance_uid for part in beaten} <= {part.study_instance_uid for part in chosen}
    shuffled = list(archive)
    chance.shuffle(shuffled)
    again = select(shuffled, Program.VERTEBRAL, OPTIONS)
    assert sorted(again, key=repr) == sorted(selections, key=repr)


@given(archives)
def test_the_chosen_series_scores_highest_and_a_rule_never_depends_on_the_others(archive):
    selections = select(archive, Program.VERTEBRAL, OPTIONS)
    for candidate, selection in zip(archive, selections, strict=True):
        (alone,) = select([candidate], Program.VERTEBRAL, OPTIONS)
        if selection.reason is Reason.BETTER_SERIES:
            assert alone.reason is None
            rivals = [
                other.score
                for other, part in zip(selections, archive, strict=True)
                if other.reason is None and part.study_instance_uid == candidate.study_instance_uid
            ]
            assert selection.score <= rivals[0]
        else:
            assert alone == selection


def test_details_hold_no_words_of_a_header():
    free = "ZZMARK"
    parts = [
        series("1.2.1", manufacturer=free, convolution_kernel=(free,), manufacturer_model_name=free),
        series("1.2.2", image_type=(free, free, "LOCALIZER")),
        series("1.2.3", body_part_examined=free, slice_thickness=9.0),
        series("1.2.4", modality=free),
    ]
    assert free not in repr(select(parts, Program.VERTEBRAL, OPTIONS))


def test_policies_can_be_changed():
    assert reason_of(series(slice_thickness=5.0), SelectionOptions(max_slice_thickness_mm=5.0)) is None
    derived = series(image_type=("DERIVED", "PRIMARY", "AXIAL"))
    assert reason_of(derived, SelectionOptions(allow_derived=True)) is None
    assert reason_of(series(body_part_examined="HEAD"), SelectionOptions(excluded_body_parts=())) is None
    for table in ({"max_slice_thickness_mm": 0.0}, {"max_obliquity_degrees": 60.0}, {"max_thickness": 3.0}):
        with pytest.raises(BadOption):
            read_options(SelectionOptions, table)


KERNELS = [
    ("SIEMENS", ("Br38f", "3"), Kernel.SOFT),
    ("Siemens Healthineers", ("Br40d",), Kernel.SOFT),
    ("SIEMENS", ("B30f",), Kernel.SOFT),
    ("SIEMENS", ("I31f", "3"), Kernel.SOFT),
    ("SIEMENS", ("Bv49",), Kernel.MEDIUM),
    ("SIEMENS", ("B70f",), Kernel.SHARP),
    ("SIEMENS", ("Bl57",), Kernel.SHARP),
    ("SIEMENS", ("STANDARD",), None),
    ("GE MEDICAL SYSTEMS", ("STANDARD",), Kernel.SOFT),
    ("GE MEDICAL SYSTEMS", ("BONEPLUS",), Kernel.SHARP),
    ("GE MEDICAL SYSTEMS", ("lung",), Kernel.SHARP),
    ("GEMINI", ("LUNG",), None),
    ("TOSHIBA", ("FC03",), Kernel.SOFT),
    ("CANON_MEC", ("FC18",), Kernel.SOFT),
    ("TOSHIBA", ("FC30",), Kernel.MEDIUM),
    ("TOSHIBA", ("FC51",), Kernel.SHARP),
    ("TOSHIBA", ("FC81",), Kernel.SHARP),
    ("Philips", ("B",), Kernel.SOFT),
    ("Philips", ("C",), Kernel.SOFT),
    ("Philips", ("YB",), Kernel.SHARP),
    ("UIH", ("B_SOFT_B",), Kernel.SOFT),
    (None, ("FC03",), Kernel.SOFT),
    ("somebody", ("FC03",), None),
    ("SIEMENS", (), None),
]


@pytest.mark.parametrize(("manufacturer", "kernel", "expected"), KERNELS)
def test_kernels_are_classed_by_vendor(manufacturer, kernel, expected):
    assert kernel_class(series(manufacturer=manufacturer, convolution_kernel=kernel)) is expected


def test_obliquity_does_not_depend_on_sense_or_length():
    assert obliquity_degrees((1, 0, 0, 0, 1, 0)) == obliquity_degrees((-1, 0, 0, 0, 1, 0)) == 0
    assert obliquity_degrees((0, 1, 0, 0, 0, -1)) == pytest.approx(90)
    assert obliquity_degrees((2, 0, 0, 0, 2, 0)) == 0
    assert obliquity_degrees((0,) * 6) is None


def test_lossy_and_readable_transfer_syntaxes_are_apart():
    assert not LOSSY_TRANSFER_SYNTAXES & READABLE_TRANSFER_SYNTAXES


def test_thin_slices_far_apart_are_told_from_thick_ones():
    """As of a series of which most did not come: that is something else for whoever has to send it again."""
    told = {
        thickness: select([series(count=25, slice_thickness=thickness)], Program.VERTEBRAL, OPTIONS)[0].detail
        for thickness in (3.0, 8.0)
    }
    assert told[8.0] == "8.00 mm, at most 3"
    assert told[3.0] == "12.50 mm from slice to slice, at most 3; each is 3 mm: samples, or most did not come"
