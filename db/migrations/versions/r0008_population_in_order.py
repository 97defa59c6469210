"""
Indexes by which a whole view is read in the order of its rows, not in that of sex, age and density.

Revision ID: 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

KEPT = {
    "ix_population_current": "is_latest",
    "ix_population_low": "is_latest AND finding = 'osteoporosis'",
}


def upgrade() -> None:
    """Make them."""
    for name, condition in KEPT.items():
        rows = sa.text(condition)
        op.create_index(name, "population", ["result_id"], sqlite_where=rows, postgresql_where=rows)
    connection = op.get_bind()
    if connection.dialect.name == "sqlite" and sa.inspect(connection).has_table("sqlite_stat1"):
        op.execute("ANALYZE population")  # who gathered statistics once chooses by them, and would not see these


def downgrade() -> None:
    """Drop them."""
    for name in KEPT:
        op.drop_index(name, "population")
