"""
Bytes that outlive this process and a power cut: what must be called, in which order.

A file is written under another name, its data are flushed, it gets its name, and the folder that holds the name is
flushed. A flush is what costs; file systems let those that come at once share one, so each thread asks for its own.
"""

import ctypes
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from io import BufferedReader
from pathlib import Path

PRIVATE_FOLDER, PRIVATE_FILE = 0o700, 0o600
"""Permissions. Our choice: objects name patients, so nobody else on the machine reads them."""

MOST_PIECES = 1024
"""That one call writes (IOV_MAX of Linux)."""

COMPARED_AT_ONCE = 1024 * 1024

_START_WRITING = 2
"""SYNC_FILE_RANGE_WRITE of Linux."""


def write_new(path: Path, content: bytes, durable: bool = True) -> None:
    """Write a file that is not there yet; nothing of it is left where that fails. Its name is not durable yet.

    Raises:
        OSError: it exists, or the disk does not take it.
    """
    file = Aside(str(path.parent), path.name)
    try:
        file.write([content])
        if durable:
            file.flush()
        file.keep()
    finally:
        file.close()


class Aside:
    """A file that is written under a name for the time being, or none; closed without a better one, it is gone."""

    def __init__(self, folder: str, name: str, unnamed: bool = False) -> None:
        """Make it.

        Args:
            folder: where it stands for the time being, on the file system that it will stay on.
            name: for the time being.
            unnamed: it has no name before it gets its own, which spares the disk half of its bookkeeping; nothing is
                left of it whatever ends this process. Where `takes_unnamed` says so.

        Raises:
            OSError: it exists, or the disk does not take it.
        """
        self.size_bytes = 0
        self._path = f"{folder}/{name}"  # a text, as it is made for every instance
        self._is_named = not unnamed
        self._stays = False
        place, how = (folder, os.O_TMPFILE) if unnamed else (self._path, os.O_CREAT | os.O_EXCL)
        self._descriptor = os.open(place, how | os.O_RDWR | os.O_CLOEXEC, PRIVATE_FILE)

    def write(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Append, in few calls of the operating system.

        Raises:
            OSError: the disk does not take it.
        """
        for first in range(0, len(pieces), MOST_PIECES):
            some = pieces[first : first + MOST_PIECES]
            size_bytes = sum(map(len, some))
            wrote = os.writev(self._descriptor, some) if len(some) > 1 else os.write(self._descriptor, some[0])
            if wrote < size_bytes:  # it takes a part, and the rest or an error at the next call
                left = memoryview(b"".join(some))[wrote:]
                while left:
                    left = left[os.write(self._descriptor, left) :]
            self.size_bytes += size_bytes

    def start_flush(self) -> None:
        """Let the disk begin while something else is done, where the system can; durable it is after `flush` alone."""
        _start_writing(self._descriptor)

    def flush(self) -> None:
        """Make its bytes durable."""
        os.fdatasync(self._descriptor)

    def open(self) -> BufferedReader:
        """What was written, to be read from its beginning."""
        return open(self._source, "rb")  # noqa: PTH123 - whoever asked closes it

    def is_same_as(self, other: Path) -> bool | None:
        """Whether another file has exactly these bytes; None: there is no other."""
        try:
            with other.open("rb") as theirs:
                if os.fstat(theirs.fileno()).st_size != self.size_bytes:
                    return False
                with self.open() as ours:
                    while piece := ours.read(COMPARED_AT_ONCE):
                        if piece != theirs.read(COMPARED_AT_ONCE):
                            return False
        except FileNotFoundError:
            return None
        return True

    def name(self, final: str) -> bool:
        """Give it its name; False: the name is taken, and what bears it stays as it is.

        Raises:
            OSError: the disk does not take the name.
        """
        try:
            self._link(final)  # a rename would replace what is there
        except FileExistsError:
            return False
        return True

    def move(self, final: Path) -> None:
        """Give it a name, whatever bore it before."""
        if not self._is_named:
            self._link(self._path)
            self._is_named = True
        Path(self._path).rename(final)
        self._stays = True

    def keep(self) -> None:
        """Its name for the time being is the right one."""
        self._stays = True

    def close(self) -> None:
        """Let go of it. May be called again."""
        if self._descriptor < 0:
            return
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)
        if self._is_named and not self._stays:
            with suppress(OSError):
                Path(self._path).unlink()

    @property
    def _source(self) -> str:
        return self._path if self._is_named else f"/proc/self/fd/{self._descriptor}"

    def _link(self, name: str) -> None:
        # a folder's descriptor, which an absolute path needs none of, makes it follow what /proc shows
        os.link(self._source, name, src_dir_fd=None if self._is_named else self._descriptor)


def takes_unnamed(folder: Path) -> bool:
    """Whether a file may be made there without a name and be given one: on Linux, on ext4, XFS, Btrfs and others."""
    if not hasattr(os, "O_TMPFILE"):
        return False
    named = folder / "probe"
    try:
        with closing(Aside(str(folder), "unnamed", unnamed=True)) as aside:
            aside.move(named)
        named.unlink()
    except OSError:
        return False
    return True


def settle(paths: Iterable[Path], up_to: Path) -> None:
    """Flush files, the folders that hold them, and those that hold these, up to one that is known to be durable.

    Raises:
        OSError: the disk does not take them.
    """
    folders = set[Path]()
    for path in paths:
        sync_file(path)
        folders.update(folder for folder in path.parents if folder == up_to or up_to in folder.parents)
    for folder in sorted(folders, reverse=True):  # the innermost first
        sync_folder(folder)


def sync_file(path: Path) -> None:
    """Flush a file's data."""
    _flush(path, os.O_RDONLY, os.fdatasync)


def sync_folder(folder: Path | str) -> None:
    """Flush a folder's names."""
    _flush(folder, os.O_RDONLY | os.O_DIRECTORY, os.fsync)


def _flush(path: Path | str, flags: int, flush: Callable[[int], None]) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        flush(descriptor)
    finally:
        os.close(descriptor)


def _find_start_writing() -> Callable[[int], None]:
    """How a file's bytes are handed to the disk without waiting; where there is no such call, nothing is done."""
    try:
        call = ctypes.CDLL(None).sync_file_range
    except (AttributeError, OSError):
        return lambda descriptor: None
    call.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]

    def start(descriptor: int) -> None:
        call(descriptor, 0, 0, _START_WRITING)  # a failure is told by the flush that follows

    return start


_start_writing = _find_start_writing()
