"""The doctor asks archives and destinations, and says how far it got with each."""

import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from pynetdicom import AE

from dicom_node.config import NodeConfig, read_config
from dicom_node.doctor import Check, State, examine
from dicom_node.peers import association
from dicom_node.peers.association import VERIFICATION
from dicom_node.peers.query import FIND, GET, MOVE
from dicom_node.reachable import Finding

from .backfill.conftest import MadeArchive
from .backfill.peer import Peer
from .foreign import Orthanc, free_port
from .papers import Papers

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # pynetdicom's sockets
BRIEF = "connect_timeout_s = 2.0\nassociation_timeout_s = 0.5\nanswer_timeout_s = 2.0\n"
PACS = "[[backfill.archives]]\nname = 'pacs'\nae_title = 'ARCHIVE'\nhost = '127.0.0.1'\nport = {}\n"
WEB = "[[backfill.archives]]\nname = 'pacs'\nurl = '{}'\n"


def told(folder: Path, archive: str) -> Check:
    """What the doctor says of an archive that it asked."""
    (folder / "node.toml").write_text(f"[receiver]\nport = 0\n[backfill]\n{BRIEF}{archive}")
    return {check.subject: check for check in examine(read(folder), ask_peers=True)}["archive pacs"]


def read(folder: Path) -> NodeConfig:
    return read_config(folder / "node.toml")


@contextmanager
def listening(*abstract_syntaxes: str, called: bool = False) -> Iterator[int]:
    """A peer that offers some services, and wants to be called by its name where asked."""
    ae = AE("ARCHIVE" if not called else "ANOTHER")
    ae.require_called_aet = called
    for each in abstract_syntaxes:
        ae.add_supported_context(each)
    server = ae.start_server(("127.0.0.1", 0), block=False)
    yield int(server.server_address[1])
    server.shutdown()


@contextmanager
def answering_http(status: int) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Not to the screen."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/dicom-web"
        server.shutdown()


@pytest.fixture
def secret_peer(made: MadeArchive, papers: Papers) -> Iterator[Peer]:
    """An archive with nothing in it that wants a certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=papers.authority)
    context.load_cert_chain(*papers.of("node"))
    context.verify_mode = ssl.CERT_REQUIRED
    running = Peer(made, tls=context)
    yield running
    running.stop()


@pytest.fixture
def made(tmp_path: Path) -> MadeArchive:
    return MadeArchive(tmp_path / "archive")


def tls(papers: Papers, authority: str = "") -> str:
    certificate, key = papers.of("client")
    authorities = authority or papers.authority
    return f"tls_authorities = '{authorities}'\ntls_certificate = '{certificate}'\ntls_key = '{key}'\n"


@pytest.mark.parametrize("retrieve", ["get", "move"])
def test_an_archive_that_can_be_searched_and_read_answers(tmp_path: Path, made: MadeArchive, retrieve: str):
    peer = Peer(made)
    try:
        check = told(tmp_path, PACS.format(peer.archive().port) + f"retrieve = '{retrieve}'")
    finally:
        peer.stop()
    where = f"C-FIND and C-{retrieve.upper()} at ARCHIVE at 127.0.0.1, port {peer.archive().port}"
    assert (check.state, check.detail, check.finding) == (State.OK, f"{where}: answers", Finding.ANSWERS)
    assert peer.asked == []  # nothing is fetched for it


def test_orthanc_answers_by_either_protocol(tmp_path: Path, orthanc: Orthanc):
    by_dicom = told(tmp_path, PACS.format(orthanc.dicom_port).replace("ARCHIVE", "ORTHANC"))
    assert (by_dicom.state, by_dicom.finding) == (State.OK, Finding.ANSWERS)
    by_web = told(tmp_path, WEB.format(orthanc.url))
    assert (by_web.state, by_web.finding) == (State.OK, Finding.ANSWERS)
    assert by_web.detail == f"QIDO-RS and WADO-RS at {orthanc.url}: answers"


@pytest.mark.parametrize(
    ("offered", "lacks"),
    [((VERIFICATION,), "C-FIND"), ((VERIFICATION, FIND, MOVE), "C-GET"), ((FIND, GET), "C-FIND with 0xc311")],
)
def test_what_an_archive_lacks_is_named(tmp_path: Path, offered: tuple[str, ...], lacks: str):
    """The last one offers all, and its search fails."""
    with listening(*offered) as port:
        check = told(tmp_path, PACS.format(port))
    assert (check.state, check.finding) == (State.WRONG, Finding.NOT_AS_NEEDED)
    assert lacks in check.detail


def test_an_archive_that_is_not_there_has_no_connection(tmp_path: Path):
    for archive in (PACS.format(free_port()), WEB.format(f"http://127.0.0.1:{free_port()}/dicom-web")):
        check = told(tmp_path, archive)
        assert (check.state, check.finding) == (State.WRONG, Finding.NO_CONNECTION)
        assert check.detail.endswith("nobody listens there")
        assert check.detail.count("nobody listens there") == 1


def test_an_archive_that_rejects_us_or_is_silent_takes_connections(tmp_path: Path):
    with listening(VERIFICATION, FIND, GET, called=True) as port:
        rejecting = told(tmp_path, PACS.format(port))
    assert rejecting.finding is Finding.NOT_TAKEN
    with socket.create_server(("127.0.0.1", 0)) as door:
        silent = told(tmp_path, PACS.format(door.getsockname()[1]))
    assert silent.finding is Finding.NOT_TAKEN
    assert silent.detail.count("it takes a connection") == 1


def test_a_rejection_is_told_once_and_in_our_words_alone(tmp_path: Path):
    with listening(VERIFICATION, FIND, GET, called=True) as port:
        told(tmp_path, PACS.format(port))
        command = [sys.executable, "-m", "dicom_node", "doctor", "--echo", "-c", str(tmp_path / "node.toml")]
        ran = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"}, check=False)
    assert (ran.returncode, ran.stderr) == (1, "")
    assert ran.stdout.count("Called AE title not recognised") == 1


def test_an_archive_is_asked_over_tls_and_its_certificate_must_be_trusted(
    tmp_path: Path, secret_peer: Peer, papers: Papers
):
    archive = PACS.format(secret_peer.archive().port)
    assert told(tmp_path, archive + tls(papers)).finding is Finding.ANSWERS
    distrusted = told(tmp_path, archive + tls(papers, authority=papers.stranger))
    assert distrusted.finding is Finding.NOT_TRUSTED
    assert distrusted.detail.count("its certificate is not taken") == 1
    assert told(tmp_path, archive + "tls_authorities = 'nowhere.pem'\n").finding is Finding.OUR_FILES
    assert told(tmp_path, archive).finding is Finding.NOT_TAKEN  # asked in the clear


def test_an_archive_that_does_not_speak_tls_is_told_from_one_that_is_away(tmp_path: Path, papers: Papers):
    with listening(VERIFICATION, FIND, GET) as port:
        check = told(tmp_path, PACS.format(port) + tls(papers))
    assert (check.state, check.finding) == (State.WRONG, Finding.NO_TLS)


@pytest.mark.parametrize(("status", "finding"), [(503, Finding.NOT_TAKEN), (401, Finding.NOT_AS_NEEDED)])
def test_a_web_server_that_does_not_serve_us_is_told_by_its_status(tmp_path: Path, status: int, finding: Finding):
    with answering_http(status) as url:
        check = told(tmp_path, WEB.format(url))
    assert (check.state, check.finding) == (State.WRONG, finding)
    assert f"HTTP {status}" in check.detail


@contextmanager
def closing_door() -> Iterator[tuple[int, list[socket.socket]]]:
    """Takes connections and ends them at once; tells its port, and which it took."""
    taken: list[socket.socket] = []

    def take() -> None:
        with suppress(OSError):
            while True:
                client, _ = door.accept()
                taken.append(client)
                client.recv(1)
                client.close()

    with socket.create_server(("127.0.0.1", 0)) as door:
        taking = Thread(target=take, daemon=True)
        taking.start()
        yield int(door.getsockname()[1]), taken
        door.shutdown(socket.SHUT_RDWR)
        taking.join()


@pytest.mark.parametrize(
    ("is_web", "is_secret", "finding"),
    [
        (False, False, Finding.NOT_TAKEN),
        (False, True, Finding.NO_TLS),
        (True, False, Finding.NOT_AS_NEEDED),
        (True, True, Finding.NO_TLS),
    ],
)
def test_one_that_is_away_is_waited_for_once(
    tmp_path: Path, papers: Papers, is_web: bool, is_secret: bool, finding: Finding
):
    """How far one gets is told of the connection that failed, and not of one more."""
    with closing_door() as (port, taken):
        web = WEB.format(f"{'https' if is_secret else 'http'}://127.0.0.1:{port}/dicom-web")
        archive = web if is_web else PACS.format(port) + (tls(papers) if is_secret else "")
        check = told(tmp_path, archive)
    assert (check.state, check.finding) == (State.WRONG, finding)
    assert len(taken) == 1


def test_nobody_is_asked_unless_that_is_wanted(tmp_path: Path):
    (tmp_path / "node.toml").write_text(PACS.format(free_port()))
    check = {check.subject: check for check in examine(read(tmp_path))}["archive pacs"]
    assert (check.state, check.finding) == (State.OK, None)
    assert check.detail.endswith("--echo asks whether it is there")


def test_what_is_asked_of_a_peer_goes_out_at_once():
    """Not when half a message is acknowledged, which the peer's kernel may leave for 40 ms."""
    with listening(VERIFICATION) as port:
        peer = association.Peer("pacs", "ARCHIVE", "127.0.0.1", port, "US", 2.0, 2.0, 2.0, 2.0)
        with association.association(peer, [(VERIFICATION, (association.EXPLICIT,))]) as made:
            assert made.dul.socket.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
