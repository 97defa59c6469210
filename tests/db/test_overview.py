"""A person sees how things stand, why, and what came out."""

from dataclasses import asdict

from db.outbox import claim_objects, sent
from db.overview import counts, events, explain
from db.queue import reap
from db.registry import record_refusal
from db.results import complete
from db.schema import JobState, ObjectState, SeriesState, StudyState
from engine.records import BoneFinding, Program, Reason, SeriesFailure, VertebralLevel


def some_of_everything(database, phantoms):
    """Study 1: one series done, one set aside at selection, one without vertebrae. Study 2: dead. 3: receiving."""
    phantoms.arrive(database, *phantoms.series(), *phantoms.series(series=2), *phantoms.series(series=3))
    phantoms.close(database, not_selected={2: Reason.SLICES_TOO_THICK})
    done, failed = phantoms.claim(database, 2)
    ref = failed.series
    with database.begin() as connection:
        complete(connection, done, phantoms.result(done.series), phantoms.objects("2.25.1", "2.25.2"), ["PACS"])
        failure = SeriesFailure(
            ref.study_instance_uid, ref.series_instance_uid, Program.VERTEBRAL, Reason.NO_VERTEBRA, "none"
        )
        complete(connection, failed, failure)
        assert sent(connection, claim_objects(connection, "PACS", "tests", 1, 60.0)[0])
        record_refusal(connection, Reason.IDENTITY_MISSING, "no UID", subject="a" * 64)
    phantoms.arrive(database, *phantoms.series(study=2))
    phantoms.close(database, 2)
    for _ in range(3):
        phantoms.claim(database, lease_s=-1.0)
        with database.begin() as connection:
            reap(connection)
    phantoms.arrive(database, *phantoms.series(study=3))


def test_an_empty_database_counts_nothing(database):
    with database.read() as connection:
        told = counts(connection)
        assert events(connection) == ()
        assert explain(connection, "1.2.1") is None
    assert told.instances == 0
    assert not any((told.studies, told.series, told.jobs, told.outbox, told.refusals))
    assert told.oldest_job_s is told.oldest_object_s is None


def test_counts_by_state(database, phantoms):
    some_of_everything(database, phantoms)
    with database.read() as connection:
        told = counts(connection)
    assert told.studies == {StudyState.CLOSED: 2, StudyState.RECEIVING: 1}
    assert told.series == {SeriesState.DONE: 1, SeriesState.RECEIVING: 1, SeriesState.SET_ASIDE: 3}
    assert told.set_aside == {Reason.ANALYSIS_FAILED: 1, Reason.NO_VERTEBRA: 1, Reason.SLICES_TOO_THICK: 1}
    assert told.jobs == {JobState.DEAD: 1, JobState.DONE: 2}
    assert told.outbox == {ObjectState.READY: 1, ObjectState.SENT: 1}
    assert told.refusals == {Reason.IDENTITY_MISSING: 1}
    assert told.instances == 15
    assert told.oldest_job_s is None
    assert told.oldest_object_s is not None
    assert 0.0 <= told.oldest_object_s < 60.0


def test_a_study_is_explained(database, phantoms):
    some_of_everything(database, phantoms)
    with database.read() as connection:
        study = explain(connection, "1.2.1")
        open_study = explain(connection, "1.2.3")
    assert study is not None
    assert (study.patient_key, study.state) == (f"{1:032x}", StudyState.CLOSED)
    done, thick, empty = study.series
    assert (done.selected, done.state, done.job, done.instances) == (True, SeriesState.DONE, JobState.DONE, 3)
    assert [line.level for line in done.lines] == [None, VertebralLevel.T12, VertebralLevel.L1, VertebralLevel.L2]
    assert done.objects == (("sr", "PACS", ObjectState.SENT, ""), ("sr", "PACS", ObjectState.READY, ""))
    assert (thick.selected, thick.reason, thick.job) == (False, Reason.SLICES_TOO_THICK, None)
    assert (empty.selected, empty.reason, empty.detail) == (True, Reason.NO_VERTEBRA, "none")
    assert open_study is not None
    assert (open_study.series[0].selected, open_study.series[0].modality) == (None, None)


def test_an_explanation_is_of_the_latest_decision(database, phantoms):
    phantoms.waiting(database)
    phantoms.arrive(database, *phantoms.series(instances=[4]))
    phantoms.close(database, not_selected={1: Reason.GANTRY_TILT})
    with database.read() as connection:
        study = explain(connection, "1.2.1")
    assert study is not None
    (series,) = study.series
    assert (series.selected, series.reason, series.revision) == (False, Reason.GANTRY_TILT, 2)
    assert series.job is JobState.OBSOLETE


def test_the_lines_of_a_result(database, phantoms):
    some_of_everything(database, phantoms)
    with database.read() as connection:
        study = explain(connection, "1.2.1")
    assert study is not None
    patient, _, l1, l2 = study.series[0].lines
    assert (patient.level, patient.volumetric_bmd, patient.finding) == (None, 93.25, BoneFinding.OSTEOPENIA)
    assert patient.attenuation_mean == 101.0  # of L1's core alone, as in `cohort`
    assert (l1.level, l1.attenuation_mean, l1.volumetric_bmd) == (VertebralLevel.L1, 101.0, 93.25)
    assert (l2.volumetric_bmd, l2.reason) == (None, Reason.DENSE_FOCUS)
    assert patient.reference_only
    assert patient.study_date == "20260301"
    assert not any("/" in str(value) for line in study.series[0].lines for value in asdict(line).values())


def test_events_tell_the_story_of_a_series(database, phantoms):
    some_of_everything(database, phantoms)
    with database.read() as connection:
        story = [(line.change, line.reason) for line in events(connection, "1.2.2.1")]
        assert len(events(connection, limit=3)) == 3
    assert story == [("set_aside", Reason.ANALYSIS_FAILED), ("queued", None)]
