"""
The schema's version, and the way to the one that this program expects.

Several processes may start at once: the first brings the database up to date under a lock, the others wait and find
it done. Everything happens in one transaction, so a process that dies on the way leaves the database as it was. A
database that is newer than the program is left alone.
"""

import logging
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from db.connection import Database, Purpose, exclusive
from db.population import summary, views
from db.schema import metadata
from engine.errors import SchemaMismatch

log = logging.getLogger(__name__)

MIGRATIONS = Path(__file__).parent / "migrations"


def upgrade(database: Database) -> None:
    """Bring the database up to the version that this program expects; make the tables where there are none.

    What is derived from other rows, and the views over them, are made anew.

    Raises:
        SchemaMismatch: the database is newer than this program, or another program's.
    """
    with database.begin() as connection:
        exclusive(connection, Purpose.MIGRATE)
        before, now = _version(connection), expected_version()
        is_older = before != now
        if is_older or not views.are_made(connection):
            views.drop(connection)
            if is_older:
                log.info("the database goes from version %s to %s", before or "none", now)
                command.upgrade(_config(connection), "head")
                summary.rebuild(connection)
            views.make(connection)
    if is_older:
        log.info("the database is of version %s", now)


def downgrade(database: Database, version: str | None) -> None:
    """Bring the database back to an older version; None: to no tables at all, and everything is lost.

    Raises:
        SchemaMismatch: the database is newer than this program, or another program's.
    """
    with database.begin() as connection:
        exclusive(connection, Purpose.MIGRATE)
        if _version(connection) != version:
            views.drop(connection)
            command.downgrade(_config(connection), version or "base")


def check(database: Database) -> None:
    """See that the database is of the version that this program expects.

    Raises:
        SchemaMismatch: it is not; the message says what to do.
    """
    found = schema_version(database)
    if found != expected_version():
        raise SchemaMismatch(
            f"the database is of version {found or 'none'}, this program expects {expected_version()};"
            " start the node once ('trabecula run') to bring it up to date"
        )
    with database.read() as connection:
        if not views.are_made(connection):
            raise SchemaMismatch("the database's views are another program's; start the node once ('trabecula run')")


def schema_version(database: Database) -> str | None:
    """The version that the database is of; None: it has no tables yet.

    Raises:
        SchemaMismatch: the database is newer than this program, or another program's.
    """
    with database.read() as connection:
        return _version(connection)


def expected_version() -> str:
    """The version that this program expects."""
    head = _scripts().get_current_head()
    assert head is not None
    return head


def _version(connection: sa.Connection) -> str | None:
    found = MigrationContext.configure(connection).get_current_revision()
    if found is None and set(sa.inspect(connection).get_table_names()) & set(metadata.tables):
        raise SchemaMismatch("the database holds tables of our names that are not ours; give the node one of its own")
    if found is not None and found not in {script.revision for script in _scripts().walk_revisions()}:
        raise SchemaMismatch(
            f"the database is of version {found[:32]}, which this program does not know (it expects"
            f" {expected_version()}); install the newer program, or give this one a database of its own"
        )
    return found


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config(None))


def _config(connection: sa.Connection | None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes.update(connection=connection, metadata=metadata)
    return config
