"""A plain series made odd in one way each, and the reason in which the main job ends it."""

from collections.abc import Callable
from copy import deepcopy

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    generate_uid,
)

from engine.records import Reason
from exporters.reference.phantom_series import SeriesTruth

Slices = list[Dataset]


def missing_slice(slices: Slices) -> None:
    del slices[len(slices) // 2]


def doubled_position(slices: Slices) -> None:
    other = deepcopy(slices[0])
    other.SOPInstanceUID = generate_uid()
    other.PixelData = other.PixelData[::-1]
    slices.append(other)


def tilted_gantry(slices: Slices) -> None:
    for one in slices:
        one.GantryDetectorTilt = "15"


def sheared_silently(slices: Slices) -> None:
    for n, one in enumerate(slices):
        x, y, z = (float(value) for value in one.ImagePositionPatient)
        one.ImagePositionPatient = [x, y + 0.8 * n, z]


def localizer(slices: Slices) -> None:
    del slices[2:]
    for one in slices:
        one.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]


def screen_save(slices: Slices) -> None:
    del slices[1:]
    slices[0].ImageType = ["DERIVED", "SECONDARY", "SCREEN SAVE"]
    del slices[0].ImagePositionPatient, slices[0].ImageOrientationPatient


def huge_rows(slices: Slices) -> None:
    for one in slices:
        one.Rows = one.Columns = 65535


def short_pixels(slices: Slices) -> None:
    for one in slices:
        one.PixelData = one.PixelData[: len(one.PixelData) // 2]


def thick_slices(slices: Slices) -> None:
    for one in slices:
        one.SliceThickness = "8"


def lossy(slices: Slices) -> None:
    for one in slices:
        one.LossyImageCompression = "01"


def without_rescale(slices: Slices) -> None:
    for one in slices:
        del one.RescaleSlope, one.RescaleIntercept


def head(slices: Slices) -> None:
    for one in slices:
        one.BodyPartExamined = "HEAD"


def only_air(slices: Slices) -> None:
    for n, one in enumerate(slices):
        noise = np.random.default_rng(n).integers(-1010, -990, (one.Rows, one.Columns))
        one.PixelData = (noise - int(one.RescaleIntercept)).astype("<i2").tobytes()


def contrast(slices: Slices) -> None:
    for one in slices:
        one.ContrastBolusAgent = "IOPAMIDOL"


def tube_voltage(slices: Slices) -> None:
    for one in slices:
        one.KVP = "100"


def without_anchor(slices: Slices) -> None:
    """Keep the middle of the lumbar spine: neither sacrum nor ribs."""
    slices[:] = [one for one in slices if 31 <= int(one.InstanceNumber) <= 75]


CASES: dict[Callable[[Slices], None], set[Reason]] = {
    missing_slice: {Reason.SLICES_MISSING},
    doubled_position: {Reason.SLICES_DUPLICATED},
    tilted_gantry: {Reason.GANTRY_TILT},
    sheared_silently: {Reason.GRID_SHEARED, Reason.GANTRY_TILT},
    localizer: {Reason.LOCALIZER},
    screen_save: {Reason.NOT_PRIMARY},
    huge_rows: {Reason.IMAGE_TOO_LARGE},
    short_pixels: {Reason.PIXELS_UNREADABLE},
    thick_slices: {Reason.SLICES_TOO_THICK},
    lossy: {Reason.LOSSY_COMPRESSION},
    without_rescale: {Reason.RESCALE_MISSING},
    head: {Reason.BODY_PART},
    only_air: {Reason.NO_VERTEBRA},
    contrast: {Reason.CONTRAST},
    tube_voltage: {Reason.KVP},
    without_anchor: {Reason.LEVEL_UNCERTAIN},
}
ANALYSED = {contrast, tube_voltage}  # these get a result: HU without a density


def as_patient(truth: SeriesTruth, number: int) -> Slices:
    """The scan as another patient's study."""
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    copies = []
    for path in truth.paths:
        one = dcmread(path)
        one.StudyInstanceUID, one.SeriesInstanceUID, one.FrameOfReferenceUID = study, series, frame
        one.SOPInstanceUID = generate_uid()
        one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
        one.PatientName, one.PatientID = f"Case^{number}", f"CASE{number}"
        copies.append(one)
    return copies
