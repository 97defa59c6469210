"""An object waits for a destination once, and goes there once; what is superseded goes nowhere."""

import pytest

from db import schema
from db.outbox import claim_objects, postpone, predecessor, reap, refused, retry, sent
from db.queue import retry as retry_job
from db.results import complete
from db.schema import ObjectState
from engine.records import ObjectUids, Program, Reason


def analysed(database, phantoms, *uids, destinations=("PACS",)):
    (claimed,) = phantoms.claim(database)
    with database.begin() as connection:
        assert complete(connection, claimed, phantoms.result(claimed.series), phantoms.objects(*uids), destinations)


def take(database, destination="PACS", limit=9, lease_s=60.0):
    with database.begin() as connection:
        return claim_objects(connection, destination, "tests", limit, lease_s)


def states(database, phantoms):
    return {
        state: n
        for state in ObjectState
        if (n := phantoms.count(database, schema.outbox, schema.outbox.c.state == state))
    }


def test_each_object_waits_for_each_destination_once(database, phantoms):
    phantoms.waiting(database)
    analysed(database, phantoms, "2.25.1", "2.25.2", destinations=("PACS", "ARCHIVE"))
    assert [each.sop_instance_uid for each in take(database)] == ["2.25.1", "2.25.2"]
    assert take(database) == ()
    assert [each.path for each in take(database, "ARCHIVE", limit=1)] == ["/outgoing/2.25.1"]
    assert take(database, "ELSEWHERE") == ()


def test_what_was_sent_is_not_sent_again_under_the_same_uid(database, phantoms):
    phantoms.waiting(database)
    analysed(database, phantoms, "2.25.1")
    (claimed,) = take(database)
    with database.begin() as connection:
        assert sent(connection, claimed)
        assert not sent(connection, claimed)
    phantoms.arrive(database, *phantoms.series(instances=[4]))
    phantoms.close(database)
    analysed(database, phantoms, "2.25.1", "2.25.2")
    assert [each.sop_instance_uid for each in take(database)] == ["2.25.2"]
    assert phantoms.count(database, schema.outbox) == 2


def test_a_document_replaces_what_a_destination_had_before_it_and_says_so_each_time(database, phantoms):
    def replaced_by(uid, series="1.2.1.1", kind="sr"):
        with database.read() as connection:
            found = predecessor(connection, series, Program.VERTEBRAL, kind, uid)
        return found and found.sop_instance_uid

    def analysed_and_sent(uid, instance):
        phantoms.arrive(database, *phantoms.series(instances=[instance]))
        phantoms.close(database)
        analysed(database, phantoms, uid)
        (claimed,) = take(database)
        with database.begin() as connection:
            assert sent(connection, claimed)

    phantoms.waiting(database)
    analysed(database, phantoms, "2.25.1")
    assert replaced_by("2.25.2") is None  # it waits, and may be withdrawn
    analysed_and_sent("2.25.2", 4)
    analysed_and_sent("2.25.3", 5)
    assert (replaced_by("2.25.3"), replaced_by("2.25.4")) == ("2.25.2", "2.25.3")
    assert replaced_by("2.25.2") is None  # written again, it says what it said
    assert replaced_by("2.25.4", series="1.2.9.9") is None
    assert replaced_by("2.25.4", kind="seg") is None
    with database.read() as connection:
        told = predecessor(connection, "1.2.1.1", Program.VERTEBRAL, "sr", "2.25.4")
    assert told == ObjectUids("1.2.840.10008.5.1.4.1.1.88.34", "2.25.3.0", "2.25.3")


def test_what_is_superseded_is_not_sent_any_more(database, phantoms):
    phantoms.waiting(database)
    analysed(database, phantoms, "2.25.1", "2.25.2")
    (in_flight,) = take(database, limit=1)
    phantoms.arrive(database, *phantoms.series(instances=[4]))
    assert take(database) == ()
    with database.begin() as connection:
        assert refused(connection, in_flight, "busy") is ObjectState.SUPERSEDED
        assert reap(connection).ready == 0
        assert retry(connection) == 0
    assert states(database, phantoms) == {ObjectState.SUPERSEDED: 2}


def test_what_was_in_flight_when_superseded_is_told_as_sent(database, phantoms):
    phantoms.waiting(database)
    analysed(database, phantoms, "2.25.1")
    (in_flight,) = take(database)
    phantoms.arrive(database, *phantoms.series(instances=[4]))
    with database.begin() as connection:
        assert sent(connection, in_flight)
    assert states(database, phantoms) == {ObjectState.SENT: 1}


def test_superseded_under_the_same_uid_waits_again_for_the_new_result(database, phantoms):
    phantoms.waiting(database)
    analysed(database, phantoms, "2.25.1")
    phantoms.arrive(database, *phantoms.series(series=2))
    phantoms.close(database, not_selected={1: Reason.BETTER_SERIES})
    analysed(database, phantoms, "2.25.2")
    phantoms.arrive(database, *phantoms.series(series=3))
    phantoms.close(database, not_selected={2: Reason.BETTER_SERIES, 3: Reason.NOT_CT})
    analysed(database, phantoms, "2.25.1")
    assert [each.sop_instance_uid for each in take(database)] == ["2.25.1"]


def test_a_refusal_is_tried_again_later_and_given_up_at_last(database, phantoms):
    phantoms.waiting(database)
    analysed(database, phantoms, "2.25.1")
    for attempt in (1, 2):
        (claimed,) = take(database)
        assert claimed.attempts == attempt
        with database.begin() as connection:
            told = refused(connection, claimed, "0xA700", max_attempts=2, back_off_s=0.0)
    assert told is ObjectState.DEAD
    assert take(database) == ()
    with database.begin() as connection:
        assert retry(connection, "ELSEWHERE") == 0
        assert retry(connection, "PACS") == 1
    assert [each.attempts for each in take(database)] == [1]


def test_a_refused_object_waits_before_the_next_attempt(database, phantoms):
    phantoms.waiting(database)
    analysed(database, phantoms, "2.25.1")
    (claimed,) = take(database)
    with database.begin() as connection:
        assert refused(connection, claimed, "0xA700", back_off_s=30.0) is ObjectState.READY
    assert take(database) == ()


def test_a_peer_that_is_away_costs_no_attempt(database, phantoms):
    phantoms.waiting(database)
    analysed(database, phantoms, "2.25.1", "2.25.2")
    claims = take(database)
    with database.begin() as connection:
        assert postpone(connection, claims, delay_s=0.0) == 2
        assert postpone(connection, claims, delay_s=0.0) == 0
    assert [each.attempts for each in take(database)] == [1, 1]


def test_a_sender_that_died_loses_its_lease(database, phantoms):
    phantoms.waiting(database)
    analysed(database, phantoms, "2.25.1", "2.25.2")
    (first, *_) = take(database, lease_s=-1.0)
    with database.begin() as connection:
        assert reap(connection).ready == 2
    (again, *_) = take(database, lease_s=-1.0)
    with database.begin() as connection:
        assert not sent(connection, first)
        assert refused(connection, first, "late") is ObjectState.SUPERSEDED
        assert reap(connection, max_attempts=2).dead == 2
    assert again.token > first.token


def test_a_sender_that_was_slow_but_did_send_is_believed(database, phantoms):
    phantoms.waiting(database)
    analysed(database, phantoms, "2.25.1")
    (slow,) = take(database, lease_s=-1.0)
    with database.begin() as connection:
        reap(connection)
        assert sent(connection, slow)
    assert take(database) == ()


@pytest.mark.parametrize("destinations", [(), ("PACS",)])
def test_a_failure_posts_nothing(database, phantoms, destinations):
    phantoms.waiting(database)
    analysed(database, phantoms, destinations=destinations)
    with database.begin() as connection:
        assert retry_job(connection) == 0
    assert phantoms.count(database, schema.outbox) == 0
