"""
Archives that are files: a folder tree, or the file set that a DICOMDIR lists.

A part is a folder directly below the root, with all folders in it, or a folder that the DICOMDIR names. Headers are
read and the engine chooses; only then are whole files read. Names of files and folders mean nothing, and never become
rows.
"""

import hashlib
import os
import re
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from dicom_node.backfill.source import Findings, Part, Refusal, Take, chosen
from dicom_node.intake.taking import opened
from dicom_node.peers.leaving import GoOn, always
from engine.errors import BadOption, DeploymentError, PeerError, UnreadableInstance
from engine.loading.headers import read_header
from engine.records import InstanceHeader, Reason, SeriesRef
from engine.selection import SelectionOptions
from engine.series import series_of

IN_THE_ROOT = "."  # the part of files that lie in the root itself
_FILE_NAME = re.compile(r"\w[\w-]{0,63}(\.\w{1,8})?")  # PS3.10 8.5 allows less; that is not held to everywhere
PARTS_KNOWN = 32  # whose headers are held in memory; our choice
DICOMDIR = "1.2.840.10008.1.3.10"  # Media Storage Directory Storage


class _Files(ABC):
    """What both kinds share: parts are named lists of files."""

    name = "files"
    comes_by_front_door = False

    def __init__(self, key: str, said: str, pseudonym_key: bytes, selection: SelectionOptions) -> None:
        self.key = self.lock = key
        self.said = said
        self._pseudonym_key = pseudonym_key
        self._selection = selection
        self._lock = threading.Lock()
        self._known: OrderedDict[str, dict[str, SeriesRef]] = OrderedDict()  # parts that were read lately

    @abstractmethod
    def parts(self) -> Iterable[Part]:
        """What can be searched and fetched by itself."""

    @abstractmethod
    def _paths(self, part: Part) -> Iterator[Path]:
        """The files of a part."""

    def search(self, part: Part, thoroughly: bool = True, go_on: GoOn = always) -> Findings:
        """Read the headers of all files of a part, and choose."""
        series, refusals = self._series(part, go_on)
        studies = {ref.study_instance_uid for ref in series}
        return Findings(len(studies), chosen(series, self._selection), refusals)

    def listing(
        self, part: Part, study_instance_uid: str, series_instance_uid: str, go_on: GoOn = always
    ) -> Sequence[str]:
        """SOP Instance UIDs of the files of a series."""
        return [instance.sop_instance_uid for instance in self._ref(part, series_instance_uid, go_on).instances]

    def fetch(
        self,
        part: Part,
        study_instance_uid: str,
        series_instance_uid: str,
        uids: Sequence[str],
        whole: bool,
        take: Take,
        go_on: GoOn,
    ) -> None:
        """Read files whole."""
        wanted = set(uids)
        for instance in self._ref(part, series_instance_uid, go_on).instances:
            if instance.sop_instance_uid not in wanted:
                continue
            try:
                offered = opened(Path(instance.path).read_bytes())
            except OSError as bad:
                raise PeerError(f"a file can't be read ({bad.strerror})") from None
            except UnreadableInstance:
                continue  # its header could be read before: it changes just now, or is no file of DICOM's
            if not take(offered):
                return

    def _ref(self, part: Part, series_instance_uid: str, go_on: GoOn) -> SeriesRef:
        with self._lock:
            known = self._known.get(part.key)
        if known is None:
            self._series(part, go_on)
            with self._lock:
                known = self._known.get(part.key, {})
        ref = known.get(series_instance_uid)
        if ref is None:
            raise PeerError("the files of the series are gone")
        return ref

    def _series(self, part: Part, go_on: GoOn) -> tuple[tuple[SeriesRef, ...], tuple[Refusal, ...]]:
        headers: list[tuple[InstanceHeader, str]] = []
        refusals: list[Refusal] = []
        seen: set[str] = set()
        for path in sorted(self._paths(part)):
            if not go_on():
                raise PeerError("reading the files was left")
            try:
                if not _is_instance(path):
                    continue
                header = read_header(path, self._pseudonym_key)
            except UnreadableInstance as bad:
                refusals.append(Refusal(_digest(path), bad.reason, bad.message))
                continue
            if header.sop_instance_uid not in seen:  # a second file of it is a copy, or loses to the first
                seen.add(header.sop_instance_uid)
                headers.append((header, str(path)))
        series = series_of(headers)
        with self._lock:
            self._known[part.key] = {ref.series_instance_uid: ref for ref in series}
            while len(self._known) > PARTS_KNOWN:
                self._known.popitem(last=False)
        return series, tuple(refusals)


class FolderSource(_Files):
    """A folder tree."""

    def __init__(self, root: Path, pseudonym_key: bytes, selection: SelectionOptions) -> None:
        """Nothing is read yet.

        Raises:
            BadOption: it is no folder.
        """
        if not root.is_dir():
            raise BadOption("the folder to read is no folder")
        self._root = root.resolve()
        super().__init__(f"folder {self._root}", "a folder tree", pseudonym_key, selection)

    def parts(self) -> Iterable[Part]:
        """The root's own files, then each folder in it."""
        yield Part(IN_THE_ROOT)
        try:
            names = sorted(entry.name for entry in os.scandir(self._root) if entry.is_dir(follow_symlinks=False))
        except OSError as bad:
            raise DeploymentError(f"the folder can't be read ({bad.strerror})") from None
        yield from map(Part, names)

    def _paths(self, part: Part) -> Iterator[Path]:
        if part.key == IN_THE_ROOT:
            yield from (path for path in self._root.iterdir() if path.is_file())
            return
        for place, _, names in os.walk(self._root / part.key, onerror=_raise):
            yield from (path for name in names if (path := Path(place) / name).is_file())


class DicomdirSource(_Files):
    """The file set that a DICOMDIR lists; what it does not list is not read."""

    def __init__(self, path: Path, pseudonym_key: bytes, selection: SelectionOptions) -> None:
        """Read the directory.

        Raises:
            BadOption: it is no DICOMDIR.
        """
        from pydicom import dcmread

        root = path.resolve().parent
        self._folders: dict[str, list[Path]] = {}
        try:
            listed = dcmread(path, specific_tags=["DirectoryRecordSequence"])
            if str(listed.file_meta.MediaStorageSOPClassUID) != DICOMDIR:
                raise ValueError("another SOP class")
            for record in listed.DirectoryRecordSequence:
                names = _file_id(record.get("ReferencedFileID"))
                if names:
                    self._folders.setdefault("/".join(names[:-1]), []).append(root.joinpath(*names))
        except Exception as bad:  # whatever hostile bytes bring about
            raise BadOption(f"the file is no DICOMDIR that can be read ({type(bad).__name__})") from None
        super().__init__(f"DICOMDIR {path.resolve()}", "a DICOMDIR", pseudonym_key, selection)

    def parts(self) -> Iterable[Part]:
        """Each folder that it names."""
        return [Part(name) for name in sorted(self._folders)]

    def _paths(self, part: Part) -> Iterator[Path]:
        return iter(self._folders.get(part.key, []))


def _file_id(value: object) -> tuple[str, ...]:
    """The names that a directory record refers to; none if it refers to nothing, or to a place that is none."""
    parts = (value,) if isinstance(value, str) else tuple(map(str, value)) if isinstance(value, Sequence) else ()
    return parts if all(_FILE_NAME.fullmatch(part) for part in parts) else ()


def file_source(path: Path, pseudonym_key: bytes, selection: SelectionOptions) -> _Files:
    """A folder tree or, if `path` is a file, the DICOMDIR that it is.

    Raises:
        BadOption: it is neither.
    """
    kind = DicomdirSource if path.is_file() else FolderSource
    return kind(path, pseudonym_key, selection)


def _is_instance(path: Path) -> bool:
    """Whether a file begins as PS3.10 7.1 wants it, and is no directory of others."""
    try:
        with path.open("rb") as file:
            start = file.read(1024)
    except OSError as bad:
        raise UnreadableInstance(Reason.HEADER_UNREADABLE, f"the file can't be read ({bad.strerror})") from None
    return start[128:132] == b"DICM" and DICOMDIR.encode() not in start[132:]


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _raise(bad: OSError) -> None:
    raise PeerError(f"a folder can't be read ({bad.strerror})")
