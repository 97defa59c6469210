"""A study is closed when nothing new comes, with a job or a reason for every series."""

import time

import pytest
from pydicom.uid import generate_uid

from db.registry import Arrival, register_instances
from dicom_node.intake.file_format import dicom_file
from dicom_node.intake.inspection import read_content
from dicom_node.intake.studies import Closer, StudyOptions
from engine.selection import SelectionOptions

AT_ONCE = StudyOptions(quiet_s=0.0, force_s=3600.0)


@pytest.fixture
def receive(database, make_ct, encode):
    """Registers a series of some slices as if it had been received; its UID."""

    def receive(study: str, count: int = 70, step: float = 2.0, **changed: object) -> str:
        series, frame = generate_uid(), generate_uid()
        arrivals = []
        for n in range(count):
            dataset = make_ct(
                StudyInstanceUID=study,
                SeriesInstanceUID=changed.get("SeriesInstanceUID", series),
                FrameOfReferenceUID=frame,
                ImagePositionPatient=[0, 0, n * step],
                InstanceNumber=n + 1,
                SliceThickness=step,
                Rows=512,
                Columns=512,
                **{key: value for key, value in changed.items() if key != "SeriesInstanceUID"},
            )
            uid = str(dataset.SOPInstanceUID)
            content = dicom_file(dataset.SOPClassUID, uid, "1.2.840.10008.1.2.1", encode(dataset))
            arrivals.append(Arrival(read_content(content, b"key")[1], f"/spool/{uid}", len(content), uid))
        with database.begin() as connection:
            register_instances(connection, arrivals)
        return str(arrivals[0].header.series_instance_uid)

    return receive


def states(database) -> dict[str, tuple[str, str | None]]:
    with database.read() as connection:
        found = connection.exec_driver_sql(
            "SELECT series_instance_uid, coalesce(state, 'receiving'), reason"
            " FROM series LEFT JOIN screening ON series_id = id"
        )
        return {uid: (state, reason) for uid, state, reason in found}


def jobs(database) -> list[str]:
    with database.read() as connection:
        query = "SELECT series_instance_uid FROM job JOIN series ON series.id = job.series_id WHERE job.state = 'ready'"
        return [uid for (uid,) in connection.exec_driver_sql(query)]


def test_a_quiet_study_gets_a_job_for_one_series_and_a_reason_for_each_other(database, receive):
    study = generate_uid()
    good = receive(study)
    thick = receive(study, count=30, step=5.0)
    scout = receive(study, count=1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    assert Closer(database, AT_ONCE, SelectionOptions()).close_due() == 1
    assert states(database) == {
        good: ("waiting", None),
        thick: ("set_aside", "slices_too_thick"),
        scout: ("set_aside", "localizer"),
    }
    assert jobs(database) == [good]
    assert Closer(database, AT_ONCE, SelectionOptions()).close_due() == 0


def test_a_study_to_which_something_came_lately_stays_open_until_it_is_forced(database, receive):
    receive(generate_uid(), count=20)
    assert Closer(database, StudyOptions(quiet_s=30.0), SelectionOptions()).close_due() == 0
    time.sleep(0.05)
    assert Closer(database, StudyOptions(quiet_s=0.02, force_s=0.02), SelectionOptions()).close_due() == 1


def test_late_slices_reopen_a_study_and_it_is_closed_again(database, receive):
    study = generate_uid()
    series = receive(study)
    assert Closer(database, AT_ONCE, SelectionOptions()).close_due() == 1
    receive(study, count=5, SeriesInstanceUID=series)
    assert states(database)[series][0] == "receiving"
    assert Closer(database, AT_ONCE, SelectionOptions()).close_due() == 1
    assert jobs(database) == [series]


def test_a_study_that_cannot_be_closed_holds_up_no_other(database, receive, caplog):
    first, second = receive(generate_uid()), receive(generate_uid())
    with database.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE header SET attributes = '{' WHERE series_id = "
            f"(SELECT id FROM series WHERE series_instance_uid = '{first}')"
        )
    assert Closer(database, AT_ONCE, SelectionOptions()).close_due() == 1
    assert jobs(database) == [second]
    assert "can't be closed" in caplog.text


@pytest.mark.parametrize("wrong", [{"quiet_s": -1.0}, {"poll_s": 0.0}, {"quiet_s": 60.0, "force_s": 1.0}])
def test_options_without_meaning_are_refused(wrong):
    with pytest.raises(ValueError, match=r"can't|must"):
        StudyOptions(**wrong)
