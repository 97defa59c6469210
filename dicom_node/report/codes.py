"""
The codes that reports are written in: one table from our words to DICOM's.

Standard codes (SNOMED CT, DCM, UCUM, LOINC) wherever one says the same; what no standard code says
is coded in a private scheme. A reason's code value is the reason's own spelling, so that a reader
finds it again in SQL, logs and docs/reasons.md.

Source: PS3.16 2025 (code values as in pydicom's dictionary); osteopenia and osteoporosis are SNOMED CT
concepts that pydicom's dictionary does not hold. No standard code for volumetric density from CT is known to us.
"""

from typing import NamedTuple

from pydicom.sr.coding import Code

from engine.records import CLASSES as DENSITY_CLASSES
from engine.records import BoneFinding, CalibrationMethod, Quantity, Reason, VertebralLevel

SCHEME = "99TRABECULA"
SCHEME_NAME = "Trabecula bone density screening"


class QuantityCode(NamedTuple):
    """How a quantity is said: concept, unit, and how it was derived from the voxels."""

    concept: Code
    unit: Code
    derivation: Code | None


def _private(value: str, meaning: str) -> Code:
    return Code(value, SCHEME, meaning)


MEAN = Code("373098007", "SCT", "Mean")
MEDIAN = Code("373099004", "SCT", "Median")
STANDARD_DEVIATION = Code("386136009", "SCT", "Standard Deviation")

_ATTENUATION = Code("112031", "DCM", "Attenuation Coefficient")
_HOUNSFIELD = Code("[hnsf'U]", "UCUM", "Hounsfield unit")
NO_UNITS = Code("1", "UCUM", "no units")

QUANTITIES: dict[Quantity, QuantityCode] = {
    Quantity.ATTENUATION_MEAN: QuantityCode(_ATTENUATION, _HOUNSFIELD, MEAN),
    Quantity.ATTENUATION_MEDIAN: QuantityCode(_ATTENUATION, _HOUNSFIELD, MEDIAN),
    Quantity.ATTENUATION_SD: QuantityCode(_ATTENUATION, _HOUNSFIELD, STANDARD_DEVIATION),
    Quantity.CORE_VOLUME: QuantityCode(
        Code("118565006", "SCT", "Volume"), Code("cm3", "UCUM", "cubic centimeter"), None
    ),
    Quantity.VOLUMETRIC_BMD: QuantityCode(
        _private("VBMD", "Trabecular volumetric bone mineral density"), Code("mg/cm3", "UCUM", "mg/cm^3"), None
    ),
    Quantity.CALIBRATED_BMD: QuantityCode(
        _private("CBMD", "Trabecular volumetric BMD by a calibration of HU"),
        Code("mg/cm3", "UCUM", "mg/cm^3"),
        None,
    ),
    Quantity.AREAL_BMD: QuantityCode(
        _private("ABMD", "Areal bone mineral density as DXA would project it"), Code("g/cm2", "UCUM", "g/cm^2"), None
    ),
    Quantity.TRABECULAR_BONE_SCORE: QuantityCode(_private("TBS", "Trabecular bone score"), NO_UNITS, None),
}
"""Units are the quantities' own (`Quantity.ucum`), with the meaning that PS3.16 gives them."""

NETWORK_PREDICTION = _private("NETWORK", "Predicted from CT by a network, no calibration phantom")

CALIBRATION_METHODS: dict[CalibrationMethod, Code] = {
    CalibrationMethod.NETWORK: NETWORK_PREDICTION,
    CalibrationMethod.SITE_TABLE: _private("CAL-TABLE", "HU calibrated by the site's table for the scanner"),
    CalibrationMethod.PHANTOM: _private("CAL-PHANTOM", "HU calibrated by the rods of a phantom"),
    CalibrationMethod.INTERNAL: _private("CAL-INTERNAL", "HU calibrated by the patient's own tissues"),
}

PROBABILITIES: dict[BoneFinding, Code] = {
    finding: _private(f"P-{finding.value.upper()}", f"Probability of the class {finding.value}")
    for finding in DENSITY_CLASSES
}
"""One concept a class: DCM 122157 Probability does not say of what."""

FINDINGS: dict[BoneFinding, Code] = {
    BoneFinding.NORMAL: Code("17621005", "SCT", "Normal"),
    BoneFinding.OSTEOPENIA: Code("312894000", "SCT", "Osteopenia"),
    BoneFinding.OSTEOPOROSIS: Code("64859006", "SCT", "Osteoporosis"),
    BoneFinding.IMPAIRED_MICROARCHITECTURE: _private("TBSLOW", "Impaired trabecular microarchitecture"),
}

LEVELS: dict[VertebralLevel, Code] = {
    VertebralLevel.T1: Code("64864005", "SCT", "T1 vertebra"),
    VertebralLevel.T2: Code("53733008", "SCT", "T2 vertebra"),
    VertebralLevel.T3: Code("1626008", "SCT", "T3 vertebra"),
    VertebralLevel.T4: Code("73071006", "SCT", "T4 vertebra"),
    VertebralLevel.T5: Code("56401006", "SCT", "T5 vertebra"),
    VertebralLevel.T6: Code("45296009", "SCT", "T6 vertebra"),
    VertebralLevel.T7: Code("62487009", "SCT", "T7 vertebra"),
    VertebralLevel.T8: Code("11068009", "SCT", "T8 vertebra"),
    VertebralLevel.T9: Code("82687006", "SCT", "T9 vertebra"),
    VertebralLevel.T10: Code("7610001", "SCT", "T10 vertebra"),
    VertebralLevel.T11: Code("12989004", "SCT", "T11 vertebra"),
    VertebralLevel.T12: Code("23215003", "SCT", "T12 vertebra"),
    VertebralLevel.L1: Code("66794005", "SCT", "L1 vertebra"),
    VertebralLevel.L2: Code("14293000", "SCT", "L2 vertebra"),
    VertebralLevel.L3: Code("36470004", "SCT", "L3 vertebra"),
    VertebralLevel.L4: Code("11994002", "SCT", "L4 vertebra"),
    VertebralLevel.L5: Code("49668003", "SCT", "L5 vertebra"),
    VertebralLevel.L6: _private("L6", "L6 vertebra (transitional)"),
    VertebralLevel.S1: _private("S1", "S1 vertebra"),
}
"""L6 and S1 are private: PS3.16 holds no code for them, and "vertebra" or "sacrum" would lose the level."""

VERTEBRA = Code("51282000", "SCT", "Vertebra")
ANATOMICAL_STRUCTURE = Code("123037004", "SCT", "Anatomical Structure")
ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")
DEVICE = Code("121007", "DCM", "Device")
PROCESSING_EQUIPMENT = Code("109102", "DCM", "Processing Equipment")
IMAGING_MEASUREMENT_REPORT = Code("126000", "DCM", "Imaging Measurement Report")
IMAGE_LIBRARY = Code("111028", "DCM", "Image Library")
CT_PROCEDURE = Code("25045-6", "LN", "CT unspecified body region")
"""What was reported on, where the source names no procedure of its own."""
QUALITATIVE_EVALUATIONS = Code("C0034375", "UMLS", "Qualitative Evaluations")
SLICE_THICKNESS = Code("112225", "DCM", "Slice Thickness")
COMMENT = Code("121106", "DCM", "Comment")
QUALITY_FINDING = Code("111052", "DCM", "Quality Finding")

CALIBRATION = Code("122505", "DCM", "Calibration")

BONE_DENSITY = _private("BONE-DENSITY", "Bone density of the spine")
CALIBRATED_BONE = _private("CALIBRATED-BONE", "Bone density of the spine by calibrated HU")
AREAL_BONE = _private("AREAL-BONE", "Areal density and bone score of the spine")
DENSITY_CLASS = _private("DENSITY-CLASS", "Bone density class")
CLASSES: dict[Quantity, Code] = {
    Quantity.VOLUMETRIC_BMD: DENSITY_CLASS,
    Quantity.CALIBRATED_BMD: _private("CBMD-CLASS", "Bone density class by calibrated HU"),
    Quantity.AREAL_BMD: _private("ABMD-CLASS", "Areal bone density class"),
    Quantity.TRABECULAR_BONE_SCORE: _private("TBS-CLASS", "Trabecular bone score class"),
}
"""What a policy's verdict on each quantity is called."""
DENSITY_WITHHELD = _private("WITHHELD", "Density withheld because of")
POLICY = _private("POLICY", "Classification policy")
NUMBERING = _private("NUMBERING", "Numbering of vertebrae")

REASONS: dict[Reason, str] = {
    Reason.IDENTITY_MISSING: "Study, Series or SOP Instance UID missing",
    Reason.IDENTIFIER_INVALID: "Invalid UID",
    Reason.HEADER_UNREADABLE: "Header unreadable",
    Reason.COMMAND_MISMATCH: "Command and data set disagree",
    Reason.INSTANCE_CONFLICT: "Same UID, other content",
    Reason.NOT_CT: "Not CT",
    Reason.MULTIFRAME_UNSUPPORTED: "Multi-frame objects not supported",
    Reason.LOCALIZER: "Localizer",
    Reason.NOT_PRIMARY: "Not a primary image",
    Reason.LOSSY_COMPRESSION: "Lossy compression",
    Reason.TRANSFER_SYNTAX_UNSUPPORTED: "Transfer syntax not supported",
    Reason.RESCALE_MISSING: "No rescale to HU",
    Reason.NOT_AXIAL: "Not axial",
    Reason.GANTRY_TILT: "Gantry tilt",
    Reason.SLICES_TOO_THICK: "Slices too thick",
    Reason.TOO_FEW_SLICES: "Too few slices",
    Reason.BODY_PART: "Other body part",
    Reason.BETTER_SERIES: "A better series exists",
    Reason.SLICES_MISSING: "Slices missing",
    Reason.SLICES_DUPLICATED: "Slices duplicated",
    Reason.SLICES_INCONSISTENT: "Slices inconsistent",
    Reason.GRID_SHEARED: "Grid sheared",
    Reason.GRID_TOO_SMALL: "Grid too small",
    Reason.IMAGE_TOO_LARGE: "Image too large",
    Reason.PIXELS_UNREADABLE: "Pixels unreadable",
    Reason.PIXELS_IMPLAUSIBLE: "Pixels implausible",
    Reason.FILE_MISSING: "File missing",
    Reason.PIXELS_CLEARED: "Pixels cleared from the spool",
    Reason.NO_VERTEBRA: "No vertebra found",
    Reason.LEVEL_UNCERTAIN: "Vertebral level uncertain",
    Reason.LEVEL_GAP: "Gap in the row of levels",
    Reason.NO_ELIGIBLE_LEVEL: "Too few usable levels",
    Reason.ANSWER_NOT_FINITE: "Answer of a network not finite",
    Reason.CONTRAST: "Contrast agent",
    Reason.KVP: "Not 120 kV",
    Reason.SHARP_KERNEL: "Sharp kernel",
    Reason.FIELD_OF_VIEW: "Cut by the field of view",
    Reason.CORE_TOO_SMALL: "Core too small",
    Reason.NOISE: "High noise",
    Reason.COMPRESSION: "Vertebral body compressed",
    Reason.DENSE_FOCUS: "Dense focus in the core",
    Reason.METAL: "Metal nearby",
    Reason.OUTLIER_LEVEL: "Differs from its neighbours",
    Reason.NEAR_CUT: "Near a class boundary",
    Reason.TRANSITIONAL: "Transitional vertebra",
    Reason.UNLIKE_TRAINING: "Unlike the training of the model",
    Reason.ONE_ANCHOR: "Levels counted from one anchor",
    Reason.DENSITY_IMPLAUSIBLE: "Density implausible",
    Reason.CEMENT: "Cement in the vertebral body",
    Reason.UNEVEN_CORE: "Uneven trabecular core",
    Reason.SCOLIOSIS: "Scoliosis",
    Reason.TRUNCATED_BODY: "Body truncated by the field of view",
    Reason.SEGMENTATION_IMPLAUSIBLE: "Segmentation implausible",
    Reason.AGE: "Age outside the policy",
    Reason.UNCALIBRATED_SCANNER: "Scanner not calibrated",
    Reason.ANALYSIS_FAILED: "Analysis failed",
    Reason.REPORT_FAILED: "Report failed",
}
"""What each reason is called in a report and on the picture: ASCII, at most 64 characters (LO)."""


def reason_code(reason: Reason) -> Code:
    """The code of a reason.

    >>> reason_code(Reason.CONTRAST)
    Code(value='contrast', scheme_designator='99TRABECULA', meaning='Contrast agent', scheme_version=None)
    """
    return _private(reason.value, REASONS[reason])
