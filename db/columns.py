"""
How values of the house lie in a column, alike on SQLite and PostgreSQL; and the database's own clock.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator

Choice = TypeVar("Choice", bound=StrEnum)

WORD_LENGTH = 40  # our choice: the longest word of our enumerations, and room


class UtcTime(TypeDecorator[datetime]):
    """An instant; always with a time zone in Python, always UTC in the database."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Refuse a time of unknown zone."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a time zone is no instant")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """SQLite returns naive times; they are UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Word(TypeDecorator[Choice]):
    """A value of one of our enumerations, as its text."""

    impl = sa.String(WORD_LENGTH)
    cache_ok = True

    def __init__(self, kind: type[Choice]) -> None:
        """Keep which enumeration it is."""
        super().__init__()
        self.kind = kind

    def process_bind_param(self, value: Choice | None, dialect: sa.Dialect) -> str | None:
        """Only values of the enumeration go in."""
        return None if value is None else self.kind(value).value

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> Choice | None:
        """The enumeration's value."""
        return None if value is None else self.kind(value)


class SafeText(TypeDecorator[str]):
    """Text from headers or messages: cut to its length, without what a database refuses (NUL, lone surrogates)."""

    impl = sa.String
    cache_ok = True

    def __init__(self, length: int) -> None:
        """Keep how many characters fit."""
        super().__init__(length)
        self.length = length

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        """Hostile text must not stop a batch of innocent rows."""
        return None if value is None else safe_text(value, self.length)


class MultiValue(TypeDecorator[tuple[str, ...]]):
    r"""Several values as DICOM writes them: joined by a backslash."""

    impl = sa.String
    cache_ok = True

    def __init__(self, length: int) -> None:
        """Keep how many characters fit."""
        super().__init__(length)
        self.length = length

    def process_bind_param(self, value: tuple[str, ...] | None, dialect: sa.Dialect) -> str | None:
        """One text."""
        return None if value is None else safe_text("\\".join(value), self.length)

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> tuple[str, ...] | None:
        """The values; no text is no value."""
        if value is None:
            return None
        return tuple(value.split("\\")) if value else ()


class Numbers(TypeDecorator[tuple[float, ...]]):
    """Several numbers as DICOM writes them, joined by a backslash, with every digit that they have."""

    impl = sa.String
    cache_ok = True

    def process_bind_param(self, value: Iterable[float] | None, dialect: sa.Dialect) -> str | None:
        """One text."""
        return None if value is None else "\\".join(repr(float(number)) for number in value)

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> tuple[float, ...] | None:
        """The same numbers."""
        return None if value is None else tuple(float(text) for text in value.split("\\"))


def word(value: StrEnum) -> sa.ColumnElement[str]:
    """A value of an enumeration, written into the statement: so the planner sees that a partial index fits."""
    return sa.literal_column(f"'{value.value}'")


def safe_text(text: str, length: int) -> str:
    r"""Text that every database takes.

    >>> safe_text("B30f\x00 kernel", 6)
    'B30f k'
    """
    return text.encode("utf-8", "replace").decode("utf-8").replace("\x00", "")[:length]


class utc_now(FunctionElement[datetime]):  # noqa: N801  (reads as a function of SQL)
    """The database's own clock, moved by some seconds; the only clock that leases know.

    On PostgreSQL it is the time at which the statement arrived, on SQLite at which it runs.
    """

    name = "utc_now"
    inherit_cache = True

    def __init__(self, plus_s: float = 0.0) -> None:
        """Seconds may be negative."""
        super().__init__(sa.bindparam(None, float(plus_s), type_=sa.Double(), unique=True))
        self.type = UtcTime()


@compiles(utc_now, "sqlite")
def _utc_now_sqlite(element: utc_now, compiler: SQLCompiler, **more: Any) -> str:
    seconds = compiler.process(element.clauses, **more)
    return f"(strftime('%Y-%m-%d %H:%M:%f', 'now', printf('%+.3f seconds', {seconds})) || '000')"


@compiles(utc_now, "postgresql")
def _utc_now_postgresql(element: utc_now, compiler: SQLCompiler, **more: Any) -> str:
    seconds = compiler.process(element.clauses, **more)
    return f"(statement_timestamp() + make_interval(secs => {seconds}))"
