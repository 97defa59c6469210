"""
What analyses said: results by vertebra, their flags, their models; superseded ones are kept.

Result, job, series and outbox change in one transaction, and only for the worker that holds the job. So a series has
exactly one current result or one reason, however often and by whomever it was worked on.
"""

from collections.abc import Sequence
from math import isfinite
from typing import Any

import sqlalchemy as sa

from db.columns import utc_now
from db.connection import insert_into
from db.events import tell
from db.queue import Claim, held
from db.schema import (
    Change,
    JobState,
    ObjectState,
    SeriesState,
    job,
    model,
    outbox,
    quality_flag,
    result,
    result_model,
    series,
    study,
    vertebra,
)
from db.series import lock_series, set_aside, withdraw_results
from engine.records import (
    Evaluation,
    Measurement,
    ModelRef,
    Program,
    QualityFlag,
    Quantity,
    ReportObject,
    ScreeningResult,
    SeriesFailure,
    VertebralLevel,
)

_LEVELS = tuple(VertebralLevel)
KEPT = tuple(quantity for quantity in Quantity if quantity.value in result.c)
"""The quantities that have a column."""


def complete(
    connection: sa.Connection,
    claim: Claim,
    outcome: ScreeningResult | SeriesFailure,
    objects: Sequence[ReportObject] = (),
    destinations: Sequence[str] = (),
) -> bool:
    """Write down how an analysis ended.

    A result becomes the current one of its series and program; what was not sent of an earlier one stays unsent.
    Each object waits for each destination; one that was sent there before (same SOP Instance UID) is not sent again.
    A failure sets the series aside with its reason; it is an answer, and not tried again.

    Returns:
        False, and nothing is kept, if the claim was lost or the series changed meanwhile.

    Raises:
        ValueError: a number is not finite, or the outcome is of another series than the claim.
    """
    _check(claim, outcome)
    members = lock_series(connection, series.c.series_instance_uid == claim.series.series_instance_uid)
    if not members or members[0].revision != claim.revision:
        return False
    member = members[0]
    failure = outcome if isinstance(outcome, SeriesFailure) else None
    ended = connection.execute(
        sa.update(job)
        .where(held([claim]))
        .values(
            state=JobState.DONE,
            owner=None,
            lease_until=None,
            ended_at=utc_now(),
            reason=failure.reason if failure else None,
            detail=failure.message if failure else "",
        )
    )
    if ended.rowcount != 1:
        return False
    if isinstance(outcome, SeriesFailure):
        set_aside(connection, member.id, outcome.reason, outcome.message)
        return True
    withdraw_results(connection, [member.id])
    result_id = _keep_result(connection, claim, member.id, outcome)
    _post(connection, result_id, objects, destinations)
    connection.execute(
        sa.update(series).where(series.c.id == member.id).values(state=SeriesState.DONE, reason=None, detail="")
    )
    tell(connection, "series", [member.series_instance_uid], Change.DONE, outcome.reason)
    return True


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
    in_order = sorted(vertebrae, key=lambda each: _LEVELS.index(each.level))
    places: list[tuple[VertebralLevel | None, Any]] = [(each.level, each) for each in in_order] + [(None, row)]
    return ScreeningResult(
        study_instance_uid=row.study_instance_uid,
        series_instance_uid=series_instance_uid,
        program=row.program,
        levels=tuple(each.level for each in in_order),
        aggregated_levels=tuple(each.level for each in in_order if each.aggregated),
        measurements=tuple(
            Measurement(quantity, value, level, _model_of(row, quantity))
            for level, numbers in places
            for quantity in KEPT
            if (value := getattr(numbers, quantity)) is not None
        ),
        evaluations=tuple(
            Evaluation(numbers.finding, level, row.policy) for level, numbers in places if numbers.finding is not None
        ),
        quality_flags=_flags(connection, row.id),
        reason=row.reason,
        models=_models(connection, row.id),
        policy=row.policy,
        engine_version=row.engine_version,
        analysed_at=row.analysed_at,
        stage_seconds=tuple((name, seconds) for name, seconds in row.stage_seconds),
    )


def _check(claim: Claim, outcome: ScreeningResult | SeriesFailure) -> None:
    if (outcome.series_instance_uid, outcome.program) != (claim.series.series_instance_uid, claim.program):
        raise ValueError("the outcome is of another series or program than the claim")
    if isinstance(outcome, SeriesFailure):
        return
    if not all(isfinite(measurement.value) for measurement in outcome.measurements):
        raise ValueError("a measurement is not a finite number")
    sites = {each.finding_site for each in outcome.measurements} | {each.finding_site for each in outcome.evaluations}
    if not sites | set(outcome.aggregated_levels) <= {None, *outcome.levels}:
        raise ValueError("a number or finding is of a level that the result does not name")


def _keep_result(connection: sa.Connection, claim: Claim, series_id: int, outcome: ScreeningResult) -> int:
    result_id: int = connection.execute(
        sa.insert(result)
        .values(
            series_id=series_id,
            job_id=claim.job_id,
            program=claim.program,
            revision=claim.revision,
            is_current=True,
            **_numbers(outcome, None),
            reason=outcome.reason,
            attenuation_model=_model_among(outcome, set(Quantity) - {Quantity.VOLUMETRIC_BMD}),
            density_model=_model_among(outcome, {Quantity.VOLUMETRIC_BMD}),
            policy=outcome.policy,
            engine_version=outcome.engine_version,
            analysed_at=outcome.analysed_at,
            recorded_at=utc_now(),
            stage_seconds=[list(stage) for stage in outcome.stage_seconds],
        )
        .returning(result.c.id)
    ).scalar_one()
    _insert(connection, vertebra, [{"result_id": result_id, **_vertebra(outcome, level)} for level in outcome.levels])
    flags = [
        {
            "result_id": result_id,
            "ordinal": ordinal,
            "reason": flag.reason,
            "level": flag.finding_site,
            "withholds": flag.withholds,
            "detail": flag.detail,
        }
        for ordinal, flag in enumerate(outcome.quality_flags)
    ]
    _insert(connection, quality_flag, flags)
    models = [
        {
            "result_id": result_id,
            "ordinal": ordinal,
            "model_id": _model_id(connection, used),
            "precision": used.precision,
            "backend": used.backend,
        }
        for ordinal, used in enumerate(outcome.models)
    ]
    _insert(connection, result_model, models)
    return result_id


def _post(
    connection: sa.Connection, result_id: int, objects: Sequence[ReportObject], destinations: Sequence[str]
) -> None:
    """Objects wait for each destination; what a destination has already under the same UID, it is not sent again."""
    for each in objects:
        for destination in destinations:
            new = insert_into(connection, outbox).values(
                result_id=result_id,
                kind=each.kind,
                sop_class_uid=each.sop_class_uid,
                sop_instance_uid=each.sop_instance_uid,
                path=each.path,
                destination=destination,
                state=ObjectState.READY,
                attempts=0,
                token=0,
                not_before=utc_now(),
                detail="",
                created_at=utc_now(),
            )
            anew: dict[str, sa.ColumnElement[Any]] = {
                name: new.excluded[name] for name in ("result_id", "path", "attempts", "not_before", "detail")
            }
            is_sent = outbox.c.state == ObjectState.SENT
            anew["state"] = sa.case((is_sent, outbox.c.state), else_=new.excluded.state)
            key = [outbox.c.sop_instance_uid, outbox.c.destination]
            connection.execute(new.on_conflict_do_update(index_elements=key, set_=anew))


def _insert(connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]]) -> None:
    if rows:
        connection.execute(sa.insert(table), rows)


def _numbers(outcome: ScreeningResult, level: VertebralLevel | None) -> dict[str, Any]:
    numbers: dict[str, Any] = {quantity.value: outcome.value(quantity, level) for quantity in KEPT}
    return {**numbers, "finding": outcome.finding(level)}


def _vertebra(outcome: ScreeningResult, level: VertebralLevel) -> dict[str, Any]:
    withholding = [flag.reason for flag in outcome.flags(level) if flag.withholds]
    return {
        "level": level,
        **_numbers(outcome, level),
        "reason": withholding[0] if withholding else None,
        "aggregated": level in outcome.aggregated_levels,
    }


def _model_among(outcome: ScreeningResult, quantities: set[Quantity]) -> str | None:
    return next((each.model for each in outcome.measurements if each.quantity in quantities), None)


def _model_of(row: Any, quantity: Quantity) -> str:
    return str(row.density_model if quantity is Quantity.VOLUMETRIC_BMD else row.attenuation_model)


def _model_id(connection: sa.Connection, used: ModelRef) -> int:
    said = {"sha256": used.sha256, "name": used.name, "version": used.version}
    new = insert_into(connection, model).values(**said, reference_only=used.reference_only)
    connection.execute(new.on_conflict_do_nothing(index_elements=[model.c[name] for name in said]))
    query = sa.select(model.c.id).where(*(model.c[name] == value for name, value in said.items()))
    found: int = connection.execute(query).scalar_one()
    return found


def _flags(connection: sa.Connection, result_id: int) -> tuple[QualityFlag, ...]:
    query = sa.select(quality_flag).where(quality_flag.c.result_id == result_id).order_by(quality_flag.c.ordinal)
    return tuple(QualityFlag(row.reason, row.level, row.withholds, row.detail) for row in connection.execute(query))


def _models(connection: sa.Connection, result_id: int) -> tuple[ModelRef, ...]:
    rows = connection.execute(
        sa.select(model, result_model.c.precision, result_model.c.backend)
        .join_from(result_model, model)
        .where(result_model.c.result_id == result_id)
        .order_by(result_model.c.ordinal)
    )
    return tuple(
        ModelRef(row.name, row.version, row.sha256, row.reference_only, row.precision, row.backend) for row in rows
    )
