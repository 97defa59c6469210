"""An archive is asked when it may be, and as fast as it likes."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.backfill.pace import GOOD_IN_A_ROW, Pace
from dicom_node.backfill.window import DAYS, is_open, opens_at, read_windows

MONDAY = datetime(2026, 3, 2)  # a Monday


@pytest.mark.parametrize(
    ("windows", "when", "is_it"),
    [
        ([], "mon 12:00", True),
        (["mon-fri 19:00-07:00"], "mon 18:59", False),
        (["mon-fri 19:00-07:00"], "mon 19:00", True),
        (["mon-fri 19:00-07:00"], "tue 06:59", True),
        (["mon-fri 19:00-07:00"], "tue 07:00", False),
        (["mon-fri 19:00-07:00"], "sat 06:59", True),  # the night that began on Friday
        (["mon-fri 19:00-07:00"], "sat 19:00", False),
        (["mon-fri 19:00-07:00", "sat-sun 00:00-24:00"], "sun 12:00", True),
        (["sun 22:00-06:00"], "mon 05:00", True),  # over the end of the week
        (["fri-mon 10:00-11:00"], "sun 10:30", True),
    ],
)
def test_windows_of_the_week(windows: list[str], when: str, is_it: bool):
    day, clock = when.split()
    hours, minutes = map(int, clock.split(":"))
    now = MONDAY + timedelta(days=DAYS.index(day), hours=hours, minutes=minutes)
    assert is_open(read_windows(windows), now) is is_it


@given(st.integers(0, 7 * 24 * 60 - 1), st.sampled_from(DAYS), st.integers(0, 23), st.integers(1, 23))
def test_it_opens_when_it_says(minute: int, day: str, start: int, length: int):
    windows = read_windows([f"{day} {start:02d}:00-{(start + length) % 24:02d}:00"])
    now = MONDAY + timedelta(minutes=minute)
    at = opens_at(windows, now)
    assert is_open(windows, at)
    assert at >= now
    assert at == now or not is_open(windows, at - timedelta(minutes=1))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_more_at_a_time_while_the_archive_keeps_up_and_half_when_it_slows_down():
    clock = Clock()
    pace = Pace(4, 3.0, 600.0, clock)
    assert pace.allowed == 1
    for _ in range(3 * GOOD_IN_A_ROW):
        pace.fetched(10.0, 100)
    assert pace.allowed == 4
    for _ in range(8):
        pace.fetched(50.0, 100)  # five times slower
        if pace.allowed == 0:
            break
    assert pace.pause_s == 50.0
    clock.now += 51.0
    assert pace.allowed == 2


def test_what_was_under_way_when_it_slowed_down_does_not_slow_it_down_again():
    clock = Clock()
    pace = Pace(4, 3.0, 600.0, clock)
    for _ in range(3 * GOOD_IN_A_ROW):
        pace.fetched(10.0, 100)
    clock.now = 1000.0
    while pace.allowed:
        pace.fetched(50.0, 100)
    for _ in range(3):  # the others of the four
        pace.fetched(50.0, 100)
        clock.now += 20.0
    assert pace.allowed == 2
    pace.fetched(50.0, 100)  # this one began after it
    assert pace.pause_s == 50.0
    clock.now += 51.0
    assert pace.allowed == 1


def test_never_more_than_allowed():
    pace = Pace(2, 3.0, 600.0, Clock())
    for _ in range(50):
        pace.fetched(1.0, 100)
    assert pace.allowed == 2


def test_an_archive_that_is_away_is_asked_ever_more_rarely_until_it_is_back():
    clock = Clock()
    pace = Pace(4, 3.0, 100.0, clock)
    pauses = []
    for _ in range(6):
        pace.failed(10.0, "nobody listens there")
        pauses.append(pace.pause_s)
        clock.now += pace.pause_s
    assert pauses == [10.0, 20.0, 40.0, 80.0, 100.0, 100.0]
    pace.fetched(1.0, 10)
    pace.failed(10.0, "nobody listens there")
    assert pace.pause_s == 10.0
