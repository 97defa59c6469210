"""A node in three processes, each of which can be killed and comes back; and the PACS that gets its reports."""

import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom.uid import (
    Comprehensive3DSRStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

ROOT = Path(__file__).parent.parent.parent
CONFIG = """
[database]
url = "sqlite:///node.db"
[spool]
folder = "spool"
reserve_mib = 16
[receiver]
port = {port}
[studies]
quiet_s = 2.0
[worker]
poll_s = 0.2
{worker}
[sender]
poll_s = 0.2
{sender}
[[sender.destinations]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = {pacs}
"""
KILLED_WORKER = "lease_s = 2.0\nmax_attempts = 60\nretry_after_s = 0.2"
KILLED_SENDER = "store_timeout_s = 3.0\nlease_s = 6.0\nretry_after_s = 0.2"


@dataclass
class Pacs:
    """What the PACS received: SOP Instance UID -> (kind, referenced series), and how often."""

    objects: dict[str, tuple[str, str]] = field(default_factory=dict)
    times: Counter[str] = field(default_factory=Counter)
    former: dict[str, str] = field(default_factory=dict)  # the document that a document says it replaces

    def keep(self, event: Any) -> int:
        received = event.dataset
        if "PredecessorDocumentsSequence" in received:
            (former,) = received.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
            self.former[str(received.SOPInstanceUID)] = str(former.ReferencedSOPInstanceUID)
        kind = {Comprehensive3DSRStorage: "sr", SegmentationStorage: "seg", SecondaryCaptureImageStorage: "picture"}
        uid = str(received.SOPInstanceUID)
        self.objects[uid] = (kind[received.SOPClassUID], str(received.StudyInstanceUID))
        self.times[uid] += 1
        return 0x0000


class Node:
    """The three processes, each of which can be killed and comes back."""

    def __init__(self, folder: Path, port: int, pacs_port: int) -> None:
        self.folder, self.port = folder, port
        text = CONFIG.format(port=port, pacs=pacs_port, worker=KILLED_WORKER, sender=KILLED_SENDER)
        (folder / "node.toml").write_text(text)
        self.logs = {verb: (folder / f"{verb}.log").open("ab") for verb in ("receive", "work", "send")}
        self.processes = {verb: self._start(verb) for verb in self.logs}
        self.kills: Counter[str] = Counter()

    def _start(self, verb: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "dicom_node", "--config", str(self.folder / "node.toml"), verb]
        log = self.logs[verb]
        return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def kill(self, verb: str, stage: str) -> None:
        self.processes[verb].send_signal(signal.SIGKILL)
        self.processes[verb].wait()
        self.kills[f"{verb}: {stage}"] += 1
        self.processes[verb] = self._start(verb)

    def revive(self) -> None:
        for verb, process in self.processes.items():
            if process.poll() is not None:
                self.processes[verb] = self._start(verb)

    def stop(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for log in self.logs.values():
            log.close()

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        """Rows of the node's database, read from outside; none while there is no table yet."""
        with suppress(sqlite3.OperationalError):
            uri = f"file:{self.folder / 'node.db'}?mode=ro"
            with closing(sqlite3.connect(uri, uri=True, timeout=20)) as database:
                return database.execute(query).fetchall()
        return []

    def count(self, query: str) -> int:
        rows = self.ask(query)
        return int(rows[0][0]) if rows else 0


ENDED = "SELECT COUNT(*) FROM screening WHERE state IN ('done', 'set_aside')"
LEASED = "SELECT COUNT(*) FROM job WHERE state = 'leased'"
RESULTS = "SELECT COUNT(*) FROM result"
ON_THE_WAY = "SELECT COUNT(*) FROM outbox WHERE state = 'leased'"
UNSENT = "SELECT COUNT(*) FROM outbox WHERE state IN ('ready', 'leased')"


def wait_for(condition: Callable[[], bool], node: Node, timeout_s: float) -> None:
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        if condition():
            return
        node.revive()
        time.sleep(0.1)
    raise AssertionError(f"not reached in {timeout_s} s; kills so far: {dict(node.kills)}")
