"""
A peer is left when that is told, also while it is waited for: it may be waited for for minutes.

Who waits is woken from beside, by a thread that looks whether to go on.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

GoOn = Callable[[], bool]
"""Asked all the time while a peer is waited for; False: what is under way is left, and fails for whoever waits."""

LOOK_EVERY_S = 0.1  # our choice


def always() -> bool:
    """Go on to the end."""
    return True


@contextmanager
def left_when_told(go_on: GoOn, leave: Callable[[], None]) -> Iterator[None]:
    """Wait for a peer within the block.

    Args:
        leave: makes who waits in the block stop waiting; called until the block is left, as something new may be
            waited for by then.
    """
    if go_on is always:
        yield
        return
    done = threading.Event()

    def look() -> None:
        while not done.wait(LOOK_EVERY_S):
            if not go_on():
                leave()

    looking = threading.Thread(target=look, name="leave", daemon=True)
    looking.start()
    try:
        yield
    finally:
        done.set()
        looking.join()
