"""A sender that hangs or dies on the way loses nothing, and sends nothing under two UIDs."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from pynetdicom import evt

from db import outbox
from db.connection import DatabaseOptions, open_database
from dicom_node.sender.lines import Sender
from dicom_node.sender.options import SenderOptions

from .peer import SOCKETS_LEFT, options, pacs, peer
from .reports import Reports

pytestmark = SOCKETS_LEFT


HANGS = """
import sys
from db.connection import DatabaseOptions, open_database
from dicom_node.sender.lines import Sender
from dicom_node.sender.options import Destination, SenderOptions

peer = Destination("pacs", "PACS", "127.0.0.1", int(sys.argv[2]))
database = open_database(DatabaseOptions(f"sqlite:///{sys.argv[1]}/memory.db"))
sender = Sender(database, SenderOptions(destinations=(peer,)))
sender._stall_s = 1.0  # instead of minutes
sender.run()
"""


def test_a_sender_that_hangs_ends_its_process_and_loses_nothing(reports: Reports):
    reports.add("pacs")
    released = threading.Event()

    def never(_: evt.Event) -> int:
        released.wait(20)
        return 0x0000

    with peer(never) as there:
        command = [sys.executable, "-c", HANGS, str(reports.folder), str(there.port)]
        ran = subprocess.run(command, timeout=30, check=False)
        released.set()
    assert ran.returncode == os.EX_TEMPFAIL
    assert reports.states("pacs") == ["leased"] * 2


def test_objects_of_a_sender_that_died_are_sent_after_its_lease(reports: Reports):
    reports.add("pacs")
    with reports.database.begin() as connection:
        assert len(outbox.claim_objects(connection, "pacs", "died", 10, 0.3)) == 2
    time.sleep(0.4)
    with peer() as there:
        assert Sender(reports.database, options(pacs(there.port))).run(until_idle=True) == 2


@pytest.mark.parametrize("answered", [False, True])
def test_killed_in_the_middle_of_an_object_it_is_sent_again_under_the_same_uid(reports: Reports, answered: bool):
    """The sender dies while the peer stores the second object; once before, and once after it was answered."""
    objects = [each for _ in range(2) for each in reports.add("pacs")]
    began = threading.Event()

    def answer(event: evt.Event) -> int:
        if len(there.asked) == 1 and not began.is_set():
            began.set()
            if not answered:
                os.kill(child.pid, signal.SIGKILL)
        return 0x0000

    with peer(answer) as there:
        quick = options(pacs(there.port), store_timeout_s=0.4, lease_s=0.8)
        child = multiprocessing.get_context("fork").Process(
            target=_send_and_die, args=(reports.folder, quick, answered)
        )
        child.start()
        child.join(30)
        assert child.exitcode == -signal.SIGKILL
        assert "sent" in reports.states("pacs")
        assert "leased" in reports.states("pacs")
        time.sleep(1.0)  # its lease runs out
        Sender(reports.database, quick).run(until_idle=True)
    assert reports.states("pacs") == ["sent"] * 4
    assert set(there.stored) == {each.sop_instance_uid for each in objects}
    assert len(there.stored) <= len(objects) + 1  # at most the one that was on its way comes twice


def _send_and_die(folder: Path, quick: SenderOptions, answered: bool) -> None:
    database = open_database(DatabaseOptions(f"sqlite:///{folder / 'memory.db'}"))
    if answered:
        sent, count = outbox.sent, 0

        def dies(connection: sa.Connection, claimed: outbox.ClaimedObject) -> bool:
            nonlocal count
            count += 1
            if count == 2:
                os.kill(os.getpid(), signal.SIGKILL)  # answered, and not yet written down
            return sent(connection, claimed)

        outbox.sent = dies
    Sender(database, quick).run(until_idle=True)
