"""
Keeps the table `population`: one flat row for each current result, with how the patient stood before.

One statement makes the rows of some patients or of all. So what is kept up to date from result to result is the same
as what would be made anew, and look-ups and views of ten million measurements read a narrow table.
"""

import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from db.schema import model, population, result, result_model, series, study, vertebra
from db.statements import LONGEST_LIST

PATIENT_LOCKS = 7402  # class of PostgreSQL's advisory locks; ours, and means nothing
LONG_AGO = -1_000_000  # days; sorts an unknown day before every known one


def refresh(connection: sa.Connection, patient_keys: Iterable[str]) -> None:
    """Make the rows of some patients anew, after their results changed. Call it last in a transaction.

    Until the transaction ends no other changes these patients' rows.
    """
    patients = sorted(set(patient_keys))
    _lock(connection, patients)
    for start in range(0, len(patients), LONGEST_LIST):
        piece = patients[start : start + LONGEST_LIST]
        connection.execute(sa.delete(population).where(population.c.patient_key.in_(piece)))
        connection.execute(_insert(study.c.patient_key.in_(piece)))


def refresh_of_series(connection: sa.Connection, series_ids: Sequence[int]) -> None:
    """Make the rows anew of the patients whose series these are."""
    query = sa.select(study.c.patient_key).join_from(series, study).where(series.c.id.in_(series_ids))
    refresh(connection, connection.execute(query).scalars())


def rebuild(connection: sa.Connection) -> None:
    """Make every row anew."""
    connection.execute(sa.delete(population))
    connection.execute(_insert(sa.true()))


def _lock(connection: sa.Connection, patients: Sequence[str]) -> None:
    """Two results of one patient may come at once; in order, so that no two transactions wait for each other."""
    if connection.dialect.name == "postgresql":
        for number in sorted({zlib.crc32(patient.encode()) - 2**31 for patient in patients}):
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(PATIENT_LOCKS, sa.cast(number, sa.Integer))))


def _insert(condition: sa.ColumnElement[bool]) -> sa.Insert:
    rows = _current(condition).subquery()
    dated = rows.c.eligible & rows.c.study_day.is_not(None)
    day = sa.func.coalesce(rows.c.study_day, LONG_AGO)
    in_time: dict[str, Any] = {
        "partition_by": (rows.c.program, rows.c.patient_key, dated),
        "order_by": (day, rows.c.result_id),
    }
    latest_first: dict[str, Any] = {
        "partition_by": (rows.c.program, rows.c.patient_key, rows.c.eligible),
        "order_by": (day.desc(), rows.c.result_id.desc()),
    }

    def earlier(place: Any, name: str) -> sa.ColumnElement[Any]:
        is_first = sa.func.row_number().over(**in_time) == 1
        return sa.case((dated & ~is_first, place(rows.c[name]).over(**in_time)))

    columns: dict[str, sa.ColumnElement[Any]] = {name: rows.c[name] for name in rows.c.keys()}  # noqa: SIM118
    columns["is_latest"] = rows.c.eligible & (sa.func.row_number().over(**latest_first) == 1)
    for when, place in (("previous", sa.func.lag), ("first", sa.func.first_value)):
        columns[f"{when}_day"] = earlier(place, "study_day")
        columns[f"{when}_bmd"] = earlier(place, "volumetric_bmd")
        columns[f"{when}_scanner_id"] = earlier(place, "scanner_id")
    query = sa.select(*(column.label(name) for name, column in columns.items()))
    return sa.insert(population).from_select(list(columns), query)


def _current(condition: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """Current results, flat."""
    reference_only = sa.exists().where(
        result_model.c.result_id == result.c.id, model.c.id == result_model.c.model_id, model.c.reference_only
    )
    cores = (
        sa.select(sa.func.avg(vertebra.c.attenuation_mean))
        .where(vertebra.c.result_id == result.c.id, vertebra.c.aggregated)
        .scalar_subquery()
    )
    return (
        sa.select(
            result.c.id.label("result_id"),
            result.c.series_id,
            result.c.program,
            study.c.patient_key,
            series.c.study_date,
            series.c.study_day,
            series.c.patient_sex,
            series.c.patient_age,
            (series.c.patient_age // 10 * 10).label("age_decade"),
            series.c.scanner_id,
            cores.label("attenuation_mean"),
            result.c.volumetric_bmd,
            result.c.calibrated_bmd,
            result.c.areal_bmd,
            result.c.trabecular_bone_score,
            result.c.finding,
            result.c.reason,
            reference_only.label("reference_only"),
            (result.c.reason.is_(None) & result.c.volumetric_bmd.is_not(None)).label("eligible"),
        )
        .select_from(result.join(series).join(study))
        .where(result.c.is_current, condition)
    )
