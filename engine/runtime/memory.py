"""What the process asks of the C library's allocator."""

import ctypes
from functools import cache

ARENA_MAX = -8  # M_ARENA_MAX of glibc's malloc.h


@cache
def share_heap() -> bool:
    """Let all threads of this process take their memory from one heap, for good.

    glibc gives threads heaps of their own, up to eight a core. Arrays of a series are taken by one stage's thread and
    freed by another's, so each heap keeps holes as large as the largest series that passed: the process grew by tens
    of MB with each run and did not settle. What is taken here is large and rare; nobody waits for the one heap's lock.

    Returns:
        whether the allocator was told; others than glibc's have no such heaps, and need no telling.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    return bool(mallopt(ARENA_MAX, 1))
