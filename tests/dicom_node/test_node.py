"""A node starts whole or says why not, outlives the death of its parts, and ends with nothing left behind."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydicom import dcmread
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE

from db import overview
from db.connection import open_database
from dicom_node.config import read_config
from dicom_node.peers.association import at_rest
from exporters.reference.phantom_series import SeriesTruth

from .foreign import free_port
from .patience import until
from .silent import is_waited_for, mute_door

ROOT = Path(__file__).parent.parent.parent
CONFIG = """
[receiver]
port = 0
[studies]
quiet_s = 2.0  # longer than arrivals are gathered before they are registered
poll_s = 0.2
[spool]
reserve_mib = 16
[worker]
poll_s = 0.2
lease_s = 2.0
retry_after_s = 0.1
stop_grace_s = 1.0
[runtime]
threads = 2
[[sender.destinations]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = {pacs}
"""


class Running:
    """`trabecula run`, or one of its parts, in a process of its own."""

    def __init__(self, folder: Path, verb: str = "run") -> None:
        self.folder = folder
        self.config = folder / "node.toml"
        if not self.config.exists():
            self.config.write_text(CONFIG.format(pacs=free_port()))
        self.ready_file = folder / f"{verb}.json"
        self.log = folder / f"{verb}.log"
        command = [sys.executable, "-m", "dicom_node", verb, "--config", str(self.config)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--ready-file", str(self.ready_file)], cwd=ROOT, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log,
            )  # fmt: skip

    def wait_until_ready(self) -> dict[str, Any]:
        until(self.ready_file.exists, 60, lambda: self.process.poll() is None)
        facts: dict[str, Any] = json.loads(self.ready_file.read_text())
        return facts

    def children(self) -> dict[str, psutil.Process]:
        found = {}
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.NoSuchProcess):  # it ended meanwhile
                line = child.cmdline()
                if "dicom_node" in line:
                    found[line[line.index("dicom_node") + 1]] = child
        return found

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)

    def counts(self) -> overview.Counts:
        database = open_database(read_config(self.config).database)
        try:
            with database.read() as connection:
                return overview.counts(connection)
        finally:
            database.close()


def send(series: SeriesTruth, port: int) -> None:
    ae = AE(ae_title="MODALITY")
    ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    peer = ae.associate("127.0.0.1", port, ae_title="TRABECULA", max_pdu=131072)
    assert peer.is_established
    for path in series.paths:
        with at_rest(peer):
            assert peer.send_c_store(dcmread(path)).Status == 0x0000
    peer.release()


Start = Callable[..., Running]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts processes, and sees to it that none outlives its test."""
    started: list[Running] = []

    def begin(folder: Path, verb: str = "run") -> Running:
        started.append(Running(folder, verb))
        return started[-1]

    yield begin
    for running in started:
        if running.process.poll() is None:
            running.end(signal.SIGKILL)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = Running(tmp_path_factory.mktemp("node"))
    try:
        running.wait_until_ready()
        yield running
    finally:
        if running.process.poll() is None:
            running.end()


def test_a_node_says_where_it_listens(node: Running):
    facts = node.wait_until_ready()
    assert facts["role"] == "node"
    assert facts["pid"] == node.process.pid
    with socket.create_connection((facts["host"], facts["port"]), timeout=5):
        pass
    assert f"ready: TRABECULA listens on 127.0.0.1, port {facts['port']}" in node.log.read_text()
    assert set(node.children()) == {"receive", "work", "send"}


def test_what_dies_is_started_again_and_its_job_is_taken_over(node: Running, small_series: SeriesTruth):
    send(small_series, node.wait_until_ready()["port"])
    until(lambda: node.counts().jobs.get("leased"))
    first = node.children()["work"]
    first.send_signal(signal.SIGKILL)
    until(lambda: node.children().get("work", first).pid != first.pid)
    until(lambda: not node.counts().series.get("waiting") and node.counts().jobs, 60)
    counts = node.counts()
    assert sum(counts.series.values()) == 1
    assert counts.series.get("done", 0) + counts.series.get("set_aside", 0) == 1
    assert counts.jobs == {"done": 1}


@pytest.mark.parametrize("verb", ["receive", "send"])
def test_every_part_is_started_again(node: Running, verb: str):
    first = node.children()[verb]
    first.send_signal(signal.SIGKILL)

    def is_new() -> bool:
        now = node.children().get(verb)
        return now is not None and now.pid != first.pid

    until(is_new)


def test_a_node_that_is_asked_to_stop_ends_in_order_and_leaves_no_process(node: Running):
    """The last test of the node that the tests above share."""
    children = node.children()
    assert node.end() == 0
    assert not any(child.is_running() for child in children.values())
    assert "Traceback" not in node.log.read_text()


def test_a_node_that_is_killed_takes_its_processes_with_it(tmp_path: Path, start: Start):
    running = start(tmp_path)
    running.wait_until_ready()
    children = running.children()
    assert len(children) == 3
    running.end(signal.SIGKILL)
    until(lambda: not any(child.is_running() for child in children.values()))


def test_a_port_that_is_taken_ends_the_start_with_one_line(tmp_path: Path, start: Start):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        text = CONFIG.format(pacs=free_port()).replace("port = 0", f"port = {taken.getsockname()[1]}", 1)
        (tmp_path / "node.toml").write_text(text)
        running = start(tmp_path)
        assert running.process.wait(60) == 2
    told = running.log.read_text()
    assert "can't listen on 127.0.0.1" in told
    assert "Traceback" not in told
    assert not running.ready_file.exists()


def test_models_that_are_missing_end_the_start_with_one_line(tmp_path: Path, start: Start):
    (tmp_path / "empty").mkdir()
    text = CONFIG.format(pacs=free_port()).replace("[runtime]", '[runtime]\nmodels = "empty"')
    (tmp_path / "node.toml").write_text(text)
    running = start(tmp_path)
    assert running.process.wait(60) == 2
    told = running.log.read_text()
    assert "must hold exactly one package" in told
    assert "Traceback" not in told


@pytest.mark.parametrize("verb", ["receive", "send"])
def test_a_part_alone_stops_when_it_is_asked_to(tmp_path: Path, start: Start, verb: str):
    running = start(tmp_path, verb)
    facts = running.wait_until_ready()
    assert facts["role"] == verb
    assert running.end(signal.SIGINT if verb == "send" else signal.SIGTERM) == 0
    assert "Traceback" not in running.log.read_text()


def test_a_stop_does_not_wait_for_an_archive_that_is_asked_how_many_there_are(
    tmp_path: Path, start: Start, small_series: SeriesTruth
):
    with mute_door() as silent:
        archive = f"[[backfill.archives]]\nname = 'pacs'\nae_title = 'PACS'\nhost = '127.0.0.1'\nport = {silent}\n"
        text = CONFIG.format(pacs=free_port()).replace("[studies]", "[studies]\ncount_at = 'pacs'\nsettle_s = 0.0")
        (tmp_path / "node.toml").write_text(f"{text}\n[backfill]\nassociation_timeout_s = 600.0\n{archive}")
        running = start(tmp_path, "receive")
        send(small_series, running.wait_until_ready()["port"])
        until(lambda: is_waited_for(silent, "01"))
        assert running.end() == 0
    assert running.counts().studies == {"receiving": 1}


def test_a_worker_in_the_middle_of_a_job_gives_it_back(tmp_path: Path, start: Start, small_series: SeriesTruth):
    receiver = start(tmp_path, "receive")
    send(small_series, receiver.wait_until_ready()["port"])
    until(lambda: receiver.counts().jobs == {"ready": 1})
    assert receiver.end() == 0
    worker = start(tmp_path, "work")
    until(lambda: worker.counts().jobs == {"leased": 1}, 60)
    began = time.monotonic()
    assert worker.end() == 0
    assert time.monotonic() - began < 20
    counts = worker.counts()
    assert counts.jobs in ({"ready": 1}, {"done": 1})  # given back, or it was quicker than the grace


IN_THE_NETWORK = """
import threading
import numpy as np
from dicom_node.process import end_if_stages_are_left
from engine.runtime.manifest import PACKAGED_MODELS, find_package
from engine.runtime.openvino_session import OpenVinoSession

session = OpenVinoSession(find_package(PACKAGED_MODELS, "vertebral_bmd"), threads=1)
began = threading.Event()

def goes_on():
    while True:
        session.infer(np.zeros((1, 1, *session.manifest.input_shape), np.float32))
        began.set()

threading.Thread(target=goes_on, name="vertebral segment", daemon=True).start()
began.wait()
print("said", end="")
end_if_stages_are_left(3)
"""


def test_a_process_that_leaves_an_analysis_in_a_network_ends_in_order():
    ended = subprocess.run([sys.executable, "-c", IN_THE_NETWORK], cwd=ROOT, capture_output=True, timeout=120)
    assert (ended.returncode, ended.stdout, b"terminate" in ended.stderr) == (3, b"said", False)


def test_the_ready_file_of_an_earlier_run_is_not_mistaken_for_this_one_s(tmp_path: Path, start: Start):
    (tmp_path / "work.json").write_text("{}")
    (tmp_path / "node.toml").write_text("[runtime]\nmodels = 'nowhere'")
    running = start(tmp_path, "work")
    assert running.process.wait(60) == 2
    assert not running.ready_file.exists()
