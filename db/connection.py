"""
A database, opened: SQLite in a file, or PostgreSQL; and what can be wrong with it, in our words.

A transaction is all or nothing: it is committed when its block ends and undone when the block raises. On SQLite it
takes the one write lock at its start (BEGIN IMMEDIATE), so that writers queue and never fail half-way.
"""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from engine.errors import BadOption, DatabaseUnavailable, DeploymentError, StorageFull

READER_CACHE_KIB = 262_144  # our choice: what a reader of an SQLite file may hold of it in memory, at most
READER_MEMORY_MIB = 64  # our choice: for each sort and join of one reader of PostgreSQL; its default of 4 spills views
CONNECT_TIMEOUT_S = 10  # our choice: a database that takes longer to answer is down


@dataclass(frozen=True, slots=True)
class DatabaseOptions:
    """Where the node's memory lies: `sqlite:///FILE` or `postgresql+psycopg://USER:PASSWORD@HOST/NAME`."""

    url: str = "sqlite:///trabecula.db"
    lock_timeout_s: float = 60.0  # how long a statement waits for another's lock

    def __repr__(self) -> str:
        """The password is never shown."""
        return f"DatabaseOptions(url={shown_url(self.url)!r}, lock_timeout_s={self.lock_timeout_s})"


class Purpose(Enum):
    """What only one transaction may do at a time; the numbers are ours, and mean nothing."""

    MIGRATE = 7402_0001
    REGISTER = 7402_0002


class StatementFailed(Exception):
    """Raised when a statement failed that should not have: a bug. Names the constraint, never a value."""


class Database:
    """An opened database. Threads may share it; a forked process opens its own."""

    def __init__(self, pool: sa.Engine, shown: str) -> None:
        """Made by `open_database`."""
        self._pool = pool
        self._shown = shown

    def __repr__(self) -> str:
        """Where it lies, without the password."""
        return f"Database({self._shown!r})"

    @property
    def dialect(self) -> str:
        """Either "sqlite" or "postgresql"."""
        return self._pool.dialect.name

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """A connection inside one transaction that may write.

        Raises:
            DatabaseUnavailable: it can't be reached, was lost on the way, or stayed locked.
            StorageFull: the disk does not take the change.
            DeploymentError: the database is damaged, read-only or of the wrong kind.
            StatementFailed: a bug.
        """
        with _in_our_words(self._shown), self._pool.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection inside one transaction that only reads, and on SQLite holds up no writer.

        Raises:
            As `begin`.
        """
        with _in_our_words(self._shown), self._pool.connect() as connection:
            connection = connection.execution_options(only_reads=True, postgresql_readonly=True)
            with connection.begin():
                yield connection

    def close(self) -> None:
        """Give back every connection that is not in use."""
        self._pool.dispose()


def open_database(options: DatabaseOptions, *, read_only: bool = False) -> Database:
    """Open a database and see that it answers. An SQLite file and its folder are made where missing.

    Args:
        read_only: the database itself refuses every change; nothing is made where it is missing.

    Raises:
        BadOption: the URL is none, or of a kind that is not supported.
        DatabaseUnavailable: it can't be reached.
        DeploymentError: it can't be used as it is; the message says what to do.
    """
    try:
        url = make_url(options.url)
    except (ArgumentError, ValueError):
        raise BadOption("option 'database.url' is no database URL") from None
    shown = shown_url(options.url)
    backend = url.get_backend_name()
    if backend == "sqlite":
        pool = _sqlite_reader(url, options) if read_only else _sqlite_pool(url, options)
    elif backend == "postgresql":
        pool = _postgresql_pool(url, options, read_only)
    else:
        raise BadOption(f"option 'database.url' is of kind '{backend}'; supported are sqlite and postgresql")
    database = Database(pool, shown)
    with database.read() as connection:
        connection.execute(sa.select(1))
    return database


def is_missing(options: DatabaseOptions) -> bool:
    """Whether it is an SQLite file that is not there; to open it would make it."""
    backend, _, file = options.url.partition(":///")
    return backend.startswith("sqlite") and not Path(file).is_file()


def exclusive(connection: sa.Connection, purpose: Purpose) -> None:
    """Until the transaction ends, only it does this; others wait. (On SQLite every writing transaction is alone.)"""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(purpose.value)))


def shown_url(url: str) -> str:
    """A database URL as it may be shown.

    >>> shown_url("postgresql+psycopg://node:secret@db.example/trabecula")
    'postgresql+psycopg://node:***@db.example/trabecula'
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return "(no database URL)"
    return parsed.set(query={}).render_as_string(hide_password=True)


def _sqlite_file(url: sa.URL) -> str:
    if not url.database or url.database == ":memory:" or url.query:
        raise BadOption("option 'database.url' must name a file, such as sqlite:///trabecula.db")
    return url.database


def _sqlite_reader(url: sa.URL, options: DatabaseOptions) -> sa.Engine:
    """For who reads: the file is opened as one that can't be written."""
    file = Path(_sqlite_file(url)).absolute().as_uri()

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{file}?mode=ro",
            uri=True,
            timeout=options.lock_timeout_s,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.execute("PRAGMA query_only=ON")
        connection.execute(f"PRAGMA cache_size=-{READER_CACHE_KIB}")
        return connection

    pool = sa.create_engine("sqlite://", creator=connect, poolclass=sa.pool.QueuePool, hide_parameters=True)
    sa.event.listen(pool, "begin", _begin_sqlite)
    return pool


def _sqlite_pool(url: sa.URL, options: DatabaseOptions) -> sa.Engine:
    file = _sqlite_file(url)
    try:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
    except OSError as bad:
        raise DeploymentError(f"the folder of the database can't be made: {bad.strerror}") from None
    pool = sa.create_engine(
        url,
        hide_parameters=True,
        connect_args={"timeout": options.lock_timeout_s, "isolation_level": None},
    )
    sa.event.listen(pool, "connect", partial(_prepare_sqlite, options.lock_timeout_s))
    sa.event.listen(pool, "begin", _begin_sqlite)
    return pool


def _prepare_sqlite(patience_s: float, connection: sqlite3.Connection, _: Any) -> None:
    if _write_ahead(connection, patience_s) != "wal":
        raise DeploymentError("SQLite can't keep a write-ahead log here; put the database on a local disk")
    connection.execute("PRAGMA synchronous=FULL")  # a power cut loses no acknowledged instance
    connection.execute("PRAGMA foreign_keys=ON")


def _write_ahead(connection: sqlite3.Connection, patience_s: float) -> str:
    """Switch to a write-ahead log. While another process switches, SQLite does not wait by itself, so we do."""
    give_up_at = time.monotonic() + patience_s
    while True:
        try:
            (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
            return str(mode)
        except sqlite3.OperationalError as failed:
            if failed.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > give_up_at:
                raise
            time.sleep(0.02)


def _begin_sqlite(connection: sa.Connection) -> None:
    only_reads = connection.get_execution_options().get("only_reads", False)
    connection.exec_driver_sql("BEGIN" if only_reads else "BEGIN IMMEDIATE")


def _postgresql_pool(url: sa.URL, options: DatabaseOptions, read_only: bool) -> sa.Engine:
    lock_timeout_ms = int(options.lock_timeout_s * 1000)
    settings = f"-c timezone=UTC -c synchronous_commit=on -c lock_timeout={lock_timeout_ms}"
    if read_only:
        settings += f" -c default_transaction_read_only=on -c work_mem={READER_MEMORY_MIB}MB"
    try:
        return sa.create_engine(
            url.set(drivername="postgresql+psycopg"),
            hide_parameters=True,
            pool_pre_ping=True,  # a restarted server is noticed before a transaction begins
            connect_args={"connect_timeout": CONNECT_TIMEOUT_S, "options": settings},
        )
    except (ImportError, NoSuchModuleError):
        raise DeploymentError("PostgreSQL needs the driver psycopg: pip install '.[postgres]'") from None


@contextmanager
def _in_our_words(shown: str) -> Iterator[None]:
    """Translate what the driver raises; its text may hold values, so it is never passed on."""
    try:
        yield
    except PoolTimeout:
        raise DatabaseUnavailable(f"no connection to {shown} became free") from None
    except DBAPIError as failed:
        raise _translated(failed, shown) from None


def _translated(failed: DBAPIError, shown: str) -> Exception:
    cause = failed.orig
    state = getattr(cause, "sqlstate", None) or ""  # PostgreSQL
    code = getattr(cause, "sqlite_errorname", None) or ""  # SQLite
    if state.startswith("53100") or code.startswith("SQLITE_FULL"):
        return StorageFull(f"the disk of {shown} is full; nothing of this change was kept, make room")
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL")) or state in _PASSING_STATES:
        return DatabaseUnavailable(f"{shown} stayed locked by another process ({state or code})")
    if code.startswith("SQLITE_CANTOPEN"):
        return DatabaseUnavailable(f"{shown} can't be opened; do file and folder belong to this user?")
    if state == "42501":
        return DeploymentError(f"the user of {shown} has no right to do this in the database (42501)")
    if state == "25006":
        return DeploymentError(f"{shown} can't be changed: it was opened read-only")
    if code.startswith(("SQLITE_READONLY", "SQLITE_IOERR", "SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return DeploymentError(f"{shown} can't be used: {_SQLITE_WORDS[code.split('_')[1]]}")
    if failed.connection_invalidated or state.startswith(("08", "57P", "53")) or _never_connected(failed):
        return DatabaseUnavailable(f"{shown} can't be reached or went away{_server_words(failed, state)}")
    constraint = getattr(getattr(cause, "diag", None), "constraint_name", None)
    where = f", constraint {constraint}" if constraint else ""
    return StatementFailed(f"{type(cause).__name__} ({state or code or 'no code'}{where})")


_PASSING_STATES = ("40001", "40P01", "55P03", "57014")  # serialisation, deadlock, lock timeout, cancelled
_SQLITE_WORDS = {
    "READONLY": "it is read-only for this user",
    "IOERR": "its disk does not read or write",
    "CORRUPT": "the file is damaged; restore it from a backup",
    "NOTADB": "the file is no SQLite database",
}


def _never_connected(failed: DBAPIError) -> bool:
    """Of a connection that was never made psycopg knows no SQLSTATE."""
    is_psycopg = type(failed.orig).__module__.startswith("psycopg")
    return is_psycopg and isinstance(failed, OperationalError) and not getattr(failed.orig, "sqlstate", None)


def _server_words(failed: DBAPIError, state: str) -> str:
    """What a server says at the door, such as that a password is wrong; it knows no value of ours yet."""
    if state or not _never_connected(failed):
        return f" ({state})" if state else ""
    if "no password supplied" in str(failed.orig):  # by libpq; the server has not been asked
        return ": it wants a password, and none was given"
    said = str(failed.orig).partition("FATAL:")[2].strip().splitlines()
    return f": {said[0]}" if said else ""
