"""What is no regular volume of HU is refused by name; damaged files end in a reason."""

import random
import shutil
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import SeriesError
from engine.loading.load import load
from engine.records import InstanceRef, Reason, SeriesRef

from .refused import OPTIONS, refusal


def change_all(**values):
    def change(dataset, k):
        for keyword, value in values.items():
            setattr(dataset, keyword, value)

    return change


def change_one(**values):
    def change(dataset, k):
        if k == 5:
            change_all(**values)(dataset, k)

    return change


def drop(*keywords):
    def change(dataset, k):
        for keyword in keywords:
            delattr(dataset, keyword)

    return change


def tilted(dataset, k):
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 0.9483, 0.3173]


def flat(dataset, k):
    dataset.PixelData = b"\0\4" * 90


REFUSED = {
    "no rescale": (drop("RescaleSlope", "RescaleIntercept"), Reason.RESCALE_MISSING),
    "slope zero": (change_all(RescaleSlope=0), Reason.RESCALE_MISSING),
    "not in HU": (change_all(RescaleType="MGML"), Reason.RESCALE_MISSING),
    "no position": (drop("ImagePositionPatient"), Reason.SLICES_INCONSISTENT),
    "no orientation": (drop("ImageOrientationPatient"), Reason.SLICES_INCONSISTENT),
    "no spacing": (drop("PixelSpacing"), Reason.SLICES_INCONSISTENT),
    "spacing zero": (change_all(PixelSpacing=[0, 0]), Reason.SLICES_INCONSISTENT),
    "all in one place": (change_all(ImagePositionPatient=[0, 0, 0]), Reason.GRID_TOO_SMALL),
    "one elsewhere": (change_one(ImagePositionPatient=[-50, -60, 110.9]), Reason.SLICES_INCONSISTENT),
    "one with other rows": (change_one(Rows=9, Columns=10), Reason.SLICES_INCONSISTENT),
    "one turned": (change_one(ImageOrientationPatient=[0, 1, 0, -1, 0, 0]), Reason.SLICES_INCONSISTENT),
    "one in another frame": (change_one(FrameOfReferenceUID="1.2.9"), Reason.SLICES_INCONSISTENT),
    "one of another patient": (change_one(PatientID="P-2"), Reason.SLICES_INCONSISTENT),
    "one of another issuer": (change_one(IssuerOfPatientID="X"), Reason.SLICES_INCONSISTENT),
    "tilted gantry": (tilted, Reason.GRID_SHEARED),
    "only localizers": (change_all(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), Reason.LOCALIZER),
    "only captures": (change_all(SOPClassUID="1.2.840.10008.5.1.4.1.1.7"), Reason.NOT_CT),
    "enhanced": (change_all(SOPClassUID="1.2.840.10008.5.1.4.1.1.2.1"), Reason.MULTIFRAME_UNSUPPORTED),
    "two frames": (change_all(NumberOfFrames=2), Reason.MULTIFRAME_UNSUPPORTED),
    "two thousand million frames": (change_all(NumberOfFrames=2_000_000_000), Reason.MULTIFRAME_UNSUPPORTED),
    "colour": (change_all(SamplesPerPixel=3, PhotometricInterpretation="RGB"), Reason.NOT_PRIMARY),
    "lossy": (change_one(LossyImageCompression="01"), Reason.LOSSY_COMPRESSION),
    "huge": (change_all(Rows=65535, Columns=65535), Reason.IMAGE_TOO_LARGE),
    "large with few pixels": (change_all(Rows=4096, Columns=4096), Reason.PIXELS_UNREADABLE),
    "flat": (flat, Reason.PIXELS_IMPLAUSIBLE),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_volume_is_refused_by_name(ct, kind):
    change, reason = REFUSED[kind]
    paths = ct.write(12, change)
    instances = [InstanceRef(*_uids(path), str(path)) for path in paths]
    series = replace(_any_series(), instances=tuple(instances))
    assert refusal(series).reason is reason


def _uids(path: Path) -> tuple[str, str]:
    dataset = pydicom.dcmread(path, stop_before_pixels=True)
    return str(dataset.SOPInstanceUID), str(dataset.SOPClassUID)


def _any_series() -> SeriesRef:
    known = {
        "study_instance_uid": "1.2.826.0.1.3680043.8.498.1000.1",
        "series_instance_uid": "1.2.826.0.1.3680043.8.498.1000.2",
    }
    return SeriesRef(**(dict.fromkeys(SeriesRef.__slots__) | known))


def test_missing_slices_are_refused(ct):
    ct.write(20)[7].unlink()
    assert refusal(ct.series()).reason is Reason.SLICES_MISSING


def test_too_few_slices_are_refused(ct):
    ct.write(9)
    assert refusal(ct.series()).reason is Reason.GRID_TOO_SMALL
    assert refusal(replace(ct.series(), instances=())).reason is Reason.NOT_CT


def test_files_that_vanish_are_named_as_missing(ct):
    paths = ct.write(12)
    series = ct.series()
    paths[6].unlink()
    assert refusal(series).reason is Reason.FILE_MISSING


def test_a_file_that_holds_another_instance_is_refused(ct):
    paths = ct.write(12)
    series = ct.series()
    shutil.copy(paths[3], paths[4])
    assert refusal(series).reason is Reason.SLICES_INCONSISTENT


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_a_file_cut_anywhere_ends_in_a_reason(ct, data):
    paths = ct.write(10)
    series = ct.series()
    whole = paths[4].read_bytes()
    paths[4].write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    assert refusal(series).reason in (Reason.HEADER_UNREADABLE, Reason.PIXELS_UNREADABLE, Reason.SLICES_INCONSISTENT)


@given(seed=st.integers(0, 10**6))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_damaged_headers_end_in_a_volume_or_a_reason(ct, seed):
    chance = random.Random(seed)
    paths = ct.write(10)
    series = ct.series()
    damaged = bytearray(paths[4].read_bytes())
    for _ in range(4):
        damaged[chance.randrange(132, len(damaged) - 180)] = chance.randrange(256)
    paths[4].write_bytes(bytes(damaged))
    try:
        volume = load(series, OPTIONS)
    except SeriesError as bad:
        found: Reason | tuple[int, ...] = bad.reason
    else:
        found = volume.geometry.shape
    assert isinstance(found, Reason) or found == (10, 10, 9)


def test_one_flat_slice_is_refused(ct):
    def flat(dataset, k):
        if k == 7:
            dataset.PixelData = b"\0" * len(dataset.PixelData)

    ct.write(12, flat)
    assert refusal(ct.series()).reason is Reason.PIXELS_IMPLAUSIBLE
