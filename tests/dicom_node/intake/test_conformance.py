"""The conformance statement says what the code does."""

import re
from dataclasses import fields

import pytest
from pydicom.uid import UID

from dicom_node.backfill.options import BackfillOptions
from dicom_node.intake.acceptance import OUR_FAULT, OUT_OF_RESOURCES, STATUSES, SUCCESS
from dicom_node.intake.file_format import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_node.intake.negotiation import (
    CALLED_NOT_RECOGNISED,
    CALLING_NOT_RECOGNISED,
    CONGESTION,
    LIMIT_EXCEEDED,
    UNSUPPORTED_VERSION,
)
from dicom_node.intake.options import DataPath, ReceiverOptions
from dicom_node.intake.services import (
    DEFLATED,
    LITTLE_ENDIAN,
    SOP_CLASSES,
    STORAGE_COMMITMENT,
    TRANSFER_SYNTAXES,
    VERIFICATION,
)
from dicom_node.intake.studies import StudyOptions
from dicom_node.report.options import ReportOptions
from dicom_node.sender.options import SenderOptions

from ..conformance import PAGE, rows


def test_the_abstract_syntaxes_are_those_on_offer_under_their_names():
    told = rows("abstract syntaxes")
    assert [uid for _, uid, _ in told] == [VERIFICATION, *SOP_CLASSES, STORAGE_COMMITMENT]
    for name, uid, _ in told:
        assert name in (UID(uid).name, f"{UID(uid).name} SOP Class", UID(uid).name.removesuffix(" SOP Class"))


def test_the_transfer_syntaxes_are_those_on_offer_in_their_order():
    told = rows("transfer syntaxes")
    assert [uid for _, uid in told] == [*TRANSFER_SYNTAXES, DEFLATED]
    assert "accept_deflated" in told[-1][0]


def test_the_statuses_are_those_that_are_answered():
    told = {int(status, 16): comment for status, _, comment in rows("statuses")}
    assert set(told) == {SUCCESS, OUT_OF_RESOURCES, OUR_FAULT, *STATUSES.values()}
    for reason, status in STATUSES.items():
        assert str(reason) in told[status]


@pytest.mark.parametrize(
    "answer", [CALLING_NOT_RECOGNISED, CALLED_NOT_RECOGNISED, UNSUPPORTED_VERSION, LIMIT_EXCEEDED, CONGESTION]
)
def test_the_rejections_are_told(answer):
    assert f"| {', '.join(map(str, answer))} |" in PAGE


def test_identity_and_defaults_are_told():
    options = ReceiverOptions()
    for told in (
        f"`{IMPLEMENTATION_CLASS_UID}`",
        f"`{IMPLEMENTATION_VERSION_NAME}`",
        f"| associations at a time | {options.max_associations};",
        f"| longest PDU | {options.max_pdu_bytes} bytes;",
        f"within {options.pdu_timeout_s:.0f} s",
        f"within {options.instance_timeout_s:.0f} s, and at most {options.max_instance_mib} MiB",
        f"| idle | {options.idle_timeout_s:.0f} s",
    ):
        assert told in PAGE


def test_every_option_that_it_names_is_one():
    for table, options in (
        ("receiver", ReceiverOptions),
        ("sender", SenderOptions),
        ("backfill", BackfillOptions),
        ("report", ReportOptions),
        ("studies", StudyOptions),
    ):
        named = set(re.findall(rf"`{table}\.(\w+)", PAGE))
        assert named
        assert named <= {field.name for field in fields(options)}


def test_an_association_is_agreed_on_as_told(door):
    wanted = [(uid, [syntax]) for _, uid, _ in rows("abstract syntaxes")[1:16] for syntax in TRANSFER_SYNTAXES[:7]]
    with door.association(*wanted) as association:
        accepted = [
            (context.abstract_syntax, list(context.transfer_syntax)) for context in association.accepted_contexts
        ]
        assert accepted == wanted
        assert association.acceptor.implementation_class_uid == IMPLEMENTATION_CLASS_UID


@pytest.mark.parametrize("way", tuple(DataPath))
@pytest.mark.parametrize("service", [VERIFICATION, STORAGE_COMMITMENT])
def test_what_is_no_storage_is_agreed_on_in_little_endian_alone(open_door, way, service):
    """A deflated request could unpack to any size, and nobody needs a big one."""
    door = open_door(data_path=way)
    proposed = [(service, [syntax]) for syntax in (*LITTLE_ENDIAN, DEFLATED, "1.2.840.10008.1.2.2")]
    with door.association(*proposed) as association:
        agreed = [str(syntax) for context in association.accepted_contexts for syntax in context.transfer_syntax]
    assert agreed == list(LITTLE_ENDIAN)
    assert "agreed on in implicit and explicit VR little endian alone" in PAGE
