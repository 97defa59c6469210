"""The overview picture as a DICOM object that any viewer shows."""

import numpy as np
from PIL.Image import Image
from pydicom import Dataset

from dicom_node.report.equipment import is_research_only, object_attributes
from dicom_node.report.options import RESEARCH_ONLY, ReportOptions
from dicom_node.report.source_headers import UTF8, SourceHeaders, lay_identity
from engine.volume import Analysis

DESCRIPTION = "Overview of the measured vertebral bodies"


def build_secondary_capture(
    picture: Image, analysis: Analysis, source: SourceHeaders, options: ReportOptions
) -> Dataset:
    """The picture as Secondary Capture; no text in it names the patient.

    Args:
        picture: RGB.
    """
    from highdicom.sc import SCImage

    result = analysis.result
    capture = SCImage(
        pixel_array=np.asarray(picture.convert("RGB")),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "F"),
        study_instance_uid=source.identity.StudyInstanceUID,
        specific_character_set=UTF8,
        **object_attributes("picture", analysis.series, result, source, options),
    )
    made = source.local_time(result.analysed_at)
    capture.BodyPartExamined = "SPINE"  # unpaired, so that no laterality is asked for
    capture.PatientOrientation = None  # a sheet of two cuts and a table has none
    capture.ConversionType = "WSD"
    capture.BurnedInAnnotation = "NO"
    capture.DateOfSecondaryCapture, capture.TimeOfSecondaryCapture = made.strftime("%Y%m%d"), made.strftime("%H%M%S.%f")
    capture.DerivationDescription = f"{DESCRIPTION}. {RESEARCH_ONLY if is_research_only(result) else ''}".strip()
    lay_identity(capture, source, result.analysed_at)
    return capture
