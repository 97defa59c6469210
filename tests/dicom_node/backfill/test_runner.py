"""An order waits for what is more important, goes on by itself, and is left at once when it should stop."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime
from threading import Condition, Event, Lock, Thread

import pytest
import sqlalchemy as sa
from pydicom.uid import CTImageStorage

from db import schema
from db.progress import BackfillLine
from db.schema import BackfillState
from dicom_node.backfill.options import Archive, BackfillOptions, Retrieve
from dicom_node.backfill.order import Order, archive_source
from dicom_node.backfill.pace import GOOD_IN_A_ROW
from dicom_node.backfill.runner import Backfill
from dicom_node.peers import association

from ..foreign import free_port
from ..patience import SOON
from .conftest import KEY, QUICK, SELECTION, SLICES, MadeArchive, Memory, slice_of, uid
from .peer import Peer
from .test_archives import front_door

WANTED = [uid(study, 1) for study in (1, 2, 3)]
MARCH = Order(date(2026, 3, 1), date(2026, 3, 3), None)
PATIENCE = 90.0  # likewise, while an archive is slow
FEW = 3  # slices of a series
MONDAY_NOON, MONDAY_NIGHT = datetime(2026, 3, 2, 12), datetime(2026, 3, 2, 23)
LONG_AGO = datetime(2025, 1, 1, tzinfo=UTC)
AT_NIGHT = ("mon-fri 19:00-07:00",)


class Stall:
    """Holds the archive in the middle of a series, until it is let go."""

    def __init__(self, series: str) -> None:
        self.reached, self.over = Event(), Event()
        self._series = series

    def __call__(self, series: str) -> None:
        if series == self._series and not self.over.is_set():
            self.reached.set()
            self.over.wait(SOON)


class Heard:
    """What an order tells people."""

    def __init__(self) -> None:
        self._lines: list[BackfillLine] = []
        self._changed = Condition()

    def __call__(self, line: BackfillLine) -> None:
        with self._changed:
            self._lines.append(line)
            self._changed.notify_all()

    def wait(self, fits: Callable[[BackfillLine], bool]) -> None:
        """Until it is told now or has been told."""
        with self._changed:
            assert self._changed.wait_for(lambda: any(map(fits, self._lines)), SOON), self._lines[-1:]

    def says(self, text: str) -> None:
        self.wait(lambda line: text in line.detail)


@pytest.fixture
def stall() -> Iterator[Stall]:
    made = Stall(WANTED[1])
    yield made
    made.over.set()


@pytest.fixture
def heard() -> Heard:
    return Heard()


def order_of(
    memory: Memory,
    archive: Archive,
    options: BackfillOptions,
    heard: Heard,
    clock: Callable[[], datetime] = datetime.now,
    days: Order = MARCH,
) -> Backfill:
    where = archive_source(archive, days, options, KEY, SELECTION)
    return Backfill(memory.database, memory.spool, KEY, where, options, heard, clock)


@contextmanager
def running(order: Backfill) -> Iterator[Callable[[], BackfillState]]:
    """An order at work in a thread; gives what waits for its end."""
    states: list[BackfillState] = []
    thread = Thread(target=lambda: states.append(order.run()))
    thread.start()

    def end() -> BackfillState:
        thread.join(SOON)
        assert states, "the order goes on"
        return states[0]

    try:
        yield end
    finally:
        order.stop()
        thread.join(SOON)


@contextmanager
def opened(peer: Peer) -> Iterator[Peer]:
    try:
        yield peer
    finally:
        peer.stop()


@pytest.mark.parametrize("retrieve", list(Retrieve))
def test_a_stop_interrupts_an_archive_that_sends_nothing(
    memory: Memory, three_studies: MadeArchive, stall: Stall, heard: Heard, retrieve: Retrieve
):
    """It could be waited for for minutes; the series is left, not failed, and comes the next time."""
    options = replace(QUICK, answer_timeout_s=10 * SOON, associations=1, arrival_timeout_s=SOON)
    with front_door(memory) as port, opened(Peer(three_studies, stall, port)) as peer:
        order = order_of(memory, peer.archive(retrieve), options, heard)
        with running(order) as end:
            assert stall.reached.wait(SOON)
            order.stop()
            assert end() is BackfillState.OPEN
            assert memory.series()[WANTED[1]] == ("waiting", None, 0, 0)
            stall.over.set()
            assert peer.was_left.wait(SOON)
        assert order_of(memory, peer.archive(retrieve), options, heard).run() is BackfillState.DONE
    assert memory.registered() == dict.fromkeys(WANTED, SLICES)


def test_it_begins_when_its_window_opens_and_rests_when_it_closes(
    memory: Memory, three_studies: MadeArchive, heard: Heard
):
    now = [MONDAY_NOON]

    def day_breaks(series: str) -> None:
        """While the first series is on its way: it is fetched to its end, and no other begins."""
        if len(now) == 2:
            now.append(MONDAY_NOON.replace(day=3))

    options = replace(QUICK, windows=AT_NIGHT, associations=1)
    with opened(Peer(three_studies, day_breaks)) as peer:
        order = order_of(memory, peer.archive(), options, heard, lambda: now[-1])
        with running(order) as end:
            heard.says("waits for its window, Mon 19:00")
            assert peer.asked == []
            now.append(MONDAY_NIGHT)
            heard.says("waits for its window, Tue 19:00")
            heard.wait(lambda line: line.series.get("done") == 1)
            assert len(set(peer.asked)) == 1
            now.append(MONDAY_NIGHT.replace(day=3))
            assert end() is BackfillState.DONE
    assert memory.registered() == dict.fromkeys(WANTED, SLICES)


def test_what_comes_by_itself_goes_first(memory: Memory, three_studies: MadeArchive, heard: Heard):
    """As long as it comes, and for a while after."""
    live = slice_of(9, 1, 1)
    options = replace(QUICK, live_pause_s=600.0)
    with front_door(memory) as port, opened(Peer(three_studies)) as peer:
        _send(live, port)
        _until(lambda: memory.registered() == {uid(9, 1): 1})
        with running(order_of(memory, peer.archive(), options, heard)) as end:
            heard.says("waits while series come by themselves")
            assert peer.asked == []
            with memory.database.begin() as connection:  # as if it were long ago
                connection.execute(sa.update(schema.study).values(last_received_at=LONG_AGO))
            assert end() is BackfillState.DONE
    assert memory.registered() == dict.fromkeys(WANTED, SLICES) | {uid(9, 1): 1}


def test_an_archive_that_is_away_is_asked_again_until_it_is_back(
    memory: Memory, three_studies: MadeArchive, heard: Heard
):
    port = free_port()
    options = replace(QUICK, longest_pause_s=0.2, connect_timeout_s=0.2)
    away = Archive("peer", "ARCHIVE", "127.0.0.1", port)
    with running(order_of(memory, away, options, heard)) as end:
        heard.says("the archive is away or slow; next attempt in 0 s: 'peer' can't be reached: nobody listens there")
        with opened(Peer(three_studies, port=port)):
            assert end() is BackfillState.DONE
    assert memory.registered() == dict.fromkeys(WANTED, SLICES)


def test_more_series_come_at_a_time_while_the_archive_keeps_up_and_never_more_than_allowed(
    memory: Memory, made: MadeArchive, heard: Heard
):
    """After some that came well, each waits at the archive until it is not alone."""
    for study in range(1, GOOD_IN_A_ROW + 4):
        made.add(study, 1)
    now: list[str] = []
    most = [0]
    lock, two = Lock(), Event()

    def in_company(series: str) -> None:
        with lock:
            if series not in now:
                now.append(series)
            open_ones = [each for each in now if memory.series()[each][0] == "fetching"]
            most.append(len(open_ones))
        if len(open_ones) > 1:
            two.set()
        if len(now) > GOOD_IN_A_ROW:
            assert two.wait(SOON)

    options = replace(QUICK, associations=2, slow_factor=1e6)
    month = replace(MARCH, until=date(2026, 3, GOOD_IN_A_ROW + 3))
    with opened(Peer(made, in_company)) as peer:
        assert order_of(memory, peer.archive(), options, heard, days=month).run() is BackfillState.DONE
    assert max(most[: 1 + GOOD_IN_A_ROW * SLICES]) == 1  # it begins with one at a time
    assert max(most) == 2


def test_an_archive_that_becomes_slow_is_asked_for_less_at_a_time_until_it_is_quick_again(
    memory: Memory, made: MadeArchive, heard: Heard
):
    """By real C-GET: what the pace decides while the archive takes its time for each image, and afterwards."""
    for number in range(40):
        made.add(1 + number, 1, slices=FEW)
    quick, slow, pause = 0.2, 1.5, Event()
    takes = [quick]
    options = replace(QUICK, associations=2, longest_pause_s=1.0)
    selection = replace(SELECTION, min_slices=FEW, min_extent_mm=0.1)
    with opened(Peer(made, lambda _: bool(pause.wait(takes[-1])))) as peer:
        month = replace(MARCH, until=date(2026, 3, 31))
        where = archive_source(peer.archive(), month, options, KEY, selection)
        order = Backfill(memory.database, memory.spool, KEY, where, options, heard)
        with running(order) as end:
            _until(lambda: order.pace.allowed == 2, PATIENCE)
            takes.append(slow)
            heard.says("the archive is away or slow; next attempt in")
            _until(lambda: order.pace.allowed == 1, PATIENCE)
            takes.append(quick)
            _until(lambda: order.pace.allowed == 2, PATIENCE)
            order.stop()
            pause.set()
            assert end() is BackfillState.OPEN
    done = [series for series, (state, *_) in memory.series().items() if state == "done"]
    assert {memory.registered()[series] for series in done} == {FEW}


def test_one_bad_neighbour_does_not_make_others_wait(memory: Memory, three_studies: MadeArchive, heard: Heard):
    """The first of three fails, and is due again in an hour; meanwhile the others come."""
    bad = [WANTED[0]]

    def fails(series: str) -> None:
        if series in bad:
            raise ValueError("the archive can't read its own disk")

    hour = replace(QUICK, associations=1, retry_after_s=3600.0, immediate_retries=0)
    with opened(Peer(three_studies, fails)) as peer:
        order = order_of(memory, peer.archive(), hour, heard)
        with running(order) as end:
            heard.wait(lambda line: line.series.get("done") == 2)
            heard.says("waits to try again what failed; next attempt in")
            order.stop()
            assert end() is BackfillState.OPEN
        assert memory.series()[WANTED[0]] == ("waiting", None, 0, 1)
        assert memory.registered() == dict.fromkeys(WANTED[1:], SLICES)
        assert peer.asked == WANTED  # each once, the bad one first
        with memory.database.begin() as connection:  # as if the hour had passed
            connection.execute(sa.update(schema.backfill_series).values(not_before=LONG_AGO))
        assert order_of(memory, peer.archive(), hour, heard).run() is BackfillState.DONE
        assert memory.series()[WANTED[0]] == ("dead", None, 0, 2)  # and it ends, with its words
        assert "12 of 12 instances did not come" in memory.texts()


def _send(dataset: object, port: int) -> None:
    front = association.Peer("node", "TRABECULA", "127.0.0.1", port, "CT1", SOON, SOON, SOON, SOON)
    contexts = [(str(CTImageStorage), (association.EXPLICIT,))]
    with association.association(front, contexts) as made, association.at_rest(made):
        assert made.send_c_store(dataset).Status == 0


def _until(holds: Callable[[], bool], patience_s: float = SOON) -> None:
    pause = Event()
    assert any(holds() or pause.wait(0.02) for _ in range(int(patience_s / 0.02)))
