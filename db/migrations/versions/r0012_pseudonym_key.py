"""
Which key the patients are known by, as a fingerprint; so that another key is noticed.

Revision ID: 0012
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the table; its row is written at the next start, by who has the key."""
    op.create_table(
        "pseudonym_key",
        sa.Column("id", ID, nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("first_used_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_pseudonym_key"),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("pseudonym_key")
