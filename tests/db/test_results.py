"""One result is current, it comes back as it was given, and nobody can make it two."""

import threading
from dataclasses import replace

import pytest
import sqlalchemy as sa

from db import schema
from db.connection import StatementFailed
from db.queue import reap
from db.recall import current_result
from db.results import complete
from db.schema import SeriesState
from engine.records import (
    CLASSES,
    Anchor,
    BoneFinding,
    Calibration,
    CalibrationMethod,
    ClassProbability,
    Evaluation,
    Measurement,
    Numbering,
    Quantity,
    Reason,
    ReferenceMaterial,
    VertebralLevel,
)


def test_a_result_comes_back_as_it_was_given(database, phantoms):
    phantoms.waiting(database)
    (claimed,) = phantoms.claim(database)
    given = phantoms.result(claimed.series)
    with database.begin() as connection:
        assert complete(connection, claimed, given)
    with database.read() as connection:
        assert current_result(connection, "1.2.1.1") == given
        assert current_result(connection, "1.2.404.1") is None


def everything(full):
    """A result that uses all that the records can say."""
    l1 = VertebralLevel.L1
    areal, score = Quantity.AREAL_BMD, Quantity.TRABECULAR_BONE_SCORE
    more = (
        Measurement(Quantity.CALIBRATED_BMD, 88.5, l1, "spine@1.0"),
        Measurement(areal, 0.81, None, "areal@1.0"),
        Measurement(score, 1.29, None, "tbs@1.0"),
    )
    findings = (
        Evaluation(BoneFinding.OSTEOPENIA, None, "yam@1", areal),
        Evaluation(BoneFinding.IMPAIRED_MICROARCHITECTURE, None, "tbs-131@1", score),
    )
    network, table = CalibrationMethod.NETWORK, CalibrationMethod.SITE_TABLE
    return replace(
        full,
        measurements=(*full.measurements[:4], more[0], *full.measurements[4:], *more[1:]),
        evaluations=full.evaluations + findings,
        class_probabilities=tuple(
            ClassProbability(finding, value, level, "classes@1")
            for level in (l1, None)
            for finding, value in zip(CLASSES, (0.25, 0.5, 0.25), strict=True)
        ),
        areal_levels=(l1, VertebralLevel.L2),
        calibrated_levels=(l1,),
        numberings=(Numbering(Anchor.SACRUM, 0), Numbering(Anchor.LAST_RIBS, -1)),
        calibrations=(
            Calibration(Quantity.VOLUMETRIC_BMD, network, "bmd@2.0", ReferenceMaterial.K2HPO4, 1.0, 0.0),
            Calibration(
                Quantity.CALIBRATED_BMD, table, "CT 1 of 2026", ReferenceMaterial.HA, 0.8, -12.5, ("kvp", "field")
            ),
        ),
    )


def test_all_that_the_records_can_say_comes_back(database, phantoms):
    phantoms.waiting(database)
    (claimed,) = phantoms.claim(database)
    given = everything(phantoms.result(claimed.series))
    with database.begin() as connection:
        assert complete(connection, claimed, given)
    with database.read() as connection:
        found = current_result(connection, "1.2.1.1")
    assert found is not None
    assert set(found.measurements) == set(given.measurements)
    assert replace(found, measurements=given.measurements) == given


def test_a_quantity_without_a_column_lies_in_the_side_table(database, phantoms):
    phantoms.waiting(database)
    (claimed,) = phantoms.claim(database)
    full = everything(phantoms.result(claimed.series))
    given = replace(full, measurements=(*full.measurements, Measurement(Quantity.CORE_VOLUME, 30.5, None, "spine@1.0")))
    with database.begin() as connection:
        assert complete(connection, claimed, given)
    with database.read() as connection:
        found = current_result(connection, "1.2.1.1")
        (row,) = connection.execute(sa.select(schema.extra_measurement)).all()
    assert (row.quantity, row.value, row.finding_site) == ("core_volume", 30.5, None)
    assert found is not None
    assert set(found.measurements) == set(given.measurements)


def test_runs_and_policies_are_kept_once(database, phantoms):
    phantoms.waiting(database, studies=2)
    for claimed in phantoms.claim(database, 2):
        with database.begin() as connection:
            assert complete(connection, claimed, phantoms.result(claimed.series))
    with database.read() as connection:
        (run,) = connection.execute(sa.select(schema.run)).all()
        assert (run.owner, run.results, run.engine_version) == ("tests", 2, "0.1.0")
        assert connection.execute(sa.select(schema.policy.c.name)).scalars().all() == ["acr@1"]
        assert set(connection.execute(sa.select(schema.result.c.run_id)).scalars()) == {run.id}


def test_a_result_without_a_density_keeps_its_reason(database, phantoms):
    phantoms.waiting(database)
    (claimed,) = phantoms.claim(database)
    full = phantoms.result(claimed.series)
    given = replace(full, measurements=(), evaluations=(), aggregated_levels=(), models=(), reason=Reason.CONTRAST)
    with database.begin() as connection:
        assert complete(connection, claimed, given)
    with database.read() as connection:
        assert current_result(connection, "1.2.1.1") == given
    assert phantoms.state(database) == (SeriesState.DONE, None)


def test_a_row_of_a_vertebra_leads_to_scanner_kernel_model_policy_and_version(database, phantoms):
    phantoms.waiting(database)
    (claimed,) = phantoms.claim(database)
    with database.begin() as connection:
        complete(connection, claimed, phantoms.result(claimed.series))
    s, r, v, m = schema.series.c, schema.result.c, schema.vertebra.c, schema.model.c
    joined = schema.vertebra.join(schema.result).join(schema.series)
    query = (
        sa.select(v.attenuation_mean, s.manufacturer, s.manufacturer_model_name, s.kvp, s.convolution_kernel)
        .add_columns(m.sha256, r.policy, r.engine_version, v.reason, v.aggregated)
        .select_from(joined.join(schema.result_model, schema.result_model.c.result_id == r.id).join(schema.model))
        .where(v.level == VertebralLevel.L2, m.name == "bmd")
    )
    with database.read() as connection:
        (row,) = connection.execute(query).all()
    assert tuple(row[:5]) == (99.0, "Maker", "Scanner 1", 120.0, ("B30f", "3"))
    assert tuple(row[5:]) == ("b" * 64, "acr@1", "0.1.0", Reason.DENSE_FOCUS, False)


def test_models_are_kept_once(database, phantoms):
    phantoms.waiting(database, studies=3)
    for claimed in phantoms.claim(database, 3):
        with database.begin() as connection:
            assert complete(connection, claimed, phantoms.result(claimed.series))
    assert phantoms.count(database, schema.model) == 2
    assert phantoms.count(database, schema.result_model) == 6


def test_of_many_writers_with_one_claim_one_succeeds(database, phantoms):
    phantoms.waiting(database)
    (claimed,) = phantoms.claim(database)
    told = []

    def write(density):
        with database.begin() as connection:
            result = phantoms.result(claimed.series, density)
            told.append(complete(connection, claimed, result, phantoms.objects("2.25.1"), ["PACS", "ARCHIVE"]))

    writers = [threading.Thread(target=write, args=(density,)) for density in (90.0, 100.0, 110.0, 120.0)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(told) == [False, False, False, True]
    assert phantoms.count(database, schema.result) == 1
    assert phantoms.count(database, schema.outbox) == 2


def test_the_database_itself_refuses_a_second_current_result(database, phantoms):
    phantoms.waiting(database)
    (claimed,) = phantoms.claim(database)
    with database.begin() as connection:
        complete(connection, claimed, phantoms.result(claimed.series))
    columns = [column for column in schema.result.c if column.name != "id"]
    copy = sa.insert(schema.result).from_select(columns, sa.select(*columns))
    with pytest.raises(StatementFailed, match=r"(?i)unique"), database.begin() as connection:
        connection.execute(copy)
    assert phantoms.count(database, schema.result) == 1


def test_what_fails_half_way_leaves_nothing_behind(database, phantoms):
    phantoms.waiting(database)
    (claimed,) = phantoms.claim(database)

    def half_way():
        with database.begin() as connection:
            assert complete(connection, claimed, phantoms.result(claimed.series), phantoms.objects("2.25.1"), ["PACS"])
            raise RuntimeError("the worker is killed before the transaction ends")

    with pytest.raises(RuntimeError):
        half_way()
    for table in (schema.result, schema.vertebra, schema.outbox):
        assert phantoms.count(database, table) == 0
    assert phantoms.state(database) == (SeriesState.WAITING, None)
    with database.begin() as connection:
        assert reap(connection).ready == 0
        assert complete(connection, claimed, phantoms.result(claimed.series))


@pytest.mark.parametrize(
    "wrong",
    [
        {"measurements": (Measurement(Quantity.VOLUMETRIC_BMD, float("nan"), None, "bmd@2.0"),)},
        {"measurements": (Measurement(Quantity.VOLUMETRIC_BMD, 90.0, VertebralLevel.L5, "bmd@2.0"),)},
        {"evaluations": (Evaluation(BoneFinding.NORMAL, VertebralLevel.L5, "acr@1"),)},
        {"aggregated_levels": (VertebralLevel.L5,)},
        {"series_instance_uid": "1.2.2.1"},
    ],
)
def test_an_outcome_that_can_not_be_right_is_not_kept(database, phantoms, wrong):
    phantoms.waiting(database)
    (claimed,) = phantoms.claim(database)
    with pytest.raises(ValueError, match=r"outcome|finite|level"), database.begin() as connection:
        complete(connection, claimed, replace(phantoms.result(claimed.series), **wrong))
    assert phantoms.count(database, schema.result) == 0
