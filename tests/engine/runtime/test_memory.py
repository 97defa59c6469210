"""Threads of this process share one heap."""

import subprocess
import sys

import pytest

from engine.runtime.memory import share_heap

HEAPS = """
import ctypes, sys, threading
from engine.runtime.memory import share_heap
if sys.argv[2] == "shared":
    share_heap()
libc = ctypes.CDLL(None)
meet = threading.Barrier(4)
def take():
    kept = [bytes(5000) for _ in range(100)]
    libc.free(ctypes.c_void_p(libc.malloc(5000)))
    meet.wait()
libc.malloc.restype = ctypes.c_void_p
threads = [threading.Thread(target=take) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
libc.fopen.restype = ctypes.c_void_p
file = ctypes.c_void_p(libc.fopen(sys.argv[1].encode(), b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
"""


@pytest.mark.skipif(not share_heap(), reason="another C library than glibc")
def test_threads_take_their_memory_from_one_heap(tmp_path):
    heaps = {}
    for way in ("shared", "apart"):
        file = tmp_path / way
        subprocess.run([sys.executable, "-c", HEAPS, str(file), way], check=True)
        heaps[way] = file.read_text().count("<heap nr=")
    assert heaps["shared"] == 1
    assert heaps["apart"] > 1
