"""
What is counted of a connection by which pynetdicom serves a peer: the same as our own way in counts of its own.

pynetdicom says at many places that an association ended, and of some endings nowhere; but each has a thread, and the
messages of the upper layer tell how it went. So it is counted where that thread ends, by the last of them.
"""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.pdu import A_ABORT_RQ, A_ASSOCIATE_RJ, A_RELEASE_RP

from dicom_node import metrics


class Tally:
    """Follows one connection, and counts it when it has ended."""

    def __init__(self, association: Association) -> None:
        """Follow an association whose thread has not begun."""
        self.received_bytes = 0  # added to by who reads
        self._ending = "broken"
        self._is_open = False
        self._open = ExitStack()
        association.bind(evt.EVT_ESTABLISHED, self._on_established)
        association.bind(evt.EVT_PDU_SENT, self._on_sent)
        association.bind(evt.EVT_PDU_RECV, self._on_received)
        association.run = partial(self._run, association.run)

    def _run(self, serve: Callable[[], None]) -> None:
        """The life of the association's thread, which ends after the one that reads and sends."""
        try:
            with self._open:
                serve()
        finally:
            metrics.count_association(self._ending, self.received_bytes)

    def _on_established(self, event: evt.Event) -> None:
        self._is_open = True
        self._open.enter_context(metrics.open_association())

    def _on_sent(self, event: evt.Event) -> None:
        pdu = event.pdu
        if isinstance(pdu, A_ASSOCIATE_RJ):
            self._ending = "rejected"
            metrics.count_rejection((pdu.result, pdu.source, pdu.reason_diagnostic))
        elif isinstance(pdu, A_RELEASE_RP):
            self._ending = "released"

    def _on_received(self, event: evt.Event) -> None:
        if self._is_open and isinstance(event.pdu, A_ABORT_RQ):
            self._ending = "aborted"
