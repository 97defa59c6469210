"""Prometheus reads what the node does, where it is asked for, and no identity."""

import socket
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from db.connection import Database
from db.overview import counts, oldest_job_s, stage_seconds
from dicom_node import metrics
from dicom_node.metrics import MetricsOptions, gauges, served


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def scraped(port: int) -> dict[tuple[str, str], float]:
    """(metric, label value) -> number."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_are_served_where_they_are_asked_for_and_nowhere_by_default(database: Database):
    with served(MetricsOptions(), dict) as port:
        assert port == 0

    def ask() -> metrics.Gauges:
        with database.read() as connection:
            assert oldest_job_s(connection) is None
            return gauges(counts(connection), stage_seconds(connection), 12345, 7)

    with served(MetricsOptions(port=free_port()), ask) as port:
        before = scraped(port)
        metrics.count_instance(0, 1000)
        metrics.count_instance(0xA700, 1000)
        metrics.count_refusal("identity_missing")
        metrics.time_stages(0.001, 0.002, 0.003)
        after = scraped(port)
    changed = {key for key, value in after.items() if value != before.get(key, 0.0)}
    assert ("trabecula_instances_total", "0000") in changed
    assert ("trabecula_instances_total", "A700") in changed
    assert ("trabecula_refusals_total", "identity_missing") in changed
    assert ("trabecula_receive_seconds_sum", "sync") in changed
    assert after["trabecula_instance_bytes_total", ""] - before.get(("trabecula_instance_bytes_total", ""), 0.0) == 1000
    assert after["trabecula_spool_free_bytes", ""] == 12345
    assert after["trabecula_registry_backlog", ""] == 7
    assert after["trabecula_queue_age_seconds", "jobs"] == 0


def test_a_database_that_is_away_leaves_the_counters_readable():
    def ask() -> metrics.Gauges:
        raise OSError("away")

    with served(MetricsOptions(port=free_port()), ask) as port:
        assert ("trabecula_associations_open", "") in scraped(port)


@pytest.mark.parametrize("port", [-1, 70000])
def test_a_port_that_is_none_is_refused(port):
    with pytest.raises(ValueError, match="port"):
        MetricsOptions(port=port)
