"""The walker stays inside the file, keeps what was asked for, and ends soon whatever it is fed."""

import io
import struct
import subprocess
import sys
import time
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import UnreadableInstance
from engine.loading.cursor import DEEPEST_NESTING
from engine.loading.elements import fragments, inflated, read_elements
from engine.loading.tags import Tag
from engine.loading.walker import LONGEST_VALUE
from engine.records import Reason


def walk(data: bytes):
    return read_elements(io.BytesIO(data), len(data))


def outcome(data: bytes):
    """Elements, or the reason why there are none; anything else fails the test."""
    try:
        return walk(data)
    except UnreadableInstance as bad:
        return bad.reason


def test_wanted_values_are_kept_and_pixels_only_located(raw):
    pixels = raw.element(0x7FE0, 0x0010, b"OW", b"\1\2\3\4")
    data = raw.part10(raw.body_of(raw.IDENTITY) + pixels)
    elements = walk(data)
    assert elements.text(Tag.MODALITY) == "CT"
    assert elements.transfer_syntax_uid == "1.2.840.10008.1.2.1"
    at = elements.pixel_data
    assert data[at.offset : at.offset + at.length] == b"\1\2\3\4"


def test_implicit_encoding_is_read_whatever_the_file_says(raw):
    body = b"".join(struct.pack("<HHI", *tag, len(v)) + v for tag, (_, v) in sorted(raw.IDENTITY.items()))
    for syntax in (b"1.2.840.10008.1.2\0", b"1.2.840.10008.1.2.1\0"):
        assert walk(raw.part10(body, syntax)).text(Tag.SOP_INSTANCE_UID) == "1.2.3.4"


def nested(raw, kind: bytes, depth: int) -> bytes:
    """Sequences of undefined length within each other; UN holds implicit elements."""
    inside = b""
    for _ in range(depth):
        head = struct.pack("<HHI", 0x0009, 0x1001, raw.UNDEFINED) if kind == b"UN" else None
        sequence = head or raw.element(0x0009, 0x1001, b"SQ", b"", raw.UNDEFINED)
        inside = sequence + raw.item(inside + raw.END_OF_ITEM, raw.UNDEFINED) + raw.END_OF_SEQUENCE
    if kind == b"UN":  # the outermost one is explicit
        inside = raw.element(0x0009, 0x1001, b"UN", inside[8:], raw.UNDEFINED)
    return inside


@pytest.mark.parametrize("kind", [b"SQ", b"UN"])
def test_what_follows_nested_sequences_is_found(raw, kind):
    values = raw.body_of({tag: value for tag, value in raw.IDENTITY.items() if tag[0] == 0x0008})
    after = raw.body_of({tag: value for tag, value in raw.IDENTITY.items() if tag[0] > 0x0008})
    elements = walk(raw.part10(values + nested(raw, kind, 5) + after))
    assert elements.text(Tag.SERIES_INSTANCE_UID) == "1.2.3.2"


@pytest.mark.parametrize("depth", [DEEPEST_NESTING, 5000])
def test_nesting_beyond_the_limit_is_refused(raw, depth):
    with pytest.raises(UnreadableInstance, match="too deeply") as caught:
        walk(raw.part10(nested(raw, b"SQ", depth)))
    assert caught.value.reason is Reason.HEADER_UNREADABLE


def test_values_inside_sequences_are_not_taken_for_the_instances_own(raw):
    inside = raw.item(raw.element(0x0008, 0x0018, b"UI", b"9.9.9\0"))
    sequence = raw.element(0x0008, 0x1140, b"SQ", inside)
    assert walk(raw.part10(raw.body_of(raw.IDENTITY) + sequence)).text(Tag.SOP_INSTANCE_UID) == "1.2.3.4"


BROKEN = {
    "a value of 4 GB in a small file": lambda raw: raw.element(0x0009, 0x1001, b"OB", b"1234", 0xFFFFFFF0),
    "a wanted value of 4 GB": lambda raw: raw.element(0x0018, 0x0010, b"UT", b"1234", 0xFFFFFFF0),
    "a wanted value of 60 kB": lambda raw: raw.element(0x0018, 0x0010, b"LO", b"x" * 60000),
    "half an element": lambda raw: b"\x18\0\x10\0LO",
    "an item outside": lambda raw: raw.item(b""),
    "a sequence without end": lambda raw: raw.element(0x0009, 0x1001, b"SQ", raw.item(b"12"), raw.UNDEFINED),
    "a sequence of no items": lambda raw: raw.element(
        0x0009, 0x1001, b"SQ", raw.element(0x0008, 0x0060, b"CS", b"CT"), raw.UNDEFINED
    ),
    "an attribute given twice": lambda raw: raw.element(0x0010, 0x0020, b"LO", b"P-2 "),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_data_set_is_refused(raw, kind):
    with pytest.raises(UnreadableInstance) as caught:
        walk(raw.part10(raw.body_of(raw.IDENTITY) + BROKEN[kind](raw)))
    assert caught.value.reason is Reason.HEADER_UNREADABLE


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 128, b"\0" * 128 + b"DICM", b"\0" * 128 + b"DICX" + b"\0" * 99, b"GIF89a" * 40]
)
def test_what_is_no_dicom_file_is_refused(data):
    with pytest.raises(UnreadableInstance) as caught:
        walk(data)
    assert caught.value.reason is Reason.HEADER_UNREADABLE


def swapped(values: dict) -> bytes:
    """Elements with the high byte first."""
    parts = []
    for (group, number), (vr, value) in sorted(values.items()):
        parts.append(struct.pack(">HH2sH", group, number, vr, len(value)) + (value[::-1] if vr == b"US" else value))
    return b"".join(parts)


def test_big_endian_data_sets_are_read(raw):
    rows = {(0x0028, 0x0010): (b"US", b"\x02\x01")}
    elements = walk(raw.part10(swapped(raw.IDENTITY | rows), b"1.2.840.10008.1.2.2\0"))
    assert elements.text(Tag.SERIES_INSTANCE_UID) == "1.2.3.2"
    assert elements.short(Tag.ROWS) == 258


def deflated(data: bytes) -> bytes:
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    return squeeze.compress(data) + squeeze.flush()


def test_deflated_data_sets_are_read(raw):
    pixels = raw.element(0x7FE0, 0x0010, b"OW", b"\1\2\3\4")
    body = raw.body_of(raw.IDENTITY) + nested(raw, b"SQ", 5) + raw.element(0x0009, 0x1001, b"OB", b"x" * 70000) + pixels
    data = raw.part10(deflated(body), b"1.2.840.10008.1.2.1.99")
    elements = walk(data)
    assert elements.text(Tag.SERIES_INSTANCE_UID) == "1.2.3.2"
    at = elements.pixel_data
    whole = inflated(io.BytesIO(data), len(data), 10**6)
    assert whole == body
    assert whole[at.offset : at.offset + at.length] == b"\1\2\3\4"
    assert inflated(io.BytesIO(data), len(data), 100) == body[:100]


def test_a_deflated_data_set_that_is_damaged_is_refused(raw):
    data = raw.part10(deflated(raw.body_of(raw.IDENTITY)), b"1.2.840.10008.1.2.1.99")
    for bad in (data[:-60] + b"\xff" * 60, data[: len(data) // 2 + 60]):
        assert outcome(bad) is Reason.HEADER_UNREADABLE or outcome(bad).pixel_data is None


@given(cut=st.integers(0, 400))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_a_file_cut_anywhere_is_read_or_refused(raw, cut):
    data = raw.part10(raw.body_of(raw.IDENTITY) + nested(raw, b"SQ", 3))
    found = outcome(data[:cut])
    assert found is Reason.HEADER_UNREADABLE or set(found.values) <= {int(tag) for tag in Tag}


@given(changes=st.lists(st.tuples(st.integers(128, 400), st.integers(0, 255)), max_size=8))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
def test_damaged_bytes_are_read_or_refused(raw, changes):
    data = bytearray(
        raw.part10(raw.body_of(raw.IDENTITY) + nested(raw, b"UN", 3) + raw.element(0x7FE0, 0x10, b"OW", b"ab"))
    )
    for at, value in changes:
        data[at % len(data)] = value
    found = outcome(bytes(data))
    if not isinstance(found, Reason):
        assert all(len(value) <= LONGEST_VALUE for value in found.values.values())
    else:
        assert found in (Reason.HEADER_UNREADABLE, Reason.TRANSFER_SYNTAX_UNSUPPORTED)


def test_fragments_are_found_behind_the_offset_table(raw):
    parts = raw.item(b"\0\0\0\0") + raw.item(b"abcd") + raw.item(b"ef") + raw.END_OF_SEQUENCE
    data = raw.part10(raw.element(0x7FE0, 0x0010, b"OB", parts, raw.UNDEFINED))
    found = fragments(io.BytesIO(data), len(data), walk(data).pixel_data)
    assert [data[at : at + length] for at, length in found] == [b"\0\0\0\0", b"abcd", b"ef"]


@pytest.mark.parametrize("tail", ["no end", "longer than the file", "undefined length", "something else"])
def test_malformed_fragments_are_refused(raw, tail):
    parts = {
        "no end": raw.item(b"") + raw.item(b"abcd"),
        "longer than the file": raw.item(b"") + raw.item(b"abcd", 0xFFFFFF00),
        "undefined length": raw.item(b"") + raw.item(b"abcd", raw.UNDEFINED),
        "something else": raw.item(b"") + raw.END_OF_ITEM,
    }[tail]
    data = raw.part10(raw.element(0x7FE0, 0x0010, b"OB", parts, raw.UNDEFINED))
    with pytest.raises(UnreadableInstance):
        fragments(io.BytesIO(data), len(data), walk(data).pixel_data)


WORST = """
import resource, sys
from pathlib import Path
from engine.errors import UnreadableInstance
from engine.loading.headers import read_header
import pydicom  # what is loaded anyway does not count
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_header(Path(sys.argv[1]), b"key")
except UnreadableInstance as bad:
    print(bad.reason, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize(
    "worst", ["deflate bomb", "ten million empty items", "a value of 4 GB", "5000 nested sequences"]
)
def test_the_worst_headers_cost_little_memory_and_time(raw, worst, tmp_path):
    path = tmp_path / "worst.dcm"
    if worst == "deflate bomb":
        squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
        bomb = b"".join(squeeze.compress(b"\0" * 2**20) for _ in range(300)) + squeeze.flush()
        path.write_bytes(raw.part10(bomb, b"1.2.840.10008.1.2.1.99"))
    elif worst == "ten million empty items":
        path.write_bytes(raw.part10(raw.element(0x0009, 0x1001, b"SQ", raw.item(b"") * 10_000_000, raw.UNDEFINED)))
    elif worst == "a value of 4 GB":
        path.write_bytes(raw.part10(raw.element(0x0010, 0x0020, b"UT", b"x", 0xFFFFFFF0)))
    else:
        path.write_bytes(raw.part10(nested(raw, b"SQ", 5000)))
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", WORST, str(path)], capture_output=True, text=True, timeout=60, check=True
    )
    assert time.monotonic() - start < 30
    reason, grown_mib = done.stdout.split()
    assert reason in (Reason.HEADER_UNREADABLE, Reason.TRANSFER_SYNTAX_UNSUPPORTED)
    assert int(grown_mib) < 20
    assert done.stderr == ""
