"""Arrival, closing, work, reaping, retrying and sending all at once: what belongs together never comes apart."""

import random
import threading
import time

import sqlalchemy as sa

from db import outbox, queue, results, schema, studies
from db.completeness import open_studies
from db.connection import Database
from db.schema import JobState, ObjectState, SeriesState
from engine.errors import DatabaseUnavailable
from engine.records import Program, Reason, Selection, SeriesFailure

AT_LEAST_S = 2.5
AT_MOST_S = 60.0
ENOUGH = 10  # studies closed and analyses ended, before what is left is looked at


class Commotion:
    """Everything that happens to a node, at random; each method is one step of one thread."""

    def __init__(self, database: Database, phantoms) -> None:
        self.database, self.phantoms = database, phantoms
        self.numbers = iter(range(1, 10**9))
        self.closed = self.ended = 0

    @property
    def enough(self) -> bool:
        return min(self.closed, self.ended) >= ENOUGH

    def arrive(self, rng: random.Random) -> None:
        places = [(rng.randint(1, 6), rng.randint(1, 3)) for _ in range(rng.randint(1, 12))]
        arrivals = [each for place in places for each in self.phantoms.series(*place, instances=[next(self.numbers)])]
        self.phantoms.arrive(self.database, *arrivals)
        time.sleep(0.03)

    def close(self, rng: random.Random) -> None:
        with self.database.read() as connection:
            due = open_studies(connection, 0.0, 1e6)
        loser = f".{rng.randint(1, 5)}"
        for study in due:
            with self.database.begin() as connection:
                refs = studies.series_of_study(connection, study.study_instance_uid)
                uids = [ref.series_instance_uid for ref in refs]
                reasons = [Reason.BETTER_SERIES if uid.endswith(loser) else None for uid in uids]
                choices = [Selection(uid, Program.VERTEBRAL, why) for uid, why in zip(uids, reasons, strict=True)]
                closed = studies.close_study(
                    connection, study.study_instance_uid, study.revision, choices, Program.VERTEBRAL
                )
            self.closed += closed

    def work(self, rng: random.Random) -> None:
        claims = self.phantoms.claim(self.database, limit=3, lease_s=0.2)
        for claimed in claims:
            ref, chance = claimed.series, rng.random()
            with self.database.begin() as connection:
                if chance < 0.15:
                    queue.fail(connection, claimed, "by chance", back_off_s=0.01)
                elif chance < 0.3:
                    end = SeriesFailure(
                        ref.study_instance_uid, ref.series_instance_uid, claimed.program, Reason.NO_VERTEBRA, "none"
                    )
                    results.complete(connection, claimed, end)
                elif chance < 0.9:
                    uid = f"2.25.{ref.series_instance_uid}.{len(ref.instances)}"
                    objects = self.phantoms.objects(uid)
                    results.complete(connection, claimed, self.phantoms.result(ref), objects, ["A", "B"])
            self.ended += 0.15 <= chance < 0.9

    def mend(self, rng: random.Random) -> None:
        with self.database.begin() as connection:
            queue.reap(connection)
            outbox.reap(connection)
        with self.database.begin() as connection:
            queue.retry(connection)
        time.sleep(0.05)

    def send(self, rng: random.Random) -> None:
        with self.database.begin() as connection:
            claims = outbox.claim_objects(connection, rng.choice("AB"), "tests", 4, 0.2)
        for claimed in claims:
            with self.database.begin() as connection:
                if rng.random() < 0.7:
                    outbox.sent(connection, claimed)
                else:
                    outbox.refused(connection, claimed, "0xA700", back_off_s=0.01)
        time.sleep(0.01)


def repeat(commotion: Commotion, step: str, seed: int, bugs: list[BaseException]) -> None:
    rng, begun = random.Random(seed), time.monotonic()
    while not bugs:
        if time.monotonic() - begun > (AT_LEAST_S if commotion.enough else AT_MOST_S):
            return
        try:
            getattr(commotion, step)(rng)
        except DatabaseUnavailable:
            continue
        except BaseException as bug:
            bugs.append(bug)


def test_states_agree_whatever_happens_at_once(database, phantoms):
    commotion, bugs = Commotion(database, phantoms), []
    steps = ["arrive", "close", "work", "mend", "send"] * 2
    threads = [threading.Thread(target=repeat, args=(commotion, step, seed, bugs)) for seed, step in enumerate(steps)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bugs == []
    assert commotion.enough
    commotion.close(random.Random(0))  # what arrived last opened its study again, with no state until it is closed

    s, r, j, o = schema.series.c, schema.result.c, schema.job.c, schema.outbox.c
    running = j.state.in_((JobState.READY, JobState.LEASED))
    with database.read() as connection:
        current = set(connection.execute(sa.select(r.series_id, r.revision).where(r.is_current)))
        active = set(connection.execute(sa.select(j.series_id, j.revision).where(running)))
        place = schema.screening.c
        query = sa.select(s.id, s.revision, place.state, place.reason).join_from(schema.series, schema.screening)
        rows = connection.execute(query).all()
        unsent = (ObjectState.READY, ObjectState.LEASED, ObjectState.DEAD)
        astray = sa.select(o.id).join_from(schema.outbox, schema.result).where(~r.is_current, o.state.in_(unsent))
        assert connection.execute(astray).all() == []
    assert rows
    assert current == {(row.id, row.revision) for row in rows if row.state is SeriesState.DONE}
    assert active == {(row.id, row.revision) for row in rows if row.state is SeriesState.WAITING}
    assert all((row.reason is not None) == (row.state is SeriesState.SET_ASIDE) for row in rows)
    assert phantoms.count(database, schema.result) > 0
