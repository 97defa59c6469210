"""
The spool: files land whole or not at all, under names that are our own.

An instance is written aside, made durable, given its final name, and its folder is made durable; only then is it
stored. So what was acknowledged is on disk whatever ends this process, and what stands under a final name is whole and
never overwritten. A name is the SHA-256 of a UID: nothing that a sender wrote becomes a path.

    incoming/<2 hex>/<64 hex>.dcm    acknowledged instances
    conflict/                        a known SOP Instance UID with other bytes: refused, bounded
    refused/                         refused at the door for another reason: bounded, the oldest go first
    refusals/                        notes of refusals that are no rows yet
    quarantine/                      acknowledged, but can't be registered: never cleared
    outgoing/<2 hex>/<64 hex>/       report objects, a folder a series
    partial/<process>/               being written, where the file system wants a name for that; swept once its process
                                     is gone
"""

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import count
from pathlib import Path

from dicom_node.durable import PRIVATE_FOLDER, Aside, settle, sync_folder, takes_unnamed, write_new
from dicom_node.places import BoundedFolder, claim_place
from engine.digest import digest_of
from engine.errors import DeploymentError, StorageFull
from engine.records import Reason

MIB = 1024 * 1024
_FOLDERS = ("incoming", "conflict", "refused", "refusals", "quarantine", "outgoing", "partial")


@dataclass(frozen=True, slots=True)
class SpoolOptions:
    """Where received and written objects lie, and how much of the disk is left alone."""

    folder: str = "spool"  # on a local disk with hard links, such as ext4 or XFS
    reserve_mib: int = 1024  # free space below which no more is taken in: the database may need it
    most_refused: int = 1000  # refused objects kept to be looked at, in each of refused/ and conflict/
    most_refused_mib: int = 1024  # their size, likewise

    def __post_init__(self) -> None:
        """Refuse amounts without meaning."""
        if not self.folder:
            raise ValueError("the spool needs a folder")
        if min(self.reserve_mib, self.most_refused, self.most_refused_mib) < 0:
            raise ValueError("sizes and counts can't be negative")


class Arrival(StrEnum):
    """What an instance is to the spool."""

    NEW = "new"
    REPEATED = "repeated"  # the same bytes are here already
    CONFLICTING = "conflicting"  # other bytes are here under its UID; those stay, these were not taken


_ARRIVALS = {None: Arrival.NEW, True: Arrival.REPEATED, False: Arrival.CONFLICTING}
"""By whether what stands under the name is the same; None: nothing does."""


class _AsStorageFull:
    """What the operating system says about the disk, in our words: its own quote paths."""

    def __enter__(self) -> None:
        """Nothing yet; a class, as it is entered thrice for every instance, and a generator costs five times that."""

    def __exit__(self, kind: object, bad: BaseException | None, trace: object) -> None:
        """Raise it anew."""
        if isinstance(bad, OSError):
            raise StorageFull(f"the disk of the spool does not take more ({_name(bad)})") from None


_AS_STORAGE_FULL = _AsStorageFull()


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of an instance."""

    path: Path  # of what is durable under this UID
    digest: str  # of the bytes that were offered (engine.digest)
    size_bytes: int
    arrival: Arrival


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an object was turned away; waits as a note until it is a row."""

    subject: str  # the SOP Instance UID where it is one, else the SHA-256 of the bytes
    reason: Reason
    detail: str  # our words; no patient data
    peer: str  # AE title


class Spool:
    """An opened spool. Threads may share it; each process opens its own on the same folder, and closes it."""

    def __init__(self, options: SpoolOptions) -> None:
        """Make what is missing, and sweep what processes that are gone left half written.

        Raises:
            DeploymentError: the folder can't be written to, or its file system has no hard links.
        """
        self.options = options
        self.folder = Path(options.folder).absolute()
        self._folder_text, self._incoming_text = str(self.folder), str(self.folder / "incoming")
        self._numbers = count()
        try:
            self.folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
            for name in (*_FOLDERS, *(f"incoming/{n:02x}" for n in range(256))):
                (self.folder / name).mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
            for folder in (self.folder / "incoming", self.folder, self.folder.parent):
                sync_folder(folder)
            self._partial, self._claim = claim_place(self.folder / "partial")
            self._partial_name = str(self._partial)
            self._probe_hard_links()
            self._unnamed = takes_unnamed(self._partial)
            most_bytes = options.most_refused_mib * MIB
            self._refused = BoundedFolder(self.folder / "refused", options.most_refused, most_bytes)
            self._conflict = BoundedFolder(self.folder / "conflict", options.most_refused, most_bytes)
        except OSError as bad:
            raise DeploymentError(f"the spool can't be used ({_name(bad)}); see option 'spool.folder'") from None

    def __enter__(self) -> "Spool":
        """The spool itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Give up this process's place for half-written files."""
        shutil.rmtree(self._partial, ignore_errors=True)
        os.close(self._claim)

    def free_bytes(self) -> int:
        """Space left on the disk for this user."""
        disk = os.statvfs(self._folder_text)
        return disk.f_bavail * disk.f_frsize

    def place_of(self, sop_instance_uid: str) -> Path:
        """Where an instance lies, whether it is there or not."""
        return Path(*self._place_of(sop_instance_uid))

    def store(self, sop_instance_uid: str, content: bytes) -> Stored:
        """Keep an instance. Unless it conflicts, it is durable, bytes and name, when this returns.

        Args:
            sop_instance_uid: already known to be a UID.
            content: a whole DICOM file.

        Raises:
            StorageFull: the disk does not take it; nothing of it is left, and a later attempt may succeed.
        """
        with closing(self.begin()) as aside:
            self.write(aside, [content])
            path, arrival = self.keep(sop_instance_uid, aside)
        return Stored(Path(path), digest_of(content), len(content), arrival)

    def begin(self) -> Aside:
        """A file to write an instance to; closed without having been kept, nothing is left of it.

        Raises:
            StorageFull: the disk does not take it.
        """
        with _AS_STORAGE_FULL:
            return Aside(self._partial_name, str(next(self._numbers)), self._unnamed)

    def write(self, aside: Aside, pieces: Sequence[bytes | memoryview]) -> None:
        """Append to it.

        Raises:
            StorageFull: the disk does not take it, or would have less than its reserve left.
        """
        with _AS_STORAGE_FULL:
            self._need_room(sum(map(len, pieces)))
            aside.write(pieces)

    def keep(self, sop_instance_uid: str, aside: Aside) -> tuple[str, Arrival]:
        """Keep an instance that is written whole. Unless it conflicts, it is durable, bytes and name, at the return.

        Args:
            sop_instance_uid: already known to be a UID.

        Raises:
            StorageFull: the disk does not take it; once closed nothing of it is left, and a later attempt may succeed.
        """
        folder, name = self._place_of(sop_instance_uid)
        final = f"{folder}/{name}"
        with _AS_STORAGE_FULL:
            aside.flush()
            same = None if aside.name(final) else aside.is_same_as(Path(final))
            if same is not False:
                sync_folder(folder)  # a repeated one too: who stored it first may not be this far yet
        return final, _ARRIVALS[same]

    def incoming(self) -> Iterator[Path]:
        """Every stored instance, in no order."""
        for n in range(256):
            with os.scandir(self.folder / "incoming" / f"{n:02x}") as entries:
                for entry in entries:
                    yield Path(entry.path)

    def quarantine(self, path: Path) -> None:
        """Move a stored instance out of the way for good; it is durable there when this returns.

        Raises:
            StorageFull: the disk does not take the change, or there is no such file.
        """
        aside = self.folder / "quarantine"
        with _AS_STORAGE_FULL:
            sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
            path.rename(aside / f"{path.stem}-{sha256[:16]}.dcm")  # one that came again replaces itself
            sync_folder(aside)
            sync_folder(path.parent)

    def turn_away(self, aside: Aside | None, refusal: Refusal) -> None:
        """Keep a refused object to be looked at, as far as bounds and disk allow, and a note of it.

        Its sender keeps it, so nothing here must be durable, and a full disk is no error.

        Args:
            aside: the object, written whole; None: the disk did not take it.
        """
        if aside is not None:
            with suppress(OSError):
                self._put_aside(aside, refusal)
        self._note(refusal)

    def _put_aside(self, aside: Aside, refusal: Refusal) -> None:
        kept = self._conflict if refusal.reason is Reason.INSTANCE_CONFLICT else self._refused
        kept.add(f"{self.refused_name(aside)}.dcm", aside)

    @staticmethod
    def refused_name(aside: Aside) -> str:
        """By what a refused object is known where it has no UID: the SHA-256 of its bytes, in hexadecimal."""
        with aside.open() as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def _note(self, refusal: Refusal) -> None:
        notes = self.folder / "refusals"
        with suppress(OSError):
            if sum(1 for _ in notes.iterdir()) < self.options.most_refused:
                aside = self._write_aside(json.dumps(asdict(refusal)).encode(), durable=False)
                aside.rename(notes / f"{time.time_ns():020}-{self._partial.name}-{aside.name}.json")

    def refusals(self) -> Iterator[tuple[Path, Refusal]]:
        """Notes of refusals, the oldest first; whoever made a row of one removes it."""
        for path in sorted((self.folder / "refusals").iterdir()):
            try:
                note = json.loads(path.read_bytes())
                refusal = Refusal(note["subject"], Reason(note["reason"]), note["detail"], note["peer"])
            except (OSError, ValueError, LookupError, TypeError):
                path.unlink(missing_ok=True)  # torn by a power cut
            else:
                yield path, refusal

    def outgoing_folder(self, series_instance_uid: str) -> Path:
        """The folder of a series' report objects, made where missing.

        Raises:
            StorageFull: it can't be made.
        """
        name = _name_of(series_instance_uid)
        folder = self.folder / "outgoing" / name[:2] / name
        with _AS_STORAGE_FULL:
            folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        return folder

    def settle(self, paths: Iterable[Path]) -> None:
        """Make files in the spool durable, bytes and names.

        Raises:
            StorageFull: the disk does not take them.
        """
        with _AS_STORAGE_FULL:
            settle(paths, up_to=self.folder)

    def _place_of(self, sop_instance_uid: str) -> tuple[str, str]:
        name = _name_of(sop_instance_uid)
        return f"{self._incoming_text}/{name[:2]}", f"{name}.dcm"

    def _write_aside(self, content: bytes, durable: bool) -> Path:
        aside = self._partial / str(next(self._numbers))
        write_new(aside, content, durable)
        return aside

    def _need_room(self, size_bytes: int) -> None:
        if self.free_bytes() - size_bytes < self.options.reserve_mib * MIB:
            raise StorageFull(f"the disk of the spool has less than its reserve of {self.options.reserve_mib} MiB left")

    def _probe_hard_links(self) -> None:
        aside = self._write_aside(b"", durable=False)
        linked = aside.with_name("probe")
        os.link(aside, linked)
        linked.unlink()
        aside.unlink()


def _name(bad: OSError) -> str:
    return errno.errorcode.get(bad.errno or 0, type(bad).__name__)


def _name_of(uid: str) -> str:
    return hashlib.sha256(uid.encode()).hexdigest()
