"""A folder becomes the volume that its headers describe, or a typed reason within bounded memory."""

import random
import shutil
from dataclasses import replace

import imagecodecs
import numpy as np
import pydicom
import pytest

from engine.loading.headers import read_header
from engine.loading.load import LoadingOptions, load
from engine.records import Reason
from engine.selection import DEFLATED, EXPLICIT_BIG_ENDIAN, IMPLICIT_LITTLE_ENDIAN, JPEG_LS
from engine.series import series_of

from .refused import OPTIONS, refusal


def expected(k: int, rows: int = 10, columns: int = 9) -> np.ndarray:
    """HU that the series of these tests has at slice k."""
    j, i = np.mgrid[:rows, :columns]
    return 1000 + 100 * k + 7 * j + i - 1024


def test_a_series_becomes_its_volume(ct):
    ct.write(12)
    volume = load(ct.series(), OPTIONS)
    assert volume.geometry.shape == (12, 10, 9)
    assert volume.geometry.spacing_mm == (2.0, 0.75, 0.5)
    assert volume.geometry.origin_mm == (-50.0, -60.0, 100.0)
    assert volume.hounsfield.dtype == np.int16
    for k in range(12):
        np.testing.assert_array_equal(volume.hounsfield[k], expected(k))
        assert volume.sop_instance_uids[k] == f"1.2.826.0.1.3680043.8.498.{k + 1}"


def test_names_and_numbers_of_files_do_not_order_slices(ct):
    names = [f"{n:03}.dcm" for n in range(12)]
    random.Random(1).shuffle(names)

    def scramble(dataset, k):
        dataset.InstanceNumber = 99 - int(names[k][:3])

    ct.write(12, scramble, names=names)
    series = ct.series()
    series = replace(series, instances=tuple(sorted(series.instances, key=lambda part: part.path)))
    volume = load(series, OPTIONS)
    assert [int(volume.hounsfield[k, 0, 0]) for k in range(12)] == [int(expected(k)[0, 0]) for k in range(12)]


def test_slices_from_feet_first_scans_grow_along_their_normal(ct):
    def feet_first(dataset, k):
        dataset.ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]
        dataset.ImagePositionPatient = [50, -60, 100 - 2 * k]

    ct.write(12, feet_first)
    volume = load(ct.series(), OPTIONS)
    assert volume.geometry.direction == ((0, 0, -1), (0, 1, 0), (-1, 0, 0))
    np.testing.assert_array_equal(volume.hounsfield[3], expected(3))
    assert volume.geometry.to_patient(np.array([3.0, 0, 2])) == pytest.approx([50 - 1, -60, 94])


def test_compressed_slices_give_the_same_volume(ct, tmp_path):
    ct.write(12)
    native = load(ct.series(), OPTIONS)
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    ct.write(12, transfer_syntax_uid=JPEG_LS[0], encode=lambda values: imagecodecs.jpegls_encode(values))
    coded = load(ct.series(), OPTIONS)
    assert coded.geometry == native.geometry
    np.testing.assert_array_equal(coded.hounsfield, native.hounsfield)


def test_each_slice_has_its_own_rescale(ct):
    def own(dataset, k):
        dataset.RescaleSlope, dataset.RescaleIntercept = ("1.5", "-1000.25") if k % 2 else ("1", "-1024")

    ct.write(12, own)
    volume = load(ct.series(), OPTIONS)
    np.testing.assert_array_equal(volume.hounsfield[2], expected(2))
    np.testing.assert_array_equal(volume.hounsfield[3], np.rint((expected(3) + 1024) * 1.5 - 1000.25))


PADDED = [
    # padding value, its range limit, pixel representation, stored values, HU
    (-2000, None, 1, [-2000, -1999, 0, 50], [-1024, -1024, -1024, -974]),
    (63536, None, 1, [-2000, 1000, 2000, 2047], [-1024, -24, 976, 1023]),  # -2000 in the wrong VR
    (4000, None, 0, [4000, 3999, 1000, 0], [2976, 2975, -24, -1024]),  # 2976 HU may be bone or metal: left alone
    (4095 + 1024, None, 0, [5119, 5118, 0, 0], [-1024, 4094, -1024, -1024]),  # above any tissue
    (0, None, 0, [0, 1, 1024, 2000], [-1024, -1023, 0, 976]),
    (5000, 5200, 0, [5000, 5100, 5200, 4999], [-1024, -1024, -1024, 3975]),
]


@pytest.mark.parametrize(("padding", "limit", "representation", "stored", "hounsfield"), PADDED)
def test_padding_becomes_air(ct, padding, limit, representation, stored, hounsfield):
    def pad(dataset, k):
        dataset.PixelRepresentation, dataset.BitsStored, dataset.HighBit = representation, 16, 15
        values = np.frombuffer(dataset.PixelData, np.int16).copy()
        values[:4] = np.array(stored).astype(np.int16 if representation else np.uint16).view(np.int16)
        dataset.PixelData = values.tobytes()
        vr = "US" if padding > 32767 or not representation else "SS"
        dataset.add_new(0x00280120, vr, padding)
        if limit is not None:
            dataset.add_new(0x00280121, vr, limit)

    ct.write(12, pad)
    assert load(ct.series(), OPTIONS).hounsfield[4, 0, :4].tolist() == hounsfield


def test_padding_that_is_also_water_leaves_water_alone(ct):
    def zero(dataset, k):
        dataset.PixelRepresentation = 1
        dataset.RescaleIntercept = 0
        dataset.add_new(0x00280120, "SS", 0)
        values = np.frombuffer(dataset.PixelData, np.int16) - 1000 - 100 * k
        dataset.PixelData = values.astype(np.int16).tobytes()

    ct.write(12, zero)
    assert load(ct.series(), OPTIONS).hounsfield[5, 0, :3].tolist() == [0, 1, 2]


def test_hounsfield_units_stay_within_int16(ct):
    def wide(dataset, k):
        dataset.BitsStored, dataset.HighBit = 16, 15
        dataset.RescaleSlope = 3
        values = np.frombuffer(dataset.PixelData, np.uint16).copy()
        values[:2] = 65535, 0
        dataset.PixelData = values.tobytes()

    ct.write(12, wide)
    assert load(ct.series(), OPTIONS).hounsfield[0, 0, :2].tolist() == [32767, -1024]


def test_localizers_and_captures_that_share_the_series_are_left_out(ct):
    def mixed(dataset, k):
        if k == 3:
            dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
            dataset.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
        if k == 5:
            dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
        if k == 7:
            dataset.ImageType = ["DERIVED", "SECONDARY"]
        dataset.ImagePositionPatient = [-50, -60, 2 * (k - (k > 3) - (k > 5) - (k > 7))]

    ct.write(15, mixed)
    volume = load(ct.series(), OPTIONS)
    assert volume.geometry.shape[0] == 12
    assert int(volume.hounsfield[3, 0, 0]) == int(expected(4)[0, 0])


def test_a_copy_of_a_slice_counts_once_and_another_image_in_its_place_is_refused(ct, tmp_path):
    paths = ct.write(12)
    shutil.copy(paths[4], tmp_path / "copy.dcm")
    assert load(ct.series(), OPTIONS).geometry.shape[0] == 12
    dataset = pydicom.dcmread(paths[4])
    values = np.frombuffer(dataset.PixelData, np.uint16).copy()
    values[50] += 1
    dataset.PixelData = values.tobytes()
    dataset.save_as(tmp_path / "copy.dcm")
    assert refusal(ct.series()).reason is Reason.SLICES_DUPLICATED


def test_two_phases_under_one_series_are_refused(ct):
    def phases(dataset, k):
        dataset.ImagePositionPatient = [-50, -60, 2 * (k // 2)]

    ct.write(24, phases)
    assert refusal(ct.series()).reason is Reason.SLICES_DUPLICATED


@pytest.mark.real_data
def test_a_real_thorax_loads_as_pydicom_reads_it(real_data):
    paths = sorted((real_data / "ct_thorax_contrast").glob("*.dcm"))
    (series,) = series_of((read_header(path, b"key"), str(path)) for path in paths)
    volume = load(series, LoadingOptions())
    assert volume.geometry.shape == (164, 126, 120)
    assert volume.geometry.spacing_mm == pytest.approx((1.5, 1.5, 1.5))
    by_uid = {uid: k for k, uid in enumerate(volume.sop_instance_uids)}
    for path in paths[::9]:
        dataset = pydicom.dcmread(path)
        k = by_uid[dataset.SOPInstanceUID]
        hounsfield = dataset.pixel_array * dataset.RescaleSlope + dataset.RescaleIntercept
        np.testing.assert_array_equal(volume.hounsfield[k], np.clip(hounsfield, -1024, 32767))
        corner = volume.geometry.to_patient(np.array([k, 0.0, 0.0]))
        np.testing.assert_allclose(corner, np.array(dataset.ImagePositionPatient, dtype=float), atol=0.01)


@pytest.mark.parametrize("syntax", [DEFLATED, EXPLICIT_BIG_ENDIAN, IMPLICIT_LITTLE_ENDIAN])
def test_every_encoding_of_a_data_set_gives_the_same_volume(ct, syntax):
    def swap(dataset, k):
        if syntax == EXPLICIT_BIG_ENDIAN:
            dataset.PixelData = np.frombuffer(dataset.PixelData, np.uint16).byteswap().tobytes()
            dataset["PixelData"].VR = "OW"

    ct.write(12, swap, transfer_syntax_uid=syntax)
    volume = load(ct.series(), OPTIONS)
    for k in range(12):
        np.testing.assert_array_equal(volume.hounsfield[k], expected(k))


def test_what_may_be_lossy_is_read_only_where_header_and_stream_say_that_it_is_not(ct, tmp_path):
    for said, reason in (("00", None), (None, Reason.LOSSY_COMPRESSION), ("01", Reason.LOSSY_COMPRESSION)):

        def say(dataset, k, said=said):
            if said is not None:
                dataset.LossyImageCompression = said

        ct.write(12, say, transfer_syntax_uid=JPEG_LS[1], encode=lambda values: imagecodecs.jpegls_encode(values))
        series = ct.series()
        assert series.lossy_image_compression is (reason is not None)
        if reason is None:
            np.testing.assert_array_equal(load(series, OPTIONS).hounsfield[3], expected(3))
        else:
            assert refusal(series).reason is reason
