"""
The node's processes: what each does, and one that watches over the others.

    run      starts the three below as processes of their own, and starts again what dies
    receive  front door, registrar, and the closing of studies
    work     one worker
    send     the back door

They share nothing but database and spool, so each may be killed at any moment, and may as well be started alone, more
than once, or by another supervisor. Studies are closed where they are received: there it is known when the spool has
been registered.
"""

import _thread
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from db import overview
from db.connection import Database, open_database
from db.migrate import upgrade
from db.schema import BackfillState
from dicom_node import metrics
from dicom_node.backfill.counting import series_counter
from dicom_node.backfill.runner import Backfill, Told
from dicom_node.backfill.source import Source
from dicom_node.clearing import Clearer
from dicom_node.config import NodeConfig, site_key
from dicom_node.intake.receiver import Receiver
from dicom_node.intake.registrar import Registrar
from dicom_node.intake.studies import Closer
from dicom_node.peers.commitment import report_taker
from dicom_node.sender.lines import Sender
from dicom_node.spool import Spool
from dicom_node.worker import Worker
from engine.errors import DeploymentError
from engine.programs.vertebral import VertebralProgram
from engine.records import Program

log = logging.getLogger(__name__)

DEPLOYMENT_ERROR = 2  # exit status: a person must act
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0  # our choice: before a process that died is started again
HEALTHY_S = 60.0  # our choice: one that lived so long starts again without a longer pause
KILL_MARGIN_S = 30.0  # our choice: beyond its own grace, a process gets so long to end
LOOK_EVERY_S = 0.1
SWITCH_INTERVAL_S = 0.0001  # our choice: an association that waits for the interpreter has a sender that waits for it

Ready = Callable[[dict[str, object]], None]
"""Called once a process does its work, with what others want to know of it."""


def receive(config: NodeConfig, ready: Ready) -> None:
    """Take instances in, register them and close studies, until a signal says stop.

    Raises:
        DeploymentError: a person must act.
    """
    stop = _stopped_by_signal()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    key = site_key(config)
    count = series_counter(config.backfill, config.studies.count_at)
    with (
        _database(config) as database,
        Spool(config.spool) as spool,
        Registrar(database, spool, key, config.registrar) as registrar,
        Receiver(
            config.receiver,
            spool,
            registrar,
            key,
            lambda: _queue_age_s(database),
            report_taker(database, config.sender.max_refusals),
        ) as receiver,
        _metrics(config, database, spool, registrar),
    ):
        studies = Closer(database, config.studies, config.selection, count)
        closer = threading.Thread(target=_close_studies, args=(studies, config, registrar, stop), name="closer")
        clearer = threading.Thread(target=_clear_spool, args=(database, spool, config, registrar, stop), name="clearer")
        closer.start()
        clearer.start()
        ready({"ae_title": config.receiver.ae_title, "host": config.receiver.host, "port": receiver.port})
        stop.wait()
        closer.join()
        clearer.join()


def work(config: NodeConfig, ready: Ready, until_idle: bool = False) -> int:
    """Analyse what waits, until a signal says stop; or, with `until_idle`, until nothing is ready.

    Returns:
        How many jobs were taken.

    Raises:
        DeploymentError: a person must act.
    """
    with (
        _database(config) as database,
        Spool(config.spool) as spool,
        VertebralProgram(config.vertebral, config.runtime) as vertebral,
    ):
        names = tuple(destination.name for destination in config.sender.destinations)
        worker = Worker(database, spool, {Program.VERTEBRAL: vertebral}, names, config.worker, config.report)
        signal.signal(signal.SIGALRM, lambda *_: worker.interrupt())
        _on_stop(lambda: _stop_worker(worker, config.worker.stop_grace_s))
        ready({})
        try:
            return worker.run(until_idle)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


def send(config: NodeConfig, ready: Ready, until_idle: bool = False) -> int:
    """Send what waits, until a signal says stop; or, with `until_idle`, until nothing more can be sent now.

    Returns:
        How many objects were stored, counted once for each destination.

    Raises:
        DeploymentError: a person must act.
    """
    with _database(config) as database:
        sender = Sender(database, config.sender)
        _on_stop(sender.stop)
        ready({})
        return sender.run(until_idle)


def backfill(config: NodeConfig, make_source: Callable[[bytes], Source], told: Told) -> BackfillState:
    """Work on an order until it is done, or a signal says stop.

    Args:
        make_source: what is read from, given the site's key.

    Raises:
        DeploymentError: a person must act.
    """
    key = site_key(config)
    source = make_source(key)
    with _database(config) as database, Spool(config.spool) as spool:
        order = Backfill(database, spool, key, source, config.backfill, told)
        _on_stop(order.stop)
        return order.run()


def announce(role: str, ready_file: Path | None) -> Ready:
    """How a process says that it is ready: a line in the log, and a JSON file if one is asked for.

    The file is removed now, so that one of an earlier run is not mistaken for this one's.
    """
    if ready_file is not None:
        ready_file.unlink(missing_ok=True)

    def ready(facts: dict[str, object]) -> None:
        log.info("%s is ready", role)
        if ready_file is not None:
            aside = ready_file.with_name(f".{ready_file.name}.{os.getpid()}")
            aside.write_text(json.dumps({"role": role, "pid": os.getpid(), **facts}) + "\n", encoding="utf-8")
            aside.replace(ready_file)

    return ready


def stop_with_parent() -> None:
    """Stop this process, as a signal would, when the one that started it is gone: its end of our input closes."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()


@dataclass(slots=True)
class _Child:
    """One process, and how it fared."""

    role: str
    ready_file: Path
    process: "subprocess.Popen[bytes] | None" = None
    started_at: float = 0.0
    start_at: float = 0.0  # not before
    failures: int = 0  # in a row
    facts: dict[str, object] = field(default_factory=dict)  # of its ready file


class Supervisor:
    """Keeps receiver, workers and sender running."""

    def __init__(self, config: NodeConfig, arguments: Sequence[str]) -> None:
        """Hold what is needed; nothing is started yet.

        Args:
            arguments: of the command line, for every process: which configuration.
        """
        self._config = config
        self._arguments = tuple(arguments)
        self._stop = threading.Event()
        self._kill = threading.Event()

    def run(self, ready: Ready) -> None:
        """Run until a signal says stop; a second signal ends at once.

        Raises:
            DeploymentError: the machine is not as it must be, at the start.
        """
        _on_stop(self._on_signal)
        self._look_at_machine()
        with ExitStack() as ends:
            folder = Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="trabecula-")))
            children = [_Child(role, folder / f"{n}.json") for n, role in enumerate(self._roles())]
            ends.callback(self._end, children)
            self._keep_running(children, ready)

    def _roles(self) -> list[str]:
        senders = ["send"] if self._config.sender.destinations else []
        return ["receive", *["work"] * self._config.worker.processes, *senders]

    def _look_at_machine(self) -> None:
        """What every process would stumble over is said once, and before anything runs."""
        site_key(self._config)
        with _database(self._config), Spool(self._config.spool):
            pass

    def _keep_running(self, children: list[_Child], ready: Ready) -> None:
        all_ready = False
        while not self._stop.wait(LOOK_EVERY_S):
            for child in children:
                self._look_after(child, all_ready)
            if not all_ready and all(_is_ready(child) for child in children):
                all_ready = True
                ready({name: children[0].facts[name] for name in ("ae_title", "host", "port")})

    def _look_after(self, child: _Child, all_ready: bool) -> None:
        now = time.monotonic()
        if child.process is None:
            if now >= child.start_at:
                child.process, child.started_at = self._start(child), now
            return
        status = child.process.poll()
        if status is None:
            return
        if status == DEPLOYMENT_ERROR and not all_ready:
            raise DeploymentError(f"'{child.role}' can't run here; what it said stands above")
        _close_input(child.process)
        child.process = None
        child.failures = 1 if now - child.started_at > HEALTHY_S else child.failures + 1
        pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (child.failures - 1))
        child.start_at = now + pause
        log.error("'%s' ended with status %d; it is started again in %.0f s", child.role, status, pause)

    def _start(self, child: _Child) -> "subprocess.Popen[bytes]":
        child.ready_file.unlink(missing_ok=True)
        command = [sys.executable, "-m", "dicom_node", child.role, *self._arguments]
        command += ["--supervised", "--ready-file", str(child.ready_file)]
        return subprocess.Popen(command, stdin=subprocess.PIPE)

    def _on_signal(self) -> None:
        (self._kill if self._stop.is_set() else self._stop).set()

    def _end(self, children: list[_Child]) -> None:
        """Ask every process to stop, wait as long as it may take, end it."""
        self._stop.set()
        running = [child.process for child in children if child.process is not None]
        for process in running:
            process.terminate()
        grace_s = max(self._config.worker.stop_grace_s, self._config.receiver.stop_grace_s) + KILL_MARGIN_S
        until = time.monotonic() + grace_s
        while any(process.poll() is None for process in running):
            if time.monotonic() > until or self._kill.is_set():
                for process in running:
                    process.kill()
                break
            time.sleep(LOOK_EVERY_S)
        for process in running:
            process.wait()
            _close_input(process)
        log.info("all processes ended")


def _close_input(process: "subprocess.Popen[bytes]") -> None:
    if process.stdin is not None:
        process.stdin.close()


def _is_ready(child: _Child) -> bool:
    if not child.facts and child.ready_file.exists():
        child.facts = json.loads(child.ready_file.read_text(encoding="utf-8"))
    return bool(child.facts)


@contextmanager
def _database(config: NodeConfig) -> Iterator[Database]:
    """The node's database, brought up to date."""
    database = open_database(config.database)
    try:
        upgrade(database)
        yield database
    finally:
        database.close()


def _queue_age_s(database: Database) -> float | None:
    with database.read() as connection:
        return overview.oldest_job_s(connection)


@contextmanager
def _metrics(config: NodeConfig, database: Database, spool: Spool, registrar: Registrar) -> Iterator[None]:
    """The endpoint of metrics, where it is wanted; it stands with the receiver, which is always there."""

    def ask() -> metrics.Gauges:
        with database.read() as connection:
            counts, stages = overview.counts(connection), overview.stage_seconds(connection)
        return metrics.gauges(counts, stages, spool.free_bytes(), registrar.backlog)

    try:
        with metrics.served(config.metrics, ask):
            yield
    except OSError as bad:
        raise DeploymentError(
            f"metrics can't be served ({bad.strerror}); see 'metrics.host' and 'metrics.port'"
        ) from None


def _close_studies(closer: Closer, config: NodeConfig, registrar: Registrar, stop: threading.Event) -> None:
    """Close studies that are due; after a start, not before the spool is registered, as a study may be in it."""
    while not registrar.caught_up.wait(0.2):
        if stop.is_set():
            return
    while not stop.wait(config.studies.poll_s):
        try:
            closer.close_due()
        except DeploymentError as passing:
            log.error("studies wait to be closed: %s", passing)
            stop.wait(10 * config.studies.poll_s)
        except Exception:
            log.exception("studies wait to be closed")
            stop.wait(10 * config.studies.poll_s)


def clearer_of(database: Database, spool: Spool, config: NodeConfig) -> Clearer:
    """What clears a node's spool."""
    committing = [destination.name for destination in config.sender.destinations if destination.commitment]
    return Clearer(database, spool, config.clearing, committing)


def _clear_spool(
    database: Database, spool: Spool, config: NodeConfig, registrar: Registrar, stop: threading.Event
) -> None:
    """Clear what is finished, now and then; not before the spool is registered, as files may wait in it."""
    clearer = clearer_of(database, spool, config)
    while not registrar.caught_up.wait(0.2):
        if stop.is_set():
            return
    is_swept = False
    while config.clearing.enabled and not stop.wait(config.clearing.every_s):
        try:
            is_swept = is_swept or clearer.sweep(stop)
            clearer.clear(stop)
        except DeploymentError as passing:
            log.error("the spool waits to be cleared: %s", passing)
        except Exception:
            log.exception("the spool waits to be cleared")


def _stop_worker(worker: Worker, grace_s: float) -> None:
    """The current job may end; after the grace its analysis is left, and the job given back."""
    worker.stop()
    signal.setitimer(signal.ITIMER_REAL, max(grace_s, 0.001), 1.0)


def _stopped_by_signal() -> threading.Event:
    stop = threading.Event()
    _on_stop(stop.set)
    return stop


def _on_stop(act: Callable[[], None]) -> None:
    """Do something when this process is asked to stop.

    In a thread of its own: a handler runs in the middle of anything, and might wait for a lock that it interrupted.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        _thread.start_new_thread(act, ())

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)
