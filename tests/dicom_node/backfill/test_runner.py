"""An order waits for what is more important, goes on by itself, and is left at once when it should stop."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from threading import Event, Thread

import pytest

from db.schema import BackfillState
from dicom_node.backfill.options import Retrieve
from dicom_node.backfill.order import Order, archive_source
from dicom_node.backfill.runner import Backfill

from .conftest import KEY, QUICK, SELECTION, SLICES, MadeArchive, Memory, uid
from .peer import Peer
from .test_archives import front_door

WANTED = [uid(study, 1) for study in (1, 2, 3)]
MARCH = Order(date(2026, 3, 1), date(2026, 3, 3), None)
SOON = 20.0  # seconds in which a test gives up


class Stall:
    """Holds the archive in the middle of a series, until it is let go."""

    def __init__(self, series: str) -> None:
        self.reached, self.over = Event(), Event()
        self._series = series

    def __call__(self, series: str) -> None:
        if series == self._series and not self.over.is_set():
            self.reached.set()
            self.over.wait(SOON)


@pytest.fixture
def stall() -> Iterator[Stall]:
    made = Stall(WANTED[1])
    yield made
    made.over.set()


@pytest.mark.parametrize("retrieve", list(Retrieve))
def test_a_stop_interrupts_an_archive_that_sends_nothing(
    memory: Memory, three_studies: MadeArchive, stall: Stall, retrieve: Retrieve
):
    """It could be waited for for minutes; the series is left, not failed, and comes the next time."""
    options = replace(QUICK, answer_timeout_s=10 * SOON, associations=1, arrival_timeout_s=SOON)
    with front_door(memory) as port:
        peer = Peer(three_studies, stall, port)
        where = archive_source(peer.archive(retrieve), MARCH, options, KEY, SELECTION)
        order = Backfill(memory.database, memory.spool, KEY, where, options)
        states: list[BackfillState] = []
        running = Thread(target=lambda: states.append(order.run()))
        running.start()
        try:
            assert stall.reached.wait(SOON)
            order.stop()
            running.join(SOON)
            assert states == [BackfillState.OPEN]
            assert memory.series()[WANTED[1]] == ("waiting", None, 0, 0)
            stall.over.set()
            assert peer.was_left.wait(SOON)
            assert Backfill(memory.database, memory.spool, KEY, where, options).run() is BackfillState.DONE
        finally:
            stall.over.set()
            running.join(SOON)
            peer.stop()
    assert memory.registered() == dict.fromkeys(WANTED, SLICES)
