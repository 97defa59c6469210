"""
Bytes that outlive this process and a power cut: what must be called, in which order.

A file is written under another name, its data are flushed, it gets its name, and the folder that holds the name is
flushed. A flush is what costs; `GroupSync` lets threads that wait for the same kind of flush share one.
"""

import errno
import os
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

PRIVATE_FOLDER, PRIVATE_FILE = 0o700, 0o600
"""Permissions. Our choice: objects name patients, so nobody else on the machine reads them."""


def write_new(path: Path, content: bytes, durable: bool = True) -> None:
    """Write a file that is not there yet; nothing of it is left where that fails. Its name is not durable yet.

    Raises:
        OSError: it exists, or the disk does not take it.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE)
    try:
        left = memoryview(content)
        while left:
            left = left[os.write(descriptor, left) :]
        if durable:
            os.fdatasync(descriptor)
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise
    finally:
        os.close(descriptor)


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


def sync_folder(folder: Path) -> None:
    """Flush a folder's names."""
    _flush(folder, os.O_RDONLY | os.O_DIRECTORY, os.fsync)


class GroupSync:
    """One flush of a folder serves all who named a file in it before: the first leads, the others wait for it."""

    def __init__(self) -> None:
        """Nobody waits."""
        self._changed = threading.Condition()
        self._gathering = _Batch()
        self._syncing = False

    def sync(self, folder: Path) -> None:
        """Return when the folder's names, as they are at the call, are durable.

        Raises:
            OSError: they may not be.
        """
        with self._changed:
            mine = self._gathering
            mine.folders.add(folder)
            while self._syncing and not mine.done:
                self._changed.wait()
            leads = not mine.done
            if leads:
                self._syncing, self._gathering = True, _Batch()
        if leads:
            self._lead(mine)
        if mine.failed is not None:
            raise OSError(mine.failed, os.strerror(mine.failed))

    def _lead(self, batch: "_Batch") -> None:
        try:
            for folder in batch.folders:
                sync_folder(folder)
            batch.failed = None
        except OSError as bad:
            batch.failed = bad.errno or errno.EIO
        finally:
            with self._changed:
                batch.done, self._syncing = True, False
                self._changed.notify_all()


@dataclass(slots=True, eq=False)
class _Batch:
    """Folders that one leader flushes, for all who wait for it."""

    folders: set[Path] = field(default_factory=set)
    done: bool = False
    failed: int | None = errno.EIO  # until it went well


def _flush(path: Path, flags: int, flush: Callable[[int], None]) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        flush(descriptor)
    finally:
        os.close(descriptor)
