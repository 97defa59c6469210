"""A stop leaves a destination that answers no request for an association, and holds nothing of it against it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from threading import Thread

import pytest
import sqlalchemy as sa

from db import outbox, schema
from dicom_node.peers.commitment import STORAGE_COMMITMENT
from dicom_node.sender.lines import Sender

from ..patience import SOON, until
from ..silent import StallingWay, full_door, is_waited_for, mute_door
from .peer import SOCKETS_LEFT, options, pacs, peer
from .reports import Reports

pytestmark = SOCKETS_LEFT
PATIENT = {"connect_timeout_s": 10 * SOON, "association_timeout_s": 10 * SOON, "retry_after_s": 10 * SOON}


@contextmanager
def at_work(sender: Sender) -> Iterator[Callable[[], bool]]:
    """A sender in a thread; gives what stops it, and says whether it ended."""
    thread = Thread(target=sender.run, daemon=True)
    thread.start()

    def stopped() -> bool:
        sender.stop()
        thread.join(SOON)
        return not thread.is_alive()

    try:
        yield stopped
    finally:
        sender.stop()


@pytest.mark.parametrize(
    ("silent", "state"), [(full_door, "02"), (mute_door, "01")], ids=["a connection", "an association"]
)
def test_a_stop_interrupts_a_destination_that_does_not_answer(
    reports: Reports, silent: Callable[[], AbstractContextManager[int]], state: str
):
    reports.add("pacs")
    with silent() as port, at_work(Sender(reports.database, options(pacs(port), **PATIENT))) as stopped:
        until(lambda: is_waited_for(port, state), SOON)
        assert stopped()
    with reports.database.begin() as connection:
        assert len(outbox.claim_objects(connection, "pacs", "after the next start", 10, 60.0)) == 2  # due at once


def test_a_stop_interrupts_a_request_for_commitment(reports: Reports):
    reports.add("pacs")
    with peer() as there:
        way = StallingWay(there.port, [STORAGE_COMMITMENT.encode()], 0)
        destination = replace(pacs(way.port), commitment=True)
        try:
            with at_work(Sender(reports.database, options(destination, **PATIENT))) as stopped:
                assert way.reached.wait(SOON)
                assert stopped()
        finally:
            way.close()
    assert reports.states("pacs") == ["sent"] * 2
    with reports.database.read() as connection:
        assert set(connection.execute(sa.select(schema.outbox.c.detail)).scalars()) == {""}
