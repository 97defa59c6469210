"""
What a report takes from the headers of the images that it is about.

Identity is read from the source at the moment of writing, laid on a finished object and kept
nowhere else: the libraries that build the objects see slices without a patient, because they quote
odd names in warnings and log lines. Text is decoded once and written as UTF-8; a date, age or
number that breaks its own grammar is left out; nothing is made up.
"""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import numpy as np
from pydicom import DataElement, Dataset, config, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.sr.coding import Code
from pydicom.valuerep import DSfloat, validate_value

from dicom_node.report import codes
from engine.errors import IncompleteSeries, SeriesError
from engine.records import Reason
from engine.volume import Analysis

UTF8 = "ISO_IR 192"

_EMPTY_IF_UNKNOWN = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
    "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
"""Type 2 in every object we write (PS3.3 C.7.1.1, C.7.2.1)."""

_ABSENT_IF_UNKNOWN = (
    "IssuerOfPatientID", "IssuerOfPatientIDQualifiersSequence", "PatientBirthTime", "OtherPatientIDsSequence",
    "OtherPatientNames", "EthnicGroup", "PatientSpeciesDescription", "PatientIdentityRemoved",
    "DeidentificationMethod", "DeidentificationMethodCodeSequence", "StudyDescription",
    "IssuerOfAccessionNumberSequence", "ProcedureCodeSequence", "PatientAge", "PatientSize", "PatientWeight",
    "AdmissionID", "IssuerOfAdmissionIDSequence", "TimezoneOffsetFromUTC",
)  # fmt: skip

_EQUIPMENT = ("Manufacturer", "ManufacturerModelName", "SoftwareVersions", "DeviceSerialNumber", "StationName")
_SLICE = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "Rows", "Columns",
    "FrameOfReferenceUID", "PositionReferenceIndicator", "ImageOrientationPatient", "ImagePositionPatient",
    "PixelSpacing", "SliceThickness",
)  # fmt: skip

_FRAMES = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_GROUPS = ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
"""Where a multi-frame instance keeps what a single one has at its top (PS3.3 C.7.6.16)."""

_GRAMMAR = frozenset({"AS", "CS", "DA", "DT", "TM"})
"""Value representations whose values can be without meaning; text and UIDs stay as they are."""

_LONGEST_CODE = (16, 16, 64)  # value, scheme, meaning (PS3.5: SH, SH, LO)


@dataclass(frozen=True, eq=False)
class SourceHeaders:
    """The identity to write, and the analysed slices without it."""

    identity: Dataset  # patient and study, decoded
    slices: dict[int, Dataset]  # by index k in the volume; geometry, UIDs and scanner, no pixels, no patient
    frames: dict[int, int]  # by index k: which frame of its instance, from 1; empty where each instance has one

    def frame_numbers(self, k: int) -> list[int] | None:
        """What a reference to a slice names beside its UID; None: the instance has one frame."""
        return [self.frames[k]] if k in self.frames else None

    @property
    def first(self) -> Dataset:
        """A slice to inherit the study from."""
        return self.slices[min(self.slices)]

    @property
    def has_frame_of_reference(self) -> bool:
        """Whether regions can be placed in the patient."""
        return all(header.get("FrameOfReferenceUID") for header in self.slices.values())

    @property
    def procedure(self) -> Code:
        """The CT procedure, by the source's own code where it has a whole one."""
        for item in self.identity.get("ProcedureCodeSequence") or ():
            words = [str(item.get(key) or "") for key in ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")]
            if all(0 < len(word) <= most for word, most in zip(words, _LONGEST_CODE, strict=True)):
                return Code(*words)
        return codes.CT_PROCEDURE

    def local_time(self, moment: datetime) -> datetime:
        """A moment in the zone that the source's times are in: its own, else this machine's."""
        return moment.astimezone(_zone(str(self.identity.get("TimezoneOffsetFromUTC") or "")))


def read_source(analysis: Analysis, slices: Iterable[int]) -> SourceHeaders:
    """Read the headers of some analysed slices.

    Args:
        slices: indices k in the volume; the first slice of the volume is always read.

    Raises:
        SeriesError: a file is gone or unreadable, or is not what was analysed: another instance or
            patient, another place or size.
    """
    paths = {instance.sop_instance_uid: instance.path for instance in analysis.series.instances}
    uids, frames = analysis.volume.sop_instance_uids, analysis.volume.frame_numbers
    wanted = sorted({0, *slices})
    if frames:  # few instances with many slices each
        headers = {uid: _read(paths[uid], _FRAMES) for uid in {uids[k] for k in wanted}}
        found = {k: _of_frame(headers[uids[k]], frames[k]) for k in wanted}
    else:
        found = {k: _read(paths[uids[k]]) for k in wanted}
    identity = _identity(found[0])
    for k, header in found.items():
        if header.get("SOPInstanceUID") != uids[k] or header.get("StudyInstanceUID") != identity.StudyInstanceUID:
            raise SeriesError(Reason.REPORT_FAILED, "a file of the series is no longer the instance that was analysed")
        if header.get("PatientID") != found[0].get("PatientID"):
            raise SeriesError(Reason.REPORT_FAILED, "the slices of the series name different patients")
    bare = {k: _without_patient(header) for k, header in found.items()}
    _check_places(analysis, bare)
    return SourceHeaders(identity, bare, {k: frames[k] for k in wanted} if frames else {})


def lay_identity(report: Dataset, source: SourceHeaders, moment: datetime) -> None:
    """Put the patient, the study and the time of making on a finished object, in place."""
    report.SpecificCharacterSet = UTF8
    for element in source.identity:
        report[element.tag] = element
    local = source.local_time(moment)
    report.InstanceCreationDate, report.InstanceCreationTime = local.strftime("%Y%m%d"), local.strftime("%H%M%S.%f")
    for item in report.get("ContributingEquipmentSequence") or ():
        item.pop("ContributionDateTime", None)  # the library stamps its own; two writings shall be alike


@contextmanager
def unquoted() -> Iterator[None]:
    """Keep pydicom from judging values: its warnings and log lines quote them."""
    with config.disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _read(path: str, more: tuple[str, ...] = ()) -> Dataset:
    """The wanted attributes of one file, decoded; unreadable ones are left out."""
    wanted = [*_EMPTY_IF_UNKNOWN, *_ABSENT_IF_UNKNOWN, *_EQUIPMENT, *_SLICE, *more]
    try:
        with unquoted():
            return _decoded(dcmread(path, stop_before_pixels=True, force=True, specific_tags=wanted))
    except FileNotFoundError:
        raise IncompleteSeries(Reason.FILE_MISSING, "a file of the series is gone") from None
    except (InvalidDicomError, OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as bad:
        message = f"the header of a source image can't be read again ({type(bad).__name__})"
        raise SeriesError(Reason.REPORT_FAILED, message) from None  # the cause may quote patient data


def _of_frame(header: Dataset, number: int) -> Dataset:
    """One frame of a multi-frame instance as if it were an instance of its own, but for its UID."""
    frame = Dataset()
    frame.update({element.tag: element for element in header if element.keyword not in _FRAMES})
    shared, own = (header.get(keyword) or [] for keyword in _FRAMES)
    for groups in (*shared[:1], *own[number - 1 : number]):
        for keyword in _GROUPS:
            for item in groups.get(keyword) or ():
                frame.update(item)
    return frame


def _decoded(dataset: Dataset) -> Dataset:
    plain = Dataset()
    for tag in dataset.keys():  # noqa: SIM118 - iterating would convert, and one bad element would end it
        if tag.is_private or tag.group == 0x0002 or tag == 0x00080005:
            continue
        try:
            plain[tag] = _decoded_element(dataset[tag])
        except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError, OverflowError):
            continue
    return plain


def _decoded_element(element: DataElement) -> DataElement:
    """The element with plain text instead of bytes and character sets.

    Raises:
        ValueError: it breaks its grammar.
    """
    vr, value = element.VR, element.value
    if vr == "SQ":
        value = [_decoded(item) for item in value]
    elif vr == "PN":
        value = [str(name) for name in value] if element.VM > 1 else str(value or "")
    elif value in (None, ""):
        value = None
    elif vr == "DS":  # scanners write more than the 16 characters that a decimal string may have
        numbers = [DSfloat(float(single), auto_format=True) for single in (value if element.VM > 1 else [value])]
        value = numbers if element.VM > 1 else numbers[0]
    elif vr in _GRAMMAR:
        for single in value if element.VM > 1 else [value]:
            validate_value(vr, getattr(single, "original_string", None) or str(single), config.RAISE)
    return DataElement(element.tag, vr, value, validation_mode=config.IGNORE)


def _identity(header: Dataset) -> Dataset:
    identity = Dataset()
    for keyword in ("StudyInstanceUID", *_EMPTY_IF_UNKNOWN, *_ABSENT_IF_UNKNOWN):
        if keyword in header:
            identity[keyword] = header[keyword]
        elif keyword in _EMPTY_IF_UNKNOWN:
            setattr(identity, keyword, "")
    if not identity.get("PatientWeight", 0):
        identity.pop("PatientWeight", None)  # 0 kg stands for "not asked"
    if _zone(str(identity.get("TimezoneOffsetFromUTC") or "")) is None:
        identity.pop("TimezoneOffsetFromUTC", None)
    if not identity.get("StudyInstanceUID"):
        raise SeriesError(Reason.REPORT_FAILED, "a source image has no Study Instance UID")
    return identity


def _zone(offset: str) -> timezone | None:
    """Source: PS3.3 C.12.1.1: "&ZZXX", from -1200 to +1400.

    >>> _zone("+0530")
    datetime.timezone(datetime.timedelta(seconds=19800))
    >>> _zone("+9900") is None
    True
    """
    if len(offset) != 5 or offset[0] not in "+-" or not offset[1:].isdigit():
        return None
    shift = timedelta(hours=int(offset[1:3]), minutes=int(offset[3:]))
    return timezone(-shift if offset[0] == "-" else shift) if shift <= timedelta(hours=14) else None


def _without_patient(header: Dataset) -> Dataset:
    bare = Dataset()
    for keyword in (*_SLICE, *_EQUIPMENT):
        if keyword in header and header[keyword].value not in (None, ""):
            bare[keyword] = header[keyword]
    for keyword in _EMPTY_IF_UNKNOWN:
        setattr(bare, keyword, None)
    bare.SpecificCharacterSet = UTF8
    return bare


def _check_places(analysis: Analysis, slices: dict[int, Dataset]) -> None:
    """Hold the files against the grid that was analysed: a mask must not land on another slice.

    Raises:
        SeriesError: a slice has another size, or lies more than half a voxel from where it was.
    """
    geometry = analysis.volume.geometry
    steps = np.asarray(geometry.spacing_mm)
    for k, header in slices.items():
        try:
            size = (int(header.Rows), int(header.Columns))
            position = np.array([float(value) for value in header.ImagePositionPatient])
            orientation = np.array([float(value) for value in header.ImageOrientationPatient]).reshape(2, 3)
            pixel = np.array([float(value) for value in header.PixelSpacing])
        except (AttributeError, ValueError, TypeError):
            raise SeriesError(Reason.REPORT_FAILED, "a source image lacks its place in the patient") from None
        corner = np.array([k, 0, 0], dtype=float)
        away = np.abs((position - geometry.to_patient(corner)) @ np.asarray(geometry.direction).T) / steps
        axes = np.asarray(geometry.direction)[[2, 1]]  # along columns' index i, then rows' index j
        same_axes = np.allclose(orientation, axes, atol=0.01) and np.allclose(pixel, steps[1:], rtol=0.01)
        if size != geometry.shape[1:] or away.max() > 0.5 or not same_axes:
            raise SeriesError(Reason.REPORT_FAILED, "the source images do not lie where the analysed grid does")


def middle(indices: Sequence[int]) -> int:
    """The middle one of some slice indices.

    >>> middle([4, 5, 6, 9])
    6
    """
    return sorted(indices)[len(indices) // 2]
