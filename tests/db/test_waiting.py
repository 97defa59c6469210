"""Why reports wait is known destination by destination, on both databases; nobody's silence counts as being well."""

import sqlalchemy as sa

from db import outbox, schema, waiting
from db.columns import utc_now
from db.results import complete
from db.waiting import Why

CONFIGURED = {"PACS": False, "ARCHIVE": True}


def analysed(database, phantoms, *uids, destinations=("PACS",)):
    phantoms.waiting(database)
    (claimed,) = phantoms.claim(database)
    with database.begin() as connection:
        assert complete(connection, claimed, phantoms.result(claimed.series), phantoms.objects(*uids), destinations)


def told(database, configured=CONFIGURED):
    with database.read() as connection:
        return waiting.waiting(connection, configured)


def said(database, configured=CONFIGURED):
    return [(line.destination, line.why, line.objects, line.detail) for line in told(database, configured)]


def act(database, do, *arguments):
    with database.begin() as connection:
        return do(connection, *arguments)


def take(database, name="PACS", limit=9):
    return act(database, outbox.claim_objects, name, "tests", limit, 60.0)


def test_without_a_process_that_sends_it_says_so(database, phantoms):
    analysed(database, phantoms, "2.25.1", "2.25.2")
    assert said(database) == [("PACS", Why.NOBODY_SENDS, 2, "")]
    act(database, waiting.begin, ["PACS"])
    assert said(database) == [("PACS", Why.IN_TURN, 2, "")]
    act(database, waiting.end, ["PACS"])
    assert said(database) == [("PACS", Why.NOBODY_SENDS, 2, "")]
    act(database, waiting.give_sign, ["PACS"])
    assert said(database) == [("PACS", Why.IN_TURN, 2, "")]
    with database.begin() as connection:
        connection.execute(sa.update(schema.destination).values(seen_at=utc_now(-waiting.ALIVE_S - 1)))
    assert said(database) == [("PACS", Why.NOBODY_SENDS, 2, "")]


def test_a_destination_that_is_no_more_in_the_configuration_is_told(database, phantoms):
    analysed(database, phantoms, "2.25.1")
    assert said(database, {}) == [("PACS", Why.NOT_CONFIGURED, 1, "")]


def test_a_destination_that_is_left_alone_keeps_since_when_until_it_takes_something(database, phantoms):
    analysed(database, phantoms, "2.25.1")
    act(database, waiting.begin, ["PACS"])
    act(database, waiting.leave_alone, "PACS", "nobody listens there", 40.0)
    with database.begin() as connection:
        connection.execute(sa.update(schema.destination).values(since=utc_now(-3600.0)))
    act(database, waiting.leave_alone, "PACS", "nothing answers within 10 s", 80.0)
    (line,) = told(database)
    assert (line.why, line.detail) == (Why.LEFT_ALONE, "nothing answers within 10 s")
    assert 3599 < line.since_s < 3700
    assert 60 < line.next_s <= 80.0
    act(database, waiting.take_up, "PACS")
    assert said(database) == [("PACS", Why.IN_TURN, 1, "")]
    act(database, waiting.leave_alone, "PACS", "nobody listens there", 40.0)
    assert told(database)[0].since_s < 60
    act(database, waiting.begin, ["PACS"])
    assert said(database) == [("PACS", Why.IN_TURN, 1, "")]


def test_refused_and_dead_are_told_by_what_was_said(database, phantoms):
    analysed(database, phantoms, "2.25.1", "2.25.2", "2.25.3")
    act(database, waiting.begin, ["PACS"])
    first, second, _ = take(database)
    act(database, outbox.refused, first, "status 0xa900", 1)
    act(database, outbox.refused, second, "status 0x0122", 20)
    assert said(database) == [
        ("PACS", Why.IN_TURN, 1, ""),  # that which is being sent
        ("PACS", Why.DEAD, 1, "status 0xa900"),
        ("PACS", Why.REFUSED, 1, "status 0x0122"),
    ]
    assert 1 < told(database)[2].next_s < 20
    act(database, waiting.leave_alone, "PACS", "refuses one object after the other", 300.0)
    assert 250 < told(database)[2].next_s <= 300
    act(database, outbox.retry, "PACS")
    assert {line.why for line in told(database)} == {Why.LEFT_ALONE, Why.REFUSED}


def test_what_is_not_committed_to_is_told_where_it_is_asked_for(database, phantoms):
    analysed(database, phantoms, "2.25.1", "2.25.2", destinations=("PACS", "ARCHIVE"))
    for name in CONFIGURED:
        for claimed in take(database, name):
            act(database, outbox.sent, claimed)
    assert said(database) == [("ARCHIVE", Why.NOT_COMMITTED, 2, "not asked yet")]
    act(database, outbox.to_commit, "ARCHIVE", "2.25.9", 9, 600.0)
    assert said(database) == [("ARCHIVE", Why.NOT_COMMITTED, 2, "asked, no report yet")]
    assert 500 < told(database)[0].next_s <= 600
    act(database, outbox.ask_later, "2.25.9", 60.0, "'ARCHIVE' does not offer storage commitment")
    assert said(database) == [("ARCHIVE", Why.NOT_COMMITTED, 2, "'ARCHIVE' does not offer storage commitment")]
    act(database, outbox.not_committed, "2.25.9", {"2.25.2": 0x0119})
    assert ("ARCHIVE", Why.NOT_COMMITTED, 1, "not committed (0x0119)") in said(database)
    act(database, outbox.committed, "2.25.9", ["2.25.1", "2.25.2"])
    assert told(database) == ()
