"""Memory and processor time of this process and its children while something runs."""

import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field

import psutil


@dataclass
class Watch:
    """Peak memory and processor time, of this process and of those that it started."""

    peak_bytes: int = 0
    cpu_s: float = 0.0
    wall_s: float = 0.0
    _ended: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Watch":
        self._cpu, self._began = sum(os.times()[:2]), time.perf_counter()
        own = psutil.Process()

        def look() -> None:
            while not self._ended.wait(0.05):
                self.peak_bytes = max(self.peak_bytes, resident(own))

        self._thread = threading.Thread(target=look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall_s = time.perf_counter() - self._began
        self.cpu_s = sum(os.times()[:2]) - self._cpu
        self._ended.set()
        self._thread.join()


def resident(process: psutil.Process) -> int:
    """Bytes that a process and all below it hold now."""
    total = 0
    for one in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):  # it has just ended
            total += one.memory_info().rss
    return total
