"""Whatever bytes come, they are an instance or a reason, and a file of ours is always the same."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import CTImageStorage

from dicom_node.intake.file_format import dicom_file
from dicom_node.intake.inspection import Command, inspect
from engine.errors import BadOption, UnreadableInstance
from engine.records import InstanceHeader, Reason

EXPLICIT = "1.2.840.10008.1.2.1"
COMMAND = Command(CTImageStorage, CTImageStorage, "1.2.3.4")
KEY = b"key"


@pytest.fixture(scope="module")
def data(make_ct, encode) -> bytes:
    return encode(make_ct(SOPInstanceUID="1.2.3.4"))


def examine(data: bytes) -> InstanceHeader | Reason:
    try:
        return inspect(dicom_file(CTImageStorage, "1.2.3.4", EXPLICIT, data), COMMAND, KEY)
    except UnreadableInstance as refused:
        return refused.reason


def test_a_sound_instance_is_accepted(data):
    assert isinstance(examine(data), InstanceHeader)


@settings(max_examples=300)
@given(st.data())
def test_spoiled_bytes_are_an_instance_or_a_reason(data, draws):
    """`data` is spoiled in a few places; nothing else than a reason may come of it."""
    spoiled = bytearray(data[:1500])
    for _ in range(draws.draw(st.integers(1, 4))):
        at = draws.draw(st.integers(0, len(spoiled)))
        kind = draws.draw(st.sampled_from(["change", "cut", "insert", "drop"]))
        if kind == "change" and at < len(spoiled):
            spoiled[at] = draws.draw(st.integers(0, 255))
        elif kind == "cut":
            del spoiled[at:]
        elif kind == "insert":
            spoiled[at:at] = draws.draw(st.binary(max_size=12))
        else:
            del spoiled[at : at + draws.draw(st.integers(1, 40))]
    assert isinstance(examine(bytes(spoiled)), InstanceHeader | Reason)


@settings(max_examples=200)
@given(st.binary(max_size=400))
def test_any_bytes_are_refused_with_a_reason(noise):
    assert isinstance(examine(noise), Reason)


def test_a_cut_at_any_place_is_refused(data):
    for end in [*range(1000), len(data) - 1]:
        assert isinstance(examine(data[:end]), Reason), end


def test_a_site_without_a_key_is_no_fault_of_the_instance(data):
    with pytest.raises(BadOption):
        inspect(dicom_file(CTImageStorage, "1.2.3.4", EXPLICIT, data), COMMAND, b"")


def test_what_stands_before_a_data_set_never_changes():
    """Else an instance that is sent again after an update of this program would conflict with itself."""
    assert dicom_file("1.2.840.10008.5.1.4.1.1.2", "1.2.3", EXPLICIT, b"data").hex() == (
        "00" * 128
        + b"DICM".hex()
        + "02000000554c04008e000000"
        + "020001004f42000002000000"
        + "0001"
        + "0200020055491a00"
        + b"1.2.840.10008.5.1.4.1.1.2\0".hex()
        + "0200030055490600"
        + b"1.2.3\0".hex()
        + "0200100055491400"
        + b"1.2.840.10008.1.2.1\0".hex()
        + "0200120055492c00"
        + b"2.25.215912206284098146437735613083842651317".hex()
        + b"data".hex()
    )
