"""Prometheus reads what the node does, where it is asked for, and no identity."""

from dataclasses import replace
from pathlib import Path
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from db import queue, results
from db.connection import Database
from db.overview import counts, oldest_job_s, stage_seconds
from dicom_node import metrics
from dicom_node.intake.door import SILENT_PER_ASSOCIATION
from dicom_node.intake.negotiation import CALLING_NOT_RECOGNISED, LIMIT_EXCEEDED
from dicom_node.intake.options import DataPath
from dicom_node.metrics import MetricsOptions, gauges, served

from ..foreign import free_port
from ..patience import until
from ..test_clearing import Node, result_of


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


def told_of_associations(door, image: bytes, uid: str, port: int) -> dict[tuple[str, str], float]:
    """What a door for three says of one that is released, one aborted, one broken off, and two rejected."""
    before = scraped(port)

    def since(name: str, label: str = "") -> float:
        return scraped(port).get((name, label), 0.0) - before.get((name, label), 0.0)

    assert door.raw().rejection(calling="STRANGER") == CALLING_NOT_RECOGNISED
    released, aborted, broken = (door.raw().associate() for _ in range(3))
    until(lambda: since("trabecula_associations_open") == 3)
    assert door.raw().rejection() == LIMIT_EXCEEDED
    assert released.store(image, uid) == 0
    released.send_pdu(5, bytes(4))
    assert released.read_pdu()[0] == 6
    aborted.send_pdu(7, bytes(4))
    broken.socket.sendall(b"\4\0\0\1")  # the beginning of a PDU
    for peer in door.peers:
        peer.socket.close()
    for ending, count in (("released", 1), ("aborted", 1), ("broken", 1), ("rejected", 2)):
        until(lambda key=ending, count=count: since("trabecula_associations_total", key) == count)
    names = ("trabecula_associations", "trabecula_received_bytes")
    told = {key: value - before.get(key, 0.0) for key, value in scraped(port).items() if key[0].startswith(names)}
    return {key: value for key, value in told.items() if value and not key[0].endswith("_created")}


def test_both_ways_in_tell_the_same_of_associations(open_door, make_ct, encode):
    """By their endings, of what was rejected and why, of bytes; and none counts as open at the end."""
    told, image = {}, make_ct()
    with served(MetricsOptions(port=free_port()), dict) as port:
        for way in DataPath:
            door = open_door(data_path=way, calling_ae_titles=("RAW",), max_associations=3)
            told[way] = told_of_associations(door, encode(image), str(image.SOPInstanceUID), port)
    of_direct = dict(told[DataPath.DIRECT])
    assert told[DataPath.PYNETDICOM] == of_direct
    assert of_direct.pop(("trabecula_received_bytes_total", "")) > len(encode(image))
    assert of_direct == {
        ("trabecula_associations_total", "released"): 1,
        ("trabecula_associations_total", "aborted"): 1,
        ("trabecula_associations_total", "broken"): 1,
        ("trabecula_associations_total", "rejected"): 2,
        ("trabecula_associations_rejected_total", "-".join(map(str, CALLING_NOT_RECOGNISED))): 1,
        ("trabecula_associations_rejected_total", "-".join(map(str, LIMIT_EXCEEDED))): 1,
    }


@pytest.mark.parametrize("way", tuple(DataPath))
def test_connections_that_are_closed_unread_are_told(open_door, way: DataPath):
    """One from an address that is not allowed, and one more than are taken."""
    far = open_door(data_path=way, allowed_networks=("10.0.0.0/8",))
    narrow, closed = open_door(data_path=way, max_associations=1), "trabecula_connections_closed_total"
    with served(MetricsOptions(port=free_port()), dict) as port:
        before = scraped(port)
        assert far.raw().is_closed_within(10)
        silent = [narrow.raw() for _ in range(SILENT_PER_ASSOCIATION)]
        assert narrow.raw().is_closed_within(10)
        for why in ("address", "too_many"):
            until(lambda key=(closed, why): scraped(port).get(key, 0.0) == before.get(key, 0.0) + 1)
        assert not silent[0].is_closed_within(0.05)


def test_jobs_and_seconds_of_stages_are_those_of_the_database(tmp_path: Path):
    """Two series were analysed and one waits; what a stage took is the mean of the two."""
    node = Node(tmp_path)
    try:
        for number, seconds in ((1, 2.0), (2, 4.0)):
            node.arrive(number, 1)
            node.close_study(number)
            with node.database.begin() as connection:
                (claim,) = queue.claim(connection, "test", 1, 60.0)
                outcome = result_of(claim.series.study_instance_uid, claim.series.series_instance_uid)
                stages = (("segment", seconds), ("load", seconds / 4))
                assert results.complete(connection, claim, replace(outcome, stage_seconds=stages))
        node.arrive(3, 1)
        node.close_study(3)

        def ask() -> metrics.Gauges:
            with node.database.read() as connection:
                return gauges(counts(connection), stage_seconds(connection), 1, 0)

        with served(MetricsOptions(port=free_port()), ask) as port:
            told = scraped(port)
    finally:
        node.close()
    of_jobs = {label: value for (name, label), value in told.items() if name == "trabecula_jobs"}
    assert of_jobs == {"done": 2, "ready": 1}
    of_stages = {label: value for (name, label), value in told.items() if name == "trabecula_stage_seconds"}
    assert of_stages == {"segment": 3.0, "load": 0.75}
    assert told["trabecula_queue_age_seconds", "jobs"] >= 0
    assert told["trabecula_series", "done"] == 2


def test_a_database_that_is_away_leaves_the_counters_readable():
    def ask() -> metrics.Gauges:
        raise OSError("away")

    with served(MetricsOptions(port=free_port()), ask) as port:
        assert ("trabecula_associations_open", "") in scraped(port)


@pytest.mark.parametrize("port", [-1, 70000])
def test_a_port_that_is_none_is_refused(port):
    with pytest.raises(ValueError, match="port"):
        MetricsOptions(port=port)
