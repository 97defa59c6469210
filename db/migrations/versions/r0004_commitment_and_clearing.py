"""
Storage commitment that is asked for, and files that are cleared.

Revision ID: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing was asked for yet, and nothing cleared."""
    op.add_column("outbox", sa.Column("transaction_uid", sa.String(64)))
    op.add_column("outbox", sa.Column("ask_at", sa.DateTime(timezone=True)))
    op.add_column("outbox", sa.Column("cleared_at", sa.DateTime(timezone=True)))
    op.create_index("ix_outbox_transaction_uid", "outbox", ["transaction_uid"])
    op.add_column("instance", sa.Column("cleared_at", sa.DateTime(timezone=True)))


def downgrade() -> None:
    """What was committed counts as sent; what was cleared is missed."""
    op.execute("UPDATE outbox SET state = 'sent' WHERE state = 'committed'")
    op.execute("DELETE FROM event WHERE change IN ('committed', 'not_committed', 'cleared')")
    op.drop_index("ix_outbox_transaction_uid", "outbox")
    with op.batch_alter_table("outbox") as table:
        for name in ("transaction_uid", "ask_at", "cleared_at"):
            table.drop_column(name)
    with op.batch_alter_table("instance") as table:
        table.drop_column("cleared_at")
