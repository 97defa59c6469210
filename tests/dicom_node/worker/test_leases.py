"""A job that is slow, lost, stopped or stuck is kept or goes back; whatever happens on the way."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from typing import Any

import pytest
import sqlalchemy as sa

from db import queue, schema
from engine.errors import AnatomyNotFound, UnusableModel
from engine.records import Reason, SeriesRef

from .workplace import Does, Memory, fail_with, sleep_s


def test_heartbeats_keep_a_job_that_takes_longer_than_its_lease(memory: Memory):
    def be_slow(_: SeriesRef) -> Any:
        sleep_s(2.5)
        raise AnatomyNotFound(Reason.NO_VERTEBRA, "none")

    worker = memory.worker(Does(be_slow), lease_s=0.8)
    others: list[Any] = []

    def try_to_take_over() -> None:
        for _ in range(6):
            time.sleep(0.35)
            with memory.database.begin() as connection:
                queue.reap(connection)
                others.extend(queue.claim(connection, "other", 1, 30.0))

    rival = threading.Thread(target=try_to_take_over)
    rival.start()
    worker.run(until_idle=True)
    rival.join()
    assert others == []
    assert memory.explained().reason == "no_vertebra"


def test_who_lost_a_job_changes_nothing(memory: Memory):
    def lose(_: SeriesRef) -> Any:
        with memory.database.begin() as connection:
            connection.execute(sa.update(schema.job).values(lease_until=sa.func.strftime("%Y-%m-%d", "now", "-1 day")))
        with memory.database.begin() as connection:
            assert queue.reap(connection).ready == 1
            assert len(queue.claim(connection, "other", 1, 30.0)) == 1
        raise AnatomyNotFound(Reason.NO_VERTEBRA, "an outdated answer")

    worker = memory.worker(Does(lose))
    threading.Timer(1.0, worker.stop).start()
    worker.run()
    job = memory.job()
    assert (job.state, job.owner, job.attempts) == ("leased", "other", 2)
    assert memory.explained().reason is None


def test_a_stop_lets_the_current_job_end(memory: Memory):
    def stop_in_the_middle(_: SeriesRef) -> Any:
        worker.stop()
        raise AnatomyNotFound(Reason.NO_VERTEBRA, "none")

    worker = memory.worker(Does(stop_in_the_middle))
    assert worker.run() == 1
    assert memory.explained().reason == "no_vertebra"


def test_an_interrupted_job_goes_back_and_does_not_count(memory: Memory):
    worker = memory.worker(Does(lambda _: sleep_s(30)))
    before = signal.signal(signal.SIGALRM, lambda *_: (worker.stop(), worker.interrupt()))
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        began = time.monotonic()
        worker.run()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - began < 10
    job = memory.job()
    assert (job.state, job.attempts, job.owner) == ("ready", 0, None)


def test_a_machine_that_is_set_up_wrongly_gives_the_job_back_and_is_told(memory: Memory):
    with pytest.raises(UnusableModel, match="damaged"):
        memory.worker(Does(fail_with(UnusableModel("the model is damaged")))).run(until_idle=True)
    job = memory.job()
    assert (job.state, job.attempts) == ("ready", 0)


def test_a_database_that_is_locked_for_a_while_is_waited_for(memory: Memory):
    program = Does(fail_with(AnatomyNotFound(Reason.NO_VERTEBRA, "none")))
    worker = memory.worker(program)
    with closing(sqlite3.connect(memory.folder / "memory.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        thread = threading.Thread(target=worker.run)
        thread.start()
        time.sleep(1.2)
        assert program.times == 0
        other.execute("ROLLBACK")
    until = time.monotonic() + 10
    while memory.explained().state != "set_aside" and time.monotonic() < until:
        time.sleep(0.05)
    worker.stop()
    thread.join()
    assert memory.explained().reason == "no_vertebra"


HANGS = """
import sys, time
from pathlib import Path
from db.connection import DatabaseOptions, open_database
from dicom_node.report.options import ReportOptions
from dicom_node.spool import Spool, SpoolOptions
from dicom_node.worker import Worker, WorkerOptions
from engine.programs.stages import Stage, each
from engine.records import Program

class Hangs:
    stages = (Stage("hang", each(lambda case: time.sleep(1000))),)

    def begin(self, series):
        return series

folder = Path(sys.argv[1])
database = open_database(DatabaseOptions(f"sqlite:///{folder / 'memory.db'}"))
spool = Spool(SpoolOptions(str(folder / "spool"), reserve_mib=1))
options = WorkerOptions(lease_s=0.8, analysis_limit_s=1.0, poll_s=0.05)
Worker(database, spool, {Program.VERTEBRAL: Hangs()}, (), options, ReportOptions()).run()
"""


def test_an_analysis_that_hangs_ends_its_process_and_another_takes_over(memory: Memory):
    ran = subprocess.run([sys.executable, "-c", HANGS, str(memory.folder)], timeout=60, check=False)
    assert ran.returncode == os.EX_TEMPFAIL
    time.sleep(1.0)
    memory.worker(Does(fail_with(AnatomyNotFound(Reason.NO_VERTEBRA, "none")))).run(until_idle=True)
    found = memory.explained()
    assert (found.reason, found.attempts) == ("no_vertebra", 2)
