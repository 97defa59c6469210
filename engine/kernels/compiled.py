"""
How loops over voxels are compiled; the only door to Numba.

A kernel, as its neighbours in this package hold them, frees the interpreter's lock and runs on the thread that called
it: who calls cuts the work into parts and shares them out (`share_out`). Machine code is kept beside its file, else in
the user's cache; only the first call on a machine waits for the compiler. Import kernels where they are used, not at
the top: Numba takes half a second to come up, and not all that imports the engine looks at voxels.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numba
from numba import types
from numba.core.types import ExternalFunction

# The system's own, called without the interpreter's lock.
open_file: Any = ExternalFunction("open", types.intc(types.voidptr, types.intc))
read_at: Any = ExternalFunction("pread", types.intp(types.intc, types.voidptr, types.uintp, types.int64))
close_file: Any = ExternalFunction("close", types.intc(types.intc))
Function = TypeVar("Function", bound=Callable[..., Any])

MOST_THREADS = 8  # our choice: beyond it memory is the limit, not arithmetic


def compiled(function: Function) -> Function:
    """Compile at the first call. Where no folder can be written the code is kept for this process only."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        made: Function = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # "no locator available": a read-only installation and a user without a home
        made = numba.njit(**options)(function)
    return made


def share_out(count: int, least: int, work: Callable[[int, int], object], threads: int = 0) -> None:
    """Call `work(first, last)` for parts of range(count), side by side.

    Args:
        least: no part is smaller; below twice as much everything is done at once, on this thread.
        threads: 0: as many as this process has cores, at most MOST_THREADS.
    """
    threads = threads or min(MOST_THREADS, len(os.sched_getaffinity(0)))
    parts = min(2 * threads if threads > 1 else 1, count // max(1, least))
    if parts <= 1:
        work(0, count)
        return
    edges = [count * n // parts for n in range(parts + 1)]
    with ThreadPoolExecutor(threads, thread_name_prefix="kernel") as pool:
        for _ in pool.map(work, edges[:-1], edges[1:]):
            pass
