"""
Series as rows: read back as the records that the engine takes, and brought from one state to another.

The headers of a series are kept in the few wordings that occur in it, so the very function that groups a folder's
files makes the series here too: what is analysed does not depend on the order in which instances came.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import fields
from functools import lru_cache
from operator import attrgetter
from typing import Any, NamedTuple

import sqlalchemy as sa

from db.columns import utc_now
from db.events import tell
from db.population import summary
from db.scanners import scanner_ids, study_day
from db.schema import (
    Change,
    JobState,
    ObjectState,
    SeriesState,
    densitometry,
    header,
    instance,
    job,
    outbox,
    result,
    screening,
    series,
    study,
)
from db.statements import insert_into
from engine.records import InstanceHeader, Program, Reason, SeriesRef
from engine.series import series_of

DENSITOMETRY = "BMD"
"""Modality of bone densitometry by X-rays (DICOM PS3.3, C.7.3.1.1.1)."""

_OF_THE_INSTANCE = (
    "study_instance_uid",
    "series_instance_uid",
    "sop_instance_uid",
    "patient_key",
    "instance_number",
    "image_position_patient",
)
_OF_THE_SERIES = tuple(field.name for field in fields(InstanceHeader) if field.name not in _OF_THE_INSTANCE)
_values_of_the_series = attrgetter(*_OF_THE_SERIES)


class SeriesRow(NamedTuple):
    """A series as the registry and the queue handle it."""

    id: int
    series_instance_uid: str
    revision: int


def wording(said: InstanceHeader) -> tuple[str, str]:
    """What a header says beyond its own instance: SHA-256, and the JSON that it is of."""
    return _worded(_values_of_the_series(said))


@lru_cache(maxsize=256)
def _worded(values: tuple[object, ...]) -> tuple[str, str]:
    """Most slices of a series say the same."""
    attributes = json.dumps(dict(zip(_OF_THE_SERIES, values, strict=True)), sort_keys=True)
    return hashlib.sha256(attributes.encode()).hexdigest(), attributes


def read_series(connection: sa.Connection, series_ids: Sequence[int]) -> dict[int, SeriesRef]:
    """Series with all their instances, by row id."""
    wordings = {
        row.id: json.loads(row.attributes)
        for row in connection.execute(
            sa.select(header.c.id, header.c.attributes).where(header.c.series_id.in_(series_ids))
        )
    }
    rows = connection.execute(
        sa.select(
            series.c.id,
            study.c.study_instance_uid,
            study.c.patient_key,
            series.c.series_instance_uid,
            instance.c.sop_instance_uid,
            instance.c.instance_number,
            instance.c.image_position_patient,
            instance.c.header_id,
            instance.c.path,
        )
        .join_from(instance, series)
        .join(study)
        .where(series.c.id.in_(series_ids))
    ).all()
    row_ids = {row.series_instance_uid: row.id for row in rows}
    found = series_of((_header(row, wordings[row.header_id]), row.path) for row in rows)
    return {row_ids[ref.series_instance_uid]: ref for ref in found}


def has_forgotten(connection: sa.Connection, series_id: int) -> bool:
    """Whether received files of a series were cleared."""
    query = sa.select(instance.c.id).where(instance.c.series_id == series_id, instance.c.cleared_at.is_not(None))
    return connection.execute(query.limit(1)).first() is not None


def lock_series(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> list[SeriesRow]:
    """Series that nobody else changes until the transaction ends."""
    rows = connection.execute(
        sa.select(series.c.id, series.c.series_instance_uid, series.c.revision)
        .where(condition)
        .order_by(series.c.id)
        .with_for_update(key_share=True)
    )
    return [SeriesRow(*row) for row in rows]


def describe(connection: sa.Connection, series_ids: Sequence[int]) -> None:
    """Write what the headers of each series say together into its columns, for people and population studies."""
    columns = [field.name for field in fields(SeriesRef) if field.name in series.c]
    refs = read_series(connection, series_ids)
    scanners = scanner_ids(connection, refs.values())
    for row_id, ref in refs.items():
        said = {name: getattr(ref, name) for name in columns}
        said |= {"scanner_id": scanners[ref.series_instance_uid], "study_day": study_day(ref.study_date)}
        connection.execute(
            sa.update(series).where(series.c.id == row_id).values(instance_count=len(ref.instances), **said)
        )
        if ref.modality == DENSITOMETRY and said["study_day"] is not None:
            _keep_densitometry(connection, ref, said["study_day"])


def place(
    connection: sa.Connection,
    series_ids: Sequence[int],
    program: Program,
    state: SeriesState,
    *,
    selected: bool = True,
    reason: Reason | None = None,
    detail: str = "",
) -> None:
    """Say where series stand towards a program."""
    new = insert_into(connection, screening)
    said = {name: new.excluded[name] for name in ("state", "selected", "reason", "detail")}
    rows = [
        {
            "series_id": series_id,
            "program": program,
            "state": state,
            "selected": selected,
            "reason": reason,
            "detail": detail,
        }
        for series_id in sorted(series_ids)
    ]
    key = [screening.c.series_id, screening.c.program]
    if rows:
        connection.execute(new.on_conflict_do_update(index_elements=key, set_=said), rows)


def set_aside(
    connection: sa.Connection, member: SeriesRow, program: Program, reason: Reason, detail: str, *, selected: bool
) -> None:
    """End a series without a result of a program. A result that it had is no longer current.

    Args:
        selected: False: by its headers; True: by what loading or analysis found.
    """
    withdraw_results(connection, [member.id], program)
    place(connection, [member.id], program, SeriesState.SET_ASIDE, selected=selected, reason=reason, detail=detail)
    tell(connection, "series", [member.series_instance_uid], Change.SET_ASIDE, reason, detail)


def withdraw_results(connection: sa.Connection, series_ids: Sequence[int], program: Program | None = None) -> None:
    """Results that are current are so no longer, and what was not sent of them stays unsent.

    Args:
        program: None: of every program.
    """
    ours = sa.true() if program is None else result.c.program == program
    withdrawn = (
        connection.execute(
            sa.update(result)
            .where(result.c.series_id.in_(series_ids), result.c.is_current, ours)
            .values(is_current=False)
            .returning(result.c.id)
        )
        .scalars()
        .all()
    )
    if not withdrawn:
        return
    unsent = (ObjectState.READY, ObjectState.LEASED, ObjectState.DEAD)
    uids = connection.execute(
        sa.update(outbox)
        .where(outbox.c.result_id.in_(withdrawn), outbox.c.state.in_(unsent))
        .values(state=ObjectState.SUPERSEDED, owner=None, lease_until=None)
        .returning(outbox.c.sop_instance_uid)
    ).scalars()
    tell(connection, "object", set(uids), Change.SUPERSEDED)
    summary.refresh_of_series(connection, series_ids)


def obsolete_jobs(connection: sa.Connection, series_ids: Iterable[int], program: Program | None = None) -> None:
    """Jobs that wait, run or failed are not wanted any more; who works on one will find its claim lost.

    Args:
        program: None: of every program.
    """
    ours = sa.true() if program is None else job.c.program == program
    unfinished = job.c.state.in_((JobState.READY, JobState.LEASED, JobState.DEAD))
    connection.execute(
        sa.update(job)
        .where(job.c.series_id.in_(list(series_ids)), unfinished, ours)
        .values(state=JobState.OBSOLETE, owner=None, lease_until=None, ended_at=utc_now())
    )


def _keep_densitometry(connection: sa.Connection, ref: SeriesRef, day: int) -> None:
    new = insert_into(connection, densitometry).values(
        patient_key=ref.patient_key,
        examination_day=day,
        kind=DENSITOMETRY,
        examination_date=ref.study_date,
        origin="archive",
    )
    connection.execute(new.on_conflict_do_nothing())


def _header(row: Any, attributes: dict[str, Any]) -> InstanceHeader:
    said = {name: _as_given(attributes.get(name)) for name in _OF_THE_SERIES}
    own = {name: getattr(row, name) for name in _OF_THE_INSTANCE}
    return InstanceHeader(**own, **said)


def _as_given(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
