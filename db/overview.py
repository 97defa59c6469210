"""
How things stand, for people: counts, one study explained, the results as a table, what happened lately.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from db.columns import utc_now
from db.schema import (
    Change,
    JobState,
    ObjectState,
    SeriesState,
    StudyState,
    event,
    instance,
    job,
    model,
    outbox,
    population,
    refusal,
    result,
    result_model,
    screening,
    selection,
    series,
    study,
    vertebra,
)
from engine.records import BoneFinding, Program, Reason, VertebralLevel


@dataclass(frozen=True, slots=True)
class Counts:
    """How many there are in each state; a state without any is not named."""

    studies: dict[str, int]
    series: dict[str, int]
    set_aside: dict[str, int]  # series set aside, by reason
    jobs: dict[str, int]
    outbox: dict[str, int]
    destinations: dict[str, dict[str, int]]  # the outbox again, by destination
    refusals: dict[str, int]  # instances, by reason
    instances: int  # in the spool
    instance_bytes: int  # what they take in the spool
    oldest_job_s: float | None  # how long the oldest unfinished job has waited
    oldest_object_s: float | None  # how long the oldest unsent object has waited


@dataclass(frozen=True, slots=True)
class SeriesExplained:
    """What became of one series of a study, and why."""

    series_instance_uid: str
    modality: str | None  # None: not closed yet
    image_type: tuple[str, ...]
    slice_thickness: float | None  # mm
    convolution_kernel: tuple[str, ...]
    instances: int
    revision: int
    selected: bool | None  # None: not yet decided
    score: float | None
    state: SeriesState
    reason: Reason | None  # why it is set aside
    detail: str
    job: JobState | None
    attempts: int
    lines: tuple["ResultLine", ...]  # of its current result: the patient's first, then head to foot
    objects: tuple[tuple[str, str, ObjectState, str], ...]  # kind, destination, state, what was said last of it


@dataclass(frozen=True, slots=True)
class StudyExplained:
    """What became of a study."""

    study_instance_uid: str
    patient_key: str
    state: StudyState
    revision: int
    series: tuple[SeriesExplained, ...]


@dataclass(frozen=True, slots=True)
class ResultLine:
    """One line of a result: a vertebra, or the patient's value."""

    patient_key: str
    study_instance_uid: str
    series_instance_uid: str
    study_date: str | None  # YYYYMMDD
    level: VertebralLevel | None  # None: the patient
    attenuation_mean: float | None  # HU
    volumetric_bmd: float | None  # mg/cm3
    finding: BoneFinding | None
    reason: Reason | None  # why a number is missing
    reference_only: bool  # a model was trained on phantoms: not for diagnosis


@dataclass(frozen=True, slots=True)
class EventLine:
    """Something that happened."""

    at: datetime
    subject: str  # "study", "series", "object"
    uid: str
    change: Change
    reason: Reason | None
    detail: str


def counts(connection: sa.Connection) -> Counts:
    """How many there are of everything, by state."""
    unsent = outbox.c.state.in_((ObjectState.READY, ObjectState.LEASED))
    in_spool = instance.c.cleared_at.is_(None)
    return Counts(
        studies=_by(connection, study.c.state),
        series=_series_by_state(connection),
        set_aside=_by(connection, screening.c.reason, screening.c.state == SeriesState.SET_ASIDE),
        jobs=_by(connection, job.c.state),
        outbox=_by(connection, outbox.c.state),
        destinations=_by_destination(connection),
        refusals=_by(connection, refusal.c.reason),
        instances=connection.execute(sa.select(sa.func.count(instance.c.id)).where(in_spool)).scalar_one(),
        instance_bytes=int(
            connection.execute(sa.select(sa.func.sum(instance.c.size_bytes)).where(in_spool)).scalar_one() or 0
        ),
        oldest_job_s=oldest_job_s(connection),
        oldest_object_s=_age_of_oldest(connection, outbox.c.created_at, unsent),
    )


def oldest_job_s(connection: sa.Connection) -> float | None:
    """How long the oldest unfinished job has waited; None: there is none."""
    return _age_of_oldest(connection, job.c.created_at, job.c.state.in_((JobState.READY, JobState.LEASED)))


def stage_seconds(connection: sa.Connection, latest: int = 100) -> dict[str, float]:
    """What each stage of an analysis took, in the mean over the latest results."""
    sums: dict[str, list[float]] = {}
    query = sa.select(result.c.stage_seconds).order_by(result.c.id.desc()).limit(latest)
    for stages in connection.execute(query).scalars():
        for stage, seconds in stages:
            sums.setdefault(stage, []).append(seconds)
    return {stage: sum(values) / len(values) for stage, values in sums.items()}


def explain(
    connection: sa.Connection, study_instance_uid: str, program: Program = Program.VERTEBRAL
) -> StudyExplained | None:
    """Each series of a study: chosen or why not, how it stands, what came out; None if the study is unknown."""
    about = connection.execute(sa.select(study).where(study.c.study_instance_uid == study_instance_uid)).first()
    if about is None:
        return None
    n_instances = sa.select(sa.func.count(instance.c.id)).where(instance.c.series_id == series.c.id).scalar_subquery()
    rows = connection.execute(
        sa.select(
            series,
            n_instances.label("n_instances"),
            selection.c.id.label("selection_id"),
            selection.c.reason.label("not_selected"),
            selection.c.score,
            sa.func.coalesce(screening.c.state, SeriesState.RECEIVING).label("state"),
            screening.c.reason,
            sa.func.coalesce(screening.c.detail, "").label("detail"),
            job.c.state.label("job_state"),
            job.c.attempts,
        )
        .select_from(series)
        .outerjoin(selection, _latest(selection, selection.c.study_revision, program))
        .outerjoin(screening, (screening.c.series_id == series.c.id) & (screening.c.program == program))
        .outerjoin(job, _latest(job, job.c.revision, program))
        .where(series.c.study_id == about.id)
        .order_by(series.c.series_instance_uid)
    ).all()
    lines = _lines(connection, (series.c.study_id == about.id) & (result.c.program == program))
    return StudyExplained(
        study_instance_uid,
        about.patient_key,
        about.state,
        about.revision,
        tuple(_explained(connection, row, lines) for row in rows),
    )


def events(connection: sa.Connection, uid: str | None = None, limit: int = 100) -> tuple[EventLine, ...]:
    """What happened, latest first: to one study, series or object, or to all."""
    query = sa.select(event).order_by(event.c.id.desc()).limit(limit)
    rows = connection.execute(query if uid is None else query.where(event.c.uid == uid))
    return tuple(EventLine(row.at, row.subject, row.uid, row.change, row.reason, row.detail) for row in rows)


def _by(
    connection: sa.Connection, column: sa.ColumnElement[Any], *conditions: sa.ColumnElement[bool]
) -> dict[str, int]:
    rows = connection.execute(sa.select(column, sa.func.count()).where(*conditions).group_by(column).order_by(column))
    return {str(value): count for value, count in rows}


def _series_by_state(connection: sa.Connection) -> dict[str, int]:
    """Once for each program that decided about it; those of open studies once."""
    undecided = ~sa.exists().where(screening.c.series_id == series.c.id)
    receiving = connection.execute(sa.select(sa.func.count()).select_from(series).where(undecided)).scalar_one()
    counted = _by(connection, screening.c.state)
    return dict(sorted((counted | ({SeriesState.RECEIVING.value: receiving} if receiving else {})).items()))


def _by_destination(connection: sa.Connection) -> dict[str, dict[str, int]]:
    columns = (outbox.c.destination, outbox.c.state)
    counted: dict[str, dict[str, int]] = {}
    for destination, state, count in connection.execute(
        sa.select(*columns, sa.func.count()).group_by(*columns).order_by(*columns)
    ):
        counted.setdefault(destination, {})[str(state)] = count
    return counted


def _age_of_oldest(
    connection: sa.Connection, column: sa.ColumnElement[datetime], condition: sa.ColumnElement[bool]
) -> float | None:
    oldest, now = connection.execute(
        sa.select(sa.func.min(column, type_=column.type), utc_now()).where(condition)
    ).one()
    return None if oldest is None else max(0.0, (now - oldest).total_seconds())


def _latest(table: sa.Table, revision: sa.ColumnElement[int], program: Program) -> sa.ColumnElement[bool]:
    """The row of a series and program that is of the highest revision."""
    other = table.alias()
    highest = sa.select(sa.func.max(other.c[revision.name])).where(
        other.c.series_id == series.c.id, other.c.program == program
    )
    return sa.and_(table.c.series_id == series.c.id, table.c.program == program, revision == highest.scalar_subquery())


def _explained(connection: sa.Connection, row: Any, lines: list[ResultLine]) -> SeriesExplained:
    objects = connection.execute(
        sa.select(outbox.c.kind, outbox.c.destination, outbox.c.state, outbox.c.detail)
        .join(result)
        .where(result.c.series_id == row.id)
        .order_by(outbox.c.id)
    )
    return SeriesExplained(
        series_instance_uid=row.series_instance_uid,
        modality=row.modality,
        image_type=row.image_type or (),
        slice_thickness=row.slice_thickness,
        convolution_kernel=row.convolution_kernel or (),
        instances=row.n_instances,
        revision=row.revision,
        selected=None if row.selection_id is None else row.not_selected is None,
        score=row.score,
        state=row.state,
        reason=row.reason,
        detail=row.detail,
        job=row.job_state,
        attempts=row.attempts or 0,
        lines=tuple(
            sorted((line for line in lines if line.series_instance_uid == row.series_instance_uid), key=_height)
        ),
        objects=tuple((row.kind, row.destination, row.state, row.detail) for row in objects),
    )


def _lines(connection: sa.Connection, *conditions: sa.ColumnElement[bool]) -> list[ResultLine]:
    """Lines of current results: the patient's and each vertebra's."""
    reference = sa.exists().where(
        result_model.c.result_id == result.c.id, model.c.id == result_model.c.model_id, model.c.reference_only
    )
    of_series = (study.c.patient_key, study.c.study_instance_uid, series.c.series_instance_uid, series.c.study_date)
    lines = []
    results = result.join(series).join(study)
    patients = results.outerjoin(population, population.c.result_id == result.c.id)
    vertebrae = results.join(vertebra, vertebra.c.result_id == result.c.id)
    nobody = sa.null().label("level")
    for rows, level, core, numbers in (
        (patients, nobody, population, result),
        (vertebrae, vertebra.c.level, vertebra, vertebra),
    ):
        query = sa.select(
            *of_series,
            level,
            core.c.attenuation_mean,
            numbers.c.volumetric_bmd,
            numbers.c.finding,
            numbers.c.reason,
            reference.label("reference_only"),
        )
        found = connection.execute(query.select_from(rows).where(result.c.is_current, *conditions))
        lines += [ResultLine(**row._mapping) for row in found]
    return lines


_HEIGHTS = {level: height for height, level in enumerate(VertebralLevel, start=1)}


def _height(line: ResultLine) -> int:
    return 0 if line.level is None else _HEIGHTS[line.level]
