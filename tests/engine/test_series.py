"""Instances become the same series in whatever order they come."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from engine.records import InstanceHeader
from engine.series import series_of


def header(**values) -> InstanceHeader:
    known = {
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2",
        "sop_instance_uid": "1.2.1",
        "study_instance_uid": "1.2.2",
        "series_instance_uid": "1.2.3",
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "patient_key": "00" * 16,
        "modality": "CT",
        "image_type": ("ORIGINAL", "PRIMARY", "AXIAL"),
        "convolution_kernel": (),
        "contrast_bolus_agent": False,
        "lossy_image_compression": False,
        "has_rescale": True,
        "number_of_frames": 1,
        "rows": 4,
        "columns": 4,
        "image_orientation_patient": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
    }
    return InstanceHeader(**(dict.fromkeys(InstanceHeader.__slots__) | known | values))


def slices(count: int, **values) -> list[tuple[InstanceHeader, str]]:
    return [
        (header(sop_instance_uid=f"1.2.1.{n}", image_position_patient=(0.0, 0.0, 3.0 * n), **values), f"{n}")
        for n in range(1, count + 1)
    ]


@given(st.permutations(slices(6) + slices(3, series_instance_uid="1.2.4", study_instance_uid="1.2.1")))
def test_the_order_of_arrival_changes_nothing(instances):
    first, second = series_of(instances)
    assert (first.series_instance_uid, second.series_instance_uid) == ("1.2.4", "1.2.3")
    assert [part.path for part in second.instances] == ["1", "2", "3", "4", "5", "6"]
    assert second.extent_mm == 15.0
    assert (first, second) == series_of(sorted(instances, key=lambda item: item[1]))


def test_nothing_makes_no_series():
    assert series_of([]) == ()


def test_a_localizer_among_slices_does_not_speak_for_them():
    scout = header(
        sop_instance_uid="1.2.0",
        image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"),
        image_orientation_patient=(0.0, 1.0, 0.0, 0.0, 0.0, -1.0),
        image_position_patient=(0.0, 0.0, 900.0),
    )
    (series,) = series_of([(scout, "scout"), *slices(4, kvp=120.0)])
    assert series.image_type == ("ORIGINAL", "PRIMARY", "AXIAL")
    assert series.kvp == 120.0
    assert series.extent_mm == 9.0
    assert len(series.instances) == 5


def test_the_worst_of_its_slices_speaks_for_a_series():
    few, many = slices(1, slice_thickness=5.0, gantry_detector_tilt=-20.0), slices(5, slice_thickness=1.0)[1:]
    few[0] = (replace(few[0][0], contrast_bolus_agent=True, lossy_image_compression=True, has_rescale=False), "1")
    (series,) = series_of(few + many)
    assert (series.slice_thickness, series.gantry_detector_tilt) == (5.0, -20.0)
    assert (series.contrast_bolus_agent, series.lossy_image_compression, series.has_rescale) == (True, True, False)


def test_slices_at_different_voltages_have_none():
    (series,) = series_of(slices(4, kvp=120.0)[:2] + slices(4, kvp=80.0)[2:])
    assert series.kvp is None


def test_without_positions_the_extent_is_unknown_and_numbers_order():
    parts = [(header(sop_instance_uid=f"1.2.{9 - n}", instance_number=n), str(n)) for n in (3, 1, 2)]
    (series,) = series_of(parts)
    assert series.extent_mm is None
    assert [part.path for part in series.instances] == ["1", "2", "3"]


def test_the_same_instance_twice_is_kept_for_loading_to_judge():
    (series,) = series_of([*slices(3), (slices(1)[0][0], "copy")])
    assert [part.path for part in series.instances] == ["1", "copy", "2", "3"]
