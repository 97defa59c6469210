"""
The one way in for instances that we fetch ourselves: looked at and spooled as if they had come by C-STORE.

A file's own preamble and meta information are replaced by ours, so that an instance makes the same file by whichever
way it comes, and a second copy is a repetition and no conflict.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from db.connection import Database
from db.registry import Arrival, Registration, here_or_finished
from dicom_node.intake.file_format import dicom_file
from dicom_node.intake.inspection import Command, inspect, read_content
from dicom_node.spool import Arrival as Kind
from dicom_node.spool import Spool
from engine.digest import digest_of
from engine.errors import UnreadableInstance
from engine.records import Reason

_PREAMBLE_BYTES, _META_GROUP = 132, 2
_LONG_VRS = frozenset({b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SQ", b"UC", b"UN", b"UR", b"UT", b"SV", b"UV"})


@dataclass(frozen=True, slots=True)
class Offered:
    """An instance that a peer sends, or a file holds."""

    command: Command
    transfer_syntax_uid: str
    data_set: bytes  # encoded in that transfer syntax


def take(offered: Offered, spool: Spool, pseudonym_key: bytes) -> Arrival:
    """Inspect an instance and make it durable in the spool.

    Raises:
        UnreadableInstance: it can't be accepted; nothing of it is kept, as its source has it.
        StorageFull: the disk does not take it.
    """
    command = offered.command
    content = dicom_file(command.sop_class_uid, command.sop_instance_uid, offered.transfer_syntax_uid, offered.data_set)
    header = inspect(content, command, pseudonym_key)
    stored = spool.store(header.sop_instance_uid, content)
    if stored.arrival is Kind.CONFLICTING:
        raise UnreadableInstance(Reason.INSTANCE_CONFLICT, "the same instance came before with other content")
    return Arrival(header, str(stored.path), stored.size_bytes, stored.digest)


def spooled(sop_instance_uid: str, spool: Spool, pseudonym_key: bytes) -> Arrival | None:
    """An instance that lies in the spool already, as it would be registered; None: it does not, or can't be read."""
    path = spool.place_of(sop_instance_uid)
    try:
        content = path.read_bytes()
        _, header = read_content(content, pseudonym_key)
    except (OSError, UnreadableInstance):
        return None
    return Arrival(header, str(path), len(content), digest_of(content))


def opened(content: bytes) -> Offered:
    """What a DICOM file holds.

    Raises:
        UnreadableInstance: it is no DICOM file, or its meta information is cut short or lacks what it must have.

    Source: DICOM PS3.10 section 7.1.
    """
    if content[128:_PREAMBLE_BYTES] != b"DICM":
        raise UnreadableInstance(Reason.HEADER_UNREADABLE, "it is no DICOM file")
    said: dict[int, str] = {}
    at = _PREAMBLE_BYTES
    try:
        while True:
            group, element, vr, length = struct.unpack_from("<HH2sH", content, at)
            if group != _META_GROUP:
                break
            at += 8
            if vr in _LONG_VRS:
                (length,) = struct.unpack_from("<I", content, at)
                at += 4
            if at + length > len(content):
                raise UnreadableInstance(Reason.HEADER_UNREADABLE, "the file meta information is cut short")
            if vr == b"UI":
                said[element] = content[at : at + length].rstrip(b"\0 ").decode("ascii", "replace")
            at += length
        sop_class_uid, sop_instance_uid, transfer_syntax_uid = said[0x02], said[0x03], said[0x10]
    except struct.error:
        raise UnreadableInstance(Reason.HEADER_UNREADABLE, "the file ends within its meta information") from None
    except KeyError:
        raise UnreadableInstance(Reason.IDENTITY_MISSING, "the file meta information lacks an identifier") from None
    command = Command(sop_class_uid, sop_class_uid, sop_instance_uid)
    return Offered(command, transfer_syntax_uid, content[at:])


def put_aside(refused: Sequence[tuple[Arrival, Registration]], spool: Spool) -> None:
    """What the registry refused leaves the place of what is accepted, as the registrar does it."""
    for arrival, registration in refused:
        if registration.reason is not None and Path(arrival.path).exists():
            spool.quarantine(Path(arrival.path))


def missing(uids: Sequence[str], database: Database, spool: Spool) -> list[str]:
    """Those of the instances that are neither registered nor in the spool, in the order given."""
    with database.read() as connection:
        known = here_or_finished(connection, uids)
    return [uid for uid in uids if uid not in known and not spool.place_of(uid).exists()]
