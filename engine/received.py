"""
What arrived: instances and series, as far as their headers say what anyone here needs.

No patient name or identifier is in any of them; `patient_key` and `accession_key` are keyed hashes.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class InstanceHeader:
    """What one instance's header says, as far as anyone here needs it. DICOM keywords, DICOM units."""

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    patient_key: str  # keyed hash of PatientID and its issuer
    patient_sex: str | None  # "M", "F", "O"
    patient_age: int | None  # years, at the study
    study_date: str | None  # YYYYMMDD
    acquisition_date: str | None  # YYYYMMDD
    modality: str
    image_type: tuple[str, ...]
    body_part_examined: str | None
    manufacturer: str | None
    manufacturer_model_name: str | None
    convolution_kernel: tuple[str, ...]
    slice_thickness: float | None  # mm
    kvp: float | None
    contrast_bolus_agent: bool  # the header names an agent
    gantry_detector_tilt: float | None  # degrees
    lossy_image_compression: bool
    has_rescale: bool
    rows: int | None
    columns: int | None
    number_of_frames: int
    instance_number: int | None
    frame_of_reference_uid: str | None
    image_orientation_patient: tuple[float, ...] | None  # 6 cosines
    image_position_patient: tuple[float, ...] | None  # mm; of several frames: the first along their normal
    last_position_patient: tuple[float, ...] | None = None  # mm; of several frames: the last along their normal
    station_name: str | None = None  # which of a site's scanners
    accession_key: str | None = None  # keyed hash of AccessionNumber
    number_of_series_related_instances: int | None = None  # that its series has
    images_in_acquisition: int | None = None  # that its acquisition has; perhaps in several series


@dataclass(frozen=True, slots=True)
class InstanceRef:
    """One instance on disk."""

    sop_instance_uid: str
    sop_class_uid: str
    path: str


@dataclass(frozen=True, slots=True)
class SeriesRef:
    """One series: its series-level attributes and where its instances lie."""

    study_instance_uid: str
    series_instance_uid: str
    patient_key: str
    patient_sex: str | None
    patient_age: int | None  # years
    study_date: str | None
    acquisition_date: str | None
    modality: str
    image_type: tuple[str, ...]
    body_part_examined: str | None
    manufacturer: str | None
    manufacturer_model_name: str | None
    convolution_kernel: tuple[str, ...]
    slice_thickness: float | None  # mm
    kvp: float | None
    contrast_bolus_agent: bool
    gantry_detector_tilt: float | None  # degrees
    lossy_image_compression: bool
    has_rescale: bool
    transfer_syntax_uid: str
    image_orientation_patient: tuple[float, ...] | None
    extent_mm: float | None  # along the slice normal, first to last slice centre
    instances: tuple[InstanceRef, ...]
    station_name: str | None = None  # which of a site's scanners
    accession_key: str | None = None  # keyed hash of AccessionNumber
    number_of_frames: int = 0  # of all instances together; 0: not told, one each

    @property
    def slice_count(self) -> int:
        """How many slices there are: frames, not files."""
        return self.number_of_frames or len(self.instances)
