"""
What is written down: the words that engine, database and node share.

What arrived stands in `received`, what is measured in `measures`; both are met here, with what came of it.
All are frozen, can be pickled, compared and hashed, and need neither NumPy nor SQLAlchemy.
No patient name or identifier is in any of them; `patient_key` is a keyed hash.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from engine.measures import (
    CLASSES,
    BoneFinding,
    CalibrationMethod,
    Quantity,
    ReferenceMaterial,
    VertebralLevel,
)
from engine.received import InstanceHeader, InstanceRef, SeriesRef


class Program(StrEnum):
    """A screening program: which question is asked of a series."""

    VERTEBRAL = "vertebral"


class Reason(StrEnum):
    """Why there is no result, or why a number is withheld or flagged. Values are added, never renamed.

    docs/reasons.md tells each in plain words; a test holds it complete.
    """

    # an instance is refused at the door
    IDENTITY_MISSING = "identity_missing"
    IDENTIFIER_INVALID = "identifier_invalid"
    HEADER_UNREADABLE = "header_unreadable"
    COMMAND_MISMATCH = "command_mismatch"
    INSTANCE_CONFLICT = "instance_conflict"
    # a series is not what a program reads (header)
    NOT_CT = "not_ct"
    LOCALIZER = "localizer"
    NOT_PRIMARY = "not_primary"
    LOSSY_COMPRESSION = "lossy_compression"
    TRANSFER_SYNTAX_UNSUPPORTED = "transfer_syntax_unsupported"
    MULTIFRAME_UNSUPPORTED = "multiframe_unsupported"
    RESCALE_MISSING = "rescale_missing"
    NOT_AXIAL = "not_axial"
    GANTRY_TILT = "gantry_tilt"
    SLICES_TOO_THICK = "slices_too_thick"
    TOO_FEW_SLICES = "too_few_slices"
    BODY_PART = "body_part"
    BETTER_SERIES = "better_series"
    # a series can't be loaded
    SLICES_MISSING = "slices_missing"
    SLICES_DUPLICATED = "slices_duplicated"
    SLICES_INCONSISTENT = "slices_inconsistent"
    GRID_SHEARED = "grid_sheared"
    GRID_TOO_SMALL = "grid_too_small"
    IMAGE_TOO_LARGE = "image_too_large"
    PIXELS_UNREADABLE = "pixels_unreadable"
    PIXELS_IMPLAUSIBLE = "pixels_implausible"
    FILE_MISSING = "file_missing"
    PIXELS_CLEARED = "pixels_cleared"
    # nothing to measure
    NO_VERTEBRA = "no_vertebra"
    LEVEL_UNCERTAIN = "level_uncertain"
    LEVEL_GAP = "level_gap"
    NO_ELIGIBLE_LEVEL = "no_eligible_level"
    ANSWER_NOT_FINITE = "answer_not_finite"
    # a number is withheld or flagged
    CONTRAST = "contrast"
    KVP = "kvp"
    SHARP_KERNEL = "sharp_kernel"
    FIELD_OF_VIEW = "field_of_view"
    CORE_TOO_SMALL = "core_too_small"
    NOISE = "noise"
    COMPRESSION = "compression"
    DENSE_FOCUS = "dense_focus"
    METAL = "metal"
    OUTLIER_LEVEL = "outlier_level"
    NEAR_CUT = "near_cut"
    TRANSITIONAL = "transitional"
    ONE_ANCHOR = "one_anchor"
    DENSITY_IMPLAUSIBLE = "density_implausible"
    UNLIKE_TRAINING = "unlike_training"
    CEMENT = "cement"
    UNEVEN_CORE = "uneven_core"
    SCOLIOSIS = "scoliosis"
    TRUNCATED_BODY = "truncated_body"
    SEGMENTATION_IMPLAUSIBLE = "segmentation_implausible"
    AGE = "age"
    UNCALIBRATED_SCANNER = "uncalibrated_scanner"
    # the work itself failed
    ANALYSIS_FAILED = "analysis_failed"
    REPORT_FAILED = "report_failed"


@dataclass(frozen=True, slots=True)
class Selection:
    """Whether a series serves a program."""

    series_instance_uid: str
    program: Program
    reason: Reason | None  # None: selected
    detail: str = ""
    score: float = 0.0  # higher is preferred; compared within a study only


@dataclass(frozen=True, slots=True)
class ModelRef:
    """Which weights a number came from."""

    name: str
    version: str
    sha256: str  # of the ONNX file
    reference_only: bool  # trained on phantoms: not for diagnosis
    precision: str  # what the session really computed in, such as "f32"
    backend: str  # such as "openvino 2026.4.1"

    def __str__(self) -> str:
        """Name and version, as reports print it."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True)
class Measurement:
    """One number with its place and origin."""

    quantity: Quantity
    value: float
    finding_site: VertebralLevel | None  # None: the patient
    model: str  # "name@version" of the last model that made it


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a density of this result rests on: value = slope * (HU, or a network's mg/cm3) + intercept."""

    quantity: Quantity
    method: CalibrationMethod
    source: str  # the name of the site's entry; "name@version" of the model where its training is all there is
    reference_material: ReferenceMaterial
    slope: float
    intercept: float  # mg/cm3
    corrections: tuple[str, ...] = ()  # named, in the order in which they changed HU; they are in the line already


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One finding with its place and the policy that made it."""

    finding: BoneFinding
    finding_site: VertebralLevel | None  # None: the patient
    policy: str  # "name@version"
    quantity: Quantity = Quantity.VOLUMETRIC_BMD  # of the number that was judged


@dataclass(frozen=True, slots=True)
class ClassProbability:
    """How likely the classifier thinks one class; at one place they add up to 1."""

    finding: BoneFinding
    value: float  # 0..1
    finding_site: VertebralLevel | None  # None: the patient, the mean of the aggregated levels
    model: str  # "name@version"


@dataclass(frozen=True, slots=True)
class QualityFlag:
    """Something that a reader of the numbers must know."""

    reason: Reason
    finding_site: VertebralLevel | None  # None: the whole series
    withholds: bool  # True: the density there is not given
    detail: str = ""


class Anchor(StrEnum):
    """What a count of vertebrae starts from."""

    SACRUM = "sacrum"
    LAST_RIBS = "last ribs"


@dataclass(frozen=True, slots=True)
class Numbering:
    """How an anchor in view counts the vertebrae. The names of a result are those of a numbering whose shift is 0."""

    anchor: Anchor
    shift: int  # levels by which this count's names lie further down than the result's: 1 calls its L5 an L6

    def name(self, level: VertebralLevel) -> VertebralLevel | None:
        """What this count calls the vertebra that the result calls so; None: it lies above T1 or below S1.

        >>> Numbering(Anchor.LAST_RIBS, -1).name(VertebralLevel.L1).value
        'T12'
        """
        levels = list(VertebralLevel)
        index = levels.index(level) + self.shift
        return levels[index] if 0 <= index < len(levels) else None


@dataclass(frozen=True, slots=True)
class ScreeningResult:
    """What one analysis says."""

    study_instance_uid: str
    series_instance_uid: str
    program: Program
    levels: tuple[VertebralLevel, ...]  # named in the images, head to foot
    aggregated_levels: tuple[VertebralLevel, ...]  # that went into the patient's value
    measurements: tuple[Measurement, ...]
    evaluations: tuple[Evaluation, ...]
    quality_flags: tuple[QualityFlag, ...]
    reason: Reason | None  # None: a density was given; else why not
    models: tuple[ModelRef, ...]
    policy: str  # "name@version"
    engine_version: str
    analysed_at: datetime  # UTC
    stage_seconds: tuple[tuple[str, float], ...] = ()  # name, seconds; for people and metrics
    class_probabilities: tuple[ClassProbability, ...] = ()  # where a classifier is among the models
    areal_levels: tuple[VertebralLevel, ...] = ()  # that went into the patient's areal BMD and bone score
    calibrations: tuple[Calibration, ...] = ()  # at most one for each quantity
    calibrated_levels: tuple[VertebralLevel, ...] = ()  # that went into the patient's calibrated BMD
    numberings: tuple[Numbering, ...] = ()  # one an anchor in view; shifts differ where the spine is transitional

    def value(self, quantity: Quantity, level: VertebralLevel | None) -> float | None:
        """The measurement of a quantity at a level (None: the patient), or None."""
        for measurement in self.measurements:
            if measurement.quantity is quantity and measurement.finding_site == level:
                return measurement.value
        return None

    def finding(self, level: VertebralLevel | None, quantity: Quantity = Quantity.VOLUMETRIC_BMD) -> BoneFinding | None:
        """What a quantity's value at a level (None: the patient) was called, or None."""
        for evaluation in self.evaluations:
            if evaluation.finding_site == level and evaluation.quantity is quantity:
                return evaluation.finding
        return None

    def probability(self, finding: BoneFinding, level: VertebralLevel | None) -> float | None:
        """The classifier's probability of a class at a level (None: the patient), or None."""
        for one in self.class_probabilities:
            if one.finding is finding and one.finding_site == level:
                return one.value
        return None

    def calibration(self, quantity: Quantity) -> Calibration | None:
        """What a quantity's values rest on, or None."""
        return next((one for one in self.calibrations if one.quantity is quantity), None)

    def flags(self, level: VertebralLevel | None) -> tuple[QualityFlag, ...]:
        """The quality flags at a level (None: of the whole series)."""
        return tuple(flag for flag in self.quality_flags if flag.finding_site == level)


@dataclass(frozen=True, slots=True)
class SeriesFailure:
    """The other outcome of an analysis: the series was set aside."""

    study_instance_uid: str
    series_instance_uid: str
    program: Program
    reason: Reason
    message: str  # never holds patient data


@dataclass(frozen=True, slots=True)
class ObjectUids:
    """Names one DICOM object."""

    sop_class_uid: str
    series_instance_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class ReportObject:
    """A DICOM object that was written and waits to be sent."""

    kind: str  # "sr", "seg", "picture"
    sop_class_uid: str
    series_instance_uid: str  # of the object itself, not of the images
    sop_instance_uid: str
    path: str


__all__ = [
    "CLASSES",
    "BoneFinding",
    "Calibration",
    "CalibrationMethod",
    "ClassProbability",
    "Evaluation",
    "InstanceHeader",
    "InstanceRef",
    "Measurement",
    "ModelRef",
    "ObjectUids",
    "Program",
    "QualityFlag",
    "Quantity",
    "Reason",
    "ReferenceMaterial",
    "ReportObject",
    "ScreeningResult",
    "Selection",
    "SeriesFailure",
    "SeriesRef",
    "VertebralLevel",
]
