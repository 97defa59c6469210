"""
One process that starts the others, and starts again what dies.
"""

import json
import logging
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from dicom_node.config import NodeConfig
from dicom_node.process import DEPLOYMENT_ERROR, Ready, current_database, on_stop
from dicom_node.pseudonyms import key_of_database
from dicom_node.spool import Spool
from engine.errors import DeploymentError

log = logging.getLogger(__name__)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0  # our choice: before a process that died is started again
HEALTHY_S = 60.0  # our choice: one that lived so long starts again without a longer pause
KILL_MARGIN_S = 30.0  # our choice: beyond its own grace, a process gets so long to end
LOOK_EVERY_S = 0.1


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
        on_stop(self._on_signal)
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
        key = key_of_database(self._config)
        with current_database(self._config, key), Spool(self._config.spool):
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
