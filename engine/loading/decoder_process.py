"""
What runs in a process of its own: a decoder, and nothing that it could harm.

It is started by `isolation.py`, and sees code streams in memory that both share. It answers with values in the same
memory, and with words that are checked there: numbers, a type's name, a reason. When the other side is gone, it ends.
"""

import importlib
import json
import mmap
import resource
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection

import numpy as np

from engine.errors import SeriesError
from engine.loading.decode import Raw, Room, warm
from engine.loading.frames import PixelFormat
from engine.loading.walker import PixelData
from engine.records import Reason

Decoder = Callable[[bytes, PixelFormat, Room], Raw]
_NOWHERE = PixelData(0, None)


def serve(channel: int, shared: int, values_at: int, memory_mib: int, limit_s: float, decoder: str) -> None:
    """Decode until nobody asks any more.

    Args:
        channel, shared: file descriptors of a socket and of the shared memory.
        values_at: where in the memory values begin; before it lie streams, one after the other.
        memory_mib: that decoding may take beside what the process has when it begins.
        limit_s: of one request; beyond it the process ends by SIGALRM, wherever it is.
        decoder: "module:function".
    """
    work = _found(decoder)
    warm()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - Linux's own
        pages = int(file.read().split()[0])
    with Connection(channel) as told, mmap.mmap(shared, 0) as memory:
        limit = pages * resource.getpagesize() + len(memory) + memory_mib * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        told.send_bytes(b"ready")
        while True:
            try:
                asked = told.recv_bytes()
            except (EOFError, OSError):
                return
            signal.setitimer(signal.ITIMER_REAL, limit_s)
            answer = _answer(json.loads(asked), memory, values_at, work)
            signal.setitimer(signal.ITIMER_REAL, 0)
            told.send_bytes(json.dumps(answer).encode())


def _found(decoder: str) -> Decoder:
    module, _, name = decoder.partition(":")
    found: Decoder = getattr(importlib.import_module(module), name)
    return found


def _answer(asked: list[object], memory: mmap.mmap, values_at: int, work: Decoder) -> list[list[object]]:
    """Type and bits of each frame, whose values now stand in the memory; or reason and words, and no more frames."""
    syntax, rows, columns, allocated, stored, signed, lengths = asked
    form = PixelFormat(syntax, rows, columns, allocated, stored, signed, _NOWHERE)  # type: ignore[arg-type]
    answers: list[list[object]] = []
    start, to = 0, values_at
    for length in lengths:  # type: ignore[attr-defined]
        room = np.ndarray(2 * form.rows * form.columns, np.uint8, memory, to)
        try:
            values, bits = work(memory[start : start + length], form, room)
        except SeriesError as bad:
            return [*answers, [str(bad.reason), bad.message]]
        except Exception as bad:  # as decode_raw; of another decoder
            return [*answers, [str(Reason.PIXELS_UNREADABLE), f"the decoder gave up with {type(bad).__name__}"]]
        if values.ctypes.data != room.ctypes.data:
            np.copyto(np.ndarray(values.shape, values.dtype, memory, to), values)
        answers.append([values.dtype.str, bits])
        start, to = start + length, to + 2 * form.rows * form.columns
    return answers
