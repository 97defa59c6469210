"""What goes wrong with a DICOMweb server is said in words, typed as ever, and in none of the server's own."""

import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest

from dicom_node.peers.dicomweb import DicomWeb, Server
from engine.errors import DeploymentError, PeerAway, PeerError

from .foreign import free_port
from .papers import Papers

NAME = b"DOE^JANE"  # what a server may quote


@contextmanager
def server(answer: Callable[[socket.socket], None], tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """One that takes a connection, reads a request and answers it, or does not."""

    def serve() -> None:
        while True:
            try:
                taken, _ = listening.accept()
            except OSError:
                return
            try:
                with tls.wrap_socket(taken, server_side=True) if tls else taken as line:
                    request = line.recv(65536)
                    end = {b"P": b"--\r\n", b"G": b"\r\n\r\n"}.get(request[:1], b"")  # POST, GET, TLS
                    while not request.endswith(end):
                        request += line.recv(65536)
                    answer(line)
            except OSError:
                continue

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = Thread(target=serve, daemon=True)
        thread.start()
        yield f"http{'s' if tls else ''}://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def asked(url: str, **more: str) -> DicomWeb:
    return DicomWeb(Server("web", url, 0.5, 0.5, **more))


def http(status: int) -> Callable[[socket.socket], None]:
    head = b"HTTP/1.1 %d %s\r\nContent-Length: %d\r\n\r\n%s"
    return lambda line: line.sendall(head % (status, NAME, len(NAME), NAME))


def mute(line: socket.socket) -> None:
    line.settimeout(5)
    line.recv(1)


def hang_up(line: socket.socket) -> None:
    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (mute, "was lost on the way: nothing answers within 0.5 s"),
        (hang_up, "was lost on the way: Connection reset by peer"),
        (lambda line: line.sendall(NAME + b"\r\n\r\n"), "was lost on the way: what it answers is no HTTP"),
        (lambda line: None, "was lost on the way: what it answers is no HTTP, or ends too soon"),
        (http(401), "HTTP 401: it wants a token, or another one"),
        (http(404), "HTTP 404: it has nothing under this address"),
        (http(503), "HTTP 503: out of service"),
    ],
)
def test_what_a_server_does_is_said(answer: Callable[[socket.socket], None], said: str):
    with server(answer) as url, asked(url) as web:
        with pytest.raises(PeerError, match=said) as searched:
            web.ask()
        assert "DOE" not in str(searched.value)
        if "lost" in said or "503" in said:
            with pytest.raises(PeerAway, match=said):
                web.store(b"DICM")
        else:
            assert web.store(b"DICM") == (False, said)


def test_a_server_that_is_not_there_says_what_is_in_the_way():
    for url, said in (
        (f"http://127.0.0.1:{free_port()}", "nobody listens there"),
        ("http://no-such-host.invalid", "its host name is not known here"),
    ):
        with asked(url) as web:
            for do in (web.ask, lambda to=web: to.store(b"DICM")):
                with pytest.raises(PeerAway, match=f"'web' can't be reached: {said}"):
                    do()


def test_of_tls_it_is_said_which_certificate_is_not_taken(papers: Papers):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*papers.of("node"))
    with server(http(204), context) as url:
        with asked(url, ca_file=papers.stranger) as web, pytest.raises(PeerAway, match="its certificate is not taken"):
            web.ask()
        with asked(url, ca_file=papers.authority) as web:
            web.ask()
    with server(http(204)) as url, asked(url.replace("http", "https")) as web, pytest.raises(PeerAway) as caught:
        web.ask()
    assert "there, but TLS fails" in str(caught.value)


def test_a_file_that_holds_no_single_token_is_told_at_once(tmp_path: Path):
    (tmp_path / "token").write_text("first\nsecond\n")
    with pytest.raises(DeploymentError, match="must hold a token and nothing else"):
        asked("http://127.0.0.1", token_file=str(tmp_path / "token"))
