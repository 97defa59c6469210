"""
A received data set as a DICOM file.

The bytes of the data set stay as they came. What we put before them is the same for ever, so that an instance which is
sent again makes the same file, and one whose file differs has really changed.
"""

import struct
from functools import lru_cache

IMPLEMENTATION_CLASS_UID = "2.25.215912206284098146437735613083842651317"
"""Ours, made of a random UUID (PS3.5 B.2). Never changed: it stands in every file that is compared."""

IMPLEMENTATION_VERSION_NAME = "TRABECULA"
"""Told in negotiation; not written to files, where it would change their bytes with each version."""

_FILE_META_INFORMATION_VERSION = b"\x00\x01"


def dicom_file(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, data_set: bytes) -> bytes:
    """Preamble, file meta information and data set.

    Args:
        data_set: encoded in the transfer syntax, as it was received.

    Source: DICOM PS3.10 section 7.1.
    """
    return file_head(sop_class_uid, sop_instance_uid, transfer_syntax_uid) + data_set


def file_head(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """What stands before the data set: preamble and file meta information."""
    elements = b"".join(
        (
            struct.pack("<HH2sHI2s", 2, 1, b"OB", 0, 2, _FILE_META_INFORMATION_VERSION),
            _lasting_uid(0x0002, sop_class_uid),
            _uid(0x0003, sop_instance_uid),
            _lasting_uid(0x0010, transfer_syntax_uid),
            _lasting_uid(0x0012, IMPLEMENTATION_CLASS_UID),
        )
    )
    group_length = struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(elements))
    return b"".join((bytes(128), b"DICM", group_length, elements))


def _uid(element: int, uid: str) -> bytes:
    value = uid.encode("ascii", "replace")[:64]
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HH2sH", 2, element, b"UI", len(value)) + value


_lasting_uid = lru_cache(maxsize=256)(_uid)
"""Of what is the same in image after image."""
