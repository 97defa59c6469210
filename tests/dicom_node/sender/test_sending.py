"""Reports reach every destination that is there, in the end; none is lost on one that is not."""

import logging
import time
from pathlib import Path

import pytest
from pydicom.uid import RLELossless
from pynetdicom import evt

from db import outbox
from db.connection import DatabaseOptions
from dicom_node.config import NodeConfig
from dicom_node.doctor import examine
from dicom_node.sender.answers import Outcome
from dicom_node.sender.lines import Sender
from dicom_node.sender.options import SenderOptions
from dicom_node.sender.store import store
from dicom_node.spool import SpoolOptions
from engine.errors import BadOption
from engine.options import read_options

from ..foreign import free_port
from ..patience import until
from .peer import SOCKETS_LEFT, options, pacs, peer, running
from .reports import Reports

pytestmark = SOCKETS_LEFT


def test_what_waits_is_sent_once(reports: Reports):
    objects = [each for _ in range(3) for each in reports.add("pacs")]
    with peer() as there:
        sender = Sender(reports.database, options(pacs(there.port)))
        assert sender.run(until_idle=True) == 6
        assert there.asked == [each.sop_instance_uid for each in objects]
        assert Sender(reports.database, options(pacs(there.port))).run(until_idle=True) == 0
    assert reports.states("pacs") == ["sent"] * 6
    assert all(Path(each.path).is_file() for each in objects)


def test_a_peer_that_is_down_loses_nothing_and_gets_all_once_it_is_up(reports: Reports):
    reports.add("pacs")
    port = free_port()
    with running(Sender(reports.database, options(pacs(port), max_refusals=1))):
        time.sleep(1.0)
        assert set(reports.states("pacs")) <= {"ready", "leased"}  # leased for as long as an attempt takes
        with peer(port=port) as there:
            until(lambda: len(there.stored) == 2)
            until(lambda: reports.states("pacs") == ["sent"] * 2)


def test_a_peer_that_is_down_holds_up_no_other(reports: Reports):
    reports.add("away", "pacs")
    with peer() as there, running(Sender(reports.database, options(pacs(free_port(), "away"), pacs(there.port)))):
        until(lambda: reports.states("pacs") == ["sent"] * 2)
        assert set(reports.states("away")) <= {"ready", "leased"}


def test_a_file_that_is_gone_bars_no_other(reports: Reports):
    lost, _ = reports.add("pacs")
    Path(lost.path).unlink()
    with peer() as there:
        assert Sender(reports.database, options(pacs(there.port), max_refusals=1)).run(until_idle=True) == 1
    assert reports.states("pacs") == ["dead", "sent"]


def test_a_compressed_file_is_sent_as_it_is(reports: Reports):
    item = reports.write("picture", 5, str(RLELossless))
    claimed = outbox.ClaimedObject(1, 1, 1, "pacs", item.kind, item.sop_class_uid, item.sop_instance_uid, item.path)
    with peer() as there:
        (answer,) = store(pacs(there.port), [claimed], options())
    assert answer.outcome is Outcome.STORED


def test_what_peers_and_files_say_is_not_logged(reports: Reports, caplog: pytest.LogCaptureFixture):
    reports.add("pacs")

    def answer(event: evt.Event) -> int:
        event.assoc.abort()
        return 0xC000

    with caplog.at_level(logging.DEBUG, "dicom_node"), peer(answer) as there:
        Sender(reports.database, options(pacs(there.port))).run(until_idle=True)
    told = [record.getMessage() for record in caplog.records if record.name.startswith("dicom_node")]
    assert told
    assert not any("Marked" in line or str(reports.folder) in line for line in told)


def test_without_a_destination_the_sender_waits_to_be_stopped(reports: Reports):
    with running(Sender(reports.database, options())):
        time.sleep(0.1)


def test_the_doctor_tells_of_objects_for_a_destination_that_is_gone(reports: Reports):
    reports.add("gone")
    config = NodeConfig(
        pseudonym_key_file=str(reports.folder / "key"),
        database=DatabaseOptions(f"sqlite:///{reports.folder / 'memory.db'}"),
        spool=SpoolOptions(str(reports.folder / "spool")),
    )
    (told,) = [check.detail for check in examine(config) if check.subject == "outbox"]
    assert told == "2 objects wait for 'gone', which is no destination any more"


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"destinations": [{"name": "a", "ae_title": "X", "host": "h", "port": 0}]}, "port of destination 'a'"),
        ({"destinations": [{"name": "a", "ae_title": "seventeen letters", "host": "h", "port": 1}]}, "ae_title"),
        ({"destinations": [{"name": "a", "ae_title": "X", "host": "h", "port": 1}] * 2}, "the same name"),
        ({"destinations": [{"name": "a", "ae_title": "X", "hots": "h", "port": 1}]}, "destinations.0..host"),
        ({"destinations": [{"name": "a", "ae_title": "X", "port": 1}]}, "needs a host"),
        ({"lease_s": 10.0}, "lease_s must be at least twice"),
        ({"batch": 0}, "batch"),
        ({"poll_s": 0.0}, "must be above 0"),
    ],
)
def test_options_without_meaning_are_refused(table: dict[str, object], said: str):
    with pytest.raises(BadOption, match=said):
        read_options(SenderOptions, table, "sender")
