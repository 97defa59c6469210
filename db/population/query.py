"""
Questions to the population: a view or any SELECT, the cohort by criteria, the results that references are held against.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from db.connection import Database
from db.population import views
from db.population.export import TABLES
from db.schema import densitometry, population, scanner, series, study
from db.statements import insert_into, rows_where_in
from engine.errors import BadOption, DeploymentError
from engine.records import Program

READABLE = (*TABLES, "selection")
"""Tables that `grant_reader` lets a role read: what is exported, and the history of choices; no paths, no jobs."""

STATEMENT_LIMIT = "10min"  # our choice: of a reader's statement on PostgreSQL


@dataclass(frozen=True, slots=True)
class Answer:
    """Rows of a question."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True, slots=True)
class Criteria:
    """Whom a cohort includes; None: everybody."""

    program: Program = Program.VERTEBRAL
    patient_sex: str | None = None
    youngest: int | None = None  # years, included
    oldest: int | None = None  # years, included
    since: str | None = None  # YYYYMMDD, included
    until: str | None = None  # YYYYMMDD, included
    finding: str | None = None
    manufacturer: str | None = None
    kvp: float | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """A current result, as far as references are held against it."""

    patient_key: str
    accession_key: str | None
    study_instance_uid: str
    series_instance_uid: str
    study_day: int | None
    patient_sex: str | None
    patient_age: int | None
    manufacturer: str | None
    scanner: str | None
    volumetric_bmd: float | None
    calibrated_bmd: float | None
    attenuation_mean: float | None
    areal_bmd: float | None
    trabecular_bone_score: float | None
    finding: str | None
    reason: str | None
    reference_only: bool


def ask(database: Database, question: str, limit: int | None = None) -> Answer:
    """The rows of a view, by its name, or of one SELECT.

    Args:
        database: opened read-only, so that no question can change anything.
        limit: so many rows at most.

    Raises:
        BadOption: the database refuses the statement; in its own words.
        DatabaseUnavailable: and others of `Database.read`.
    """
    said = question.strip().rstrip(";")
    if re.fullmatch(r"\w+", said):
        if said not in views.definitions():
            raise BadOption(f"there is no view '{said}'; there are {', '.join(sorted(views.definitions()))}")
        said = f"SELECT * FROM {said}"
    with database.read() as connection:
        is_format = connection.dialect.paramstyle in ("format", "pyformat")
        try:
            answered = connection.exec_driver_sql(said.replace("%", "%%") if is_format else said)
            if not answered.returns_rows:
                raise BadOption("the statement gives no rows; a query is one SELECT")
            rows = answered.fetchall() if limit is None else answered.fetchmany(limit)
        except DBAPIError as refused:
            if refused.connection_invalidated or not _is_of_the_statement(refused):
                raise
            words = str(refused.orig).strip().splitlines()
            raise BadOption(f"the database refuses the query: {words[0] if words else 'no reason given'}") from None
        return Answer(tuple(answered.keys()), tuple(tuple(row) for row in rows))


def cohort(database: Database, criteria: Criteria) -> Answer:
    """Rows of the view `cohort` that meet the criteria, by patient."""
    view = sa.table("cohort", *(sa.column(name) for name in _columns(database, "cohort")))
    wanted = [view.c.program == criteria.program.value]
    for column, value in (
        (view.c.patient_sex, criteria.patient_sex),
        (view.c.finding, criteria.finding),
        (view.c.manufacturer, criteria.manufacturer),
        (view.c.kvp, criteria.kvp),
    ):
        if value is not None:
            wanted.append(column == value)
    for column, low, high in (
        (view.c.patient_age, criteria.youngest, criteria.oldest),
        (view.c.study_date, criteria.since, criteria.until),
    ):
        wanted += [] if low is None else [column >= low]
        wanted += [] if high is None else [column <= high]
    with database.read() as connection:
        found = connection.execute(sa.select(view).where(*wanted).order_by(view.c.patient_key))
        return Answer(tuple(found.keys()), tuple(tuple(row) for row in found))


def measured(
    database: Database,
    *,
    patient_keys: Iterable[str] = (),
    accession_keys: Iterable[str] = (),
    study_instance_uids: Iterable[str] = (),
    program: Program = Program.VERTEBRAL,
) -> tuple[Measured, ...]:
    """Current results of some patients, examinations or studies."""
    query = (
        sa.select(
            population.c.patient_key,
            series.c.accession_key,
            study.c.study_instance_uid,
            series.c.series_instance_uid,
            population.c.study_day,
            population.c.patient_sex,
            population.c.patient_age,
            scanner.c.manufacturer,
            scanner.c.label.label("scanner"),
            population.c.volumetric_bmd,
            population.c.calibrated_bmd,
            population.c.attenuation_mean,
            population.c.areal_bmd,
            population.c.trabecular_bone_score,
            population.c.finding,
            population.c.reason,
            population.c.reference_only,
        )
        .select_from(population.join(series).join(study).outerjoin(scanner, scanner.c.id == population.c.scanner_id))
        .where(population.c.program == program)
    )
    found = {}
    with database.read() as connection:
        for column, values in (
            (population.c.patient_key, patient_keys),
            (series.c.accession_key, accession_keys),
            (study.c.study_instance_uid, study_instance_uids),
        ):
            for row in rows_where_in(connection, query, column, values):
                found[row.series_instance_uid] = Measured(**row._mapping)
    return tuple(found[uid] for uid in sorted(found))


def keep_densitometries(connection: sa.Connection, known: Sequence[tuple[str, int, str, str]]) -> int:
    """Remember examinations done elsewhere: (patient key, day, YYYYMMDD, kind). Returns how many were new."""
    new = insert_into(connection, densitometry).on_conflict_do_nothing().returning(densitometry.c.patient_key)
    added = 0
    for patient_key, day, date, kind in sorted(set(known)):
        row = {"patient_key": patient_key, "examination_day": day, "examination_date": date, "kind": kind}
        added += connection.execute(new.values(**row, origin="table")).first() is not None
    return added


def grant_reader(connection: sa.Connection, role: str) -> None:
    """Let a role of PostgreSQL read views and results, and nothing else; it is made, without login, where missing.

    Raises:
        DeploymentError: the database is SQLite, which has no roles.
        BadOption: the name is none.
    """
    if connection.dialect.name != "postgresql":
        raise DeploymentError("SQLite has no roles: who may read the file may read; open it with mode=ro")
    if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", role):
        raise BadOption("a role's name is of small letters, digits and underscores")
    there = connection.execute(sa.text("SELECT 1 FROM pg_roles WHERE rolname = :role"), {"role": role}).first()
    if there is None:
        connection.exec_driver_sql(f"CREATE ROLE {role} NOLOGIN")
    schema_name = connection.exec_driver_sql("SELECT current_schema()").scalar_one()
    readable = ", ".join((*READABLE, *views.definitions()))
    connection.exec_driver_sql(f'GRANT USAGE ON SCHEMA "{schema_name}" TO {role}')
    connection.exec_driver_sql(f"GRANT SELECT ON {readable} TO {role}")
    connection.exec_driver_sql(f"ALTER ROLE {role} SET default_transaction_read_only = on")
    connection.exec_driver_sql(f"ALTER ROLE {role} SET statement_timeout = '{STATEMENT_LIMIT}'")


def _columns(database: Database, view: str) -> list[str]:
    with database.read() as connection:
        return [column["name"] for column in sa.inspect(connection).get_columns(view)]


def _is_of_the_statement(refused: DBAPIError) -> bool:
    """What a person wrote is wrong, as opposed to the database: syntax, names, types, a change that is not allowed."""
    cause = refused.orig
    state = getattr(cause, "sqlstate", None) or ""
    code = getattr(cause, "sqlite_errorname", None) or ""
    is_misuse = type(cause).__name__ in ("Warning", "ProgrammingError") and not state  # several statements in one
    return is_misuse or state.startswith(("42", "22", "25006")) or code in ("SQLITE_ERROR", "SQLITE_READONLY")
