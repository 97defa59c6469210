"""
Code streams decoded in processes of their own: what crashes a decoder, or makes it take memory, ends that and no more.

Files are read and looked at here; a process sees streams alone, and writes values into memory that both share. Its
word is not trusted: it is held to be a type, a number of bits or a reason, and never unpickled. A process lives until
it fails or its pool is closed; one is started for each thread that decodes at the same time.
"""

import json
import mmap
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from multiprocessing import Pipe
from types import TracebackType
from typing import Any, Self

import numpy as np

from engine.errors import BackendUnavailable, SeriesError, UndecodableSeries, UnsupportedSeries
from engine.loading.decode import DECODERS, LARGEST_EDGE, Raw, decode_raw, read, unpack
from engine.loading.decoder_process import Decoder
from engine.loading.frames import Frames, PixelFormat, longest
from engine.loading.streams import unreadable
from engine.records import Reason
from engine.selection import NATIVE, RLE

MOST_FRAMES = 16  # of one request; our choice: with half as many, cheap decoders wait for their requests
_VALUES = 2 * LARGEST_EDGE**2  # bytes: one of the largest frames; pages that are not touched cost nothing
_STREAMS = longest(_VALUES) + MOST_FRAMES * longest(0)
_TYPES = ("|u1", "|i1", "<u2", "<i2")
_ATTEMPTS = 2  # a process may also be ended by somebody else
_START_S, _END_S = 60.0, 5.0  # our choice: half a second, a hundredth are usual
_MAIN = "import sys, json; a = json.loads(sys.argv[1]); sys.path[:] = a.pop('path');" \
    " from engine.loading.decoder_process import serve; serve(**a)"  # fmt: skip


class Isolation(StrEnum):
    """What is decoded in processes of their own."""

    NEVER = "never"
    CODECS = "codecs"  # JPEG Lossless, JPEG-LS, JPEG 2000, HTJ2K
    ALWAYS = "always"  # RLE too


@dataclass(frozen=True, slots=True)
class IsolationOptions:
    """How far decoders are trusted."""

    isolate: Isolation = Isolation.CODECS
    memory_mib: int = 1024  # that one decoder may take
    limit_s: float = 60.0  # that some frames may take

    def __post_init__(self) -> None:
        """Refuse numbers without meaning."""
        if self.memory_mib < 64 or self.limit_s <= 0:
            raise ValueError("memory_mib is at least 64, limit_s above 0")


class _Ended(Exception):
    """The process is gone, or not to be used again; says how."""


class DecoderProcess:
    """One process. One thread at a time."""

    def __init__(self, options: IsolationOptions, decoder: Decoder) -> None:
        """Start it, and wait until it is there.

        Raises:
            BackendUnavailable: it ends at its start.
            OSError: the machine has no room for it.
        """
        memory = os.memfd_create("frames", os.MFD_CLOEXEC)
        self._told, theirs = Pipe()
        try:
            os.ftruncate(memory, _STREAMS + _VALUES)
            self._memory = mmap.mmap(memory, 0)
            told = {"path": sys.path, "channel": theirs.fileno(), "shared": memory, "values_at": _STREAMS,
                    "memory_mib": options.memory_mib, "limit_s": options.limit_s,
                    "decoder": f"{decoder.__module__}:{decoder.__qualname__}"}  # fmt: skip
            self._process = subprocess.Popen(
                [sys.executable, "-c", _MAIN, json.dumps(told)],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), memory), start_new_session=True,
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        finally:
            theirs.close()
            os.close(memory)
        try:
            ready = self._told.poll(_START_S) and self._told.recv_bytes(16) == b"ready"
        except (EOFError, OSError):
            ready = False
        if not ready:
            self.close()
            raise BackendUnavailable("a process that decodes ended at its start")

    def decode(self, streams: Sequence[bytes], form: PixelFormat) -> list[Raw | SeriesError]:
        """The stored values of some frames, at most `MOST_FRAMES`.

        Returns:
            Of each frame its values, in memory that is good until the next call; or an error, and nothing after it.
        """
        start = 0
        for stream in streams:
            self._memory[start : start + len(stream)] = stream
            start += len(stream)
        asked = [form.transfer_syntax_uid, form.rows, form.columns, form.bits_allocated, form.bits_stored, form.signed,
                 [len(stream) for stream in streams]]  # fmt: skip
        try:
            self._told.send_bytes(json.dumps(asked).encode())
            said = self._told.recv_bytes(2**16)
        except (EOFError, OSError) as bad:
            raise _Ended(self._end()) from bad
        try:
            answers = [
                self._checked(n, first, second, form)
                for n, (first, second) in enumerate(json.loads(said)[: len(streams)])
            ]
            if len(answers) < len(streams) and not (answers and isinstance(answers[-1], SeriesError)):
                raise ValueError("too few answers")
            return answers
        except (ValueError, TypeError) as bad:
            self.close()
            raise _Ended("answered nonsense") from bad

    def _checked(self, n: int, first: Any, second: Any, form: PixelFormat) -> Raw | SeriesError:
        if first in _TYPES and type(second) is int and 1 <= second <= 16:
            at = _STREAMS + n * 2 * form.rows * form.columns
            return np.ndarray((form.rows, form.columns), first, self._memory, at), second
        reason = Reason(first)
        kind = UnsupportedSeries if reason is Reason.LOSSY_COMPRESSION else UndecodableSeries
        return kind(reason, str(second)[:200])

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def _end(self) -> str:
        """How it came to its end, in words."""
        try:
            status = self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            status = 0
        self.close()
        if status == -signal.SIGALRM:
            return "took too long"
        return f"crashed ({signal.Signals(-status).name})" if status < 0 else "broke off"

    def close(self) -> None:
        """End it, whatever it does."""
        self._told.close()
        self._process.kill()
        self._process.wait()


class Decoders:
    """Processes that decode, as many as threads ask at the same time. Threads may share it; use it in a `with`."""

    def __init__(self, options: IsolationOptions, decoder: Decoder = decode_raw) -> None:
        """Start none yet.

        Args:
            decoder: a function of a module, which the processes import.
        """
        self._options, self._decoder = options, decoder
        self._idle: deque[DecoderProcess] = deque()  # its own operations are whole
        self._closed = False

    def unpack(self, wanted: Iterable[tuple[Frames, int]]) -> Iterator[Raw]:
        """Read and decode frames, each by its file and its number there; what is trusted is decoded here.

        Yields:
            values that are good until the next are asked for.

        Raises:
            SeriesError: as `engine.loading.decode.unpack`; also where a decoder crashed twice, or took too long.
            BackendUnavailable, OSError: no process can be started.
        """
        for _, alike in groupby(wanted, key=lambda one: one[0].form.kind):
            some = list(alike)
            form = some[0][0].form
            if not self._isolates(form.transfer_syntax_uid):
                room = np.empty(form.size_bytes, np.uint8)
                yield from (unpack(*one, room) for one in some)
                continue
            most = min(MOST_FRAMES, _VALUES // (2 * form.rows * form.columns))
            for start in range(0, len(some), most):
                yield from self._decode([read(*one) for one in some[start : start + most]], form)

    def _decode(self, streams: Sequence[bytes], form: PixelFormat) -> Iterator[Raw]:
        how = ""
        for _ in range(_ATTEMPTS):
            process = self._taken()
            try:
                answers = process.decode(streams, form)
            except _Ended as end:
                how = str(end)
                continue
            except BaseException:  # an interrupt: what it answers would be taken for another's
                process.close()
                raise
            try:
                for answer in answers:
                    if isinstance(answer, SeriesError):
                        raise answer
                    yield answer
            finally:
                self._give_back(process)
            return
        raise unreadable(f"the decoder {how}")

    def _isolates(self, transfer_syntax_uid: str) -> bool:
        trusted = {Isolation.NEVER: DECODERS, Isolation.CODECS: (*NATIVE, RLE), Isolation.ALWAYS: NATIVE}
        return transfer_syntax_uid not in trusted[self._options.isolate]

    @property
    def pids(self) -> tuple[int, ...]:
        """Of the processes that wait for work."""
        return tuple(process.pid for process in self._idle)

    def _taken(self) -> DecoderProcess:
        try:
            return self._idle.popleft()
        except IndexError:
            return DecoderProcess(self._options, self._decoder)

    def _give_back(self, process: DecoderProcess) -> None:
        self._idle.append(process)
        if self._closed:
            self.close()

    def close(self) -> None:
        """End the processes, those at work as soon as they are done."""
        self._closed = True
        with suppress(IndexError):  # another thread was faster
            while True:
                self._idle.pop().close()

    def __enter__(self) -> Self:
        """Open."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the processes."""
        self.close()
