"""A study is closed when all of it is here: by counts where there are some, by patience where there are none."""

from collections.abc import Callable
from dataclasses import replace
from threading import Event

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from db import backfill
from db.completeness import OpenSeries, open_studies
from dicom_node.backfill.counting import series_counter
from dicom_node.backfill.options import Archive, BackfillOptions
from dicom_node.intake.studies import Closer, StudyOptions, is_complete
from engine.errors import BadOption, PeerError
from engine.selection import SelectionOptions

OPTIONS = StudyOptions(quiet_s=60.0, settle_s=5.0, missing_s=600.0)
STATES = "SELECT state FROM study"


@pytest.mark.parametrize(
    ("came", "quiet_s", "related", "acquired", "in_archive", "complete"),
    [
        (10, 59.0, None, None, None, False),
        (10, 60.0, None, None, None, True),
        (10, 6.0, 10, None, None, True),  # all came
        (10, 4.0, 10, None, None, False),  # but more might be on the way
        (10, 6.0, None, None, 10, True),
        (10, 6.0, None, 10, None, True),
        (9, 599.0, 10, None, None, False),  # one is known to be missing
        (9, 600.0, 10, None, None, True),  # and is given up
        (9, 599.0, None, None, 10, False),
        (9, 6.0, 9, None, 10, False),  # the larger count is believed
        (9, 60.0, None, 300, None, True),  # an acquisition may have made other series
        (11, 6.0, 10, None, None, True),
    ],
)
def test_counts_shorten_the_wait_and_lengthen_it_where_some_are_missing(
    came, quiet_s, related, acquired, in_archive, complete
):
    assert is_complete(OpenSeries("1.2", came, quiet_s, related, acquired), in_archive, OPTIONS) is complete


@pytest.fixture
def send(door, make_ct) -> Callable[..., str]:
    """Sends a study of one series; its UID."""

    def send_(count: int, **said: int) -> str:
        study, series = str(generate_uid()), str(generate_uid())
        images = [
            make_ct(StudyInstanceUID=study, SeriesInstanceUID=series, InstanceNumber=n + 1, **said)
            for n in range(count)
        ]
        assert [answer.Status for answer in door.send(*images)] == [0] * count
        door.wait_for_rows(
            f"SELECT 1 FROM instance JOIN series ON series.id = series_id WHERE series_instance_uid = '{series}'", count
        )
        return series

    return send_


def test_what_headers_say_closes_a_study_early_and_keeps_an_incomplete_one_open(door, send):
    at_once = replace(OPTIONS, settle_s=0.0)
    send(3, NumberOfSeriesRelatedInstances=3)
    send(2, NumberOfSeriesRelatedInstances=3)
    send(2)
    closer = Closer(door.database, at_once, SelectionOptions())
    assert closer.close_due() == 1
    assert sorted(door.rows(STATES)) == [("closed",), ("receiving",), ("receiving",)]
    with door.database.read() as connection:
        told = {
            (one.series[0].instances, one.series[0].related_instances) for one in open_studies(connection, 0.0, 1e6)
        }
    assert told == {(2, 3), (2, None)}


def test_an_archives_counts_close_a_study_and_late_slices_reopen_it(door, send, make_ct):
    asked: list[str] = []
    counts: dict[str, int] = {}

    def count(study: str) -> dict[str, int]:
        asked.append(study)
        return counts

    closer = Closer(door.database, replace(OPTIONS, settle_s=0.0), SelectionOptions(), count)
    series = send(2)
    counts[series] = 3
    assert closer.close_due() == closer.close_due() == 0
    assert len(asked) == 1  # once for a revision
    ((study,),) = door.rows("SELECT study_instance_uid FROM study")
    late = make_ct(StudyInstanceUID=study, SeriesInstanceUID=series, InstanceNumber=3)
    door.send(late)
    door.wait_for_rows("SELECT 1 FROM instance", 3)
    assert closer.close_due() == 1
    door.send(make_ct(StudyInstanceUID=study, SeriesInstanceUID=series, InstanceNumber=4))
    door.wait_for_rows("SELECT 1 FROM instance", 4)
    assert door.rows(STATES) == [("receiving",)]
    counts["1.2.3.4"] = 5  # a series that did not begin to come is waited for
    assert closer.close_due() == 0


def test_an_archive_that_is_away_changes_nothing(door, send):
    def count(study: str) -> dict[str, int]:
        raise PeerError("away")

    send(2)
    assert Closer(door.database, OPTIONS, SelectionOptions(), count).close_due() == 0
    at_once = replace(OPTIONS, quiet_s=0.0)
    assert Closer(door.database, at_once, SelectionOptions(), count).close_due() == 1


def test_a_study_whose_count_a_stop_interrupted_is_counted_after_the_next_start(door, send):
    stop = Event()

    def count(study: str) -> dict[str, int]:
        stop.set()
        raise PeerError("it was left")

    send(2)
    at_once = replace(OPTIONS, quiet_s=0.0)
    closer = Closer(door.database, at_once, SelectionOptions(), count, go_on=lambda: not stop.is_set())
    assert closer.close_due() == 0
    assert Closer(door.database, at_once, SelectionOptions(), count).close_due() == 1


def test_a_study_that_is_being_fetched_waits_for_its_series_but_not_for_ever(door, send):
    series = send(2)
    ((study,),) = door.rows("SELECT study_instance_uid FROM study")
    with door.database.begin() as connection:
        run = backfill.open_run(connection, "k" * 64, "pacs", "one day")
        backfill.keep_part(connection, run.id, "one day", 1, [backfill.FoundSeries(study, series, True, expected=3)])
        assert backfill.claim_series(connection, run.id) is not None
    at_once = replace(OPTIONS, quiet_s=0.0, settle_s=0.0)
    assert Closer(door.database, at_once, SelectionOptions()).close_due() == 0
    assert Closer(door.database, replace(at_once, force_s=0.0), SelectionOptions()).close_due() == 1


def test_the_counts_come_by_c_find():
    asked: list[Dataset] = []

    def find(event: evt.Event):
        asked.append(event.identifier)
        for uid, number in (("1.2.1", "12"), ("1.2.2", None), ("1.2.3", "0")):
            answer = Dataset()
            answer.QueryRetrieveLevel, answer.StudyInstanceUID, answer.Modality = "SERIES", "1.2", "CT"
            answer.SeriesInstanceUID, answer.NumberOfSeriesRelatedInstances = uid, number
            yield 0xFF00, answer

    ae = AE(ae_title="PACS")
    ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, find)])
    try:
        archive = Archive("pacs", "PACS", "127.0.0.1", server.server_address[1])
        count = series_counter(BackfillOptions(archives=(archive,)), "pacs")
        assert count is not None
        assert count("1.2") == {"1.2.1": 12}
        assert not {"PatientName", "PatientID"} & {element.keyword for element in asked[0]}
    finally:
        server.shutdown()
    with pytest.raises(PeerError):
        count("1.2")


def test_an_archive_that_is_not_known_is_told():
    assert series_counter(BackfillOptions(), "") is None
    with pytest.raises(BadOption, match=r"studies\.count_at"):
        series_counter(BackfillOptions(), "pacs")
