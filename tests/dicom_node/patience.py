"""How long tests wait for what others do in their own time."""

import time
from collections.abc import Callable
from typing import Any

SOON = 20.0  # seconds in which a test gives up


def until(true: Callable[[], Any], patience_s: float = 30.0, alive: Callable[[], bool] = lambda: True) -> None:
    """Wait until it is so; fail when time runs out, or when who should bring it about is not alive any more."""
    end = time.monotonic() + patience_s
    while not true():
        assert alive(), "the process ended before its time"
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.05)
