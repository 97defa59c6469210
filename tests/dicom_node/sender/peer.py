"""A storage SCP that answers as a test wants, and a sender that works for it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from pydicom.uid import ComprehensiveSRStorage, ExplicitVRLittleEndian, RLELossless, SecondaryCaptureImageStorage
from pynetdicom import AE, evt

from dicom_node.sender.lines import Sender
from dicom_node.sender.options import Destination, SenderOptions

QUICK = {"retry_after_s": 0.1, "longest_retry_s": 0.3, "poll_s": 0.05, "association_timeout_s": 2.0}
SOCKETS_LEFT = pytest.mark.filterwarnings(  # pynetdicom leaves the socket of a refused connection to the collector
    "ignore::pytest.PytestUnraisableExceptionWarning"
)


class Peer:
    def __init__(self) -> None:
        self.port = 0
        self.asked: list[str] = []
        self.stored: list[str] = []


@contextmanager
def peer(answer: Callable[[evt.Event], int] | int = 0x0000, port: int = 0, **settings: bool) -> Iterator[Peer]:
    """A storage SCP that keeps the UIDs of what it said it stored."""
    ae = AE(ae_title="PACS")
    ae.add_supported_context("1.2.840.10008.1.1")
    ae.add_supported_context(ComprehensiveSRStorage)
    if not settings.pop("only_sr", False):
        ae.add_supported_context(SecondaryCaptureImageStorage, [ExplicitVRLittleEndian, RLELossless])
    for name, value in settings.items():
        setattr(ae, name, value)
    found = Peer()

    def keep(event: evt.Event) -> int:
        status = answer if isinstance(answer, int) else answer(event)
        found.asked.append(str(event.request.AffectedSOPInstanceUID))
        if status < 0xA000:
            found.stored.append(str(event.request.AffectedSOPInstanceUID))
        return status

    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, keep)])
    found.port = server.server_address[1]
    try:
        yield found
    finally:
        server.shutdown()


def options(*destinations: Destination, **more: float) -> SenderOptions:
    return SenderOptions(destinations=destinations, **(QUICK | more))  # type: ignore[arg-type]


def pacs(port: int, name: str = "pacs", ae_title: str = "PACS") -> Destination:
    return Destination(name, ae_title, "127.0.0.1", port)


@contextmanager
def running(sender: Sender) -> Iterator[None]:
    thread = threading.Thread(target=sender.run)
    thread.start()
    try:
        yield
    finally:
        sender.stop()
        thread.join(20)
        assert not thread.is_alive()
