"""
Memory of volumes and of grids made of them that serves again.

A series takes some hundred MB for a few seconds. Given back to the system and taken anew for each, that memory costs
more than to read the files into it: the system clears it, and on a machine that has long been up it first moves
other pages out of the way. So a few blocks are kept when the last array that stands on them is gone.
"""

import ctypes
import mmap
import weakref
from collections import deque
from math import prod
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Kind = TypeVar("Kind", bound=np.generic)

MOST_KEPT = 4  # blocks; our choice: one series is loaded while another is worked on, and a grid is made of each
LARGEST_KEPT = 2**29  # bytes; our choice: 512 x 512 x 1024, seldom more
SMALLEST_KEPT = 2**22  # bytes; smaller ones the interpreter's own memory serves as well

_free: deque[mmap.mmap] = deque()  # its own operations are whole: a block may come back at any moment, on any thread


def volume_memory(shape: tuple[int, ...], kind: type[Kind]) -> NDArray[Kind]:
    """An array whose content is of no meaning yet; its memory is kept for the next one when it is gone."""
    size = np.dtype(kind).itemsize * prod(shape)
    if not SMALLEST_KEPT <= size <= LARGEST_KEPT:
        return np.empty(shape, dtype=kind)
    block = _take(size)
    whole = (ctypes.c_char * size).from_buffer(block)  # every view of the array holds this object
    weakref.finalize(whole, _give_back, block).atexit = False
    return np.frombuffer(memoryview(whole), dtype=kind).reshape(shape)


def _take(size: int) -> mmap.mmap:
    for _ in range(len(_free)):
        try:
            block = _free.popleft()
        except IndexError:  # another thread was faster
            break
        if size <= len(block) <= 2 * size:
            return block
        _free.append(block)
    fresh = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # shared memory gets no huge pages
    if hasattr(mmap, "MADV_HUGEPAGE"):
        fresh.madvise(mmap.MADV_HUGEPAGE)
    return fresh


def _give_back(block: mmap.mmap) -> None:
    _free.append(block)
    while len(_free) > MOST_KEPT:
        _free.popleft()
