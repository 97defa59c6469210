"""
What a monitoring system is told: counters of this process, and what the database says of the node at the moment it is
asked, as Prometheus reads it. No label holds an identifier of anybody.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from db.overview import Counts

log = logging.getLogger(__name__)

REGISTRY = CollectorRegistry()

_ASSOCIATIONS = Counter(
    "trabecula_associations", "Associations that ended, by how they did", ["ending"], registry=REGISTRY
)
_OPEN = Gauge("trabecula_associations_open", "Associations that are open now", registry=REGISTRY)
_CLOSED = Counter("trabecula_connections_closed", "Connections closed unread, by why", ["why"], registry=REGISTRY)
_REJECTED = Counter(
    "trabecula_associations_rejected", "Rejections: result, source and reason (PS3.8 9-21)", ["why"], registry=REGISTRY
)
_RECEIVED = Counter("trabecula_received_bytes", "Bytes that came over DICOM connections", registry=REGISTRY)
_INSTANCES = Counter(
    "trabecula_instances", "C-STORE requests answered, by status in hexadecimal", ["status"], registry=REGISTRY
)
_INSTANCE_BYTES = Counter("trabecula_instance_bytes", "Bytes of the instances that were kept", registry=REGISTRY)
_ARRIVALS = Counter(
    "trabecula_arrivals", "Instances kept: new ones, and repeats of known ones", ["arrival"], registry=REGISTRY
)
_REFUSALS = Counter("trabecula_refusals", "Instances refused, by reason", ["reason"], registry=REGISTRY)
_COMMITTED = Counter("trabecula_commitments", "Instances asked about for commitment", ["answer"], registry=REGISTRY)
_STAGES = Histogram(
    "trabecula_receive_seconds",
    "Seconds of an instance's stages at the door, once all of it came",
    ["stage"],
    buckets=(0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0),
    registry=REGISTRY,
)
_INSPECT, _WRITE, _SYNC = (_STAGES.labels(stage) for stage in ("inspect", "write", "sync"))


@dataclass(frozen=True, slots=True)
class MetricsOptions:
    """Where Prometheus finds the node."""

    host: str = "127.0.0.1"  # anybody who gets there may read it
    port: int = 0  # 0: nowhere

    def __post_init__(self) -> None:
        """Refuse what is no port."""
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port must be 0 to 65535, not {self.port}")


@contextmanager
def open_association() -> Iterator[None]:
    """Counts as open."""
    _OPEN.inc()
    try:
        yield
    finally:
        _OPEN.dec()


def count_association(ending: str, received_bytes: int) -> None:
    """A connection has ended."""
    _ASSOCIATIONS.labels(ending).inc()
    _RECEIVED.inc(received_bytes)


def count_rejection(why: tuple[int, int, int]) -> None:
    """An association was rejected."""
    _REJECTED.labels("-".join(map(str, why))).inc()


def count_closed(why: str) -> None:
    """A connection was closed before anything of it was read."""
    _CLOSED.labels(why).inc()


@cache
def _with_status(status: int) -> Counter:
    """Looked up once: what the library does for a label is more than to count."""
    return _INSTANCES.labels(f"{status:04X}")


@cache
def _of_kind(arrival: str) -> Counter:
    return _ARRIVALS.labels(arrival)


def count_instance(status: int, size_bytes: int) -> None:
    """A C-STORE request is answered."""
    _with_status(status).inc()
    if status == 0:
        _INSTANCE_BYTES.inc(size_bytes)


def count_arrival(arrival: str) -> None:
    """An instance is kept."""
    _of_kind(arrival).inc()


def count_refusal(reason: str) -> None:
    """An instance is refused."""
    _REFUSALS.labels(reason).inc()


def count_commitment(safe: int, not_safe: int) -> None:
    """A request for storage commitment is looked at."""
    _COMMITTED.labels("safe").inc(safe)
    _COMMITTED.labels("not_safe").inc(not_safe)


def time_stages(inspect_s: float, write_s: float, sync_s: float) -> None:
    """What the stages of one instance took."""
    _INSPECT.observe(inspect_s)
    _WRITE.observe(write_s)
    _SYNC.observe(sync_s)


Gauges = Mapping[str, tuple[str, Mapping[str, Mapping[str, float]]]]
"""Metric name -> (help, label name -> label value -> number); the label name "" has one value, of no label."""


def gauges(counts: Counts, stage_seconds: Mapping[str, float], free_bytes: int, waiting_for_registry: int) -> Gauges:
    """What the database and the disk say of the node now."""
    return {
        "trabecula_studies": ("Studies, by state", {"state": counts.studies}),
        "trabecula_series": ("Series, by state", {"state": counts.series}),
        "trabecula_series_set_aside": ("Series set aside, by reason", {"reason": counts.set_aside}),
        "trabecula_jobs": ("Jobs, by state: the backlog is those that are ready", {"state": counts.jobs}),
        "trabecula_outbox": ("Objects to be sent, by state", {"state": counts.outbox}),
        "trabecula_queue_age_seconds": (
            "How long the oldest one waits: of unfinished jobs, of unsent objects",
            {"queue": {"jobs": counts.oldest_job_s or 0.0, "outbox": counts.oldest_object_s or 0.0}},
        ),
        "trabecula_stage_seconds": ("Mean over the latest results, by stage of the analysis", {"stage": stage_seconds}),
        "trabecula_spool_free_bytes": ("Space left on the disk of the spool", {"": {"": free_bytes}}),
        "trabecula_spool_instance_bytes": ("What registered instances take", {"": {"": counts.instance_bytes}}),
        "trabecula_registry_backlog": ("Instances that are kept and no rows yet", {"": {"": waiting_for_registry}}),
    }


class Asked:
    """Gauges whose values are asked for at each scrape."""

    def __init__(self, ask: Callable[[], Gauges]) -> None:
        """Hold the question."""
        self._ask = ask

    def collect(self) -> Iterator[Metric]:
        """One answer; none while there is none to be had, as a scrape must not fail for it."""
        try:
            answer = self._ask()
        except Exception as bad:
            log.warning("metrics are incomplete: %s", bad)
            return
        for name, (about, by_label) in answer.items():
            for label, values in by_label.items():
                family = GaugeMetricFamily(name, about, labels=[label] if label else [])
                for value, number in values.items():
                    family.add_metric([value] if label else [], number)
                yield family


@contextmanager
def served(options: MetricsOptions, ask: Callable[[], Gauges]) -> Iterator[int]:
    """Answer scrapes; the port, or 0 where that is not wanted.

    Raises:
        OSError: the address can't be listened on.
    """
    if not options.port:
        yield 0
        return
    asked: Any = Asked(ask)
    server, thread = start_http_server(options.port, options.host, REGISTRY)
    REGISTRY.register(asked)
    try:
        yield int(server.server_port)
    finally:
        REGISTRY.unregister(asked)
        server.shutdown()
        server.server_close()
        thread.join(5.0)
