"""
When an archive may be asked: windows of the week, in the local time of this machine.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_WINDOW = re.compile(r"(?P<first>[a-z]{3})(-(?P<last>[a-z]{3}))? (?P<from>\d\d:\d\d)-(?P<to>\d\d:\d\d)")
MINUTES_A_DAY, MINUTES_A_WEEK = 24 * 60, 7 * 24 * 60


@dataclass(frozen=True, slots=True)
class Window:
    """From one minute of the week, Monday at midnight being 0, for so many minutes; it may run into the next day."""

    start: int
    minutes: int

    def holds(self, minute: int) -> bool:
        """Whether a minute of the week lies in it."""
        return (minute - self.start) % MINUTES_A_WEEK < self.minutes


def read_windows(texts: Sequence[str]) -> tuple[Window, ...]:
    """Windows as the configuration writes them: a weekday or a range of them, and two times.

    Raises:
        ValueError: one is not written so.

    >>> read_windows(["mon 19:00-07:00"])
    (Window(start=1140, minutes=720),)
    >>> [window.minutes for window in read_windows(["sat-sun 00:00-24:00"])]
    [1440, 1440]
    >>> read_windows(["monday 19-7"])
    Traceback (most recent call last):
    ...
    ValueError: a window is written like "mon-fri 19:00-07:00", not 'monday 19-7'
    """
    windows = []
    for text in texts:
        said = _WINDOW.fullmatch(text.strip().lower())
        try:
            assert said is not None
            first = DAYS.index(said["first"])
            last = DAYS.index(said["last"] or said["first"])
            begin, end = _minutes(said["from"]), _minutes(said["to"])
        except (AssertionError, ValueError):
            raise ValueError(f'a window is written like "mon-fri 19:00-07:00", not {text!r}') from None
        length = end - begin if end > begin else end - begin + MINUTES_A_DAY
        windows += [Window((first + n) % 7 * MINUTES_A_DAY + begin, length) for n in range((last - first) % 7 + 1)]
    return tuple(windows)


def is_open(windows: Sequence[Window], now: datetime) -> bool:
    """Whether an archive may be asked now; always, where no window is given."""
    minute = _minute_of_week(now)
    return not windows or any(window.holds(minute) for window in windows)


def opens_at(windows: Sequence[Window], now: datetime) -> datetime:
    """When it may be asked next: now, if it may be asked now."""
    if is_open(windows, now):
        return now
    minute = _minute_of_week(now)
    wait = min((window.start - minute) % MINUTES_A_WEEK for window in windows)
    return now.replace(second=0, microsecond=0) + timedelta(minutes=wait)


def _minute_of_week(now: datetime) -> int:
    return now.weekday() * MINUTES_A_DAY + now.hour * 60 + now.minute


def _minutes(text: str) -> int:
    hours, minutes = map(int, text.split(":"))
    if minutes > 59 or hours * 60 + minutes > MINUTES_A_DAY:
        raise ValueError(text)
    return hours * 60 + minutes
