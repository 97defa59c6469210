"""
What every process of the node does alike: it says that it is ready, opens the database, and stops when it is asked to.
"""

import _thread
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from db.connection import Database, open_database
from db.migrate import upgrade
from dicom_node import pseudonyms
from dicom_node.config import NodeConfig
from engine.records import Program

log = logging.getLogger(__name__)

DEPLOYMENT_ERROR = 2  # exit status: a person must act

Ready = Callable[[dict[str, object]], None]
"""Called once a process does its work, with what others want to know of it."""


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


@contextmanager
def current_database(config: NodeConfig, key: bytes | None = None) -> Iterator[Database]:
    """The node's database, brought up to date.

    Args:
        key: of the pseudonyms, for a process that makes some: no other is used with this database from then on.

    Raises:
        WrongKey: another one was used with it before.
    """
    database = open_database(config.database)
    try:
        upgrade(database)
        if key is not None:
            pseudonyms.use(database, key)
        yield database
    finally:
        database.close()


def end_if_stages_are_left(status: int) -> None:
    """End this process here and now, where threads of an analysis that was left are still at work in a library.

    The interpreter would throw them out of it at its own end, which OpenVINO's C++ takes for a fault, and aborts.
    """
    kinds = tuple(f"{kind} " for kind in Program)  # as `engine.batch` names its threads
    if any(thread.name.startswith(kinds) for thread in threading.enumerate()):
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def stopped_by_signal() -> threading.Event:
    """Set when this process is asked to stop."""
    stop = threading.Event()
    on_stop(stop.set)
    return stop


def on_stop(act: Callable[[], None]) -> None:
    """Do something when this process is asked to stop.

    In a thread of its own: a handler runs in the middle of anything, and might wait for a lock that it interrupted.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        _thread.start_new_thread(act, ())

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)
