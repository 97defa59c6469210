"""A current result, read back from its rows as the record that was given to `results.complete`."""

from typing import Any

import sqlalchemy as sa

from db.origins import model_refs
from db.outcome_rows import (
    CALIBRATION,
    JUDGED,
    LEVEL_MARKS,
    LEVELS,
    POLICIES,
    model_of,
)
from db.schema import (
    calibration,
    extra_measurement,
    numbering,
    quality_flag,
    result,
    series,
    study,
    vertebra,
)
from engine.records import (
    CLASSES,
    Calibration,
    ClassProbability,
    Evaluation,
    Measurement,
    Numbering,
    Program,
    QualityFlag,
    Quantity,
    ScreeningResult,
    VertebralLevel,
)


def current_result(
    connection: sa.Connection, series_instance_uid: str, program: Program = Program.VERTEBRAL
) -> ScreeningResult | None:
    """The current result of a series, as it was given to `complete`; None if there is none."""
    row = connection.execute(
        sa.select(result, study.c.study_instance_uid)
        .join_from(result, series)
        .join(study)
        .where(series.c.series_instance_uid == series_instance_uid, result.c.program == program, result.c.is_current)
    ).first()
    if row is None:
        return None
    vertebrae = connection.execute(sa.select(vertebra).where(vertebra.c.result_id == row.id)).all()
    in_order = sorted(vertebrae, key=lambda each: LEVELS.index(each.level))
    places: list[tuple[VertebralLevel | None, Any]] = [(each.level, each) for each in in_order] + [(None, row)]
    return ScreeningResult(
        study_instance_uid=row.study_instance_uid,
        series_instance_uid=series_instance_uid,
        program=row.program,
        levels=tuple(each.level for each in in_order),
        **{name: tuple(each.level for each in in_order if getattr(each, mark)) for mark, name in LEVEL_MARKS.items()},
        measurements=tuple(
            Measurement(quantity, value, level, model_of(row, quantity))
            for level, numbers in places
            for quantity in Quantity
            if (value := getattr(numbers, quantity, None)) is not None
        )
        + _extra_measurements(connection, row.id),
        evaluations=tuple(
            Evaluation(finding, level, getattr(row, POLICIES[quantity]), quantity)
            for level, numbers in places
            for quantity, column in JUDGED.items()
            if (finding := getattr(numbers, column)) is not None
        ),
        quality_flags=_flags(connection, row.id),
        reason=row.reason,
        class_probabilities=tuple(
            ClassProbability(finding, value, level, row.class_model)
            for level, numbers in places
            for finding in CLASSES
            if (value := getattr(numbers, f"probability_{finding}")) is not None
        ),
        calibrations=_calibrations(connection, row.id),
        numberings=_numberings(connection, row.id),
        models=model_refs(connection, row.id),
        policy=row.policy,
        engine_version=row.engine_version,
        analysed_at=row.analysed_at,
        stage_seconds=tuple((name, seconds) for name, seconds in row.stage_seconds),
    )


def _calibrations(connection: sa.Connection, result_id: int) -> tuple[Calibration, ...]:
    columns = [calibration.c[name] for name in CALIBRATION]
    query = sa.select(*columns).where(calibration.c.result_id == result_id).order_by(calibration.c.ordinal)
    return tuple(Calibration(**row._mapping) for row in connection.execute(query))


def _numberings(connection: sa.Connection, result_id: int) -> tuple[Numbering, ...]:
    query = sa.select(numbering).where(numbering.c.result_id == result_id).order_by(numbering.c.ordinal)
    return tuple(Numbering(row.anchor, row.shift) for row in connection.execute(query))


def _extra_measurements(connection: sa.Connection, result_id: int) -> tuple[Measurement, ...]:
    query = sa.select(extra_measurement).where(extra_measurement.c.result_id == result_id)
    rows = connection.execute(query.order_by(extra_measurement.c.ordinal))
    return tuple(Measurement(Quantity(row.quantity), row.value, row.finding_site, row.model) for row in rows)


def _flags(connection: sa.Connection, result_id: int) -> tuple[QualityFlag, ...]:
    query = sa.select(quality_flag).where(quality_flag.c.result_id == result_id).order_by(quality_flag.c.ordinal)
    return tuple(QualityFlag(row.reason, row.level, row.withholds, row.detail) for row in connection.execute(query))
