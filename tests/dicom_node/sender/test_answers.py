"""What a peer answers, or does not, decides what becomes of an object and of those behind it."""

import threading

import pytest
from pynetdicom import evt

from db import outbox
from dicom_node.sender.lines import Sender

from ..patience import until
from .peer import SOCKETS_LEFT, options, pacs, peer, running
from .reports import Reports

pytestmark = SOCKETS_LEFT


def test_an_object_that_is_refused_again_and_again_becomes_a_dead_letter_and_bars_no_other(reports: Reports):
    bad, good = reports.add("pacs")

    def answer(event: evt.Event) -> int:
        return 0xA900 if event.request.AffectedSOPInstanceUID == bad.sop_instance_uid else 0x0000

    with peer(answer) as there, running(Sender(reports.database, options(pacs(there.port), max_refusals=3))):
        until(lambda: reports.states("pacs") == ["dead", "sent"])
        assert there.asked.count(bad.sop_instance_uid) == 3
        assert there.stored == [good.sop_instance_uid]
        with reports.database.begin() as connection:
            assert outbox.retry(connection, "pacs") == 1
        until(lambda: there.asked.count(bad.sop_instance_uid) > 3)


@pytest.mark.parametrize("status", [0xB000, 0xB006, 0xB007])
def test_a_warning_of_the_storage_service_means_stored(reports: Reports, status: int):
    reports.add("pacs")
    with peer(status) as there:
        assert Sender(reports.database, options(pacs(there.port))).run(until_idle=True) == 2
    assert reports.states("pacs") == ["sent"] * 2


def test_another_warning_does_not(reports: Reports):
    reports.add("pacs")
    with peer(0xB123) as there:
        assert Sender(reports.database, options(pacs(there.port), max_refusals=1)).run(until_idle=True) == 0
    assert reports.states("pacs") == ["dead"] * 2


def test_a_peer_without_room_is_waited_for(reports: Reports):
    reports.add("pacs")
    full = threading.Event()
    full.set()
    with (
        peer(lambda _: 0xA700 if full.is_set() else 0x0000) as there,
        running(Sender(reports.database, options(pacs(there.port), max_refusals=1))),
    ):
        until(lambda: len(there.asked) > 1)
        assert set(reports.states("pacs")) <= {"ready", "leased"}
        full.clear()
        until(lambda: reports.states("pacs") == ["sent"] * 2)


def test_no_answer_is_no_success(reports: Reports):
    reports.add("pacs")
    release = threading.Event()

    def never(_: evt.Event) -> int:
        release.wait(10)
        return 0x0000

    with peer(never) as there:
        sender = Sender(reports.database, options(pacs(there.port), store_timeout_s=0.5))
        assert sender.run(until_idle=True) == 0
        release.set()
    assert reports.states("pacs") == ["ready"] * 2


def test_a_peer_that_aborts_over_an_object_is_counted_against_that_object_alone(reports: Reports):
    bad, _ = reports.add("pacs")

    def answer(event: evt.Event) -> int:
        if event.request.AffectedSOPInstanceUID == bad.sop_instance_uid:
            event.assoc.abort()
        return 0x0000

    with peer(answer) as there, running(Sender(reports.database, options(pacs(there.port), max_refusals=2))):
        until(lambda: reports.states("pacs") == ["dead", "sent"])


def test_a_peer_that_takes_only_some_classes_refuses_the_others(reports: Reports):
    reports.add("pacs")
    reports.add("pacs", kinds=("picture",))
    with peer(only_sr=True) as there:
        assert Sender(reports.database, options(pacs(there.port), max_refusals=1)).run(until_idle=True) == 1
    assert reports.states("pacs") == ["sent", "dead", "dead"]


def test_a_destination_that_refuses_one_object_after_the_other_is_left_alone_for_a_while(reports: Reports):
    for _ in range(4):
        reports.add("pacs")
    with peer(0xA900) as there:
        sender = Sender(reports.database, options(pacs(there.port), refusals_in_a_row=3, retry_after_s=60.0))
        assert sender.run(until_idle=True) == 0
    assert len(there.asked) == 3  # of eight
    assert reports.states("pacs") == ["ready"] * 8
