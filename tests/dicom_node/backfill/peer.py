"""An archive of the tests' own, made of pynetdicom's provider: it holds files, and stalls where a test wants it to."""

import socket
import ssl
from collections.abc import Callable, Iterator
from threading import Event
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import CTImageStorage  # type: ignore[attr-defined]

from dicom_node.backfill.options import Archive, Retrieve
from dicom_node.peers.query import FIND, GET, MOVE

from .conftest import MadeArchive

PENDING, SUCCESS, CANCEL = 0xFF00, 0x0000, 0xFE00
LEVELS = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}


class Peer:
    """Answers C-FIND, C-GET and C-MOVE, over TLS where it is given a context.

    Before an image is sent, `before` is called with its Series Instance UID; before a query is answered, `before_find`
    with its identifier.
    """

    def __init__(
        self,
        made: MadeArchive,
        before: Callable[[str], None] = lambda _: None,
        destination: int = 0,
        tls: ssl.SSLContext | None = None,
        port: int = 0,
        before_find: Callable[[Dataset], None] = lambda _: None,
    ) -> None:
        self._before = before
        self._before_find = before_find
        self._destination = destination
        self._images = [dcmread(path) for paths in made.files.values() for path in paths]
        self.was_left = Event()  # an association was aborted, or its connection closed, before it was released
        self.asked: list[str] = []  # Series Instance UIDs, one a C-GET or C-MOVE
        ae = AE("ARCHIVE")
        for model in (FIND, GET, MOVE):
            ae.add_supported_context(model)
        ae.add_supported_context(CTImageStorage, scu_role=True, scp_role=True)
        ae.add_requested_context(CTImageStorage)
        handlers: list[Any] = [
            (evt.EVT_C_FIND, self._find),
            (evt.EVT_C_GET, self._get),
            (evt.EVT_C_MOVE, self._move),
            (evt.EVT_ABORTED, lambda _: self.was_left.set()),
            (evt.EVT_CONN_OPEN, _send_at_once),
        ]
        self._server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers, ssl_context=tls)

    def archive(self, retrieve: Retrieve = Retrieve.GET, **more: str) -> Archive:
        """As the node's configuration names it."""
        return Archive("peer", "ARCHIVE", "127.0.0.1", self._server.server_address[1], retrieve, **more)

    def stop(self) -> None:
        self._server.shutdown()

    def _matches(self, keys: Dataset) -> list[Dataset]:
        """Images whose identifiers and date are those asked for."""

        def fits(image: Dataset, keyword: str) -> bool:
            wanted = _values(keys.get(keyword))
            return not wanted or str(image[keyword].value) in wanted

        named = [keyword for keyword in (*LEVELS.values(), "StudyDate", "AccessionNumber") if keyword in keys]
        return [image for image in self._images if all(fits(image, keyword) for keyword in named)]

    def _find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        keys = event.identifier
        self._before_find(keys)
        found = {}
        for image in self._matches(keys):
            answer = found.setdefault(image[LEVELS[keys.QueryRetrieveLevel]].value, Dataset())
            answer.QueryRetrieveLevel = keys.QueryRetrieveLevel
            for element in keys:
                if element.keyword in image:
                    answer[element.tag] = image[element.tag]
            if "ModalitiesInStudy" in keys:
                answer.ModalitiesInStudy = sorted({*_values(answer.get("ModalitiesInStudy")), image.Modality})
            if keys.QueryRetrieveLevel == "SERIES":
                answer.NumberOfSeriesRelatedInstances = (answer.get("NumberOfSeriesRelatedInstances") or 0) + 1
        for answer in found.values():
            yield PENDING, answer

    def _images_of(self, event: Any) -> list[Dataset]:
        self.asked.append(str(event.identifier.SeriesInstanceUID))
        return self._matches(event.identifier)

    def _get(self, event: Any) -> Iterator[Any]:
        images = self._images_of(event)
        yield len(images)
        for image in images:
            self._before(image.SeriesInstanceUID)
            yield PENDING, image

    def _move(self, event: Any) -> Iterator[Any]:
        yield "127.0.0.1", self._destination
        yield from self._get(event)


def _send_at_once(event: Any) -> None:
    """Don't let the half of a message wait until the half before it is acknowledged: 40 ms each."""
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _values(value: Any) -> list[str]:
    return [value] if isinstance(value, str) and value else [str(each) for each in value or ()]
