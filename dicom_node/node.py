"""
The node's processes: what each does.

    run      starts the three below as processes of their own, and starts again what dies (dicom_node/supervisor.py)
    receive  front door, registrar, and the closing of studies
    work     one worker
    send     the back door

They share nothing but database and spool, so each may be killed at any moment, and may as well be started alone, more
than once, or by another supervisor. Studies are closed where they are received: there it is known when the spool has
been registered.
"""

import gc
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from db import overview
from db.connection import Database
from db.schema import BackfillState
from dicom_node import metrics
from dicom_node.backfill.counting import series_counter
from dicom_node.backfill.runner import Backfill, Told
from dicom_node.backfill.source import Source
from dicom_node.clearing import Clearer
from dicom_node.config import NodeConfig
from dicom_node.intake.receiver import Receiver
from dicom_node.intake.registrar import Registrar
from dicom_node.intake.studies import Closer
from dicom_node.peers.commitment import report_taker
from dicom_node.process import Ready, current_database, on_stop, stopped_by_signal
from dicom_node.pseudonyms import key_of_database
from dicom_node.sender.lines import Sender
from dicom_node.spool import Spool
from dicom_node.worker import Worker
from engine.errors import DeploymentError
from engine.programs.vertebral import VertebralProgram
from engine.records import Program

log = logging.getLogger(__name__)

SWITCH_INTERVAL_S = 0.001  # our choice: who waits for the interpreter has a sender that waits; a shorter one costs more


def receive(config: NodeConfig, ready: Ready) -> None:
    """Take instances in, register them and close studies, until a signal says stop.

    Raises:
        DeploymentError: a person must act.
    """
    stop = stopped_by_signal()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    key = key_of_database(config)
    count = series_counter(config.backfill, config.studies.count_at, lambda: not stop.is_set())
    with (
        current_database(config, key) as database,
        Spool(config.spool) as spool,
        Registrar(database, spool, key, config.registrar) as registrar,
        Receiver(
            config.receiver,
            spool,
            registrar,
            key,
            lambda: _queue_age_s(database),
            report_taker(database, config.sender.max_refusals),
        ) as receiver,
        _metrics(config, database, spool, registrar),
    ):
        studies = Closer(database, config.studies, config.selection, count, go_on=lambda: not stop.is_set())
        closer = threading.Thread(target=_close_studies, args=(studies, config, registrar, stop), name="closer")
        clearer = threading.Thread(target=_clear_spool, args=(database, spool, config, registrar, stop), name="clearer")
        closer.start()
        clearer.start()
        ready({"ae_title": config.receiver.ae_title, "host": config.receiver.host, "port": receiver.port})
        gc.freeze()  # what stands now stays: the collector need not look at it again for every few slices
        stop.wait()
        closer.join()
        clearer.join()


def work(config: NodeConfig, ready: Ready, until_idle: bool = False) -> int:
    """Analyse what waits, until a signal says stop; or, with `until_idle`, until nothing is ready.

    Returns:
        How many jobs were taken.

    Raises:
        DeploymentError: a person must act.
    """
    with (
        current_database(config) as database,
        Spool(config.spool) as spool,
        VertebralProgram(config.vertebral, config.runtime) as vertebral,
    ):
        names = tuple(destination.name for destination in config.sender.destinations)
        worker = Worker(database, spool, {Program.VERTEBRAL: vertebral}, names, config.worker, config.report)
        signal.signal(signal.SIGALRM, lambda *_: worker.interrupt())
        on_stop(lambda: _stop_worker(worker, config.worker.stop_grace_s))
        ready({})
        try:
            return worker.run(until_idle)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


def send(config: NodeConfig, ready: Ready, until_idle: bool = False) -> int:
    """Send what waits, until a signal says stop; or, with `until_idle`, until nothing more can be sent now.

    Returns:
        How many objects were stored, counted once for each destination.

    Raises:
        DeploymentError: a person must act.
    """
    with current_database(config) as database:
        sender = Sender(database, config.sender)
        on_stop(sender.stop)
        ready({})
        return sender.run(until_idle)


def backfill(config: NodeConfig, make_source: Callable[[bytes], Source], told: Told) -> BackfillState:
    """Work on an order until it is done, or a signal says stop.

    Args:
        make_source: what is read from, given the site's key.

    Raises:
        DeploymentError: a person must act.
    """
    key = key_of_database(config)
    source = make_source(key)
    with current_database(config, key) as database, Spool(config.spool) as spool:
        order = Backfill(database, spool, key, source, config.backfill, told)
        on_stop(order.stop)
        return order.run()


def _queue_age_s(database: Database) -> float | None:
    with database.read() as connection:
        return overview.oldest_job_s(connection)


@contextmanager
def _metrics(config: NodeConfig, database: Database, spool: Spool, registrar: Registrar) -> Iterator[None]:
    """The endpoint of metrics, where it is wanted; it stands with the receiver, which is always there."""

    def ask() -> metrics.Gauges:
        with database.read() as connection:
            counts, stages = overview.counts(connection), overview.stage_seconds(connection)
        return metrics.gauges(counts, stages, spool.free_bytes(), registrar.backlog)

    try:
        with metrics.served(config.metrics, ask):
            yield
    except OSError as bad:
        raise DeploymentError(
            f"metrics can't be served ({bad.strerror}); see 'metrics.host' and 'metrics.port'"
        ) from None


def _close_studies(closer: Closer, config: NodeConfig, registrar: Registrar, stop: threading.Event) -> None:
    """Close studies that are due; after a start, not before the spool is registered, as a study may be in it."""
    while not registrar.caught_up.wait(0.2):
        if stop.is_set():
            return
    while not stop.wait(config.studies.poll_s):
        try:
            closer.close_due()
        except DeploymentError as passing:
            log.error("studies wait to be closed: %s", passing)
            stop.wait(10 * config.studies.poll_s)
        except Exception:
            log.exception("studies wait to be closed")
            stop.wait(10 * config.studies.poll_s)


def clearer_of(database: Database, spool: Spool, config: NodeConfig) -> Clearer:
    """What clears a node's spool."""
    committing = [destination.name for destination in config.sender.destinations if destination.commitment]
    return Clearer(database, spool, config.clearing, committing)


def _clear_spool(
    database: Database, spool: Spool, config: NodeConfig, registrar: Registrar, stop: threading.Event
) -> None:
    """Clear what is finished, now and then; not before the spool is registered, as files may wait in it."""
    clearer = clearer_of(database, spool, config)
    while not registrar.caught_up.wait(0.2):
        if stop.is_set():
            return
    is_swept = False
    while config.clearing.enabled and not stop.wait(config.clearing.every_s):
        try:
            is_swept = is_swept or clearer.sweep(stop)
            clearer.clear(stop)
        except DeploymentError as passing:
            log.error("the spool waits to be cleared: %s", passing)
        except Exception:
            log.exception("the spool waits to be cleared")


def _stop_worker(worker: Worker, grace_s: float) -> None:
    """The current job may end; after the grace its analysis is left, and the job given back."""
    worker.stop()
    signal.setitimer(signal.ITIMER_REAL, max(grace_s, 0.001), 1.0)
