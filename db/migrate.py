"""
The schema's version, and the way to the one that this program expects.

Several processes may start at once: the first brings the database up to date under a lock, the others wait and find
it done. A database that is newer than the program is left alone.
"""

from db.connection import Database


def upgrade(database: Database) -> None:
    """Bring the database up to the version that this program expects; make the tables where there are none.

    Raises:
        SchemaMismatch: the database is newer than this program, or another program's.
    """
    raise NotImplementedError


def downgrade(database: Database, version: str | None) -> None:
    """Bring the database back to an older version; None: to no tables at all, and everything is lost."""
    raise NotImplementedError


def check(database: Database) -> None:
    """See that the database is of the version that this program expects.

    Raises:
        SchemaMismatch: it is not; the message says what to do.
    """
    raise NotImplementedError


def schema_version(database: Database) -> str | None:
    """The version that the database is of; None: it has no tables yet."""
    raise NotImplementedError


def expected_version() -> str:
    """The version that this program expects."""
    raise NotImplementedError
