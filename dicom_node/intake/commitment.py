"""
Storage commitment: a sender asks whether instances are safe with us, and is told which are (PS3.4 annex J, push model).

We commit to what lies in the spool under its UID with the SOP class that was asked for, durable, and to nothing else;
docs/conformance.md says for how long. Whoever is known by address is told over an association of ours, again and again
until it listens, also after a restart; anybody else over the association on which it asked.
"""

import json
import logging
import os
import threading
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dicom_node import metrics
from dicom_node.durable import sync_folder, write_new
from dicom_node.intake import commands
from dicom_node.intake.commands import Request, write_event_report
from dicom_node.intake.options import CommitmentPeer, ReceiverOptions
from dicom_node.intake.services import LITTLE_ENDIAN, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
from dicom_node.spool import Spool
from engine.errors import UnreadableInstance
from engine.loading.elements import read_elements
from engine.loading.headers import check_uid
from engine.loading.tags import Tag

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

log = logging.getLogger(__name__)

REQUEST_COMMITMENT, ALL_SAFE, SOME_NOT_SAFE = 1, 1, 2  # action and event types (PS3.4 J.3.2, J.3.3)
NO_SUCH_INSTANCE, CLASS_CONFLICT, PROCESSING_FAILED = 0x0112, 0x0119, 0x0110  # failure reasons (PS3.3 C.14)
MOST_REFERENCES = 20_000
FIRST_RETRY_S, LONGEST_RETRY_S, GIVE_UP_S = 5.0, 900.0, 7 * 86400.0
"""Our choice: a peer that does not listen is tried for a week."""


@dataclass(frozen=True, slots=True)
class Report:
    """What became of one request."""

    transaction_uid: str
    safe: tuple[tuple[str, str], ...]  # SOP Class and SOP Instance UID
    not_safe: tuple[tuple[str, str, int], ...]  # likewise, and the failure reason

    @property
    def event_type_id(self) -> int:
        """Whether all is safe."""
        return SOME_NOT_SAFE if self.not_safe else ALL_SAFE

    def data_set(self) -> "Dataset":
        """Event information."""
        from pydicom.dataset import Dataset

        told = Dataset()
        told.TransactionUID = self.transaction_uid
        told.ReferencedSOPSequence = [_reference(*one) for one in self.safe]
        if self.not_safe:
            told.FailedSOPSequence = [_reference(*one) for one in self.not_safe]
        return told

    def message(self, message_id: int, transfer_syntax_uid: str) -> tuple[bytes, bytes]:
        """Command set and data set of an N-EVENT-REPORT request."""
        from pynetdicom.dsutils import encode

        implicit = transfer_syntax_uid == "1.2.840.10008.1.2"
        data = encode(self.data_set(), is_implicit_vr=implicit, is_little_endian=True)
        command = write_event_report(message_id, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE, self.event_type_id)
        return command, data or b""


@dataclass(frozen=True, slots=True)
class Asked:
    """How a request is answered."""

    status: int
    comment: str = ""
    report: Report | None = None  # to be told over this association


class Commitments:
    """Answers requests, and tells what became of them; started by `start`, ended by `stop`."""

    def __init__(self, spool: Spool, options: ReceiverOptions) -> None:
        """Hold what is needed."""
        self._spool = spool
        self._options = options
        self._peers = {peer.ae_title.strip(): peer for peer in options.commitment_peers}
        self._folder = spool.folder / "commitments"
        self._changed = threading.Condition()
        self._stopping = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Tell what was not told before the last stop."""
        if not (self._options.storage_commitment and self._peers):
            return
        self._folder.mkdir(mode=0o700, exist_ok=True)
        sync_folder(self._spool.folder)
        self._thread = threading.Thread(target=self._run, name="commitments", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End; what was not told is told after the next start."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(10.0)

    def ask(self, request: Request, information: "Dataset | None", ae_title: str) -> Asked:
        """Answer an N-ACTION. Never raises."""
        if request.uid(commands.REQUESTED_SOP_CLASS_UID) != STORAGE_COMMITMENT:
            return Asked(commands.SOP_CLASS_NOT_SUPPORTED)
        if request.short(commands.ACTION_TYPE_ID) != REQUEST_COMMITMENT:
            return Asked(commands.NO_SUCH_ACTION)
        try:
            transaction_uid, references = _read(information)
        except Exception as bad:  # whatever hostile bytes bring about
            log.warning("a request for storage commitment can't be read: %s", type(bad).__name__)
            return Asked(commands.INVALID_ARGUMENT, "the request can't be read")
        report = self.look(transaction_uid, references)
        metrics.count_commitment(len(report.safe), len(report.not_safe))
        if (peer := self._peers.get(ae_title)) is None:
            return Asked(commands.SUCCESS, report=report)
        try:
            self._remember(peer, transaction_uid, references)
        except OSError as bad:
            log.error("a request for storage commitment was not taken: %s", bad)
            return Asked(commands.PROCESSING_FAILURE, "try again later")
        return Asked(commands.SUCCESS)

    def look(self, transaction_uid: str, references: Sequence[tuple[str, str]]) -> Report:
        """Which of (SOP Class UID, SOP Instance UID) are safe now."""
        safe: list[tuple[str, str]] = []
        not_safe: list[tuple[str, str, int]] = []
        for sop_class_uid, sop_instance_uid in references:
            failure = self._failure(sop_class_uid, sop_instance_uid)
            if failure:
                not_safe.append((sop_class_uid, sop_instance_uid, failure))
            else:
                safe.append((sop_class_uid, sop_instance_uid))
        return Report(transaction_uid, tuple(safe), tuple(not_safe))

    def _failure(self, sop_class_uid: str, sop_instance_uid: str) -> int:
        try:
            path = self._spool.place_of(check_uid(sop_instance_uid))
            with path.open("rb") as file:
                elements = read_elements(file, os.fstat(file.fileno()).st_size)
        except (FileNotFoundError, UnreadableInstance):
            return NO_SUCH_INSTANCE
        except OSError as bad:
            log.error("an instance can't be committed to: %s", bad)
            return PROCESSING_FAILED
        return 0 if elements.text(Tag.SOP_CLASS_UID) == sop_class_uid else CLASS_CONFLICT

    def _remember(self, peer: CommitmentPeer, transaction_uid: str, references: Sequence[tuple[str, str]]) -> None:
        note = {"peer": asdict(peer), "transaction_uid": transaction_uid, "references": references, "at": time.time()}
        aside = self._folder / f".{time.time_ns()}-{threading.get_ident()}"
        write_new(aside, json.dumps(note).encode())
        aside.rename(self._folder / f"{time.time_ns():020}-{threading.get_ident()}.json")
        sync_folder(self._folder)
        with self._changed:
            self._changed.notify_all()

    def _run(self) -> None:
        failures: dict[str, tuple[int, float]] = {}  # AE title: how often in a row, and not before when
        while True:
            waiting = sorted(self._folder.glob("*.json"))
            for path in waiting:
                if self._stopping:
                    return
                self._tell_from(path, failures)
            with self._changed:
                if self._stopping:
                    return
                pause = FIRST_RETRY_S if any(self._folder.glob("*.json")) else None
                if pause is not None or not any(self._folder.glob("*.json")):
                    self._changed.wait(pause)

    def _tell_from(self, path: Path, failures: dict[str, tuple[int, float]]) -> None:
        try:
            note = json.loads(path.read_bytes())
            peer = CommitmentPeer(**note["peer"])
            transaction_uid = str(note["transaction_uid"])
            references = [(str(one), str(other)) for one, other in note["references"]]
            age_s = time.time() - float(note["at"])
        except (OSError, ValueError, LookupError, TypeError):
            path.unlink(missing_ok=True)  # not ours
            return
        peer = self._peers.get(peer.ae_title, peer)
        times, not_before = failures.get(peer.ae_title, (0, 0.0))
        if time.monotonic() < not_before:
            return
        if self._tell(peer, self.look(transaction_uid, references)):
            failures.pop(peer.ae_title, None)
            path.unlink(missing_ok=True)
            return
        failures[peer.ae_title] = times + 1, time.monotonic() + min(FIRST_RETRY_S * 2**times, LONGEST_RETRY_S)
        if age_s > GIVE_UP_S:
            log.error("the result of a storage commitment was not taken for a week, and is dropped")
            path.unlink(missing_ok=True)

    def _tell(self, peer: CommitmentPeer, report: Report) -> bool:
        """Report over an association of our own; whether it was taken."""
        from pynetdicom import AE, build_role

        ae = AE(ae_title=self._options.ae_title)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = 30
        ae.add_requested_context(STORAGE_COMMITMENT, list(LITTLE_ENDIAN))
        role = build_role(STORAGE_COMMITMENT, scp_role=True)
        try:
            association = ae.associate(peer.host, peer.port, ae_title=peer.ae_title, ext_neg=[role])
            if not association.is_established:
                log.warning("a peer is not there to be told of a storage commitment")
                return False
            with suppress(Exception), closing(_Releasing(association)):
                status, _ = association.send_n_event_report(
                    report.data_set(), report.event_type_id, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
                )
                return bool(status.get("Status") == commands.SUCCESS)
        except Exception as bad:
            log.warning("a storage commitment could not be told: %s", type(bad).__name__)
        return False


class _Releasing:
    """An association that is released at the end."""

    def __init__(self, association: object) -> None:
        self._association = association

    def close(self) -> None:
        self._association.release()  # type: ignore[attr-defined]


def _read(information: "Dataset | None") -> tuple[str, list[tuple[str, str]]]:
    if information is None:
        raise ValueError("no information")
    sequence = information.ReferencedSOPSequence
    if not 1 <= len(sequence) <= MOST_REFERENCES:
        raise ValueError("nothing is asked for, or too much")
    references = [(str(one.ReferencedSOPClassUID), str(one.ReferencedSOPInstanceUID)) for one in sequence]
    return check_uid(str(information.TransactionUID)), references


def _reference(sop_class_uid: str, sop_instance_uid: str, failure: int = 0) -> "Dataset":
    from pydicom.dataset import Dataset

    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, sop_instance_uid
    if failure:
        item.FailureReason = failure
    return item
