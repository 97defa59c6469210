"""
What one instance's header says.

Identifiers decide where data goes, so they are held to DICOM's grammar before anything else sees
them; a data set without them is refused. Everything else may be odd: a value that makes no sense is
simply not there. The patient's identity ends here, in a keyed hash.
"""

import hmac
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from functools import lru_cache
from pathlib import Path
from stat import S_ISREG
from typing import Any

import numpy as np

from engine.errors import BadOption, ScreeningError, UnreadableInstance
from engine.loading.elements import Elements, read_elements
from engine.loading.tags import Tag
from engine.records import InstanceHeader, Reason
from engine.selection import is_lossy
from engine.series import series_of as series_of

LONGEST_UID = 64
_LONGEST_TEXT = 64  # letters that are kept; the longest that DICOM allows to what is read here (VR LO)
_UID = re.compile(r"[0-2](\.(0|[1-9][0-9]*))+")
_CODE = re.compile(r"[A-Z0-9 _]{1,16}")  # what VR CS allows (DICOM PS3.5 table 6.2-1)
_NO_AGENT = frozenset({"NO", "NONE", "N/A", "NO CONTRAST"})
_MOST_VALUES = 16  # of a multi-valued attribute that is kept; our choice
_OF_ONE_SLICE = frozenset({Tag.SOP_INSTANCE_UID, Tag.INSTANCE_NUMBER, Tag.IMAGE_POSITION_PATIENT})
_YEARS = {"D": 365.25, "W": 365.25 / 7, "M": 12.0, "Y": 1.0}


def pseudonym(key: bytes, patient_id: str, issuer: str) -> str:
    """The patient's key: 32 hexadecimal digits of a keyed hash (HMAC-SHA-256).

    The same patient ID of the same issuer has the same key, and without `key` nobody can try IDs out.

    Args:
        key: the site's secret.

    Raises:
        BadOption: the key is empty.
    """
    return _keyed_hash(key, "patient", issuer.strip(), patient_id.strip())


def accession_pseudonym(key: bytes, accession_number: str) -> str:
    """The keyed hash of an accession number, made as the patient's key is.

    Raises:
        BadOption: the key is empty.
    """
    return _keyed_hash(key, "accession", accession_number.strip())


@lru_cache(maxsize=1024)
def check_uid(text: str) -> str:
    """The identifier itself, once it is known to be one.

    Raises:
        UnreadableInstance: it is empty, or not a UID.

    Source: DICOM PS3.5 section 9.1: digits and dots, at most 64, no component with a leading zero.

    >>> check_uid("1.2.840.10008.1.2")
    '1.2.840.10008.1.2'
    """
    if not text:
        raise UnreadableInstance(Reason.IDENTITY_MISSING, "a unique identifier is empty")
    if len(text) > LONGEST_UID or not _UID.fullmatch(text):
        raise UnreadableInstance(Reason.IDENTIFIER_INVALID, "a unique identifier is not a DICOM UID")
    return text


def read_header(path: Path, pseudonym_key: bytes) -> InstanceHeader:
    """The header of a file; its pixels are not read.

    Raises:
        UnreadableInstance: the file is gone, is no DICOM file, is cut short within its header, or
            lacks the identifiers of study, series and instance.
    """
    try:
        if not S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 - as often as there are files
            raise UnreadableInstance(Reason.FILE_MISSING, "there is no such file")
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123
            return _header(read_elements(file, os.fstat(file.fileno()).st_size), pseudonym_key)
    except ScreeningError:
        raise
    except FileNotFoundError:
        raise UnreadableInstance(Reason.FILE_MISSING, "there is no such file") from None
    except Exception as bad:  # whatever hostile bytes bring about; the cause may quote patient data, so it is cut off
        raise UnreadableInstance(Reason.HEADER_UNREADABLE, f"the header breaks off with {type(bad).__name__}") from None


def header_from(elements: Elements, pseudonym_key: bytes) -> InstanceHeader:
    """The same as `read_header`, of elements that were walked already.

    Raises:
        UnreadableInstance: as `read_header`.
    """
    try:
        return _header(elements, pseudonym_key)
    except ScreeningError:
        raise
    except Exception as bad:
        raise UnreadableInstance(Reason.HEADER_UNREADABLE, f"the header breaks off with {type(bad).__name__}") from None


def _header(elements: Elements, pseudonym_key: bytes) -> InstanceHeader:
    if not elements.frames:
        return _of_one_frame(elements, pseudonym_key)
    return _of_all_frames([elements.frame(n) for n in range(len(elements.frames))], pseudonym_key)


def _of_all_frames(frames: Sequence[Elements], pseudonym_key: bytes) -> InstanceHeader:
    """An enhanced image says what its first frame says, its ends lie where the outermost frames do, and the worst of
    its frames speaks for thickness, tilt, contrast and rescale, as the worst of its slices does for a series."""
    first = _of_one_frame(frames[0], pseudonym_key)
    thicknesses = [value for said in frames if (value := _positive(said.number(Tag.SLICE_THICKNESS))) is not None]
    tilts = [value for said in frames if (value := said.number(Tag.GANTRY_DETECTOR_TILT)) is not None]
    kvps = {_positive(said.number(Tag.KVP)) for said in frames}
    positions = [said.numbers(Tag.IMAGE_POSITION_PATIENT, 3) for said in frames]
    known = [position for position in positions if position is not None]
    if first.image_orientation_patient is not None and known:
        cosines = first.image_orientation_patient
        normal = np.cross(cosines[:3], cosines[3:])
        known.sort(key=lambda position: (float(np.dot(normal, position)), position))
    return replace(
        first,
        slice_thickness=max(thicknesses, default=None),
        gantry_detector_tilt=max(tilts, key=abs, default=None),
        kvp=kvps.pop() if len(kvps) == 1 else None,
        contrast_bolus_agent=any(_names_contrast(said) for said in frames),
        has_rescale=all(_has_rescale(said) for said in frames),
        image_position_patient=known[0] if known else None,
        last_position_patient=known[-1] if known else None,
    )


def _has_rescale(elements: Elements) -> bool:
    return bool(elements.number(Tag.RESCALE_SLOPE)) and elements.number(Tag.RESCALE_INTERCEPT) is not None


def _of_one_frame(elements: Elements, pseudonym_key: bytes) -> InstanceHeader:
    alike = tuple([said for said in elements.values.items() if said[0] not in _OF_ONE_SLICE])
    return InstanceHeader(
        sop_instance_uid=_uid(elements, Tag.SOP_INSTANCE_UID),
        instance_number=elements.integer(Tag.INSTANCE_NUMBER),
        image_position_patient=elements.numbers(Tag.IMAGE_POSITION_PATIENT, 3),
        **_of_slices_alike(elements.transfer_syntax_uid, alike, pseudonym_key),
    )


@lru_cache(maxsize=64)  # more than associations; held to as few as serve, as the values name patients
def _of_slices_alike(
    transfer_syntax_uid: str, values: tuple[tuple[int, bytes | str], ...], pseudonym_key: bytes
) -> dict[str, Any]:
    """What slices say that differ in nothing but themselves: made once, as most of a series do."""
    elements = Elements(transfer_syntax_uid, dict(values))
    study_instance_uid = _uid(elements, Tag.STUDY_INSTANCE_UID)
    return {
        "sop_class_uid": _uid(elements, Tag.SOP_CLASS_UID),
        "study_instance_uid": study_instance_uid,
        "series_instance_uid": _uid(elements, Tag.SERIES_INSTANCE_UID),
        "transfer_syntax_uid": check_uid(elements.transfer_syntax_uid),
        "patient_key": _patient_key(elements, study_instance_uid, pseudonym_key),
        "patient_sex": sex if (sex := elements.text(Tag.PATIENT_SEX).upper()) in ("M", "F", "O") else None,
        "patient_age": _age(elements),
        "study_date": _date(elements.text(Tag.STUDY_DATE)),
        "acquisition_date": _date(elements.text(Tag.ACQUISITION_DATE))
        or _date(elements.text(Tag.ACQUISITION_DATE_TIME)[:8]),
        "modality": _code(elements.text(Tag.MODALITY)) or "",
        "image_type": tuple(value.upper() for value in _texts(elements, Tag.IMAGE_TYPE)),
        "body_part_examined": _code(elements.text(Tag.BODY_PART_EXAMINED)),
        "manufacturer": elements.text(Tag.MANUFACTURER)[:_LONGEST_TEXT] or None,
        "manufacturer_model_name": elements.text(Tag.MANUFACTURER_MODEL_NAME)[:_LONGEST_TEXT] or None,
        "convolution_kernel": tuple(value for value in _texts(elements, Tag.CONVOLUTION_KERNEL) if value),
        "slice_thickness": _positive(elements.number(Tag.SLICE_THICKNESS)),
        "kvp": _positive(elements.number(Tag.KVP)),
        "contrast_bolus_agent": _names_contrast(elements),
        "gantry_detector_tilt": elements.number(Tag.GANTRY_DETECTOR_TILT),
        "lossy_image_compression": is_lossy(elements.transfer_syntax_uid, elements.text(Tag.LOSSY_IMAGE_COMPRESSION)),
        "has_rescale": _has_rescale(elements),
        "rows": elements.short(Tag.ROWS),
        "columns": elements.short(Tag.COLUMNS),
        "number_of_frames": max(1, elements.integer(Tag.NUMBER_OF_FRAMES) or 1),
        "frame_of_reference_uid": frame_of_reference(elements),
        "image_orientation_patient": elements.numbers(Tag.IMAGE_ORIENTATION_PATIENT, 6),
        "station_name": elements.text(Tag.STATION_NAME)[:_LONGEST_TEXT] or None,
        "accession_key": _accession_key(elements, pseudonym_key),
        "number_of_series_related_instances": _count(elements, Tag.NUMBER_OF_SERIES_RELATED_INSTANCES),
        "images_in_acquisition": _count(elements, Tag.IMAGES_IN_ACQUISITION),
    }


def _texts(elements: Elements, tag: Tag) -> tuple[str, ...]:
    return tuple(value[:_LONGEST_TEXT] for value in elements.texts(tag)[:_MOST_VALUES])


def frame_of_reference(elements: Elements) -> str | None:
    """The frame of reference, where it is a UID."""
    text = elements.text(Tag.FRAME_OF_REFERENCE_UID)
    return text if len(text) <= LONGEST_UID and _UID.fullmatch(text) else None


def _uid(elements: Elements, tag: Tag) -> str:
    """An identifier as it stands: only padding is taken off, nothing is repaired."""
    value = elements.values.get(tag, b"")
    text = value if isinstance(value, str) else value.decode("latin-1")
    return check_uid(text.rstrip("\0 "))


def _patient_key(elements: Elements, study_instance_uid: str, key: bytes) -> str:
    """Without a legible patient ID the study stands for the patient, so that strangers never merge."""
    patient_id = _patient_text(elements, Tag.PATIENT_ID)
    issuer = _patient_text(elements, Tag.ISSUER_OF_PATIENT_ID)
    if patient_id and "\ufffd" not in patient_id:
        return pseudonym(key, patient_id, issuer)
    return _keyed_hash(key, "study", issuer, study_instance_uid)


def _count(elements: Elements, tag: Tag) -> int | None:
    value = elements.integer(tag)
    return value if value is not None and value > 0 else None


def _accession_key(elements: Elements, key: bytes) -> str | None:
    number = _patient_text(elements, Tag.ACCESSION_NUMBER)
    return accession_pseudonym(key, number) if number and "\ufffd" not in number else None


def _patient_text(elements: Elements, tag: Tag) -> str:
    value = elements.values.get(tag, b"")
    if isinstance(value, str):
        return value.strip("\0 ")
    if value.isascii() and b"\x1b" not in value:
        return value.decode("ascii").strip("\0 ")
    from pydicom.charset import default_encoding, python_encoding

    named = elements.text(Tag.SPECIFIC_CHARACTER_SET)
    try:
        text: str = value.decode(python_encoding.get(named, default_encoding))
    except (UnicodeError, LookupError):
        return "\ufffd"
    return text.strip("\0 ")


def _keyed_hash(key: bytes, *parts: str) -> str:
    if not key:
        raise BadOption("the key of pseudonyms is empty")
    data = b"".join(
        len(raw).to_bytes(8, "big") + raw for raw in (part.encode("utf-8", "surrogatepass") for part in parts)
    )
    return hmac.digest(key, data, "sha256").hex()[:32]


def _names_contrast(elements: Elements) -> bool:
    """Whether any attribute speaks of a contrast agent. A word we do not know counts as one.

    Source: our choice of the words that mean none; the volume is often 0 where an agent was given.
    """
    agent = elements.text(Tag.CONTRAST_BOLUS_AGENT).upper()
    if (elements.has(Tag.CONTRAST_BOLUS_AGENT) and agent not in _NO_AGENT) or elements.has(
        Tag.CONTRAST_BOLUS_AGENT_SEQUENCE
    ):
        return True
    volume = elements.number(Tag.CONTRAST_BOLUS_VOLUME)
    ingredient = elements.text(Tag.CONTRAST_BOLUS_INGREDIENT).upper()
    return (volume is not None and volume > 0) or bool(ingredient and ingredient not in _NO_AGENT)


def _age(elements: Elements) -> int | None:
    """Whole years at the study: as stated, else from the date of birth, which is kept nowhere."""
    stated = re.fullmatch(r"([0-9]{1,3})([DWMY])", elements.text(Tag.PATIENT_AGE).upper())
    if stated:
        years = int(int(stated[1]) / _YEARS[stated[2]])
    else:
        born, seen = _date(elements.text(Tag.PATIENT_BIRTH_DATE)), _date(elements.text(Tag.STUDY_DATE))
        if born is None or seen is None:
            return None
        years = int(seen[:4]) - int(born[:4]) - (seen[4:] < born[4:])
    return years if 0 <= years <= 130 else None


def _code(text: str) -> str | None:
    """A coded word in capitals; free text is none."""
    word = text.upper()
    return word if _CODE.fullmatch(word) else None


def _date(text: str) -> str | None:
    digits = text.replace(".", "")
    if not re.fullmatch(r"[0-9]{8}", digits):
        return None
    try:
        date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
    except ValueError:
        return None
    return digits


def _positive(value: float | None) -> float | None:
    return value if value is not None and value > 0 else None
