"""Twenty studies of one scan, and a modality that sends each instance until it is acknowledged."""

import hashlib
import socket
import time
from contextlib import suppress

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    generate_uid,
)
from pynetdicom import AE

from exporters.reference.phantom_series import SeriesTruth

STUDIES = 20
NAME, IDENTIFIER = "ZZMARKED^PATIENT", "ZZMARKEDID"


def copies(truth: SeriesTruth) -> list[list[Dataset]]:
    """The same scan, from the sacrum to L2, as twenty patients' studies."""
    slices = [dcmread(path) for path in truth.paths[:48]]
    studies = []
    for n in range(STUDIES):
        study, series, frame = generate_uid(), generate_uid(), generate_uid()
        copied = []
        for one in slices:
            copy = Dataset()
            copy.update(one)
            copy.StudyInstanceUID, copy.SeriesInstanceUID, copy.FrameOfReferenceUID = study, series, frame
            copy.SOPInstanceUID = generate_uid()
            copy.PatientName, copy.PatientID = NAME, f"{IDENTIFIER}{n}"
            copy.file_meta = one.file_meta
            copied.append(copy)
        studies.append(copied)
    return studies


def send_until_acknowledged(port: int, images: list[Dataset], acknowledged: dict[str, str], until: float) -> None:
    """What a patient sender does: what was not acknowledged is sent again."""
    waiting = list(images)
    while waiting and time.monotonic() < until:
        if not listens(port):
            time.sleep(0.1)
            continue
        ae = AE(ae_title="MODALITY")
        ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 5
        peer = ae.associate("127.0.0.1", port, ae_title="TRABECULA", max_pdu=131072)
        while peer.is_established and waiting:
            with suppress(RuntimeError, ValueError):
                answer = peer.send_c_store(waiting[0])
                if answer.get("Status") == 0x0000:
                    stored = waiting.pop(0)
                    acknowledged[str(stored.SOPInstanceUID)] = hashlib.sha256(stored.PixelData).hexdigest()
                    continue
            break
        if peer.is_established:
            peer.release()
        elif waiting:
            time.sleep(0.2)


def listens(port: int) -> bool:
    """Somebody is behind the door just now."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
