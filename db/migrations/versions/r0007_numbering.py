"""
How each anchor in view counts the vertebrae, so that both hypotheses of a transitional spine are kept.

Revision ID: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the table; results from before have no rows in it."""
    op.create_table(
        "numbering",
        sa.Column("result_id", ID, nullable=False),
        sa.Column("ordinal", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("anchor", sa.String(40), nullable=False),
        sa.Column("shift", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("result_id", "ordinal", name="pk_numbering"),
        sa.ForeignKeyConstraint(["result_id"], ["result.id"], name="fk_numbering_result_id"),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("numbering")
