"""
Places in a spool that are held to something: a folder to so many files, a subfolder to the process that made it.
"""

import fcntl
import os
import shutil
import threading
import time
from pathlib import Path

from dicom_node.durable import PRIVATE_FILE, PRIVATE_FOLDER, Aside


class BoundedFolder:
    """A folder that holds so many files of so many bytes; the oldest make room for the next."""

    def __init__(self, folder: Path, most_files: int, most_bytes: int) -> None:
        """Look at what it holds.

        Raises:
            OSError: it can't be read.
        """
        self._folder = folder
        self._most_files = most_files
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        found = sorted((path.stat().st_mtime_ns, path.name, path.stat().st_size) for path in folder.iterdir())
        self._sizes = {name: size_bytes for _, name, size_bytes in found}  # the oldest first
        self._bytes = sum(self._sizes.values())

    def add(self, name: str, aside: Aside) -> None:
        """Take a file that is written whole, under a name that tells its content; what is too large is left out.

        Raises:
            OSError: the disk does not take the change.
        """
        size_bytes = aside.size_bytes
        with self._lock:
            if name in self._sizes or size_bytes > self._most_bytes or not self._most_files:
                return
            while len(self._sizes) >= self._most_files or self._bytes + size_bytes > self._most_bytes:
                oldest = next(iter(self._sizes))
                (self._folder / oldest).unlink(missing_ok=True)
                self._bytes -= self._sizes.pop(oldest)
            aside.move(self._folder / name)  # perhaps over the same, that another process kept
            self._sizes[name] = size_bytes
            self._bytes += size_bytes


def claim_place(folder: Path) -> tuple[Path, int]:
    """A place of this process's own, claimed by a lock that ends with the process; those without one are swept.

    Returns:
        The place, and the descriptor whose end gives it up.

    Raises:
        OSError: none can be made.
    """
    door = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
    try:
        fcntl.flock(door, fcntl.LOCK_EX)
        for place in [entry for entry in folder.iterdir() if entry.is_dir()]:
            held = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(place, ignore_errors=True)
            except BlockingIOError:
                pass  # its process lives
            finally:
                os.close(held)
        mine = folder / f"{os.getpid()}-{time.time_ns()}"
        mine.mkdir(mode=PRIVATE_FOLDER)
        claim = os.open(mine, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(claim, fcntl.LOCK_EX)
    finally:
        os.close(door)
    return mine, claim
