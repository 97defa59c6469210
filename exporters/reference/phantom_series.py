"""
A phantom as a DICOM CT series: what a PACS would send, with the truth beside it.

Every attribute that a CT Image needs is there, in one of the scanner dialects; every identifier comes
from the seed, so that the same call writes the same bytes.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from engine.records import VertebralLevel
from engine.volume import Geometry
from exporters.reference.scanner import SCANNERS, Scanner, scan
from exporters.reference.spine_phantom import SpinePhantom, field_of_view, levels_in_view


@dataclass(frozen=True, eq=False)
class SeriesTruth:
    """What is known about a written series."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uids: tuple[str, ...]  # foot to head
    paths: tuple[Path, ...]  # same order
    geometry: Geometry
    scanner: Scanner
    levels: tuple[VertebralLevel, ...]  # bodies wholly in view, head to foot
    vbmd: dict[VertebralLevel, float]  # mg/cm3, of those levels
    hounsfield: NDArray[np.int16] = field(repr=False)  # (K, J, I), k to the head
    labels: NDArray[np.uint8] = field(repr=False)  # (K, J, I) tissue
    bodies: NDArray[np.uint8] = field(repr=False)  # (K, J, I) n: phantom.levels[n - 1]


def write_series(
    folder: Path,
    phantom: SpinePhantom,
    machine: Scanner = SCANNERS[0],
    geometry: Geometry | None = None,
    *,
    patient_name: str = "Phantom^Spine",
    patient_id: str = "",
    study_uid: str = "",
    series_uid: str = "",
    study_date: str = "20240115",
    accession_number: str = "",
    study_description: str = "CT phantom",
    series_description: str = "",
    series_number: int = 2,
    body_part: str = "ABDOMEN",
    image_type: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "AXIAL"),
    kernel: tuple[str, ...] | None = None,
    kvp: float = 120.0,
    contrast: str | None = None,
    contrast_agent: str | None = None,
    thickness_mm: float | None = None,
    dose: float = 1.0,
    gantry_tilt: float = 0.0,
    scan_seed: int = 0,
) -> SeriesTruth:
    """Scan a phantom and write one file a slice.

    Args:
        folder: made if it is missing; files are named 0000.dcm from the feet to the head.
        geometry: axial, in canonical directions; T10 to L5 with the scanner's own spacing when None.
        patient_id, study_uid, series_uid: from the phantom's seed when empty.
        contrast: None, "arterial" or "venous": what the vessels look like.
        contrast_agent: what the header says; None: said when there is contrast.
        thickness_mm: the header's and the scan's slice thickness; the geometry's step when None.

    Source:
        DICOM PS3.3 A.3 (CT Image IOD).
    """
    if geometry is None:
        geometry = field_of_view(phantom, pixel_mm=machine.field_mm[0] / 512, slice_mm=machine.spacing_mm)
    thickness = geometry.spacing_mm[0] if thickness_mm is None else thickness_mm
    hounsfield, raster = scan(
        phantom,
        machine,
        geometry,
        seed=phantom.seed * 1009 + scan_seed,
        dose=dose,
        thickness_mm=thickness,
        contrast=contrast,
        kvp=kvp,
    )
    study = study_uid or uid_from(f"study {phantom.seed}")
    series = series_uid or uid_from(f"series {phantom.seed} {machine.key} {series_number} {scan_seed} {geometry}")
    shared = _shared(phantom, machine, geometry, study, series)
    shared.PatientName, shared.PatientID = patient_name, patient_id or f"PHANTOM-{phantom.seed:05d}"
    shared.StudyDate = shared.SeriesDate = shared.AcquisitionDate = shared.ContentDate = study_date
    shared.PatientBirthDate = f"{int(study_date[:4]) - phantom.age:04d}0101"
    shared.AccessionNumber, shared.StudyDescription = accession_number, study_description
    shared.SeriesDescription = series_description or f"Phantom {machine.kernel[0]} {thickness:g} mm"
    shared.SeriesNumber, shared.BodyPartExamined, shared.ImageType = (
        series_number,
        body_part,
        list(image_type),
    )
    shared.ConvolutionKernel = list(kernel or machine.kernel)
    shared.KVP, shared.SliceThickness, shared.GantryDetectorTilt = f"{kvp:g}", f"{thickness:g}", f"{gantry_tilt:g}"
    shared.Exposure = max(1, round(machine.mas * dose))
    shared.XRayTubeCurrent = 2 * shared.Exposure  # for half a second
    agent = ("IOPAMIDOL" if contrast else "") if contrast_agent is None else contrast_agent
    if agent:
        shared.ContrastBolusAgent = agent
    folder.mkdir(parents=True, exist_ok=True)
    uids, paths = [], []
    for k in range(geometry.shape[0]):
        dataset = _slice(shared, machine, geometry, hounsfield[k], k)
        path = folder / f"{k:04d}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        uids.append(str(dataset.SOPInstanceUID))
        paths.append(path)
    levels = levels_in_view(phantom, geometry)
    density = {level: phantom.vbmd[level] for level in levels}
    return SeriesTruth(study, series, tuple(uids), tuple(paths), geometry, machine, levels, density, hounsfield,
                       raster.labels, raster.bodies)  # fmt: skip


def uid_from(text: str) -> str:
    """A UID made from a text: the same text, the same UID.

    Source:
        DICOM PS3.5 B.2: 2.25 and a 128-bit number.
    """
    return f"2.25.{int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], 'big')}"


def _shared(phantom: SpinePhantom, machine: Scanner, geometry: Geometry, study: str, series: str) -> Dataset:
    """What all slices of the series have in common."""
    shared = Dataset()
    shared.SpecificCharacterSet = "ISO_IR 100"
    shared.SOPClassUID = CTImageStorage
    shared.StudyInstanceUID, shared.SeriesInstanceUID = study, series
    shared.FrameOfReferenceUID = geometry.frame_of_reference_uid or uid_from(f"frame {phantom.seed} {study}")
    shared.PositionReferenceIndicator = ""
    shared.StudyTime = shared.SeriesTime = shared.AcquisitionTime = shared.ContentTime = "101500"
    shared.StudyID = str(phantom.seed)
    shared.ReferringPhysicianName = ""
    shared.PatientSex, shared.PatientAge = phantom.sex, f"{phantom.age:03d}Y"
    shared.PatientPosition = "HFS"
    shared.Modality = "CT"
    shared.Manufacturer, shared.ManufacturerModelName = machine.manufacturer, machine.model
    shared.InstitutionName, shared.StationName = "Phantom", "PHANTOM"
    shared.AcquisitionNumber = 1
    shared.DataCollectionDiameter, shared.ReconstructionDiameter = (
        "500",
        f"{geometry.spacing_mm[2] * geometry.shape[2]:.6g}",
    )
    shared.ExposureTime = 500
    if machine.filter_type:
        shared.FilterType = machine.filter_type
    shared.RotationDirection = "CW"
    shared.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PixelSpacing = [f"{geometry.spacing_mm[1]:.8g}", f"{geometry.spacing_mm[2]:.8g}"]
    shared.SpacingBetweenSlices = f"{geometry.spacing_mm[0]:.8g}"
    shared.SamplesPerPixel, shared.PhotometricInterpretation = 1, "MONOCHROME2"
    shared.Rows, shared.Columns = geometry.shape[1], geometry.shape[2]
    shared.BitsAllocated, shared.BitsStored, shared.HighBit = 16, 16, 15
    shared.PixelRepresentation = int(machine.signed)
    shared.RescaleSlope, shared.RescaleType = "1", "HU"
    shared.RescaleIntercept = "0" if machine.signed else "-1024"
    shared.WindowCenter, shared.WindowWidth = "40", "400"
    shared.BurnedInAnnotation = "NO"
    if machine.padding is not None:
        shared.add_new(0x00280120, "SS" if machine.signed else "US", machine.padding)
    return shared


def _slice(shared: Dataset, machine: Scanner, geometry: Geometry, hounsfield: NDArray[np.int16], k: int) -> Dataset:
    dataset = Dataset()
    dataset.update(shared)
    series: Any = shared.SeriesInstanceUID
    dataset.SOPInstanceUID = uid_from(f"{series} {k}")
    position = geometry.to_patient(np.array([float(k), 0.0, 0.0]))
    dataset.ImagePositionPatient = [f"{value:.9g}" for value in position]
    dataset.SliceLocation = f"{position[2]:.9g}"
    dataset.InstanceNumber = geometry.shape[0] - k  # head first, as scanners do
    stored = hounsfield if machine.signed else (hounsfield.astype(np.int32) + 1024).astype(np.uint16)
    dataset.PixelData = np.ascontiguousarray(stored).astype("<i2" if machine.signed else "<u2").tobytes()
    dataset["PixelData"].VR = "OW"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(uid_from("trabecula phantom"))
    dataset.file_meta = meta
    return dataset
