"""What the front door can't take is answered with a status, kept aside with its reason, and ends no association."""

import re

import pydicom
import pytest
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    MRImageStorage,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from dicom_node.intake import acceptance as room
from dicom_node.intake.acceptance import STATUSES
from engine.records import Reason

from .asked import INSTANCES, REFUSALS
from .spoiled import claims_too_much, cut_header, cut_pixels, cut_value, garbage, nested, nothing


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"StudyInstanceUID": ""}, Reason.IDENTITY_MISSING),
        ({"StudyInstanceUID": None}, Reason.IDENTITY_MISSING),
        ({"SeriesInstanceUID": ""}, Reason.IDENTITY_MISSING),
        ({"SeriesInstanceUID": None}, Reason.IDENTITY_MISSING),
        ({"SOPInstanceUID": ""}, Reason.IDENTITY_MISSING),
        ({"SOPInstanceUID": None}, Reason.IDENTITY_MISSING),
        ({"SOPClassUID": ""}, Reason.IDENTITY_MISSING),
        ({"SOPInstanceUID": "../../../etc/cron.d/x"}, Reason.IDENTIFIER_INVALID),
        ({"StudyInstanceUID": "../../../etc/cron.d/x"}, Reason.IDENTIFIER_INVALID),
        ({"SeriesInstanceUID": "1.2.3\x00.4"}, Reason.IDENTIFIER_INVALID),
        ({"SeriesInstanceUID": "1.02.3"}, Reason.IDENTIFIER_INVALID),
        ({"SOPInstanceUID": "1.2.3.4"}, Reason.COMMAND_MISMATCH),
        ({"SOPClassUID": MRImageStorage}, Reason.COMMAND_MISMATCH),
        ({"SOPClassUID": EnhancedCTImageStorage}, Reason.COMMAND_MISMATCH),
    ],
)
def test_what_has_no_sound_identity_is_refused_with_its_reason_and_the_association_lives(
    door, make_ct, encode, changed, reason
):
    named = generate_uid()
    bad, good = make_ct(SOPInstanceUID=named), make_ct()
    for keyword, value in changed.items():
        if value is None:
            delattr(bad, keyword)
        else:
            setattr(bad, keyword, value)
    peer = door.raw().associate()
    assert peer.store(encode(bad), named) == STATUSES[reason]
    assert peer.store(encode(good), good.SOPInstanceUID) == 0
    assert len(door.kept()) == 1
    assert [path.read_bytes().endswith(encode(bad)) for path in door.kept("refused")] == [True]
    ((subject, told, _, sender, times),) = door.wait_for_rows(REFUSALS, 1)
    assert (subject, told, sender, times) == (named, reason, "RAW", 1)
    door.wait_for_rows(INSTANCES, 1)
    assert not (door.spool.folder.parent / "etc").exists()


@pytest.mark.parametrize("named", ["", None, "../../x", "a" * 64])
def test_a_command_without_a_sound_uid_is_answered_and_refused(door, make_ct, encode, named):
    bad, good = make_ct(), make_ct()
    peer = door.raw().associate()
    assert peer.store(encode(bad), named) == 0xA900
    assert peer.store(encode(good), good.SOPInstanceUID) == 0
    ((subject, reason, *_),) = door.wait_for_rows(REFUSALS, 1)
    assert reason == "command_mismatch"
    assert re.fullmatch("[0-9a-f]{64}", subject)


def test_an_instance_of_another_class_than_its_context_is_refused(door, make_ct, encode):
    bad = make_ct(SOPClassUID=SecondaryCaptureImageStorage)
    peer = door.raw().associate(CTImageStorage)
    assert peer.store(encode(bad), bad.SOPInstanceUID, SecondaryCaptureImageStorage) == 0xA900


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (cut_pixels, Reason.PIXELS_UNREADABLE),
        (cut_header, Reason.HEADER_UNREADABLE),
        (cut_value, Reason.HEADER_UNREADABLE),
        (garbage, Reason.HEADER_UNREADABLE),
        (nothing, Reason.IDENTITY_MISSING),
        (claims_too_much, Reason.HEADER_UNREADABLE),
        (nested, Reason.HEADER_UNREADABLE),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_reason_and_the_association_lives(door, make_ct, encode, spoil, reason):
    bad, good = make_ct(), make_ct()
    peer = door.raw().associate()
    assert peer.store(spoil(encode(bad)), bad.SOPInstanceUID) == STATUSES[reason]
    assert peer.store(encode(good), good.SOPInstanceUID) == 0
    ((subject, told, detail, *_),) = door.wait_for_rows(REFUSALS, 1)
    assert (subject, told) == (bad.SOPInstanceUID, reason)
    assert "ZZMARK" not in detail
    assert len(door.kept()) == 1


def test_a_cut_code_stream_is_refused(door, make_ct, encode):
    rle = "1.2.840.10008.1.2.5"
    whole = make_ct()
    whole.compress(rle)
    data = encode(whole)
    peer = door.raw().associate(syntax=rle)
    assert peer.store(data[:-20], whole.SOPInstanceUID) == 0xC105
    assert peer.store(data, whole.SOPInstanceUID) == 0


def test_repeated_refusals_are_counted_in_one_row(door, make_ct, encode):
    bad = encode(make_ct(StudyInstanceUID=""))
    peer = door.raw().associate()
    for _ in range(5):
        assert peer.store(bad, "1.2.3.4") == 0xC101
    door.wait_for_rows("SELECT 1 FROM refusal WHERE times = 5", 1)
    assert len(door.rows(REFUSALS)) == len(door.kept("refused")) == 1


def test_a_full_spool_is_told_and_passes(door, make_ct, encode):
    dataset = make_ct()
    peer = door.raw().associate()
    options = door.spool.options
    door.spool.options = type(options)(folder=options.folder, reserve_mib=2**40)
    assert peer.store(encode(dataset), dataset.SOPInstanceUID) == 0xA700
    assert door.kept() == []
    door.spool.options = options
    assert peer.store(encode(dataset), dataset.SOPInstanceUID) == 0


def test_a_fault_of_ours_is_answered_and_the_association_lives(door, make_ct, encode):
    dataset = make_ct()
    peer = door.raw().associate()
    key, door.receiver.acceptance.pseudonym_key = door.receiver.acceptance.pseudonym_key, b""
    assert peer.store(encode(dataset), dataset.SOPInstanceUID) == 0xC1FF
    assert door.kept() == door.kept("refused") == []
    door.receiver.acceptance.pseudonym_key = key
    assert peer.store(encode(dataset), dataset.SOPInstanceUID) == 0


@pytest.mark.real_data
def test_real_instances_with_empty_identifiers_are_refused_and_none_is_lost_or_invented(door, real_ct):
    syntax = "1.2.840.10008.1.2.4.90"
    peer = door.raw().associate(syntax=syntax)
    sent = sorted((real_ct / "ct_abdomen_j2k_empty_uids").iterdir())
    for path in sent:
        named = str(pydicom.dcmread(path, stop_before_pixels=True).file_meta.MediaStorageSOPInstanceUID)
        raw = path.read_bytes()
        data = raw[132 + 12 + int.from_bytes(raw[140:144], "little") :]
        assert peer.store(data, named) == 0xC101
    assert len(door.wait_for_rows(REFUSALS, len(sent))) == len(door.kept("refused")) == len(sent)
    assert door.kept() == door.rows(INSTANCES) == door.rows("SELECT * FROM study") == []


def test_every_status_is_told_in_the_rooms_own_words():
    assert room.__doc__ is not None
    told = dict(re.findall(r"^    ([AC][0-9A-F]{3}) .*  (\w+)$", room.__doc__, flags=re.MULTILINE))
    assert told == {f"{status:04X}": str(reason) for reason, status in STATUSES.items()}
