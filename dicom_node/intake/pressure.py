"""
Whether the node can take more in: not with a disk that is nearly full, nor while the analysis is far behind.

Asked for often, looked at rarely: an answer is good for a second. Only a disk that was too full is looked at each time,
so that whoever comes after there is room again is taken in. A database is waited for a moment only, and by one alone:
storing needs none.
"""

import logging
import threading
import time
from collections.abc import Callable

from dicom_node.intake.options import ReceiverOptions
from dicom_node.spool import MIB, Spool

log = logging.getLogger(__name__)

GOOD_FOR_S = 1.0  # our choice
LONGEST_ASKED_S = 0.3  # our choice: that a database has for the age of its queue


class Pressure:
    """Called, it says why no more is taken in; empty if it is."""

    def __init__(
        self, options: ReceiverOptions, spool: Spool, queue_age_s: Callable[[], float | None] = lambda: None
    ) -> None:
        """Hold what is needed.

        Args:
            queue_age_s: how long the oldest job that could run has waited; None: there is none.
        """
        self._options = options
        self._spool = spool
        self._queue_age_s = queue_age_s
        self._lock = threading.Lock()
        self._looked_at = float("-inf")
        self._disk, self._queue = "", ""  # why not, by each
        self._was_told = False
        self._asking: threading.Thread | None = None  # the database for the age of the queue

    def __call__(self) -> str:
        """Why nothing is taken in just now, in at most 64 letters."""
        with self._lock:
            is_due = time.monotonic() - self._looked_at >= GOOD_FOR_S
            if is_due:
                self._looked_at = time.monotonic()
            if is_due or self._disk:
                self._disk = self._look_at_disk()
        if is_due and self._options.max_queue_age_s:
            self._ask_for_queue()
        why = self._disk or self._queue
        if bool(why) is not self._was_told:
            self._tell(why)
        return why

    def _tell(self, why: str) -> None:
        with self._lock:
            if bool(why) is self._was_told:
                return  # another was first
            self._was_told = bool(why)
        if why:
            log.error("nothing is taken in: %s", why)
        else:
            log.warning("instances are taken in again")

    def _ask_for_queue(self) -> None:
        if self._asking is None or not self._asking.is_alive():
            self._asking = threading.Thread(target=self._look_at_queue, name="queue age", daemon=True)
            self._asking.start()
        self._asking.join(LONGEST_ASKED_S)
        if self._asking.is_alive():
            self._queue = ""  # as of a database that is down: the spool takes it

    def _look_at_disk(self) -> str:
        options = self._options
        if options.watermark_mib:
            try:
                free_mib = self._spool.free_bytes() // MIB
            except OSError:
                return "the disk can't be looked at; try again later"
            if free_mib < options.watermark_mib:
                return f"{free_mib} MiB free, watermark {options.watermark_mib}; try again later"
        return ""

    def _look_at_queue(self) -> None:
        why = ""
        try:
            age_s = self._queue_age_s()
        except Exception as bad:  # a database that is down keeps nobody out: the spool takes it
            log.warning("the age of the queue can't be asked for: %s", bad)
        else:
            if age_s is not None and age_s > self._options.max_queue_age_s > 0:
                why = f"the analysis is {age_s:.0f} s behind; try again later"
        self._queue = why
