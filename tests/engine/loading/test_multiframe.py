"""One enhanced multi-frame file becomes the volume that its frames describe, in whatever order they are stored."""

import random
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    LegacyConvertedEnhancedCTImageStorage,
    RLELossless,
)

from engine.errors import SeriesError
from engine.loading.headers import read_header
from engine.loading.load import LoadingOptions, load
from engine.records import Program, Reason, SeriesRef
from engine.selection import HTJ2K, JPEG_LS, SelectionOptions, select
from engine.series import series_of

KEY = b"a secret of the site"
COUNT = 12
OPTIONS = LoadingOptions(threads=2)


def values_at(k: int) -> np.ndarray:
    j, i = np.mgrid[:10, :9]
    return (1000 + 100 * k + 7 * j + i).astype(np.uint16)


def item(**values) -> Dataset:
    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


def of_frame(k: int, legacy: bool) -> Dataset:
    group = Dataset()
    group.PlanePositionSequence = Sequence([item(ImagePositionPatient=[-50, -60, 100 + 2 * k])])
    group.FrameContentSequence = Sequence([item(FrameAcquisitionNumber=1)])
    rescale = item(RescaleSlope=2, RescaleIntercept=-1024 - 1000 - 100 * k, RescaleType="HU")
    group.PixelValueTransformationSequence = Sequence([rescale])
    if legacy:
        group.UnassignedPerFrameConvertedAttributesSequence = Sequence([item(InstanceNumber=k + 1, KVP=120)])
    return group


def of_all(legacy: bool) -> Dataset:
    group = Dataset()
    group.PlaneOrientationSequence = Sequence([item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])])
    group.PixelMeasuresSequence = Sequence([item(PixelSpacing=[0.75, 0.5], SliceThickness=2)])
    group.CTImageFrameTypeSequence = Sequence([item(FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"])])
    if legacy:
        group.UnassignedSharedConvertedAttributesSequence = Sequence([item(ConvolutionKernel="Br40f")])
    else:
        group.CTReconstructionSequence = Sequence([item(ConvolutionKernel="Br40f")])
        group.CTXRayDetailsSequence = Sequence([item(KVP=120)])
    return group


def enhanced(order: list[int], legacy: bool = False) -> Dataset:
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID = LegacyConvertedEnhancedCTImageStorage if legacy else EnhancedCTImageStorage
    made.SOPInstanceUID = "1.2.826.0.1.3680043.8.498.1"
    made.StudyInstanceUID, made.SeriesInstanceUID = "1.2.826.0.1.3680043.8.498.2", "1.2.826.0.1.3680043.8.498.3"
    made.FrameOfReferenceUID = "1.2.826.0.1.3680043.8.498.4"
    made.Modality, made.PatientID, made.Manufacturer = "CT", "P-1", "SIEMENS"
    made.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    made.NumberOfFrames = len(order)
    made.Rows, made.Columns, made.SamplesPerPixel = 10, 9, 1
    made.PhotometricInterpretation = "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 12, 11, 0
    made.SharedFunctionalGroupsSequence = Sequence([of_all(legacy)])
    made.PerFrameFunctionalGroupsSequence = Sequence([of_frame(k, legacy) for k in order])
    made.PixelData = b"".join(values_at(k).tobytes() for k in order)
    return made


def shuffled(count: int = COUNT) -> list[int]:
    order = list(range(count))
    random.Random(1).shuffle(order)
    return order


def saved(folder: Path, made: Dataset, name: str = "one.dcm") -> SeriesRef:
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.save_as(folder / name, enforce_file_format=True)
    (series,) = series_of((read_header(path, KEY), str(path)) for path in folder.glob("*.dcm"))
    return series


def coded(made: Dataset, order: list[int], syntax: str, encode, **how) -> Dataset:
    made.file_meta.TransferSyntaxUID = syntax
    made.PixelData = encapsulate([encode(values_at(k)) for k in order], **how)
    made["PixelData"].is_undefined_length = True
    return made


def check_volume(series: SeriesRef, order: list[int]) -> None:
    volume = load(series, OPTIONS)
    assert volume.geometry.shape == (COUNT, 10, 9)
    assert volume.geometry.spacing_mm == (2.0, 0.75, 0.5)
    assert volume.geometry.origin_mm == (-50.0, -60.0, 100.0)
    for k in range(COUNT):
        expected = 2 * values_at(k).astype(int) - 1024 - 1000 - 100 * k
        np.testing.assert_array_equal(volume.hounsfield[k], expected)
    assert volume.frame_numbers == tuple(order.index(k) + 1 for k in range(COUNT))
    assert len(volume.sop_instance_uids) == COUNT


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_frames_are_ordered_by_place_and_each_has_its_own_rescale(tmp_path, syntax, legacy):
    order = shuffled()
    made = enhanced(order, legacy)
    made.file_meta.TransferSyntaxUID = syntax
    series = saved(tmp_path, made)
    check_volume(series, order)
    assert (series.slice_thickness, series.kvp, series.convolution_kernel) == (2.0, 120.0, ("Br40f",))
    assert (series.slice_count, series.extent_mm, series.has_rescale) == (COUNT, 22.0, True)


@pytest.mark.parametrize("fragments", [1, 3])
@pytest.mark.parametrize("has_bot", [True, False])
def test_coded_frames_are_found_with_and_without_an_offset_table(tmp_path, has_bot, fragments):
    order = shuffled()
    how = {"has_bot": has_bot, "fragments_per_frame": fragments}
    check_volume(saved(tmp_path, coded(enhanced(order), order, JPEG_LS[0], imagecodecs.jpegls_encode, **how)), order)


@pytest.mark.parametrize("syntax", [RLELossless, HTJ2K[0]])
def test_other_coders_make_frames_too(tmp_path, syntax):
    from pydicom.pixels.encoders import RLELosslessEncoder

    def rle(values: np.ndarray) -> bytes:
        shape = {"rows": 10, "columns": 9, "number_of_frames": 1, "samples_per_pixel": 1}
        bits = {"bits_allocated": 16, "bits_stored": 12, "pixel_representation": 0}
        return RLELosslessEncoder.encode(
            values, photometric_interpretation="MONOCHROME2", encoding_plugin="pydicom", **shape, **bits
        )

    def htj2k(values: np.ndarray) -> bytes:
        return imagecodecs.htj2k_encode(values, reversible=True)

    order = shuffled()
    check_volume(saved(tmp_path, coded(enhanced(order), order, syntax, rle if syntax == RLELossless else htj2k)), order)


def test_an_enhanced_series_may_come_in_several_files(tmp_path):
    order = shuffled()
    for n, part in enumerate((order[:5], order[5:])):
        made = enhanced(part)
        made.SOPInstanceUID = f"1.2.826.0.1.3680043.8.498.1.{n}"
        series = saved(tmp_path, made, f"{n}.dcm")
    volume = load(series, OPTIONS)
    assert volume.geometry.shape == (COUNT, 10, 9)
    assert len(set(volume.sop_instance_uids)) == 2
    assert series.slice_count == COUNT


def test_frames_count_as_slices_when_a_series_is_chosen(tmp_path):
    series = saved(tmp_path, enhanced(shuffled(80)))
    (choice,) = select([series], Program.VERTEBRAL, SelectionOptions())
    assert choice.reason is None


def remove_rescale(made):
    del made.PerFrameFunctionalGroupsSequence[3].PixelValueTransformationSequence


def remove_position(made):
    del made.PerFrameFunctionalGroupsSequence[3].PlanePositionSequence


def move_to_another_frame(made):
    made.PerFrameFunctionalGroupsSequence[3] = made.PerFrameFunctionalGroupsSequence[4]


def lose_a_frame(made):
    made.PerFrameFunctionalGroupsSequence.pop(3)


def lose_pixels(made):
    made.PixelData = made.PixelData[:-181]


def lose_groups(made):
    del made.PerFrameFunctionalGroupsSequence


def become_lossy(made):
    made.LossyImageCompression = "01"


def claim_many(made):
    made.NumberOfFrames = 2_000_000_000


BROKEN = [
    (remove_rescale, Reason.RESCALE_MISSING),
    (remove_position, Reason.SLICES_INCONSISTENT),
    (move_to_another_frame, Reason.SLICES_MISSING),
    (lose_a_frame, Reason.SLICES_INCONSISTENT),
    (lose_pixels, Reason.PIXELS_UNREADABLE),
    (lose_groups, Reason.MULTIFRAME_UNSUPPORTED),
    (become_lossy, Reason.LOSSY_COMPRESSION),
    (claim_many, Reason.SLICES_INCONSISTENT),
]


@pytest.mark.parametrize(("breaks", "reason"), BROKEN)
def test_frames_that_contradict_each_other_are_refused(tmp_path, breaks, reason):
    made = enhanced(list(range(COUNT)))
    breaks(made)
    with pytest.raises(SeriesError) as caught:
        load(saved(tmp_path, made), OPTIONS)
    assert caught.value.reason is reason


def test_a_file_cut_anywhere_ends_in_a_reason(tmp_path):
    series = saved(tmp_path, enhanced(list(range(COUNT))))
    path = tmp_path / "one.dcm"
    whole = path.read_bytes()
    for cut in range(0, len(whole), 97):
        path.write_bytes(whole[:cut])
        with pytest.raises(SeriesError) as caught:
            load(series, OPTIONS)
        assert caught.value.reason in (
            Reason.HEADER_UNREADABLE,
            Reason.PIXELS_UNREADABLE,
            Reason.SLICES_INCONSISTENT,
            Reason.MULTIFRAME_UNSUPPORTED,
        )
