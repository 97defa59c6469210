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
from db.events import tell
from db.origins import model_id, policy_used, run_id
from db.outcome_rows import (
    CALIBRATION,
    POLICIES,
    extras_of,
    models_of,
    numbers_of,
    vertebra_of,
)
from db.population import summary
from db.queue import Claim, held
from db.schema import (
    Change,
    JobState,
    ObjectState,
    SeriesState,
    calibration,
    extra_measurement,
    job,
    numbering,
    outbox,
    quality_flag,
    result,
    result_model,
    series,
    vertebra,
)
from db.series import lock_series, place, set_aside, withdraw_results
from db.statements import insert_into
from engine.records import (
    ReportObject,
    ScreeningResult,
    SeriesFailure,
)


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
        set_aside(connection, member, claim.program, outcome.reason, outcome.message, selected=True)
        return True
    withdraw_results(connection, [member.id], claim.program)
    result_id = _keep_result(connection, claim, member.id, outcome)
    _post(connection, result_id, objects, destinations)
    place(connection, [member.id], claim.program, SeriesState.DONE)
    tell(connection, "series", [member.series_instance_uid], Change.DONE, outcome.reason)
    summary.refresh_of_series(connection, [member.id])
    return True


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
            run_id=run_id(connection, claim.owner, claim.program, outcome.engine_version),
            is_current=True,
            **numbers_of(outcome, None),
            reason=outcome.reason,
            **models_of(outcome),
            **_policies_of(connection, outcome),
            engine_version=outcome.engine_version,
            analysed_at=outcome.analysed_at,
            recorded_at=utc_now(),
            stage_seconds=[list(stage) for stage in outcome.stage_seconds],
        )
        .returning(result.c.id)
    ).scalar_one()
    _keep_parts(connection, result_id, outcome)
    return result_id


def _keep_parts(connection: sa.Connection, result_id: int, outcome: ScreeningResult) -> None:
    """What a result has several of, each kind in a table of its own, in the order in which the result names them."""
    models = [
        {"model_id": model_id(connection, used), "precision": used.precision, "backend": used.backend}
        for used in outcome.models
    ]
    flags = [
        {"reason": flag.reason, "level": flag.finding_site, "withholds": flag.withholds, "detail": flag.detail}
        for flag in outcome.quality_flags
    ]
    calibrations = [{name: getattr(each, name) for name in CALIBRATION} for each in outcome.calibrations]
    numberings = [{"anchor": each.anchor, "shift": each.shift} for each in outcome.numberings]
    in_order: tuple[tuple[sa.Table, list[dict[str, Any]]], ...] = (
        (result_model, models),
        (quality_flag, flags),
        (calibration, calibrations),
        (numbering, numberings),
    )
    for table, rows in in_order:
        _insert(connection, table, result_id, [{"ordinal": n, **row} for n, row in enumerate(rows)])
    _insert(connection, vertebra, result_id, [vertebra_of(outcome, level) for level in outcome.levels])
    _insert(connection, extra_measurement, result_id, extras_of(outcome))


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
                series_instance_uid=each.series_instance_uid,
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
                name: new.excluded[name]
                for name in ("result_id", "series_instance_uid", "path", "attempts", "not_before", "detail")
            }
            is_sent = outbox.c.state.in_((ObjectState.SENT, ObjectState.COMMITTED))
            anew["cleared_at"] = sa.null()  # it was just written again
            anew["state"] = sa.case((is_sent, outbox.c.state), else_=new.excluded.state)
            key = [outbox.c.sop_instance_uid, outbox.c.destination]
            connection.execute(new.on_conflict_do_update(index_elements=key, set_=anew))


def _insert(connection: sa.Connection, table: sa.Table, result_id: int, rows: list[dict[str, Any]]) -> None:
    if rows:
        connection.execute(sa.insert(table), [{"result_id": result_id, **row} for row in rows])


def _policies_of(connection: sa.Connection, outcome: ScreeningResult) -> dict[str, str]:
    """The policy of each finding, by its column."""
    named = {POLICIES[each.quantity]: each.policy for each in reversed(outcome.evaluations)}
    return {column: policy_used(connection, name) for column, name in ({"policy": outcome.policy} | named).items()}
