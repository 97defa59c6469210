"""A stop leaves an archive that does not answer at once, whatever it was asked; nothing of it counts as an attempt."""

import socket
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

import pytest
import sqlalchemy as sa
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from db import schema
from db.schema import BackfillState
from dicom_node.backfill import counting
from dicom_node.backfill.calling import archive_peer
from dicom_node.backfill.files import file_source
from dicom_node.backfill.options import Archive
from dicom_node.backfill.order import archive_source
from dicom_node.backfill.pacs import SOP_CLASSES
from dicom_node.backfill.source import Part
from dicom_node.peers import query
from engine.errors import PeerError

from ..foreign import Orthanc
from ..papers import Papers
from ..patience import SOON, until
from ..silent import StallingWay, full_door, is_waited_for, mute_door
from .conftest import KEY, QUICK, SELECTION, SLICES, MadeArchive, Memory, uid
from .peer import Peer
from .test_runner import MARCH, WANTED, Heard, opened, order_of, running

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


def test_who_keeps_no_further_image_leaves_at_once(three_studies: MadeArchive):
    """As at a stop, a pause or a full disk that an image meets before anybody looks. Five times: threads race."""
    keys = query.requests(uid(1), WANTED[0], [], whole=True)
    with opened(Peer(three_studies)) as peer:
        there = archive_peer(peer.archive(), PATIENT, SOON)
        began = time.monotonic()
        for _ in range(5):
            kept: list[str] = []

            def keep(
                _abstract: str, _class: str, name: str, _syntax: str, _data: bytes, kept: list[str] = kept
            ) -> bool:
                kept.append(name)
                return len(kept) < 3

            query.get(there, keys, SOP_CLASSES, [ExplicitVRLittleEndian], keep, lambda: True)
            assert len(kept) == 3
        assert time.monotonic() - began < SOON  # the patience with one answer


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
