"""
What is fetched from archives.

Revision ID: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Orders, their parts, their series."""
    op.create_table(
        "backfill",
        sa.Column("id", ID, nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("archive", sa.String(64), nullable=False),
        sa.Column("said", sa.String(400), nullable=False),
        sa.Column("state", sa.String(40), nullable=False),
        sa.Column("detail", sa.String(400), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_backfill"),
        sa.UniqueConstraint("key", name="uq_backfill_key"),
    )
    op.create_table(
        "backfill_part",
        sa.Column("id", ID, nullable=False),
        sa.Column("backfill_id", ID, nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("state", sa.String(40), nullable=False),
        sa.Column("studies", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=False),
        sa.Column("detail", sa.String(400), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_backfill_part"),
        sa.ForeignKeyConstraint(["backfill_id"], ["backfill.id"], name="fk_backfill_part_backfill_id"),
        sa.UniqueConstraint("backfill_id", "key", name="uq_backfill_part_backfill_id_key"),
    )
    op.create_table(
        "backfill_series",
        sa.Column("id", ID, nullable=False),
        sa.Column("backfill_id", ID, nullable=False),
        sa.Column("backfill_part_id", ID, nullable=False),
        sa.Column("study_instance_uid", sa.String(64), nullable=False),
        sa.Column("series_instance_uid", sa.String(64), nullable=False),
        sa.Column("state", sa.String(40), nullable=False),
        sa.Column("reason", sa.String(40)),
        sa.Column("detail", sa.String(400), nullable=False),
        sa.Column("expected", sa.Integer()),
        sa.Column("received", sa.Integer(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("id", name="pk_backfill_series"),
        sa.ForeignKeyConstraint(["backfill_id"], ["backfill.id"], name="fk_backfill_series_backfill_id"),
        sa.ForeignKeyConstraint(["backfill_part_id"], ["backfill_part.id"], name="fk_backfill_series_backfill_part_id"),
        sa.UniqueConstraint(
            "backfill_id", "series_instance_uid", name="uq_backfill_series_backfill_id_series_instance_uid"
        ),
    )
    op.create_index("ix_backfill_series_study_instance_uid", "backfill_series", ["study_instance_uid"])
    op.create_index("ix_backfill_series_series_instance_uid", "backfill_series", ["series_instance_uid"])
    waiting = sa.text("state = 'waiting'")
    op.create_index(
        "ix_backfill_series_waiting",
        "backfill_series",
        ["backfill_id", "id"],
        sqlite_where=waiting,
        postgresql_where=waiting,
    )


def downgrade() -> None:
    """Take them away."""
    op.drop_table("backfill_series")
    op.drop_table("backfill_part")
    op.drop_table("backfill")
