"""
How fast an archive is asked: as fast as it likes, and slower as soon as it slows down.

The number of series fetched at a time grows by one while instances come as quickly as they once did, and is halved
when they come much slower or a transfer fails (additive increase, multiplicative decrease, as TCP does it); once for
all series that were under way then. What "quickly" means is learned: the best median of the archive's own times for an
instance.
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from statistics import median

log = logging.getLogger(__name__)

REMEMBERED = 8  # series whose times are compared; our choice
GOOD_IN_A_ROW = 4  # our choice: so many series at full speed before one more is fetched at a time


class Pace:
    """How many series may be fetched at a time now, and how long to pause. Threads may share it."""

    def __init__(
        self,
        most: int,
        slow_factor: float,
        longest_pause_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with one at a time.

        Args:
            slow_factor: so many times the best time for an instance means that the archive has slowed down.
        """
        self._most = most
        self._slow_factor = slow_factor
        self._longest_pause_s = longest_pause_s
        self._clock = clock
        self._lock = threading.Lock()
        self._allowed = 1
        self._good = 0
        self._failures = 0  # in a row
        self._times: deque[float] = deque(maxlen=REMEMBERED)
        self._best: float | None = None
        self._resume_at = 0.0
        self.why = ""  # the last pause
        self._slow_since = -math.inf

    @property
    def allowed(self) -> int:
        """Series at a time; 0 during a pause."""
        with self._lock:
            return 0 if self._clock() < self._resume_at else self._allowed

    @property
    def pause_s(self) -> float:
        """How long the pause still lasts."""
        with self._lock:
            return max(0.0, self._resume_at - self._clock())

    def fetched(self, seconds: float, instances: int) -> None:
        """A series came whole."""
        if instances < 1:
            return
        with self._lock:
            self._failures = 0
            if self._clock() - seconds < self._slow_since:
                return  # it began before: it says nothing of how the archive likes the slower pace
            self._times.append(seconds / instances)
            usual = median(self._times)
            if len(self._times) >= REMEMBERED // 2 and (self._best is None or usual < self._best):
                self._best = usual
            if self._best is not None and usual > self._slow_factor * self._best:
                self._slow_down()
                self.why = "it has slowed down"
                self._rest(seconds)  # at most every other moment is ours
                self._times.clear()
                self._slow_since = self._clock()
                log.info("the archive has slowed down: %d series at a time", self._allowed)
                return
            self._good += 1
            if self._good >= GOOD_IN_A_ROW:
                self._good, self._allowed = 0, min(self._most, self._allowed + 1)

    def failed(self, pause_s: float, why: str) -> None:
        """A transfer failed, or the archive is away: pause, longer with each in a row."""
        with self._lock:
            self.why = why
            self._slow_down()
            self._rest(pause_s * 2 ** min(self._failures, 16))
            self._failures += 1

    def _slow_down(self) -> None:
        self._good, self._allowed = 0, max(1, self._allowed // 2)

    def _rest(self, seconds: float) -> None:
        self._resume_at = max(self._resume_at, self._clock() + min(seconds, self._longest_pause_s))
