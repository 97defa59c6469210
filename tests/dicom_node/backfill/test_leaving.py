"""A stop leaves an archive that does not answer at once, whatever it was asked; nothing of it counts as an attempt."""

import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

import pytest
import sqlalchemy as sa
from pydicom.dataset import Dataset

from db import schema
from db.schema import BackfillState
from dicom_node.backfill import counting
from dicom_node.backfill.files import file_source
from dicom_node.backfill.options import Archive
from dicom_node.backfill.order import archive_source
from dicom_node.backfill.source import Part
from engine.errors import PeerError

from ..foreign import Orthanc
from ..papers import Papers
from ..patience import until
from .conftest import KEY, QUICK, SELECTION, SLICES, MadeArchive, Memory
from .peer import Peer
from .test_runner import MARCH, SOON, WANTED, Heard, opened, order_of, running

PATIENT = replace(QUICK, answer_timeout_s=10 * SOON, associations=1)


class Gate:
    """Holds whoever passes, once something is asked for, until it is let go."""

    def __init__(self, is_asked: Callable[[Dataset], bool]) -> None:
        self.reached, self.over = Event(), Event()
        self._is_asked = is_asked

    def __call__(self, keys: Dataset) -> None:
        if self._is_asked(keys) and not self.over.is_set():
            self.reached.set()
            self.over.wait(SOON)


class StallingWay:
    """A way to a server, over which nothing more comes back once something was asked for, and so many bytes came.

    If several things stall, it is reached when all of them do.
    """

    def __init__(self, server_port: int, asked: Sequence[bytes], bytes_first: int) -> None:
        self.reached, self.over, self.was_left = Event(), Event(), Event()
        self._server_port = server_port
        self._not_asked = set(asked)
        self._asked = tuple(asked)
        self._bytes_first = bytes_first
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._door.getsockname()[1])
        Thread(target=self._take, daemon=True).start()

    def close(self) -> None:
        self.over.set()
        self._door.close()

    def _take(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._door.accept()
                server = socket.create_connection(("127.0.0.1", self._server_port))
                stalls = Event()
                Thread(target=self._ask, args=(client, server, stalls), daemon=True).start()
                Thread(target=self._answer, args=(client, server, stalls), daemon=True).start()

    def _ask(self, client: socket.socket, server: socket.socket, stalls: Event) -> None:
        with suppress(OSError):
            while asked := client.recv(65536):
                stalling = {each for each in self._asked if each in asked}
                if stalling and not self.over.is_set():
                    self._not_asked -= stalling
                    stalls.set()
                server.sendall(asked)
        if stalls.is_set():
            self.was_left.set()
        end(server)

    def _answer(self, client: socket.socket, server: socket.socket, stalls: Event) -> None:
        with suppress(OSError):
            while answer := server.recv(65536):
                if stalls.is_set() and not self.over.is_set():
                    client.sendall(answer[: self._bytes_first])
                    if not self._not_asked:
                        self.reached.set()
                    self.over.wait(SOON)
                    break
                client.sendall(answer)
        end(client)
        end(server)


def end(connection: socket.socket) -> None:
    """Also for who reads from it in another thread."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def attempts_at_parts(memory: Memory) -> set[int]:
    with memory.database.read() as connection:
        return {int(attempts) for (attempts,) in connection.execute(sa.select(schema.backfill_part.c.attempts))}


QUERIES = {
    "studies": lambda keys: keys.QueryRetrieveLevel == "STUDY",
    "images": lambda keys: keys.QueryRetrieveLevel == "IMAGE" and "InstanceNumber" in keys,
    "the images of a series to be fetched": lambda keys: "InstanceNumber" not in keys and "SOPInstanceUID" in keys,
}


@pytest.mark.parametrize("asked", list(QUERIES))
def test_a_stop_interrupts_a_query_that_is_not_answered(memory: Memory, three_studies: MadeArchive, asked: str):
    gate = Gate(QUERIES[asked])
    with opened(Peer(three_studies, before_find=gate)) as peer:
        order = order_of(memory, peer.archive(), PATIENT, Heard())
        with running(order) as ended:
            try:
                assert gate.reached.wait(SOON)
                order.stop()
                assert ended() is BackfillState.OPEN
            finally:
                gate.over.set()
            assert peer.was_left.wait(SOON)
        assert {attempts for *_, attempts in memory.series().values()} <= {0}
        assert attempts_at_parts(memory) <= {0}
        assert order_of(memory, peer.archive(), PATIENT, Heard()).run() is BackfillState.DONE
    assert memory.registered() == dict.fromkeys(WANTED, SLICES)


@contextmanager
def full_door() -> Iterator[int]:
    """The port of one who listens, and takes no more connections: whoever asks for one waits."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as door, ExitStack() as before:
        port = int(door.getsockname()[1])
        with suppress(TimeoutError):
            while True:
                before.enter_context(socket.create_connection(("127.0.0.1", port), 0.2))
        yield port


@contextmanager
def mute_door() -> Iterator[int]:
    """The port of one who takes connections, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        yield int(door.getsockname()[1])


def is_waited_for(port: int, state: str) -> bool:
    """Whether a connection of this machine to a port is in a state of Linux's: "01" stands, "02" is asked for."""
    rows = (row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return any(int(there.rpartition(":")[2], 16) == port and now == state for _, _, there, now, *_ in rows)


@pytest.mark.parametrize(
    ("silent", "state", "is_secret"),
    [(full_door, "02", False), (mute_door, "01", False), (mute_door, "01", True)],
    ids=["a connection", "an association", "TLS"],
)
def test_a_stop_interrupts_an_archive_that_does_not_answer_at_all(
    memory: Memory,
    papers: Papers,
    silent: Callable[[], AbstractContextManager[int]],
    state: str,
    is_secret: bool,
):
    patient = replace(PATIENT, connect_timeout_s=10 * SOON, association_timeout_s=10 * SOON)
    with silent() as port:
        archive = Archive("peer", "ARCHIVE", "127.0.0.1", port, tls_authorities=papers.authority if is_secret else "")
        order = order_of(memory, archive, patient, Heard())
        with running(order) as ended:
            until(lambda: is_waited_for(port, state), SOON)
            order.stop()
            assert ended() is BackfillState.OPEN
    assert attempts_at_parts(memory) <= {0}


RELEASE = b"\x05\0\0\0\0\x04\0\0\0\0"  # A-RELEASE-RQ (PS3.8 table 9-24)


def test_a_stop_interrupts_the_release_of_an_association(memory: Memory, three_studies: MadeArchive):
    patient = replace(PATIENT, association_timeout_s=10 * SOON)
    with opened(Peer(three_studies)) as peer:
        way = StallingWay(peer.archive().port, [RELEASE], 0)
        order = order_of(memory, replace(peer.archive(), port=way.port), patient, Heard())
        with running(order) as ended:
            try:
                assert way.reached.wait(SOON)
                order.stop()
                assert ended() is BackfillState.OPEN
            finally:
                way.close()
    assert attempts_at_parts(memory) <= {0}


def test_a_stop_interrupts_the_counting_of_a_study(three_studies: MadeArchive, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(counting, "ANSWER_TIMEOUT_S", 10 * SOON)
    gate, stop = Gate(lambda keys: keys.QueryRetrieveLevel == "SERIES"), Event()
    with opened(Peer(three_studies, before_find=gate)) as peer, ThreadPoolExecutor(1) as pool:
        options = replace(PATIENT, archives=(peer.archive(),))
        count = counting.series_counter(options, "peer", lambda: not stop.is_set())
        assert count is not None
        counted = pool.submit(count, "1.2")
        try:
            assert gate.reached.wait(SOON)
            stop.set()
            with pytest.raises(PeerError):
                counted.result(SOON / 2)
        finally:
            gate.over.set()


@pytest.fixture
def way(orthanc: Orthanc, three_studies: MadeArchive, request: pytest.FixtureRequest) -> Iterator[StallingWay]:
    orthanc.add([path for paths in three_studies.files.values() for path in paths])
    *asked, bytes_first = request.param
    made = StallingWay(orthanc.http_port, asked, bytes_first)
    yield made
    made.close()


@pytest.mark.parametrize(
    "way",
    [
        (b"GET /dicom-web/studies?", 0),
        (b"/metadata", 100),
        (b"/instances?", 0),
        (b"/instances?", b"StudyDate=20260302", 0),
        (f"/series/{WANTED[1]} HTTP".encode(), 0),
        (f"/series/{WANTED[1]} HTTP".encode(), 2000),
    ],
    indirect=True,
    ids=["studies", "metadata", "instances", "instances and a search", "a download", "a download in its middle"],
)
def test_a_stop_interrupts_a_web_server_that_sends_nothing(memory: Memory, way: StallingWay):
    archive = Archive("web", url=f"http://127.0.0.1:{way.port}/dicom-web")
    order = order_of(memory, archive, PATIENT, Heard())
    with running(order) as ended:
        assert way.reached.wait(SOON)
        order.stop()
        assert ended() is BackfillState.OPEN
        assert way.was_left.wait(SOON)
    way.over.set()
    waiting = [series for series in memory.series().values() if series[0] == "waiting"]
    assert {attempts for *_, attempts in waiting} <= {0}
    assert order_of(memory, archive, PATIENT, Heard()).run() is BackfillState.DONE
    assert memory.registered() == dict.fromkeys(WANTED, SLICES)


def test_a_web_server_over_tls_is_left_as_well(papers: Papers):
    context, asked, left = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), Event(), Event()
    context.load_cert_chain(*papers.of("node"))

    def serve(door: socket.socket) -> None:
        with context.wrap_socket(door.accept()[0], server_side=True) as client:
            assert client.recv(4096).startswith(b"GET /dicom-web/studies?")
            asked.set()
            with suppress(OSError):
                assert client.recv(4096) == b""
            left.set()

    with socket.create_server(("127.0.0.1", 0)) as door:
        Thread(target=serve, args=(door,), daemon=True).start()
        url = f"https://127.0.0.1:{door.getsockname()[1]}/dicom-web"
        where = archive_source(Archive("web", url=url, ca_file=papers.authority), MARCH, PATIENT, KEY, SELECTION)
        with pytest.raises(PeerError, match="was lost on the way"):
            where.search(Part("StudyDate=20260301"), go_on=lambda: not asked.is_set())
        assert left.wait(SOON)


def test_a_folder_of_many_files_is_left_between_two(made: MadeArchive, tmp_path: Path):
    made.add(1, 1)
    turns = iter([True, True, True])
    with pytest.raises(PeerError, match="was left"):
        file_source(made.folder, KEY, SELECTION).search(Part("study1"), go_on=lambda: next(turns, False))
    assert next(turns, None) is None
