"""
Which series of a study serves a program, and why not the others.

Decided from headers alone, before any pixel is read. Rules first: each sets a series aside with a
reason, and what a header does not say is never held against it. Preferences then: of the series that
are left, the first preference in which two differ decides, and one series of a study is selected.

Source of rules and preferences, unless said otherwise: the selectors and inclusion criteria of
Ogo (series rules), Yoshida 2023 and Peng 2023; numbers marked "our choice" are not from them.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import acos, degrees, hypot

from engine.records import Program, Reason, Selection, SeriesRef

IMPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
EXPLICIT_BIG_ENDIAN = "1.2.840.10008.1.2.2"
RLE = "1.2.840.10008.1.2.5"
JPEG_LOSSLESS = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
JPEG_LS = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")
JPEG_2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
HTJ2K = ("1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202", "1.2.840.10008.1.2.4.203")

NATIVE = frozenset({IMPLICIT_LITTLE_ENDIAN, EXPLICIT_LITTLE_ENDIAN, DEFLATED, EXPLICIT_BIG_ENDIAN})
"""Pixels that are not coded."""

READABLE_TRANSFER_SYNTAXES = NATIVE | {RLE, *JPEG_LOSSLESS, *JPEG_LS, *JPEG_2000, *HTJ2K}
"""What the decoders of loading read; a test holds the two together."""

LOSSY_TRANSFER_SYNTAXES = frozenset(
    {f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 52, 53, 54, 55, 56, 59, 60, 61, 62, 63, 64, 93)}
    | {f"1.2.840.10008.1.2.4.{n}" for n in (100, 101, 102, 103, 104, 105, 106, 107, 108, 112)}
)
"""Those that lose something (DICOM PS3.6 table A-1): most JPEG processes, multi-component JPEG 2000, JPEG XL without
the promise to be lossless, and video."""

MAYBE_LOSSY_TRANSFER_SYNTAXES = frozenset({JPEG_LS[1], JPEG_2000[1], HTJ2K[2]})
"""Those that may lose something or not. They are read where LossyImageCompression says "00" and the stream itself says
that it is lossless; who does not say so is taken for lossy."""

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
MULTIFRAME_CT = frozenset({"1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2"})  # enhanced, legacy converted
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # and its multi-frame kinds below it

_SCOUT_WORDS = frozenset({"LOCALIZER", "SCOUT", "TOPOGRAM", "SURVIEW", "REF_SURVIEW"})
_MADE_WORDS = frozenset(
    {"SECONDARY", "MIP", "MINIP", "MPR", "CSAMIP", "CSAMPR", "REFORMATTED", "PROJECTION IMAGE", "VOLREN"}
    | {"SCREEN SAVE", "PATIENT_INFO", "DOSE_INFO", "PERFUSION", "SUBTRACTION"}
    | {"VNC", "IODINE", "MONOENERGETIC", "Z_EFF", "ELECTRON_DENSITY"}
)
"""Words of ImageType whose pixels are no longer the CT numbers of one reconstructed slice."""


class Kernel(StrEnum):
    """How much a reconstruction sharpens."""

    SOFT = "soft"
    MEDIUM = "medium"
    SHARP = "sharp"


_KERNELS: tuple[tuple[str, str, Kernel], ...] = (
    ("SIEMENS", r"[BDHIJQU][A-Z]?(2\d|3\d|4[0-5])[A-Z]*", Kernel.SOFT),
    ("SIEMENS", r"[BDHIJQU][A-Z]?4[6-9][A-Z]*", Kernel.MEDIUM),
    ("SIEMENS", r"[BDHIJQU][A-Z]?[5-9]\d[A-Z]*", Kernel.SHARP),
    (r"GE\b|GENERAL ELECTRIC", r"STANDARD|SOFT", Kernel.SOFT),
    (r"GE\b|GENERAL ELECTRIC", r"DETAIL|CHEST", Kernel.MEDIUM),
    (r"GE\b|GENERAL ELECTRIC", r"BONE|BONEPLUS|LUNG|EDGE|ULTRA", Kernel.SHARP),
    ("TOSHIBA|CANON", r"FC(0[1-9]|1\d)", Kernel.SOFT),
    ("TOSHIBA|CANON", r"FC(2\d|30)", Kernel.MEDIUM),
    ("TOSHIBA|CANON", r"FC[58]\d", Kernel.SHARP),
    ("PHILIPS", r"[ABC]", Kernel.SOFT),
    ("PHILIPS", r"[DEL]|Y[A-E]", Kernel.SHARP),
    ("UIH|UNITED IMAGING", r"B_SOFT_.*", Kernel.SOFT),
)
"""(manufacturer, kernel name, class), as patterns; the first that fits counts. Kernels of Yoshida 2023
(FC03, FC18, Br40, B, C) are soft there; the rest follows the vendors' naming and is our reading of it."""


@dataclass(frozen=True)
class SelectionOptions:
    """The rules' numbers."""

    max_slice_thickness_mm: float = 3.0
    """Of thickness and step. The selectors of the papers take at most 3 mm; in slices of 5 mm a core that
    keeps 3 mm from the cortex is not to be had, as one slice already averages over most of that distance."""
    max_gantry_tilt_degrees: float = 1.0
    max_obliquity_degrees: float = 10.0  # of the slice normal against the body's axis
    min_slices: int = 10  # our choice: fewer hold no vertebra at any thickness allowed
    enough_slices: int = 64  # our choice: with so many the extent is not asked
    min_extent_mm: float = 120.0  # our choice: some four lumbar levels
    preferred_kvp: float = 120.0
    kvp_tolerance: float = 1.0
    allow_derived: bool = False
    excluded_body_parts: tuple[str, ...] = (
        *("HEAD", "BRAIN", "SKULL", "FACE", "SINUS", "ORBIT", "EAR", "IAC", "JAW", "MAXILLA", "MANDIBLE"),
        *("NECK", "HEADNECK", "CSPINE", "EXTREMITY", "LEG", "KNEE", "FOOT", "ANKLE", "TOE", "CALF", "THIGH"),
        *("HAND", "WRIST", "FINGER", "ARM", "ELBOW", "FOREARM", "HUMERUS"),
    )

    def __post_init__(self) -> None:
        """Refuse numbers without meaning."""
        if not self.max_slice_thickness_mm > 0:
            raise ValueError("max_slice_thickness_mm must be above 0")
        if not 0 <= self.max_obliquity_degrees < 45:
            raise ValueError("max_obliquity_degrees must be at least 0 and below 45")


def select(series: Sequence[SeriesRef], program: Program, options: SelectionOptions) -> tuple[Selection, ...]:
    """Choose at most one series per study.

    Args:
        series: of one study or of many, in any order; the choice does not depend on it.

    Returns:
        One a series, in the order given. Details hold numbers and words of this file, and no text
        of a header but the UID of the series that was better.
    """
    set_aside = [_refusal(candidate, options) for candidate in series]
    left = [candidate for candidate, refusal in zip(series, set_aside, strict=True) if refusal is None]
    best: dict[str, SeriesRef] = {}
    for candidate in left:
        rival = best.setdefault(candidate.study_instance_uid, candidate)
        if _order(candidate, options) < _order(rival, options):
            best[candidate.study_instance_uid] = candidate
    return tuple(
        _selection(candidate, refusal, best.get(candidate.study_instance_uid), program, options)
        for candidate, refusal in zip(series, set_aside, strict=True)
    )


def kernel_class(series: SeriesRef) -> Kernel | None:
    """How sharp the reconstruction is, by the first value of ConvolutionKernel; None: unknown."""
    if not series.convolution_kernel:
        return None
    maker = (series.manufacturer or "").upper()
    name = series.convolution_kernel[0].upper()
    for vendor, pattern, kernel in _KERNELS:
        if (not maker or re.match(vendor, maker)) and re.fullmatch(pattern, name):
            return kernel
    return None


def is_lossy(transfer_syntax_uid: str, lossy_image_compression: str = "") -> bool:
    """Whether pixels must be taken for others than the scanner's.

    Args:
        lossy_image_compression: "01" says that they are, whatever the transfer syntax; "00" that they are not.
    """
    maybe = transfer_syntax_uid in MAYBE_LOSSY_TRANSFER_SYNTAXES and lossy_image_compression != "00"
    return lossy_image_compression == "01" or maybe or transfer_syntax_uid in LOSSY_TRANSFER_SYNTAXES


def obliquity_degrees(image_orientation_patient: tuple[float, ...]) -> float | None:
    """Angle between the slice normal and the body's long axis, 0 to 90; None: no plane is given."""
    ax, ay, az, bx, by, bz = image_orientation_patient
    normal = (ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx)
    length = hypot(*normal)
    return degrees(acos(min(1.0, abs(normal[2]) / length))) if length > 0 else None


def _selection(
    candidate: SeriesRef,
    refusal: tuple[Reason, str] | None,
    chosen: SeriesRef | None,
    program: Program,
    options: SelectionOptions,
) -> Selection:
    uid = candidate.series_instance_uid
    if refusal is not None:
        return Selection(uid, program, refusal[0], refusal[1])
    score = _score(candidate, options)
    if chosen is None or chosen is candidate:
        return Selection(uid, program, None, "", score)
    ours = _preferences(candidate, options) | _ties(candidate)
    theirs = _preferences(chosen, options) | _ties(chosen)
    rule = next((name for name, value in theirs.items() if value != ours[name]), "order of UIDs")
    return Selection(uid, program, Reason.BETTER_SERIES, f"{rule}: {chosen.series_instance_uid} is preferred", score)


def _refusal(series: SeriesRef, options: SelectionOptions) -> tuple[Reason, str] | None:
    """The first rule that speaks against a series."""
    for rule in (_by_kind, _by_image_type, _by_pixels, _by_plane, _by_slices, _by_body_part):
        refusal = rule(series, options)
        if refusal is not None:
            return refusal
    return None


def _by_kind(series: SeriesRef, options: SelectionOptions) -> tuple[Reason, str] | None:
    if series.modality != "CT":
        return Reason.NOT_CT, "the modality is not CT"
    classes = Counter(instance.sop_class_uid for instance in series.instances)
    usual = min(classes, key=lambda uid: (-classes[uid], uid), default=CT_IMAGE)
    if usual == SECONDARY_CAPTURE or usual.startswith(f"{SECONDARY_CAPTURE}."):
        return Reason.NOT_PRIMARY, "secondary captures, though the modality says CT"
    if usual != CT_IMAGE and usual not in MULTIFRAME_CT:
        return Reason.NOT_CT, "the SOP class is none of CT images"
    return None


def _by_image_type(series: SeriesRef, options: SelectionOptions) -> tuple[Reason, str] | None:
    words = set(series.image_type)
    if scouts := sorted(words & _SCOUT_WORDS):
        return Reason.LOCALIZER, f"ImageType says {scouts[0]}"
    if made := sorted(words & _MADE_WORDS):
        return Reason.NOT_PRIMARY, f"ImageType says {made[0]}"
    if series.image_type[:1] == ("DERIVED",) and not options.allow_derived:
        return Reason.NOT_PRIMARY, "ImageType says DERIVED"
    return None


def _by_pixels(series: SeriesRef, options: SelectionOptions) -> tuple[Reason, str] | None:
    if series.lossy_image_compression or series.transfer_syntax_uid in LOSSY_TRANSFER_SYNTAXES:
        return Reason.LOSSY_COMPRESSION, "the pixels were compressed with loss"
    if series.transfer_syntax_uid not in READABLE_TRANSFER_SYNTAXES:
        return Reason.TRANSFER_SYNTAX_UNSUPPORTED, f"no decoder for {series.transfer_syntax_uid}"
    if not series.has_rescale:
        return Reason.RESCALE_MISSING, "RescaleSlope or RescaleIntercept is missing"
    return None


def _by_plane(series: SeriesRef, options: SelectionOptions) -> tuple[Reason, str] | None:
    tilt = series.gantry_detector_tilt
    if tilt is not None and abs(tilt) > options.max_gantry_tilt_degrees:
        return Reason.GANTRY_TILT, f"tilt {tilt:.1f} degrees, at most {options.max_gantry_tilt_degrees:g}"
    if series.image_orientation_patient is None:
        return None
    angle = obliquity_degrees(series.image_orientation_patient)
    if angle is not None and angle > options.max_obliquity_degrees:
        return Reason.NOT_AXIAL, f"{angle:.0f} degrees from axial, at most {options.max_obliquity_degrees:g}"
    return None


def _by_slices(series: SeriesRef, options: SelectionOptions) -> tuple[Reason, str] | None:
    coarseness = _coarseness(series)
    limit = options.max_slice_thickness_mm
    if coarseness is not None and coarseness > limit * 1.01:  # 1 %: thicknesses are printed rounded
        thickness = series.slice_thickness
        if thickness is None or thickness == coarseness:
            return Reason.SLICES_TOO_THICK, f"{coarseness:.2f} mm, at most {limit:g}"
        apart = f"{coarseness:.2f} mm from slice to slice, at most {limit:g}"
        return Reason.SLICES_TOO_THICK, f"{apart}; each is {thickness:g} mm: samples, or most did not come"
    count, extent = series.slice_count, series.extent_mm
    if count < options.min_slices:
        return Reason.TOO_FEW_SLICES, f"{count} slices, at least {options.min_slices}"
    if count < options.enough_slices and extent is not None and extent < options.min_extent_mm:
        return Reason.TOO_FEW_SLICES, f"{count} slices over {extent:.0f} mm, at least {options.min_extent_mm:g} mm"
    return None


def _by_body_part(series: SeriesRef, options: SelectionOptions) -> tuple[Reason, str] | None:
    if series.body_part_examined in options.excluded_body_parts:
        return Reason.BODY_PART, f"BodyPartExamined says {series.body_part_examined}"
    return None


def _coarseness(series: SeriesRef) -> float | None:
    """Slice thickness, or the mean step where slices lie apart (thin samples are no better than thick slices), mm.

    Apart means more than twice the thickness, so that a few slices that have not arrived don't look like it.
    """
    count, thickness = series.slice_count, series.slice_thickness
    step = series.extent_mm / (count - 1) if series.extent_mm is not None and count > 1 else None
    if thickness is None or (step is not None and step > 2 * thickness):
        return step
    return thickness


def _preferences(series: SeriesRef, options: SelectionOptions) -> dict[str, float]:
    """What is preferred, most important first; higher is better. What is unknown stands in the middle."""
    thickness = _coarseness(series)
    kvp = series.kvp
    softness = {Kernel.SOFT: 2.0, Kernel.MEDIUM: 1.0, None: 1.0, Kernel.SHARP: 0.0}
    thin = thickness is not None and 0.495 <= thickness <= 1.515
    return {
        "contrast": 0.0 if series.contrast_bolus_agent else 1.0,
        "kvp": 1.0 if kvp is not None and abs(kvp - options.preferred_kvp) <= options.kvp_tolerance else 0.0,
        "kernel": softness[kernel_class(series)],
        "thickness": 1.0 if thin else 0.0,
        "extent": float(min(20, (series.extent_mm or 0.0) // 50)),  # steps of two levels, our choice
    }


def _score(series: SeriesRef, options: SelectionOptions) -> float:
    """The preferences as one number; each weight outdoes all that follow it together."""
    weights = {"contrast": 1000.0, "kvp": 400.0, "kernel": 100.0, "thickness": 30.0, "extent": 1.0}
    return sum(weights[name] * value for name, value in _preferences(series, options).items())


def _ties(series: SeriesRef) -> dict[str, float]:
    """What decides between equal scores; higher is better."""
    thickness = _coarseness(series)
    return {
        "finer thickness": -thickness if thickness is not None else -1e9,
        "extent in mm": series.extent_mm or 0.0,
        "date": float(series.acquisition_date or 0),
    }


def _order(series: SeriesRef, options: SelectionOptions) -> tuple[float | str, ...]:
    """Best first; the UID makes the order total."""
    return -_score(series, options), *(-value for value in _ties(series).values()), series.series_instance_uid
