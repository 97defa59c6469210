"""Workers are killed at random, and some series kill their worker every time; nothing is lost and nothing doubled."""

import multiprocessing
import os
import random
import signal
import time
from contextlib import suppress

import sqlalchemy as sa

from db import queue, schema
from db.connection import Database, DatabaseOptions, open_database
from db.results import complete
from db.schema import JobState, SeriesState
from engine.errors import DatabaseUnavailable
from engine.records import Reason

SERIES, WORKERS, BATCH, LEASE_S, KILLS = 60, 3, 4, 1.5, 6
KILLERS = {7, 29, 41}  # take their worker down, every time
RAISERS = {12, 50}
UNLUCKY = {3, 23, 55}  # their worker dies once, when all is written and nothing committed


def work_one(database: Database, claimed: queue.Claim, phantoms) -> None:
    number = int(claimed.series.series_instance_uid.split(".")[2])
    if number in KILLERS:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.01)
    if number in RAISERS:
        with database.begin() as connection:
            queue.fail(connection, claimed, "it always fails", back_off_s=0.05)
        return
    objects = phantoms.objects(f"2.25.{number}")
    with database.begin() as connection:
        complete(connection, claimed, phantoms.result(claimed.series), objects, ["PACS"])
        if number in UNLUCKY and claimed.attempts == 1:
            os.kill(os.getpid(), signal.SIGKILL)


def work(url: str, phantoms) -> None:
    """Until no job is left."""
    database = open_database(DatabaseOptions(url))
    unfinished = schema.job.c.state.in_((JobState.READY, JobState.LEASED))
    while True:
        with suppress(DatabaseUnavailable):
            with database.begin() as connection:
                claims = queue.claim(connection, f"worker {os.getpid()}", BATCH, LEASE_S)
            for claimed in claims:
                with database.begin() as connection:
                    queue.heartbeat(connection, claims, LEASE_S)
                work_one(database, claimed, phantoms)
            if not claims:
                with database.begin() as connection:
                    queue.reap(connection)
                    left = connection.execute(sa.select(schema.job.c.id).where(unfinished).limit(1)).first()
                if left is None:
                    os._exit(0)
                time.sleep(0.05)


def run_until_done(url: str, phantoms, limit_s: float) -> int:
    """Start workers, kill some, replace the dead. Returns how many died."""
    fork = multiprocessing.get_context("fork")
    workers = []

    def start() -> None:
        workers.append(fork.Process(target=work, args=(url, phantoms)))
        workers[-1].start()

    for _ in range(WORKERS):
        start()
    rng, kills, deaths, began = random.Random(1), 0, 0, time.monotonic()
    while workers and time.monotonic() - began < limit_s:
        time.sleep(0.05)
        if kills < KILLS and time.monotonic() - began > 0.2 * (kills + 1):
            rng.choice(workers).kill()
            kills += 1
        for worker in [each for each in workers if not each.is_alive()]:
            workers.remove(worker)
            if worker.exitcode != 0:
                deaths += 1
                start()
    hung = len(workers)
    for worker in workers:
        worker.kill()
        worker.join()
    assert not hung, "jobs were left"
    return deaths


def test_every_job_ends_once_and_only_the_guilty_die(url, database, phantoms):
    phantoms.waiting(database, studies=SERIES)
    database.close()  # no connection may live on in a fork
    deaths = run_until_done(url, phantoms, limit_s=60.0)
    assert deaths >= 3 * len(KILLERS) + len(UNLUCKY)

    guilty = {f"1.2.{number}.1" for number in KILLERS | RAISERS}
    s, r, place = schema.series.c, schema.result.c, schema.screening.c
    with database.read() as connection:
        jobs = sa.select(schema.job.c.state, s.series_instance_uid).join_from(schema.job, schema.series)
        ended = {(state, uid in guilty) for state, uid in connection.execute(jobs)}
        results = sa.select(s.series_instance_uid).join(schema.result).where(r.is_current)
        current = connection.execute(results).scalars().all()
        aside = sa.select(s.series_instance_uid, place.reason).join_from(schema.screening, schema.series)
        aside = aside.where(place.state == SeriesState.SET_ASIDE)
        reasons = dict(iter(connection.execute(aside)))
    assert reasons == dict.fromkeys(guilty, Reason.ANALYSIS_FAILED)
    assert ended == {(JobState.DONE, False), (JobState.DEAD, True)}
    assert len(current) == len(set(current)) == SERIES - len(guilty)
    assert phantoms.count(database, schema.result) == SERIES - len(guilty)
    assert phantoms.count(database, schema.screening, place.state == SeriesState.DONE) == SERIES - len(guilty)
    assert phantoms.count(database, schema.outbox) == SERIES - len(guilty)
    assert phantoms.count(database, schema.vertebra) == 3 * (SERIES - len(guilty))
