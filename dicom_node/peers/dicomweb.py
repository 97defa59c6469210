"""
DICOMweb as a client: search (QIDO-RS), metadata and retrieval (WADO-RS), storing (STOW-RS); PS3.18.

Answers are streamed and bounded: a server that sends without end fills neither memory nor disk. Instances are handed
on as the bytes that came, so that what is stored is what the archive holds.
"""

import secrets
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import httpx

from dicom_node.peers import web_words
from dicom_node.peers.line import LineDown
from engine.errors import PeerAway, PeerError, UnusableCredentials

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

MIB = 1024 * 1024
MOST_ANSWER_BYTES = 256 * MIB  # of JSON. Our choice: the metadata of some ten thousand slices
MOST_INSTANCE_BYTES = 512 * MIB  # our choice, as the receiver's
PAGE = 200  # matches asked for at a time; our choice
MOST_HEAD_BYTES = 8192  # of a part's own header lines

NOT_NOW = frozenset({408, 425, 429, 502, 503, 504})
"""Statuses that are about the server and not about what was asked of it."""

NO_CONNECTION = (httpx.ConnectError, httpx.ConnectTimeout)

RETRY_LATER = frozenset({0xA700, 0x0110, 0x0122})


@dataclass(frozen=True, slots=True)
class Server:
    """A DICOMweb server, and how long is waited for it."""

    name: str  # ours
    url: str
    connect_timeout_s: float
    answer_timeout_s: float  # for the next bytes
    token_file: str = ""
    ca_file: str = ""


class DicomWeb:
    """A client; threads may share it. Closed by `close` or `with`."""

    def __init__(self, server: Server) -> None:
        """Connect to nothing yet.

        Raises:
            UnusableCredentials: the file of the token or of the certificates can't be read.
        """
        self._server = server
        self._sockets: WeakSet[socket.socket] = WeakSet()
        self._lock = threading.Lock()
        self._here = threading.local()  # of each thread: whether its connection failed in TLS
        headers = {}
        try:
            if server.token_file:
                headers["Authorization"] = f"Bearer {_token(server)}"
            self._client = httpx.Client(
                base_url=server.url.rstrip("/") + "/",
                headers=headers,
                verify=certificates(server) if server.ca_file else True,
                timeout=httpx.Timeout(server.answer_timeout_s, connect=server.connect_timeout_s),
                trust_env=False,
            )
        except (OSError, ValueError) as bad:
            raise UnusableCredentials(
                f"token_file or ca_file of '{server.name}' can't be read ({type(bad).__name__})"
            ) from None

    def __enter__(self) -> "DicomWeb":
        """The client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def leave(self) -> None:
        """End all connections, from beside those who wait for answers on them; later requests make new ones.

        Those who wait get a PeerError. A server that is just being connected to is waited for as long as that may take.
        """
        with self._lock:
            open_ones = list(self._sockets)
        for each in open_ones:
            with suppress(OSError):  # it has ended already
                socket.socket.shutdown(each, socket.SHUT_RDWR)  # not TLS's own, which would be no end to who reads

    def _trace(self, event: str, told: Mapping[str, Any]) -> None:
        """Called by httpx with each step of a request: remembers connections, which can't be had from it otherwise."""
        self._here.in_tls = event == "connection.start_tls.failed"
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            with self._lock:
                self._sockets.add(told["return_value"].get_extra_info("socket"))

    def search(self, path: str, keys: Mapping[str, str], fields: Sequence[str] = ()) -> Iterator["Dataset"]:
        """All matches of a search, page by page.

        Args:
            path: such as "studies" or "studies/1.2/series".
            fields: keywords to be returned beside the usual ones.

        Raises:
            PeerError: the server is away, refused, or answered what is no answer.
        """
        offset = 0
        while True:
            query = [*keys.items(), *(("includefield", field) for field in fields)]
            page = self._json(path, [*query, ("limit", str(PAGE)), ("offset", str(offset))])
            yield from page
            offset += len(page)
            if len(page) < PAGE:
                return

    def ask(self) -> None:
        """See that it is there and answers.

        Raises:
            PeerError: it does not.
        """
        self._json("studies", [("limit", "1")])

    def metadata(self, study: str, series: str) -> list["Dataset"]:
        """The headers of all images of a series, without their pixels.

        Raises:
            PeerError: as `search`.
        """
        return self._json(f"studies/{study}/series/{series}/metadata", [])

    def instances(self, study: str, series: str, uid: str | None = None) -> Iterator[bytes]:
        """Whole DICOM files of a series, or one of them, one by one.

        Raises:
            PeerError: as `search`; what came before it was yielded.
        """
        path = f"studies/{study}/series/{series}" + (f"/instances/{uid}" if uid else "")
        accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
        with self._asked("GET", path, headers={"Accept": accept}) as answer:
            yield from _parts(answer, self._server.name)

    def store(self, content: bytes) -> tuple[bool, str]:
        """Store one DICOM file by STOW-RS.

        Returns:
            Whether it is stored, and what the server said: a status, never its words.

        Raises:
            PeerAway: the server is not there, or takes nothing now.
        """
        boundary = secrets.token_hex(16)
        body = b"".join(
            (
                f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode(),
                content,
                f"\r\n--{boundary}--\r\n".encode(),
            )
        )
        headers = {
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "Accept": "application/dicom+json",
        }
        try:
            more = {"trace": self._trace}
            answer = self._client.request("POST", "studies", content=body, headers=headers, extensions=more)
        except NO_CONNECTION as bad:
            raise self._line_down(bad) from None
        except httpx.HTTPError as bad:
            raise PeerAway(_lost(bad, self._server)) from None
        if answer.status_code in NOT_NOW:
            raise PeerAway(f"'{self._server.name}' takes nothing now ({web_words.status(answer.status_code)})")
        return _stored(answer, self._server.name)

    def _json(self, path: str, query: Sequence[tuple[str, str]]) -> list["Dataset"]:
        from pydicom.dataset import Dataset

        with self._asked("GET", path, params=list(query), headers={"Accept": "application/dicom+json"}) as answer:
            if answer.status_code == httpx.codes.NO_CONTENT:
                return []
            text = b"".join(_bounded(answer.iter_bytes(), MOST_ANSWER_BYTES, self._server.name))
        try:
            import json

            return [Dataset.from_json(_without_bulk(item)) for item in json.loads(text or b"[]")]
        except Exception:  # whatever odd JSON brings about
            raise PeerError(f"'{self._server.name}' answered what is no DICOM JSON") from None

    @contextmanager
    def _asked(self, method: str, path: str, **more: Any) -> Iterator[httpx.Response]:
        try:
            with self._client.stream(method, path, extensions={"trace": self._trace}, **more) as answer:
                if answer.status_code in NOT_NOW:
                    raise PeerAway(
                        f"'{self._server.name}' answers nothing now ({web_words.status(answer.status_code)})"
                    )
                if answer.status_code not in (200, 204, 206):
                    raise PeerError(f"'{self._server.name}' answered {web_words.status(answer.status_code)}")
                yield answer
        except NO_CONNECTION as bad:
            raise self._line_down(bad) from None
        except httpx.HTTPError as bad:
            raise PeerError(_lost(bad, self._server)) from None

    def _line_down(self, bad: httpx.TransportError) -> LineDown:
        in_tls = getattr(self._here, "in_tls", False)
        trouble, told = web_words.why_no_connection(bad, self._server.connect_timeout_s, in_tls)
        return LineDown(trouble, f"'{self._server.name}' can't be reached: {told}")


def _lost(bad: httpx.HTTPError, server: Server) -> str:
    """What became of a request, for people; httpx's own words may quote what the server sent."""
    return f"'{server.name}' was lost on the way: {web_words.why(bad, server.answer_timeout_s)}"


def certificates(server: Server) -> ssl.SSLContext:
    """Those that a server's is checked against, as TLS wants it.

    Raises:
        UnusableCredentials: their file can't be read.
    """
    try:
        return ssl.create_default_context(cafile=server.ca_file or None)
    except (OSError, ValueError) as bad:
        raise UnusableCredentials(f"ca_file of '{server.name}' can't be read ({type(bad).__name__})") from None


def _token(server: Server) -> str:
    words = Path(server.token_file).read_text(encoding="ascii").split()
    if len(words) != 1:
        raise UnusableCredentials(f"token_file of '{server.name}' must hold a token and nothing else")
    return words[0]


def _without_bulk(item: dict[str, Any]) -> dict[str, Any]:
    """Without what is only pointed to: nothing is fetched on a server's word."""
    return {tag: value for tag, value in item.items() if "BulkDataURI" not in value and "InlineBinary" not in value}


def _bounded(chunks: Iterator[bytes], most: int, name: str) -> Iterator[bytes]:
    total = 0
    for chunk in chunks:
        total += len(chunk)
        if total > most:
            raise PeerError(f"'{name}' sent more than is taken")
        yield chunk


def _parts(answer: httpx.Response, name: str) -> Iterator[bytes]:
    """The bodies of a multipart answer (RFC 2046, 5.1), one by one; or of a single one, which some send."""
    said = Message()
    said["Content-Type"] = answer.headers.get("Content-Type", "")
    if said.get_content_maintype() != "multipart":
        yield b"".join(_bounded(answer.iter_bytes(), MOST_INSTANCE_BYTES, name))
        return
    boundary = said.get_boundary()
    if not boundary:
        raise PeerError(f"'{name}' answered parts without a boundary")
    mark = b"\r\n--" + boundary.encode("latin-1")
    held = bytearray(b"\r\n")  # the first boundary may stand at the very start
    is_preamble, searched = True, 0
    for chunk in answer.iter_bytes():
        held += chunk
        while (at := held.find(mark, max(0, searched - len(mark)))) >= 0:
            if not is_preamble:
                yield _body(bytes(held[:at]), name)
            is_preamble, searched = False, 0
            del held[: at + len(mark)]
        searched = len(held)
        if len(held) > MOST_INSTANCE_BYTES + MOST_HEAD_BYTES:
            raise PeerError(f"'{name}' sent a larger instance than is taken")
    if not held.startswith(b"--"):
        raise PeerError(f"'{name}' was lost on the way: its answer has no end")


def _body(part: bytes, name: str) -> bytes:
    end = part.find(b"\r\n\r\n", 0, MOST_HEAD_BYTES)
    if end < 0:
        raise PeerError(f"'{name}' answered a part without a head")
    return part[end + 4 :]


def _stored(answer: httpx.Response, name: str) -> tuple[bool, str]:
    """What an answer to STOW-RS means (PS3.18 10.5.3): 200 all, 202 with warnings or failures, 409 none."""
    told = web_words.status(answer.status_code)
    failed: list[int] = []
    try:
        body = answer.json()
        for item in (body if isinstance(body, list) else [body]) if body else []:
            for failure in item.get("00081198", {}).get("Value", []):
                failed += failure.get("00081197", {}).get("Value", [])
    except (ValueError, AttributeError, TypeError):
        failed = []
    if failed:
        told += f", reason {int(failed[0]):#06x}"
    if failed and int(failed[0]) in RETRY_LATER:
        raise PeerAway(f"'{name}' takes nothing now ({told})")
    return answer.status_code in (200, 202) and not failed, told
