"""Registering is idempotent; what contradicts is refused; what comes late reopens."""

import hashlib
import random
from dataclasses import replace
from pathlib import Path

import sqlalchemy as sa

from db import schema, series
from db.completeness import open_studies
from db.overview import events
from db.queue import claim
from db.recall import current_result
from db.registry import (
    Arrival,
    known_instances,
    known_paths,
    record_refusal,
    register_instances,
)
from db.results import complete
from db.schema import JobState, ObjectState, SeriesState, StudyState
from db.studies import close_study, series_of_study
from engine.digest import digest_of
from engine.records import Program, Reason, Selection
from engine.series import series_of


def test_resending_changes_nothing(database, phantoms):
    arrivals = phantoms.series()
    assert all(told.is_new for told in phantoms.arrive(database, *arrivals))
    assert phantoms.close(database)
    again = phantoms.arrive(database, *arrivals, *arrivals)
    assert not any(told.is_new or told.reason for told in again)
    assert phantoms.count(database, schema.instance) == 3
    assert phantoms.state(database) == (SeriesState.WAITING, None)
    assert phantoms.count(database, schema.study, schema.study.c.revision == 1) == 1


def test_an_instance_twice_in_one_batch_is_one_instance(database, phantoms):
    arrival = phantoms.arrival(phantoms.header())
    assert [told.is_new for told in phantoms.arrive(database, arrival, arrival)] == [True, False]


def test_known_ones_are_found_by_uid_and_by_path(database, phantoms):
    arrivals = phantoms.series(instances=range(1, 6))
    phantoms.arrive(database, *arrivals)
    with database.read() as connection:
        assert known_instances(connection, ["1.2.1.1.1", "1.2.1.1.77"]) == {"1.2.1.1.1"}
        assert known_paths(connection, [arrivals[2].path, "/elsewhere"]) == {arrivals[2].path}
        assert known_instances(connection, (f"1.9.{n}" for n in range(2500))) == frozenset()


def test_a_series_comes_back_as_a_folder_would_give_it(database, phantoms):
    rng = random.Random(5)
    slices = phantoms.series(instances=range(1, 21))
    slices[4] = phantoms.arrival(replace(slices[4].header, contrast_bolus_agent=True, slice_thickness=2.5))
    slices[7] = phantoms.arrival(replace(slices[7].header, image_position_patient=None, instance_number=None))
    localizer = phantoms.arrival(
        phantoms.header(instance=99, image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"), rows=888, kvp=100.0)
    )
    other = phantoms.series(series=2, convolution_kernel=(), image_orientation_patient=None, patient_age=None)
    arrivals = [*slices, localizer, *other]
    expected = series_of((arrival.header, arrival.path) for arrival in arrivals)
    rng.shuffle(arrivals)
    for start in range(0, len(arrivals), 5):
        phantoms.arrive(database, *arrivals[start : start + 5])
    with database.read() as connection:
        assert series_of_study(connection, "1.2.1") == expected
        assert series_of_study(connection, "1.2.404") == ()
    assert phantoms.count(database, schema.header) == 4  # wordings: slices, one with contrast, localizer, other


def test_what_the_headers_say_becomes_columns_for_people(database, phantoms):
    phantoms.waiting(database)
    with database.read() as connection:
        row = connection.execute(sa.select(schema.series)).one()
    assert (row.manufacturer, row.manufacturer_model_name, row.kvp) == ("Maker", "Scanner 1", 120.0)
    assert (row.convolution_kernel, row.instance_count, row.patient_age) == (("B30f", "3"), 3, 71)


def test_text_that_a_database_refuses_stops_nothing(database, phantoms):
    hostile = phantoms.header(
        manufacturer="A\x00B\udcff" + "x" * 500, convolution_kernel=("K\x00",), body_part_examined=""
    )
    phantoms.arrive(database, phantoms.arrival(hostile), *phantoms.series(study=2))
    assert phantoms.close(database)
    with database.read() as connection:
        (ref,) = series_of_study(connection, "1.2.1")
        query = sa.select(schema.series.c.manufacturer).order_by(schema.series.c.id)
        stored = connection.execute(query).scalars().first()
    assert ref.manufacturer == hostile.manufacturer
    assert stored == "AB?" + "x" * 61


def test_contradictions_are_refused_and_overwrite_nothing(database, phantoms):
    phantoms.arrive(database, *phantoms.series(), *phantoms.series(study=2))
    known = phantoms.header()
    contradictions = [
        replace(known, sop_instance_uid="1.5.1", patient_key="f" * 32),  # another patient's study
        replace(known, sop_instance_uid="1.5.2", study_instance_uid="1.2.2", patient_key=f"{2:032x}"),  # series moves
        replace(known, series_instance_uid="1.2.1.7"),  # instance moves
    ]
    told = phantoms.arrive(database, *(phantoms.arrival(header) for header in contradictions))
    told += phantoms.arrive(database, phantoms.arrival(known, digest="blake3-" + "e" * 44))  # another content
    told += phantoms.arrive(database, phantoms.arrival(known, digest="blake3-" + "e" * 44))
    assert [(each.is_new, each.reason) for each in told] == [(False, Reason.INSTANCE_CONFLICT)] * 5
    assert phantoms.count(database, schema.instance) == 6
    assert phantoms.count(database, schema.series) == 2
    assert phantoms.count(database, schema.study, schema.study.c.revision == 1) == 2
    assert phantoms.count(database, schema.refusal) == 3
    assert phantoms.count(database, schema.refusal, schema.refusal.c.times == 3) == 1


def stored_before(phantoms, paths: list[Path]) -> list[Arrival]:
    """Files that are registered as revision 0010 did it: with a SHA-256, and no word of it."""
    made = []
    for header, path in zip((phantoms.header(instance=n + 1) for n in range(len(paths))), paths, strict=True):
        path.write_bytes(path.name.encode())
        made.append(Arrival(header, str(path), 8, hashlib.sha256(path.read_bytes()).hexdigest()))
    return made


def test_what_was_stored_with_a_sha_256_is_known_by_it(database, phantoms, tmp_path):
    before = stored_before(phantoms, [tmp_path / "same", tmp_path / "other", tmp_path / "gone"])
    phantoms.arrive(database, *before)
    (tmp_path / "other").write_bytes(b"another content")
    (tmp_path / "gone").unlink()
    told = phantoms.arrive(database, *(each._replace(digest=digest_of(b"any")) for each in before))
    assert [each.reason for each in told] == [None, Reason.INSTANCE_CONFLICT, None]
    assert not any(each.is_new for each in told)


def test_a_cleared_file_with_a_sha_256_is_here_again_if_it_is_the_same(database, phantoms, tmp_path):
    before = stored_before(phantoms, [tmp_path / "same", tmp_path / "other"])
    phantoms.arrive(database, *before)
    kept = schema.instance.c
    with database.begin() as connection:
        connection.execute(sa.update(schema.instance).values(cleared_at=kept.received_at))
    (tmp_path / "other").write_bytes(b"another content")
    phantoms.arrive(database, *(each._replace(digest=digest_of(b"any")) for each in before))
    with database.read() as connection:
        here = connection.execute(sa.select(kept.path).where(kept.cleared_at.is_(None))).scalars().all()
    assert here == [str(tmp_path / "same")]


def test_a_known_instance_stays_known_when_the_key_of_the_pseudonyms_changed(database, phantoms):
    arrivals = phantoms.series()
    phantoms.arrive(database, *arrivals)
    rekeyed = [each._replace(header=replace(each.header, patient_key="f" * 32)) for each in arrivals]
    assert not any(told.is_new or told.reason for told in phantoms.arrive(database, *rekeyed))
    late = phantoms.arrival(phantoms.header(instance=9, patient_key="f" * 32))
    assert phantoms.arrive(database, late)[0].reason is Reason.INSTANCE_CONFLICT


def test_one_contradiction_in_a_batch_harms_no_other(database, phantoms):
    stranger = phantoms.header(series=2, instance=9, patient_key="f" * 32)
    told = phantoms.arrive(database, *phantoms.series(), phantoms.arrival(stranger), *phantoms.series(study=2))
    assert [each.is_new for each in told] == [True] * 3 + [False] + [True] * 3


def test_repeated_refusals_are_counted_not_added(database, phantoms):
    for _ in range(3):
        with database.begin() as connection:
            record_refusal(connection, Reason.IDENTITY_MISSING, "no study", subject="a" * 64, peer="CT1")
    assert phantoms.count(database, schema.refusal, schema.refusal.c.times == 3) == 1


def test_a_study_is_looked_at_when_quiet_or_open_too_long(database, phantoms):
    phantoms.arrive(database, *phantoms.series())

    def found(settle_s: float, force_s: float) -> list[tuple[str, int]]:
        studies = open_studies(connection, settle_s, force_s)
        return [(study.study_instance_uid, study.revision) for study in studies]

    with database.read() as connection:
        assert found(settle_s=60.0, force_s=60.0) == []
        assert found(settle_s=0.0, force_s=60.0) == [("1.2.1", 1)]
        assert found(settle_s=60.0, force_s=0.0) == [("1.2.1", 1)]
    assert phantoms.close(database)
    with database.read() as connection:
        assert found(settle_s=0.0, force_s=0.0) == []


def test_a_study_that_grew_meanwhile_is_not_closed(database, phantoms):
    phantoms.arrive(database, *phantoms.series())
    selections = [Selection("1.2.1.1", Program.VERTEBRAL, None)]
    phantoms.arrive(database, *phantoms.series(instances=[4]))
    with database.begin() as connection:
        assert not close_study(connection, "1.2.1", 1, selections, Program.VERTEBRAL)
        assert close_study(connection, "1.2.1", 2, selections, Program.VERTEBRAL)
        assert not close_study(connection, "1.2.1", 2, selections, Program.VERTEBRAL)
        assert not close_study(connection, "1.2.404", 1, selections, Program.VERTEBRAL)
    assert phantoms.count(database, schema.job) == 1


def test_closing_gives_each_series_a_job_or_a_reason(database, phantoms):
    phantoms.arrive(database, *phantoms.series(), *phantoms.series(series=2))
    assert phantoms.close(database, not_selected={2: Reason.SLICES_TOO_THICK})
    assert phantoms.state(database) == (SeriesState.WAITING, None)
    assert phantoms.state(database, series=2) == (SeriesState.SET_ASIDE, Reason.SLICES_TOO_THICK)
    assert phantoms.count(database, schema.selection) == 2
    assert phantoms.count(database, schema.job, schema.job.c.state == JobState.READY) == 1


def finish(database, phantoms, *uids):
    (claimed,) = phantoms.claim(database)
    with database.begin() as connection:
        result = phantoms.result(claimed.series)
        assert complete(connection, claimed, result, phantoms.objects(*uids), ["PACS"])


def test_late_slices_reopen_and_supersede(database, phantoms):
    phantoms.waiting(database)
    finish(database, phantoms, "2.25.1")
    phantoms.arrive(database, *phantoms.series(instances=[4]))
    assert phantoms.state(database) == (SeriesState.RECEIVING, None)
    assert phantoms.count(database, schema.study, schema.study.c.state == StudyState.RECEIVING) == 1
    with database.read() as connection:
        assert current_result(connection, "1.2.1.1") is None
        assert [line.change for line in events(connection, "1.2.1")] == ["reopened", "closed", "received"]
    assert phantoms.close(database)
    finish(database, phantoms, "2.25.2")
    current = schema.result.c.is_current
    assert phantoms.count(database, schema.result) == 2
    assert phantoms.count(database, schema.result, current, schema.result.c.revision == 2) == 1
    with database.read() as connection:
        states = sa.select(schema.outbox.c.sop_instance_uid, schema.outbox.c.state).order_by(schema.outbox.c.id)
        assert connection.execute(states).all() == [
            ("2.25.1", ObjectState.SUPERSEDED),
            ("2.25.2", ObjectState.READY),
        ]


def test_a_late_series_leaves_finished_ones_as_they_are(database, phantoms):
    phantoms.arrive(database, *phantoms.series(), *phantoms.series(series=2), *phantoms.series(series=3))
    phantoms.close(database, not_selected={3: Reason.NOT_AXIAL})
    finish(database, phantoms, "2.25.1")
    phantoms.arrive(database, *phantoms.series(series=4))
    assert phantoms.close(database, not_selected={3: Reason.NOT_AXIAL, 4: Reason.NOT_CT})
    assert phantoms.state(database) == (SeriesState.DONE, None)
    assert phantoms.state(database, series=2) == (SeriesState.WAITING, None)
    assert phantoms.count(database, schema.job) == 2
    assert phantoms.count(database, schema.result, schema.result.c.is_current) == 1


def test_a_series_that_loses_to_a_better_one_keeps_its_result_but_not_as_current(database, phantoms):
    phantoms.waiting(database)
    finish(database, phantoms, "2.25.1")
    phantoms.arrive(database, *phantoms.series(series=2))
    phantoms.close(database, not_selected={1: Reason.BETTER_SERIES})
    assert phantoms.state(database) == (SeriesState.SET_ASIDE, Reason.BETTER_SERIES)
    assert phantoms.count(database, schema.result, ~schema.result.c.is_current) == 1
    assert phantoms.count(database, schema.outbox, schema.outbox.c.state == ObjectState.SUPERSEDED) == 1
    finish(database, phantoms, "2.25.2")
    phantoms.arrive(database, *phantoms.series(series=3))
    phantoms.close(database, not_selected={2: Reason.BETTER_SERIES, 3: Reason.NOT_CT})  # the first is chosen again
    assert phantoms.state(database) == (SeriesState.WAITING, None)
    finish(database, phantoms, "2.25.1")
    assert phantoms.state(database) == (SeriesState.DONE, None)
    assert phantoms.count(database, schema.result, schema.result.c.is_current) == 1
    assert phantoms.count(database, schema.outbox, schema.outbox.c.state == ObjectState.READY) == 1


def test_a_running_job_of_a_series_that_is_no_longer_wanted_ends_without_effect(database, phantoms):
    phantoms.waiting(database)
    (running,) = phantoms.claim(database)
    phantoms.arrive(database, *phantoms.series(series=2))
    phantoms.close(database, not_selected={1: Reason.BETTER_SERIES})
    with database.begin() as connection:
        assert not complete(connection, running, phantoms.result(running.series))
        assert [claimed.series.series_instance_uid for claimed in claim(connection, "b", 9, 60.0)] == ["1.2.1.2"]
    assert phantoms.state(database) == (SeriesState.SET_ASIDE, Reason.BETTER_SERIES)


def test_registration_of_a_large_batch(database, phantoms):
    arrivals = [each for study in range(1, 5) for each in phantoms.series(study, instances=range(1, 600))]
    assert sum(told.is_new for told in phantoms.arrive(database, *arrivals)) == 4 * 599
    with database.begin() as connection:
        assert not any(told.is_new for told in register_instances(connection, arrivals[::-1]))


def test_a_series_stands_towards_each_program_by_itself(database, phantoms):
    """There is one program yet; the rows of another are made by hand."""
    phantoms.waiting(database)
    (claimed,) = phantoms.claim(database)
    other = "SELECT count(*) FROM screening WHERE program = 'another' AND state = 'waiting'"
    with database.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO screening (series_id, program, state, selected, detail)"
            " SELECT id, 'another', 'waiting', true, '' FROM series"
        )
        complete(connection, claimed, phantoms.result(claimed.series))
        series.withdraw_results(connection, [1], Program.VERTEBRAL)
        assert connection.exec_driver_sql(other).scalar_one() == 1
    vertebral = schema.screening.c.program == Program.VERTEBRAL
    assert phantoms.count(database, schema.screening, vertebral, schema.screening.c.state == SeriesState.DONE) == 1
    phantoms.arrive(database, *phantoms.series(instances=[9]))
    assert phantoms.count(database, schema.screening) == 0
