"""Orthanc stores to the front door, asks whether it is safe there, and is told over an association of ours."""

from collections.abc import Iterator
from io import BytesIO
from threading import Event
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, MRImageStorage, generate_uid

from dicom_node.intake.options import CommitmentPeer, DataPath

from ..foreign import Orthanc
from .test_commitment import CLASS_CONFLICT, NO_SUCH_INSTANCE

SOON = 20.0  # seconds in which a test gives up


@pytest.fixture(params=tuple(DataPath))
def door(open_door, orthanc: Orthanc, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A front door of either kind that knows Orthanc by its address, and which Orthanc knows."""
    peers = (CommitmentPeer("ORTHANC", "127.0.0.1", orthanc.dicom_port),)
    opened = open_door(data_path=request.param, commitment_peers=peers)
    orthanc.knows("TRABECULA", opened.port)
    yield opened
    orthanc.rest("DELETE", "/modalities/trabecula")


def put_into(orthanc: Orthanc, image: Dataset) -> str:
    """Orthanc's own name of an instance that it was given."""
    image.file_meta.MediaStorageSOPClassUID, image.file_meta.MediaStorageSOPInstanceUID = (
        image.SOPClassUID,
        image.SOPInstanceUID,
    )
    content = BytesIO()
    image.save_as(content, enforce_file_format=True)
    return str(orthanc.rest("POST", "/instances", content.getvalue())["ID"])


def sent(orthanc: Orthanc, names: list[str], **more: object) -> dict[str, Any]:
    """What Orthanc tells of a C-STORE to us that it has ended."""
    asked = {"Resources": names, "Synchronous": True, **more}
    told: dict[str, Any] = orthanc.rest("POST", "/modalities/trabecula/store", asked)
    assert (told["InstancesCount"], told["FailedInstancesCount"]) == (len(names), 0)
    return told


def heard(orthanc: Orthanc, transaction_uid: str) -> dict[str, Any]:
    """What Orthanc was told of a request, once it was."""
    pause = Event()
    for _ in range(int(SOON / 0.05)):
        told: dict[str, Any] = orthanc.rest("GET", f"/storage-commitment/{transaction_uid}")
        if told["Status"] != "Pending":
            return told
        pause.wait(0.05)
    raise AssertionError("nothing was reported to Orthanc")


def asked(orthanc: Orthanc, **about: object) -> dict[str, Any]:
    """What Orthanc was told of what it asks for here."""
    made = orthanc.rest("POST", "/modalities/trabecula/storage-commitment", about)
    return heard(orthanc, str(made["ID"]))


def uids(items: list[dict[str, Any]]) -> list[str]:
    return [str(item["SOPInstanceUID"]) for item in items]


def test_orthanc_is_told_what_is_safe_and_what_is_not(door, make_ct, orthanc: Orthanc):
    images = [make_ct(), make_ct()]
    names = [put_into(orthanc, image) for image in images]
    sent(orthanc, names)
    studies = [orthanc.rest("GET", f"/instances/{name}/study")["ID"] for name in names]
    whole = asked(orthanc, Resources=studies)
    assert (whole["Status"], whole["RemoteAET"], whole["Failures"]) == ("Success", "TRABECULA", [])
    first, second = (str(image.SOPInstanceUID) for image in images)
    assert sorted(uids(whole["Success"])) == sorted([first, second])

    unknown, classes = str(generate_uid()), [str(CTImageStorage), str(CTImageStorage), str(MRImageStorage)]
    some = asked(orthanc, DicomInstances=[list(pair) for pair in zip(classes, (first, unknown, second), strict=True)])
    assert (some["Status"], uids(some["Success"])) == ("Failure", [first])
    failures = {item["SOPInstanceUID"]: item["FailureReason"] for item in some["Failures"]}
    assert failures == {unknown: NO_SUCH_INSTANCE, second: CLASS_CONFLICT}


def test_orthanc_may_forget_what_it_sent_once_it_is_told(door, make_ct, orthanc: Orthanc):
    """Asked for with the C-STORE itself."""
    images = [make_ct(), make_ct()]
    names = [put_into(orthanc, image) for image in images]
    told = sent(orthanc, names, StorageCommitment=True)
    assert heard(orthanc, told["StorageCommitmentTransactionUID"])["Status"] == "Success"
    orthanc.rest("POST", f"/storage-commitment/{told['StorageCommitmentTransactionUID']}/remove", b"")
    assert orthanc.rest("GET", "/instances") == []
    assert len(door.kept()) == len(images)
