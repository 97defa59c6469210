"""
The views, each a file of SQL that both databases take; made anew whenever one of them changed.

Views hold nothing, so they need no migration: an upgrade drops and makes them, in the transaction in which it changes
the tables below them. A marker view keeps the digest of what was made.
"""

import re
from functools import cache
from hashlib import sha256
from pathlib import Path

import sqlalchemy as sa

FOLDER = Path(__file__).parent / "views"
MARKER = "population_views"
AFTER = {"longitudinal_change": 1}  # stands on another view; all others stand on tables


@cache
def definitions() -> dict[str, str]:
    """The SQL that makes each view, by its name, in an order in which they can be made."""
    found = {file.stem: file.read_text(encoding="utf-8") for file in sorted(FOLDER.glob("*.sql"))}
    return dict(sorted(found.items(), key=lambda item: AFTER.get(item[0], 0)))


def answer(name: str) -> str:
    """What a view answers, in one sentence: the comment at its head."""
    lines = definitions()[name].splitlines()
    said = [line.removeprefix("--").strip() for line in lines if line.startswith("--")]
    return " ".join(said)


def are_made(connection: sa.Connection) -> bool:
    """Whether the database's views are those of this program."""
    if MARKER not in sa.inspect(connection).get_view_names():
        return False
    return bool(connection.exec_driver_sql(f"SELECT digest FROM {MARKER}").scalar_one() == _digest())


def drop(connection: sa.Connection) -> None:
    """Take away those that an earlier upgrade made, whichever they were."""
    present = set(sa.inspect(connection).get_view_names())
    if MARKER not in present:
        return
    names = connection.exec_driver_sql(f"SELECT names FROM {MARKER}").scalar_one().split()
    for name in reversed(names):
        if name in present and re.fullmatch(r"[a-z_]+", name):
            connection.exec_driver_sql(f"DROP VIEW {name}")
    connection.exec_driver_sql(f"DROP VIEW {MARKER}")


def make(connection: sa.Connection) -> None:
    """Make them all; none may be there."""
    is_format = connection.dialect.paramstyle in ("format", "pyformat")
    for text in definitions().values():
        connection.exec_driver_sql(text.replace("%", "%%") if is_format else text)
    names = " ".join(definitions())
    connection.exec_driver_sql(f"CREATE VIEW {MARKER} AS SELECT '{_digest()}' AS digest, '{names}' AS names")


def _digest() -> str:
    return sha256("\0".join(definitions().values()).encode()).hexdigest()
