"""
By which key the patients of a database are known. The key itself is in no row: only a fingerprint, which tells
nothing of it.
"""

from typing import NamedTuple

import sqlalchemy as sa

from db.columns import utc_now
from db.schema import instance, pseudonym_key, series, study
from db.statements import insert_into

THE_ONE = 1  # row; a database has one key
LATEST = 200  # studies of which a file is named; our choice: some are still in the spool


class Traces(NamedTuple):
    """What a database shows of its key."""

    fingerprint: str | None  # None: the key was never used, or in a version that kept none
    has_studies: bool
    files: tuple[tuple[str, str], ...]  # without a fingerprint: patient key and path of what came last, latest first

    @property
    def are_there(self) -> bool:
        """Whether patients may be known by a key."""
        return self.has_studies or self.fingerprint is not None


def traces(connection: sa.Connection) -> Traces:
    """Look for them, in a database of whichever version."""
    about = sa.inspect(connection)
    if not about.has_table(study.name):
        return Traces(None, False, ())
    fingerprint = None
    if about.has_table(pseudonym_key.name):
        fingerprint = connection.scalar(sa.select(pseudonym_key.c.fingerprint))
    has_studies = connection.scalar(sa.select(study.c.id).limit(1)) is not None
    return Traces(fingerprint, has_studies, () if fingerprint else _latest_files(connection))


def remember(connection: sa.Connection, fingerprint: str) -> str:
    """Write a key's fingerprint down where there is none.

    Returns:
        The one that stands: of the first key that was used.
    """
    row = {"id": THE_ONE, "fingerprint": fingerprint, "first_used_at": utc_now()}
    connection.execute(insert_into(connection, pseudonym_key).values(row).on_conflict_do_nothing())
    return str(connection.execute(sa.select(pseudonym_key.c.fingerprint)).scalar_one())


def _latest_files(connection: sa.Connection) -> tuple[tuple[str, str], ...]:
    latest = sa.select(study.c.id).order_by(study.c.id.desc()).limit(LATEST)
    query = (
        sa.select(study.c.patient_key, sa.func.max(instance.c.path))
        .join_from(instance, series)
        .join(study)
        .where(study.c.id.in_(latest))
        .group_by(study.c.id, study.c.patient_key)
        .order_by(study.c.id.desc())
    )
    return tuple((str(patient_key), str(path)) for patient_key, path in connection.execute(query))
