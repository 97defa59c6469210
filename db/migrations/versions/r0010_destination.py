"""
How those who send get on with each destination, so that `status` can say why reports wait.

Revision ID: 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table; its rows come with the next start of a process that sends."""
    op.create_table(
        "destination",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("detail", sa.String(400), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True)),
        sa.Column("next_at", sa.DateTime(timezone=True)),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_destination"),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("destination")
