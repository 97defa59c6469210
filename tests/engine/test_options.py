"""A table reads into the options that it means, or is refused with the name of what is wrong."""

import tomllib
from dataclasses import dataclass, field
from enum import StrEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import BadOption
from engine.options import read_options, write_options


class Mood(StrEnum):
    CALM = "calm"
    BRISK = "brisk"


@dataclass(frozen=True)
class Peer:
    host: str
    port: int = 104


@dataclass(frozen=True)
class Wait:
    seconds: float = 2.5
    attempts: int = 3

    def __post_init__(self) -> None:
        if self.attempts < 0:
            raise ValueError("attempts must not be below 0")


@dataclass(frozen=True)
class Everything:
    name: str = "node"
    loud: bool = False
    mood: Mood = Mood.CALM
    limit: int | None = None
    wait: Wait = field(default_factory=Wait)
    peers: tuple[Peer, ...] = ()
    levels: tuple[str, ...] = ("L1", "L2")
    spacing_mm: tuple[float, float, float] = (1.0, 2.0, 3.0)
    boxes: tuple[tuple[int, int], ...] = ()


def test_an_empty_table_gives_the_defaults():
    assert read_options(Everything, {}) == Everything()


def test_a_whole_table_is_read():
    table = tomllib.loads("""
        loud = true
        mood = "brisk"
        limit = 7
        levels = []
        spacing_mm = [1, 2.5, 3]
        boxes = [[1, 2], [3, 4]]
        wait = {seconds = 4}
        peers = [{host = "a"}, {host = "b", port = 11112}]
    """)
    expected = Everything(
        loud=True,
        mood=Mood.BRISK,
        limit=7,
        levels=(),
        spacing_mm=(1.0, 2.5, 3.0),
        boxes=((1, 2), (3, 4)),
        wait=Wait(4.0),
        peers=(Peer("a"), Peer("b", 11112)),
    )
    found = read_options(Everything, table)
    assert found == expected
    assert isinstance(found.wait.seconds, float)
    assert hash(found) == hash(expected)


REFUSED = [
    ({"nmae": "x"}, r"unknown option 'nmae'; did you mean 'name'\?"),
    ({"zzz": 1}, "unknown option 'zzz'; known are: boxes, levels"),
    ({"wait": {"second": 1.0}}, r"unknown option 'wait.second'; did you mean 'wait.seconds'\?"),
    ({"wait": {"attempts": -1}}, "wait: attempts must not be below 0"),
    ({"wait": 3}, "option 'wait' is a table, not 3"),
    ({"wait": {"seconds": float("nan")}}, "option 'wait.seconds' must be a finite number"),
    ({"wait": {"seconds": float("inf")}}, "option 'wait.seconds' must be a finite number"),
    ({"wait": {"seconds": True}}, "option 'wait.seconds' must be float, not True"),
    ({"wait": {"attempts": True}}, "option 'wait.attempts' must be int, not True"),
    ({"wait": {"attempts": 1.0}}, "option 'wait.attempts' must be int, not 1.0"),
    ({"name": 3}, "option 'name' must be str, not 3"),
    ({"loud": 1}, "option 'loud' must be bool, not 1"),
    ({"mood": "wild"}, "option 'mood' must be one of calm, brisk, not 'wild'"),
    ({"mood": 3}, "option 'mood' must be one of calm, brisk, not 3"),
    ({"limit": "7"}, "option 'limit' must be int, not '7'"),
    ({"peers": {"host": "a"}}, "option 'peers' is a list"),
    ({"peers": [{"port": 1}]}, r"option 'peers\[0\].host' is required"),
    ({"peers": ["a"]}, r"option 'peers\[0\]' is a table, not 'a'"),
    ({"levels": ["L1", 2]}, r"option 'levels\[1\]' must be str, not 2"),
    ({"spacing_mm": [1.0, 2.0]}, "option 'spacing_mm' has 3 values, not 2"),
    ({"boxes": [[1, 2, 3]]}, r"option 'boxes\[0\]' has 2 values, not 3"),
]


@pytest.mark.parametrize(("table", "message"), REFUSED)
def test_what_has_no_meaning_is_refused_by_name(table, message):
    with pytest.raises(BadOption, match=message):
        read_options(Everything, table)


def test_the_place_of_a_table_is_part_of_the_name():
    with pytest.raises(BadOption, match=r"unknown option 'receiver.prot'; did you mean 'receiver.port'"):
        read_options(Peer, {"host": "a", "prot": 1}, "receiver")
    with pytest.raises(BadOption, match=r"option 'receiver.host' is required"):
        read_options(Peer, {}, "receiver")


numbers = st.floats(allow_nan=False, allow_infinity=False)
everything = st.builds(
    Everything,
    name=st.text(),
    loud=st.booleans(),
    mood=st.sampled_from(Mood),
    limit=st.none() | st.integers(),
    wait=st.builds(Wait, numbers, st.integers(min_value=0)),
    peers=st.lists(st.builds(Peer, st.text(), st.integers()), max_size=3).map(tuple),
    levels=st.lists(st.text(), max_size=3).map(tuple),
    spacing_mm=st.tuples(numbers, numbers, numbers),
    boxes=st.lists(st.tuples(st.integers(), st.integers()), max_size=3).map(tuple),
)


@given(everything)
def test_what_is_written_reads_back(options):
    assert read_options(Everything, write_options(options)) == options
