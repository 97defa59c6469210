"""An order to fetch from an archive goes on where it stopped, and one series never holds up another."""

import sqlalchemy as sa

from db import backfill, live, progress, schema
from db.backfill import Fetched, FoundSeries
from db.completeness import open_studies
from db.connection import Database
from db.queue import AFTER_LIVE
from db.schema import BackfillState, FetchState, PartState
from engine.records import Reason

NOTHING = Fetched(3, 0, 0, 0.1, "lost on the way")
ALL = Fetched(3, 3, 3_000_000, 1.5)


def found(series: int, study: int = 1, **more) -> FoundSeries:
    return FoundSeries(f"1.2.{study}", f"1.2.{study}.{series}", more.pop("is_wanted", True), expected=3, **more)


def ordered(database: Database, *series: FoundSeries, key: str = "k" * 64) -> int:
    with database.begin() as connection:
        run = backfill.open_run(connection, key, "pacs", "days 2026-03-01 to 2026-03-02, CT")
        backfill.keep_part(connection, run.id, "day one", len(series), series)
    return run.id


def claim(database: Database, run: int) -> backfill.ClaimedSeries | None:
    with database.begin() as connection:
        return backfill.claim_series(connection, run)


def states(database: Database) -> list[FetchState]:
    with database.read() as connection:
        table = schema.backfill_series
        return list(connection.execute(sa.select(table.c.state).order_by(table.c.id)).scalars())


def test_the_same_order_goes_on_and_finds_no_series_twice(database):
    run = ordered(database, found(1), found(2))
    assert claim(database, run) is not None
    assert ordered(database, found(1), found(2), found(3)) == run
    assert states(database) == [FetchState.WAITING] * 3  # what a process was fetching when it died is fetched on
    with database.read() as connection:
        assert backfill.parts_not_due(connection, run) == {"day one"}
    assert ordered(database, found(1), key="l" * 64) != run


def test_a_series_that_can_not_be_had_makes_no_other_wait_and_ends_as_a_dead_letter(database):
    run = ordered(database, found(1), found(2))
    first = claim(database, run)
    with database.begin() as connection:
        assert backfill.series_failed(connection, first, NOTHING, 2, 0.0) is FetchState.WAITING
    again = claim(database, run)
    assert again.attempts == 2
    with database.begin() as connection:
        assert backfill.series_failed(connection, again, NOTHING, 2, 0.0) is FetchState.DEAD
        backfill.series_done(connection, backfill.claim_series(connection, run), ALL)
    assert states(database) == [FetchState.DEAD, FetchState.DONE]
    assert claim(database, run) is None
    with database.begin() as connection:
        assert backfill.next_due_s(connection, run) is None
        assert backfill.retry(connection, run) == 1
    assert claim(database, run).attempts == 1


def test_one_that_failed_waits_longer_each_time_and_the_next_goes_first(database):
    run = ordered(database, found(1), found(2))
    with database.begin() as connection:
        backfill.series_failed(connection, backfill.claim_series(connection, run), NOTHING, 5, 100.0)
    assert claim(database, run).series_instance_uid == "1.2.1.2"
    assert claim(database, run) is None


def test_what_was_given_back_counts_as_no_attempt(database):
    run = ordered(database, found(1))
    with database.begin() as connection:
        backfill.give_back(connection, backfill.claim_series(connection, run), Fetched(3, 1, 1_000_000, 0.5))
    assert claim(database, run).attempts == 1


def test_a_part_that_can_not_be_searched_is_tried_again_and_then_given_up(database):
    run = ordered(database)
    with database.begin() as connection:
        assert backfill.part_failed(connection, run, "day two", "away", 2, 0.0) is PartState.WAITING
        assert "day two" not in backfill.parts_not_due(connection, run)
        assert backfill.part_failed(connection, run, "day two", "away", 2, 0.0) is PartState.DEAD
        assert "day two" in backfill.parts_not_due(connection, run)


def test_parts_that_wait_are_known_from_the_beginning_and_one_that_is_gone_is_not_waited_for(database):
    run = ordered(database, found(1))
    with database.begin() as connection:
        assert backfill.open_parts(connection, run, ["day one", "day two", "day three"]) == 0
        backfill.part_failed(connection, run, "day three", "away", 2, 100.0)
    with database.begin() as connection:
        assert backfill.open_parts(connection, run, ["day one", "day two", "day four"]) == 1
        assert backfill.parts_not_due(connection, run) == {"day one"}
        (line,) = progress.backfills(connection)
        assert line.parts == {"searched": 1, "waiting": 2}
        assert backfill.open_parts(connection, run, []) == 2
        backfill.series_done(connection, backfill.claim_series(connection, run), ALL)
        assert backfill.next_due_s(connection, run) is None
    with database.read() as connection:
        assert progress.backfills(connection)[0].parts == {"searched": 1}


def test_series_that_wait_for_a_later_attempt_do_not_count_as_enough_to_fetch(database):
    run = ordered(database, found(1), found(2))
    with database.begin() as connection:
        backfill.series_failed(connection, backfill.claim_series(connection, run), NOTHING, 5, 100.0)
        assert backfill.count_waiting(connection, run) == 1


def test_what_came_of_a_series_is_not_forgotten_when_its_archive_can_not_be_asked_for_a_list(database):
    run = ordered(database, found(1))
    for fetched in (Fetched(3, 2, 2_000_000, 0.5), Fetched(0, 0, 0, 0.1, "can't be reached")):
        with database.begin() as connection:
            backfill.give_back(connection, backfill.claim_series(connection, run), fetched)
            (line,) = progress.backfills(connection)
            assert (line.instances, line.size_bytes) == (2, 2_000_000)


def test_a_person_pauses_an_order_and_lets_it_go_on(database):
    run = ordered(database)
    with database.begin() as connection:
        assert backfill.set_state(connection, run, BackfillState.PAUSED)
        assert backfill.tell_state(connection, run, "waits") is BackfillState.PAUSED
    assert ordered(database) == run  # its process is started again
    with database.begin() as connection:
        assert backfill.open_run(connection, "k" * 64, "pacs", "").is_paused
        assert backfill.state_of(connection, run) is BackfillState.PAUSED
        assert backfill.set_state(connection, run, BackfillState.OPEN)
        assert backfill.tell_state(connection, run, "", BackfillState.DONE) is BackfillState.DONE
        assert not backfill.set_state(connection, run, BackfillState.PAUSED)


def test_how_an_order_stands_is_told_with_its_rate(database):
    run = ordered(database, *map(found, range(1, 6)), found(9, is_wanted=False, reason=Reason.NOT_CT))
    for _ in range(2):
        with database.begin() as connection:
            backfill.series_done(connection, backfill.claim_series(connection, run), ALL)
    with database.read() as connection:
        (line,) = progress.backfills(connection)
    assert line.is_running
    assert line.series == {"done": 2, "skipped": 1, "waiting": 3}
    assert line.skipped == {"not_ct": 1}
    assert line.parts == {"searched": 1}
    assert (line.instances, line.size_bytes) == (6, 6_000_000)
    assert line.seconds_left == 3 * 3600 / line.series_per_hour
    with database.begin() as connection:
        backfill.open_parts(connection, run, ["day one", "day two"])
        (line,) = progress.backfills(connection)
    assert line.seconds_left == (3 + 5) * 3600 / line.series_per_hour  # a second day is taken to be like the first


def test_an_open_study_tells_that_it_is_being_fetched(database, phantoms):
    run = ordered(database, found(1))
    phantoms.arrive(database, *phantoms.series(1))
    claimed = claim(database, run)
    with database.read() as connection:
        assert [study.is_being_fetched for study in open_studies(connection, 0.0, 1e6)] == [True]
    with database.begin() as connection:
        backfill.series_done(connection, claimed, ALL)
        assert [study.is_being_fetched for study in open_studies(connection, 0.0, 1e6)] == [False]


def test_what_comes_by_itself_goes_first(database, phantoms):
    ordered(database, found(1))
    with database.read() as connection:
        assert not live.is_live(connection, 60.0)
    phantoms.waiting(database, studies=2)  # study 1 was ordered, study 2 comes by itself
    with database.read() as connection:
        priorities = list(connection.execute(sa.select(schema.job.c.priority)).scalars())
        assert sorted(priorities) == [0, AFTER_LIVE]
    assert phantoms.claim(database)[0].series.study_instance_uid == "1.2.2"
    phantoms.arrive(database, *phantoms.series(3))
    with database.read() as connection:
        assert live.is_live(connection, 60.0)
        assert not live.is_live(connection, -1.0)
        assert live.count_unread(connection) == 1


def test_the_rate_of_an_archive_is_of_what_came_from_it_and_of_nothing_else(database):
    run = ordered(database, *(found(n) for n in range(1, 6)))
    with database.read() as connection:
        assert progress.measured_rate(connection, "pacs") is None
    outcomes = [
        Fetched(100, 100, 50_000_000, 4.0),
        Fetched(300, 300, 150_000_000, 4.0),
        Fetched(500, 500, 0, 0.1),  # was here already
        Fetched(1, 1, 900_000_000, 60.0),  # one large instance
    ]
    with database.begin() as connection:
        for outcome in outcomes:
            backfill.series_done(connection, backfill.claim_series(connection, run), outcome)
        backfill.series_failed(connection, backfill.claim_series(connection, run), Fetched(90, 80, 1, 1.0), 1, 0.0)
        assert progress.measured_rate(connection, "pacs") == 50.0
        assert progress.measured_rate(connection, "another") is None
