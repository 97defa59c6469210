"""
Storage commitment, asked for: what was sent counts as kept when the peer says so (PS3.4 annex J, push model).

A request bears a transaction UID that is in the outbox before the request leaves, so whichever process is told the
result, over whichever association, finds what it is about.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from db import outbox
from db.connection import Database
from dicom_node.peers.association import EXPLICIT, IMPLICIT, Peer, association, at_rest
from dicom_node.peers.leaving import GoOn, always
from engine.errors import DeploymentError, PeerError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

log = logging.getLogger(__name__)

STORAGE_COMMITMENT = "1.2.840.10008.1.20.1"
WELL_KNOWN_INSTANCE = "1.2.840.10008.1.20.1.1"
REQUEST = 1  # action type (PS3.4 J.3.2)
EVENTS = frozenset({1, 2})  # all are safe, some are not (PS3.4 J.3.3)
SUCCESS, PROCESSING_FAILURE, NO_SUCH_EVENT = 0x0000, 0x0110, 0x0113  # PS3.7 annex C

Told = Callable[[str, int, "Dataset"], int]
"""Called with the peer's AE title, event type and event information; the status that it is answered with."""


def ask(
    peer: Peer,
    transaction_uid: str,
    items: Sequence[outbox.SentObject],
    told: Told,
    wait_s: float,
    go_on: GoOn = always,
) -> None:
    """Ask whether objects are safe. The result may come at once, later, or never.

    Args:
        wait_s: how long the association is kept for a result that comes over it.
        go_on: where it is False, the association is not waited for any more.

    Raises:
        PeerError: the peer is not there, does not offer it, refused, or was left.
    """
    from pydicom.dataset import Dataset
    from pynetdicom import evt

    was_told = threading.Event()

    def on_report(event: Any) -> tuple[int, None]:
        status = told(peer.ae_title, int(event.event_type), event.event_information)
        was_told.set()
        return status, None

    request = Dataset()
    request.TransactionUID = transaction_uid
    request.ReferencedSOPSequence = [_reference(item) for item in items]
    handlers = [(evt.EVT_N_EVENT_REPORT, on_report)]
    with association(peer, [(STORAGE_COMMITMENT, (EXPLICIT, IMPLICIT))], handlers=handlers, go_on=go_on) as opened:
        if not opened.accepted_contexts:
            raise PeerError(f"'{peer.name}' does not offer storage commitment")
        try:
            with at_rest(opened):
                status, _ = opened.send_n_action(request, REQUEST, STORAGE_COMMITMENT, WELL_KNOWN_INSTANCE)
        except (RuntimeError, ValueError):
            raise PeerError(f"'{peer.name}' was lost while asked for commitment") from None
        if "Status" not in status or int(status.Status) != SUCCESS:
            told_code = f"{int(status.Status):#06x}" if "Status" in status else "nothing"
            raise PeerError(f"'{peer.name}' answered the request for commitment with {told_code}")
        was_told.wait(wait_s)


def report_taker(database: Database, max_attempts: int) -> Told:
    """What writes a result down, wherever it comes in. It never raises.

    Args:
        max_attempts: of sending an object that the peer did not keep; then it is a dead letter.
    """

    def told(ae_title: str, event_type: int, information: "Dataset") -> int:
        if event_type not in EVENTS:
            return NO_SUCH_EVENT
        try:
            transaction_uid = str(information.get("TransactionUID") or "")
            safe = [str(item.ReferencedSOPInstanceUID) for item in information.get("ReferencedSOPSequence") or ()]
            not_safe = {
                str(item.ReferencedSOPInstanceUID): int(item.get("FailureReason") or PROCESSING_FAILURE)
                for item in information.get("FailedSOPSequence") or ()
            }
            with database.begin() as connection:
                committed = outbox.committed(connection, transaction_uid, safe)
                lost = outbox.not_committed(connection, transaction_uid, not_safe, max_attempts)
        except DeploymentError as passing:
            log.error("a report of commitment could not be written down: %s", passing)
            return PROCESSING_FAILURE  # who asked for it asks again
        except Exception as bad:  # whatever an odd data set brings about
            log.error("a report of commitment can't be read: %s", type(bad).__name__)
            return PROCESSING_FAILURE
        log.info("commitment: %d objects are safe, %d are not", committed, lost)
        return SUCCESS

    return told


def _reference(item: outbox.SentObject) -> "Dataset":
    from pydicom.dataset import Dataset

    reference = Dataset()
    reference.ReferencedSOPClassUID = item.sop_class_uid
    reference.ReferencedSOPInstanceUID = item.sop_instance_uid
    return reference
