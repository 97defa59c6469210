"""Leases end, fences hold, and a series that fails too often is given up with a reason that a person can query."""

import time
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from db import schema
from db.queue import fail, heartbeat, reap, release, retry
from db.recall import current_result
from db.results import complete
from db.schema import JobState, SeriesState
from engine.records import Program, Reason, SeriesFailure


def attempt_and_die(database, phantoms, limit=1):
    """A worker claims and is never heard of again."""
    claims = phantoms.claim(database, limit, lease_s=-1.0)
    with database.begin() as connection:
        reap(connection)
    return claims


def names(claims):
    return [claimed.series.series_instance_uid for claimed in claims]


def failure(claimed, reason=Reason.NO_VERTEBRA):
    ref = claimed.series
    return SeriesFailure(ref.study_instance_uid, ref.series_instance_uid, Program.VERTEBRAL, reason, "none was found")


def test_jobs_are_claimed_once_and_in_order(database, phantoms):
    phantoms.waiting(database, studies=3)
    first, second = phantoms.claim(database, 2), phantoms.claim(database, 2)
    assert names(first) + names(second) == ["1.2.1.1", "1.2.2.1", "1.2.3.1"]
    assert phantoms.claim(database, 2) == ()
    assert [(each.token, each.attempts, each.revision) for each in first] == [(1, 1, 1)] * 2
    assert [ref.path for ref in first[0].series.instances] == [arrival.path for arrival in phantoms.series()]


def test_a_claim_lasts_by_the_clock_of_the_database(database, phantoms):
    phantoms.waiting(database)
    phantoms.claim(database, lease_s=90.0)
    with database.read() as connection:
        until = connection.execute(sa.select(schema.job.c.lease_until)).scalar_one()
    assert timedelta(seconds=80) < until - datetime.now(UTC) < timedelta(seconds=100)


def test_a_job_that_was_attempted_before_is_claimed_alone(database, phantoms):
    phantoms.waiting(database, studies=4)
    assert len(attempt_and_die(database, phantoms, limit=2)) == 2
    assert names(phantoms.claim(database, 9)) == ["1.2.1.1"]
    assert names(phantoms.claim(database, 9)) == ["1.2.2.1"]
    assert names(phantoms.claim(database, 9)) == ["1.2.3.1", "1.2.4.1"]


def test_attempted_jobs_further_down_do_not_join_a_batch(database, phantoms):
    phantoms.waiting(database, studies=3)
    first = phantoms.claim(database, 1)
    attempt_and_die(database, phantoms, limit=1)
    with database.begin() as connection:
        assert release(connection, first) == 1
    assert names(phantoms.claim(database, 9)) == ["1.2.1.1", "1.2.3.1"]
    assert names(phantoms.claim(database, 9)) == ["1.2.2.1"]


def test_a_released_claim_is_no_attempt(database, phantoms):
    phantoms.waiting(database, studies=2)
    claims = phantoms.claim(database, 2)
    with database.begin() as connection:
        assert release(connection, claims) == 2
        assert release(connection, claims) == 0
        assert release(connection, ()) == 0
    assert [each.attempts for each in phantoms.claim(database, 2)] == [1, 1]


def test_the_write_of_a_worker_that_only_seemed_dead_is_refused(database, phantoms):
    phantoms.waiting(database)
    (zombie,) = attempt_and_die(database, phantoms)
    (owner,) = phantoms.claim(database)
    assert owner.token > zombie.token
    with database.begin() as connection:
        assert heartbeat(connection, [zombie], 60.0) == ()
        assert not complete(connection, zombie, phantoms.result(zombie.series, density=666.0))
        assert not complete(connection, zombie, failure(zombie))
        assert fail(connection, zombie, "late") is JobState.OBSOLETE
        assert release(connection, [zombie]) == 0
        assert current_result(connection, "1.2.1.1") is None
        assert complete(connection, owner, phantoms.result(owner.series))
        assert not complete(connection, owner, phantoms.result(owner.series))
    assert phantoms.count(database, schema.result) == 1


def test_a_heartbeat_keeps_what_is_held_and_tells_what_is_lost(database, phantoms):
    phantoms.waiting(database, studies=3)
    claims = phantoms.claim(database, 3, lease_s=-1.0)
    with database.begin() as connection:
        assert heartbeat(connection, claims[:2], 60.0) == claims[:2]
        assert reap(connection).ready == 1
        assert heartbeat(connection, claims, 60.0) == claims[:2]
        assert heartbeat(connection, (), 60.0) == ()


def test_after_enough_attempts_the_series_ends_with_a_reason_and_can_be_retried(database, phantoms):
    phantoms.waiting(database, studies=2)
    for _ in range(3):
        attempt_and_die(database, phantoms)
    assert phantoms.count(database, schema.job, schema.job.c.state == JobState.DEAD) == 1
    assert phantoms.state(database) == (SeriesState.SET_ASIDE, Reason.ANALYSIS_FAILED)
    with database.begin() as connection:
        assert retry(connection) == 1
        assert retry(connection) == 0
    assert phantoms.state(database) == (SeriesState.WAITING, None)
    assert [each.attempts for each in phantoms.claim(database, 2)] == [1, 1]


def test_a_failed_attempt_waits_before_the_next_and_the_last_gives_up(database, phantoms):
    phantoms.waiting(database)
    states = []
    for attempt in range(3):
        (claimed,) = phantoms.claim(database)
        assert claimed.attempts == attempt + 1
        with database.begin() as connection:
            states.append(fail(connection, claimed, "out of memory", Reason.REPORT_FAILED, back_off_s=0.2))
        assert phantoms.claim(database) == ()
        time.sleep(0.35 * 2**attempt)
    assert states == [JobState.READY, JobState.READY, JobState.DEAD]
    assert phantoms.state(database) == (SeriesState.SET_ASIDE, Reason.REPORT_FAILED)


def test_an_answer_without_a_result_is_not_tried_again_unless_a_person_asks(database, phantoms):
    phantoms.waiting(database)
    (claimed,) = phantoms.claim(database)
    with database.begin() as connection:
        assert complete(connection, claimed, failure(claimed))
        assert retry(connection) == 0
    assert phantoms.state(database) == (SeriesState.SET_ASIDE, Reason.NO_VERTEBRA)
    with database.begin() as connection:
        assert retry(connection, "1.2.404.1") == 0
        assert retry(connection, "1.2.1.1") == 1
    (again,) = phantoms.claim(database)
    with database.begin() as connection:
        assert complete(connection, again, phantoms.result(again.series))
        assert retry(connection, "1.2.1.1") == 0
    assert phantoms.state(database) == (SeriesState.DONE, None)


def test_all_that_ended_for_a_reason_are_tried_again_however_many(database, phantoms, monkeypatch):
    monkeypatch.setattr("db.statements.LONGEST_LIST", 2)
    phantoms.waiting(database, studies=6)
    for claimed in phantoms.claim(database, 5):
        with database.begin() as connection:
            reason = Reason.METAL if claimed.series.series_instance_uid == "1.2.5.1" else Reason.NO_VERTEBRA
            assert complete(connection, claimed, failure(claimed, reason))
    with database.begin() as connection:
        assert retry(connection, reason=Reason.ANALYSIS_FAILED) == 0
        assert retry(connection, reason=Reason.NO_VERTEBRA) == 4
        assert retry(connection, reason=Reason.NO_VERTEBRA) == 0
    assert phantoms.state(database, study=4) == (SeriesState.WAITING, None)
    assert phantoms.state(database, study=5) == (SeriesState.SET_ASIDE, Reason.METAL)
    retried = schema.event.c.change == schema.Change.RETRIED
    assert phantoms.count(database, schema.event, retried) == 4


def test_an_end_is_kept_when_the_study_is_closed_again(database, phantoms):
    phantoms.arrive(database, *phantoms.series(), *phantoms.series(series=2))
    phantoms.close(database)
    for _ in range(3):
        attempt_and_die(database, phantoms)
    (claimed,) = phantoms.claim(database)
    with database.begin() as connection:
        assert complete(connection, claimed, failure(claimed))
    phantoms.arrive(database, *phantoms.series(series=3))
    phantoms.close(database, not_selected={3: Reason.NOT_CT})
    assert phantoms.state(database) == (SeriesState.SET_ASIDE, Reason.ANALYSIS_FAILED)
    assert phantoms.state(database, series=2) == (SeriesState.SET_ASIDE, Reason.NO_VERTEBRA)
    assert phantoms.claim(database, 9) == ()


def test_a_series_that_lost_to_a_better_one_is_not_retried(database, phantoms):
    phantoms.waiting(database)
    for _ in range(3):
        attempt_and_die(database, phantoms)
    phantoms.arrive(database, *phantoms.series(series=2))
    phantoms.close(database, not_selected={1: Reason.BETTER_SERIES})
    with database.begin() as connection:
        assert retry(connection) == 0
        assert retry(connection, "1.2.1.1") == 0


@pytest.mark.parametrize("ended", [True, False])
def test_a_series_that_grew_is_analysed_anew_whatever_its_job_was(database, phantoms, ended):
    phantoms.waiting(database)
    (claimed,) = phantoms.claim(database)
    if ended:
        with database.begin() as connection:
            complete(connection, claimed, failure(claimed, Reason.SLICES_MISSING))
    phantoms.arrive(database, *phantoms.series(instances=[4]))
    with database.begin() as connection:
        assert not complete(connection, claimed, phantoms.result(claimed.series))
    assert phantoms.close(database)
    (again,) = phantoms.claim(database, 9)
    assert (again.revision, len(again.series.instances)) == (2, 4)
