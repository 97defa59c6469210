"""
Statements about many rows or values at once, alike on SQLite and PostgreSQL.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

LONGEST_LIST = 1000  # values in one IN (...); our choice, both databases take 30 times more
LARGEST_NUMBER = 2**63  # of SQLite; it takes more for an approximate one


def insert_into(connection: sa.Connection, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
    """An INSERT that can say what to do on a conflict; both databases use the same words."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


def rows_where_in(
    connection: sa.Connection, query: sa.Select[*tuple[Any, ...]], column: sa.ColumnElement[Any], values: Iterable[Any]
) -> list[Any]:
    """Rows of a query whose column has one of many values, asked for in pieces that a database takes."""
    everything = sorted(set(values))
    pieces = (everything[start : start + LONGEST_LIST] for start in range(0, len(everything), LONGEST_LIST))
    return [row for piece in pieces for row in connection.execute(query.where(column.in_(piece)))]


def insert_many(
    connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]], **same: sa.ColumnElement[Any]
) -> None:
    """Insert many rows while other threads are busy.

    For each of many rows the driver of SQLite lets go of the interpreter and waits for its turn again; so there they
    are one statement that reads all of them from one text. Measured beside four busy threads: 500 instances in 50 ms
    instead of 190, with the write lock held as long, and half as much taken from the threads.

    Args:
        rows: values by column, the same columns in each; whole numbers and texts, as they survive that text unchanged.
        same: further columns, with what each row has in them.

    Raises:
        TypeError: a value is of another kind, once its column has made it what the database is given.
        OverflowError: a number has more than 64 bits.
    """
    if not rows:
        return
    if connection.dialect.name != "sqlite":
        connection.execute(sa.insert(table).values(**same), rows)
        return
    names = list(rows[0])
    kinds = [table.c[name].type.dialect_impl(connection.dialect) for name in names]
    made = [kind.bind_processor(connection.dialect) or _as_it_is for kind in kinds]
    given = [[_plain(make(row[name])) for make, name in zip(made, names, strict=True)] for row in rows]
    text = sa.bindparam("given", json.dumps(given, ensure_ascii=False), type_=sa.Text)
    each = sa.func.json_each(text).table_valued("value")
    values = [sa.func.json_extract(each.c.value, sa.literal_column(f"'$[{n}]'")) for n in range(len(names))]
    chosen = sa.select(*values, *same.values()).select_from(each)
    connection.execute(sa.insert(table).from_select([*names, *same], chosen))


def _as_it_is(value: Any) -> Any:
    return value


def _plain(value: Any) -> int | str | None:
    """A value that SQLite reads from JSON as it was written: of others it makes something near, without a word."""
    if value is None or (isinstance(value, str) and "\0" not in value):
        return value
    if type(value) is not int:
        raise TypeError(f"a {type(value).__name__} does not survive JSON unchanged")
    if not -LARGEST_NUMBER <= value < LARGEST_NUMBER:
        raise OverflowError("a number has more than 64 bits")
    return value
