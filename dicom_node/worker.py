"""
The worker: claim jobs, analyse their series, write their reports, write down how they ended.

Several jobs are under way at the same time, each at another stage. A job is held by a lease that a thread extends
while the analysis runs. Whatever kills this process, the leases run out and others take over; what a process does that
lost its job is refused by the token. A job that was attempted before is alone in the process: if its series kills the
worker, it takes no other along. Models stay open from job to job.
"""

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from traceback import walk_tb
from typing import Any

from db import outbox, queue, results
from db.connection import Database
from db.queue import Claim
from dicom_node.report.options import ReportOptions
from dicom_node.report.uids import report_uid
from dicom_node.spool import Spool
from engine.batch import Pipeline, Work
from engine.errors import DatabaseUnavailable, DeploymentError, ScreeningError, SeriesError, StorageFull
from engine.programs.stages import StagedProgram
from engine.records import Program, Reason, ReportObject, ScreeningResult, SeriesFailure
from engine.volume import Analysis

log = logging.getLogger(__name__)

BEATS_PER_LEASE = 4  # our choice: three heartbeats may be late before a lease is lost
REAP_EVERY_S = 15.0  # our choice: how often this worker looks for jobs of workers that died; or once a lease
LONGEST_PAUSE_S = 30.0  # our choice: between attempts to reach a database or disk that is out of order


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """How jobs are taken, held and given up."""

    processes: int = 1  # workers that `run` starts; each holds its own models
    in_flight: int = 4  # series under way at the same time in one worker; each holds its volume in memory
    poll_s: float = 1.0  # pause when there is nothing to do
    lease_s: float = 60.0  # how long a worker that died keeps its job
    max_attempts: int = 3  # then the series is set aside with `analysis_failed`
    retry_after_s: float = 10.0  # pause before the second attempt; doubles with each
    analysis_limit_s: float = 1800.0  # an analysis that takes longer hangs: its process is ended, the job tried again
    stop_grace_s: float = 20.0  # at a stop the current job may take so long to end; then it is given back

    def __post_init__(self) -> None:
        """Refuse numbers without meaning."""
        if self.processes < 0:
            raise ValueError(f"processes must be 0 or more, not {self.processes}")
        if min(self.max_attempts, self.in_flight) < 1:
            raise ValueError("max_attempts and in_flight must be 1 or more")
        if min(self.poll_s, self.lease_s, self.analysis_limit_s) <= 0:
            raise ValueError("poll_s, lease_s and analysis_limit_s must be above 0")
        if min(self.retry_after_s, self.stop_grace_s) < 0:
            raise ValueError("retry_after_s and stop_grace_s can't be negative")


class _Interrupted(BaseException):
    """Raised in the middle of an analysis: this process must end now. No `except Exception` mistakes it for a fault."""


class _ReportFailed(Exception):
    """Raised when an analysis stands, but its report could not be written."""


class Worker:
    """Each job that can be had is taken to its end, several at the same time."""

    def __init__(
        self,
        database: Database,
        spool: Spool,
        programs: Mapping[Program, StagedProgram[Any]],
        destinations: tuple[str, ...],
        options: WorkerOptions,
        report: ReportOptions,
    ) -> None:
        """Hold what is needed for every job.

        Args:
            programs: with their models open; they are the caller's to close.
            destinations: names of the peers that reports go to.
        """
        from dicom_node.report.write import write_report  # here: it takes long to load, and other processes write none

        self.owner = f"{socket.gethostname()[:32]}-{os.getpid()}-{secrets.token_hex(4)}"
        self._database = database
        self._spool = spool
        self._pipeline = Pipeline[Claim](programs, options.in_flight)
        self._destinations = destinations
        self._options = options
        self._report_options = report
        self._write_report = write_report
        self._stop = threading.Event()
        self._held: dict[Claim, float] = {}  # and since when, by the monotonic clock; the heartbeat's thread reads it
        self._lost: set[Claim] = set()
        self._may_interrupt = self._interrupted = False
        self._reaped_at = -REAP_EVERY_S

    def stop(self) -> None:
        """Take no more jobs; those under way may end."""
        self._stop.set()

    def interrupt(self) -> None:
        """Leave what is under way; those jobs are given back. For signal handlers in the thread that runs.

        A report that is being written, or a result, is not left: that ends by itself, soon. `stop` comes first.
        """
        self._interrupted = True
        if self._may_interrupt:
            raise _Interrupted

    def run(self, until_idle: bool = False) -> int:
        """Take jobs until stopped.

        Args:
            until_idle: return as soon as no job is ready.

        Returns:
            How many were taken.

        Raises:
            DeploymentError: a person must act; the jobs under way were given back. A database or disk that is out
                of order for a while is waited for.
        """
        taken, pause = 0, self._options.poll_s
        while not self._stop.is_set():
            try:
                with self._all_held(), closing(self._pipeline.run(self._work(until_idle))) as answers:
                    while (answer := self._wait_for(answers)) is not None:
                        self._end(*answer)
                        taken, pause = taken + 1, self._options.poll_s
                if until_idle:
                    break
            except _Interrupted:
                break
            except (DatabaseUnavailable, StorageFull) as passing:
                log.warning("waiting for the machine: %s", passing)
                self._stop.wait(pause)
                pause = min(LONGEST_PAUSE_S, 2 * pause)
        return taken

    def _work(self, until_idle: bool) -> Iterator[Work[Claim] | None]:
        """Jobs, as there is room for them; None: first let something end that is under way."""
        while not self._stop.is_set():
            if any(claim.attempts > 1 for claim in self._held):  # alone until it ends
                yield None
                continue
            claim = self._next()
            if claim is not None:
                while claim.attempts > 1 and len(self._held) > 1 and not self._stop.is_set():
                    yield None
                if self._stop.is_set():
                    return
                log.info("series %s: attempt %d", claim.series.series_instance_uid, claim.attempts)
                yield Work(claim, claim.program, claim.series)
            elif self._held:
                yield None
            elif until_idle:
                return
            else:
                self._stop.wait(self._options.poll_s)

    def _next(self) -> Claim | None:
        may_interrupt, self._may_interrupt = self._may_interrupt, False
        with self._database.begin() as connection:
            if time.monotonic() - self._reaped_at >= min(REAP_EVERY_S, self._options.lease_s):
                reaped = queue.reap(connection, self._options.max_attempts)
                self._reaped_at = time.monotonic()
                if reaped.ready or reaped.dead:
                    log.warning("leases ran out: %d jobs are ready again, %d are dead", reaped.ready, reaped.dead)
            claims = queue.claim(connection, self.owner, 1, self._options.lease_s)
        self._held |= dict.fromkeys(claims, time.monotonic())
        self._may_interrupt = may_interrupt
        return claims[0] if claims else None

    def _wait_for(
        self, answers: Iterator[tuple[Claim, Analysis | Exception]]
    ) -> tuple[Claim, Analysis | Exception] | None:
        """The next answer; only here may a signal's handler break in."""
        try:
            self._may_interrupt = True
            if self._interrupted:
                raise _Interrupted
            return next(answers, None)
        finally:
            self._may_interrupt = False

    def _end(self, claim: Claim, outcome: Analysis | Exception) -> None:
        """One job, to an end."""
        try:
            if claim in self._lost:
                log.warning("series %s: lost to another worker", claim.series.series_instance_uid)
            elif isinstance(outcome, Analysis):
                self._keep(claim, outcome)
            elif isinstance(outcome, SeriesError):
                self._keep(claim, _failure(claim, outcome))
            else:  # what we did not foresee must not end the worker, nor the series without a word
                self._fail(claim, Reason.ANALYSIS_FAILED, outcome)
        except DeploymentError:
            raise
        except _ReportFailed as failed:
            self._fail(claim, Reason.REPORT_FAILED, failed.__cause__ or failed)
        except Exception as bug:
            self._fail(claim, Reason.ANALYSIS_FAILED, bug)
        self._held.pop(claim, None)
        self._lost.discard(claim)

    def _keep(self, claim: Claim, outcome: Analysis | SeriesFailure) -> None:
        """Report, then result, job, series and outbox in one transaction."""
        objects: tuple[ReportObject, ...] = ()
        end: ScreeningResult | SeriesFailure
        if isinstance(outcome, Analysis):
            try:
                end, objects = outcome.result, self._write(outcome)
            except SeriesError as aside:
                end = _failure(claim, aside)
        else:
            end = outcome
        with self._database.begin() as connection:
            kept = results.complete(connection, claim, end, objects, self._destinations)
        series = claim.series.series_instance_uid
        if not kept:
            log.warning("series %s: lost to another worker, or changed meanwhile", series)
        elif isinstance(end, SeriesFailure):
            log.info("series %s: set aside, %s", series, end.reason)
        else:
            log.info("series %s: done, %s", series, end.reason or "density given")

    def _write(self, analysis: Analysis) -> tuple[ReportObject, ...]:
        """The report's objects, durable before a row speaks of them."""
        series, program = analysis.series.series_instance_uid, analysis.result.program
        document = report_uid("sr", analysis.series, analysis.result)
        with self._database.read() as connection:
            replaced = outbox.predecessor(connection, series, program, "sr", document)
        try:
            folder = self._spool.outgoing_folder(series)
            written = self._write_report(analysis, folder, self._report_options, replaced)
            self._spool.settle(Path(item.path) for item in written.objects)
        except ScreeningError:
            raise
        except Exception as failed:
            raise _ReportFailed from failed
        return written.objects

    def _fail(self, claim: Claim, reason: Reason, error: BaseException) -> None:
        """An attempt failed. Of a foreign exception only kind and place are told: its words may hold anything."""
        message = f"{type(error).__name__} in {place_of(error)}"
        with self._database.begin() as connection:
            state = queue.fail(
                connection, claim, message, reason, self._options.max_attempts, self._options.retry_after_s
            )
        log.error("series %s: %s (%s); job is %s", claim.series.series_instance_uid, reason, message, state)

    @contextmanager
    def _all_held(self) -> Iterator[None]:
        """Keep all claims while the block runs; those that are left at its end are given back."""
        ended = threading.Event()
        beat = threading.Thread(target=self._beat, args=(ended,), name="heartbeat", daemon=True)
        beat.start()
        try:
            yield
        finally:
            ended.set()
            beat.join()
            left, self._held = tuple(self._held), {}
            self._lost.clear()
            if left:
                with suppress(DeploymentError), self._database.begin() as connection:
                    queue.release(connection, left)
                    log.info("%d series under way: given back", len(left))

    def _beat(self, ended: threading.Event) -> None:
        while not ended.wait(self._options.lease_s / BEATS_PER_LEASE):
            claims = dict(self._held)
            for claim, since in claims.items():
                if time.monotonic() - since > self._options.analysis_limit_s:
                    log.critical("series %s: analysis hangs; this process ends", claim.series.series_instance_uid)
                    logging.shutdown()
                    os._exit(os.EX_TEMPFAIL)  # no thread can be stopped from outside; the lease brings the jobs back
            if not claims:
                continue
            try:
                with self._database.begin() as connection:
                    held = queue.heartbeat(connection, tuple(claims), self._options.lease_s)
            except DatabaseUnavailable as passing:
                log.warning("heartbeat: %s", passing)
                continue
            except Exception as bug:
                log.error("heartbeat: %s in %s", type(bug).__name__, place_of(bug))
                continue
            self._lost |= set(claims) - set(held) & set(self._held)


def _failure(claim: Claim, aside: SeriesError) -> SeriesFailure:
    series = claim.series
    return SeriesFailure(
        series.study_instance_uid, series.series_instance_uid, claim.program, aside.reason, aside.message
    )


def place_of(error: BaseException) -> str:
    """Module and line of ours where an exception came from.

    >>> place_of(ValueError())
    'no code of ours'
    """
    places = [
        f"{module}:{line}"
        for frame, line in walk_tb(error.__traceback__)
        if (module := frame.f_globals.get("__name__", "")).startswith(("engine.", "db.", "dicom_node."))
    ]
    return places[-1] if places else "no code of ours"
