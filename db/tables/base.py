"""
What all tables share: one catalogue, names for constraints, and columns that recur.
"""

from typing import Any

import sqlalchemy as sa

NAMING = {  # constraints are named alike on both databases, so that a migration can find them
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}

metadata = sa.MetaData(naming_convention=NAMING)

ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # SQLite's rowid must be declared INTEGER
UID = sa.String(64)
KEY = sa.String(64)  # a keyed hash


def row_id() -> sa.Column[int]:
    """The table's own key."""
    return sa.Column("id", ID, primary_key=True)


def belongs_to(table: str, *, primary_key: bool = False, nullable: bool = False) -> sa.Column[int]:
    """The row of another table that this one is part of."""
    return sa.Column(
        f"{table}_id", ID, sa.ForeignKey(f"{table}.id"), nullable=nullable and not primary_key, primary_key=primary_key
    )


def where(condition: sa.ColumnElement[bool]) -> dict[str, Any]:
    """An index over some rows only, on both databases."""
    return {"sqlite_where": condition, "postgresql_where": condition}
