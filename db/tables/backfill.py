"""
What is fetched from archives: orders, their parts, and each series that was found, with its own state.
"""

import sqlalchemy as sa

from db.columns import SafeText, UtcTime, Word, word
from db.tables.base import UID, belongs_to, metadata, row_id, where
from db.tables.states import BackfillState, FetchState, PartState
from engine.records import Reason

backfill = sa.Table(
    "backfill",
    metadata,
    row_id(),
    sa.Column("key", sa.String(64), nullable=False, unique=True),  # keyed hash of the order: the same order goes on
    sa.Column("archive", SafeText(64), nullable=False),  # our name for it
    sa.Column("said", SafeText(400), nullable=False),  # the order in words, without any identifier
    sa.Column("state", Word(BackfillState), nullable=False),
    sa.Column("detail", SafeText(400), nullable=False),  # what it does, or why it waits
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("seen_at", UtcTime, nullable=False),  # the last sign of life of the process that works on it
)

backfill_part = sa.Table(
    "backfill_part",
    metadata,
    row_id(),
    belongs_to("backfill"),
    sa.Column("key", sa.String(64), nullable=False),  # keyed hash of a day, a folder's name or an identifier
    sa.Column("state", Word(PartState), nullable=False),
    sa.Column("studies", sa.Integer, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("not_before", UtcTime, nullable=False),
    sa.Column("detail", SafeText(400), nullable=False),
    sa.UniqueConstraint("backfill_id", "key"),
)

backfill_series = sa.Table(
    "backfill_series",
    metadata,
    row_id(),
    belongs_to("backfill"),
    belongs_to("backfill_part"),
    sa.Column("study_instance_uid", UID, nullable=False),
    sa.Column("series_instance_uid", UID, nullable=False),
    sa.Column("state", Word(FetchState), nullable=False),
    sa.Column("reason", Word(Reason)),  # why no program reads it
    sa.Column("detail", SafeText(400), nullable=False),
    sa.Column("expected", sa.Integer),  # instances, as the archive said; NULL: it did not
    sa.Column("received", sa.Integer, nullable=False),  # instances that are here
    sa.Column("size_bytes", sa.BigInteger, nullable=False),  # of what came over the network
    sa.Column("seconds", sa.Double, nullable=False),  # that it took
    sa.Column("attempts", sa.Integer, nullable=False),  # counted when claimed
    sa.Column("not_before", UtcTime, nullable=False),
    sa.Column("ended_at", UtcTime),
    sa.UniqueConstraint("backfill_id", "series_instance_uid"),
)
sa.Index("ix_backfill_series_study_instance_uid", backfill_series.c.study_instance_uid)
sa.Index("ix_backfill_series_series_instance_uid", backfill_series.c.series_instance_uid)
sa.Index(
    "ix_backfill_series_waiting",
    backfill_series.c.backfill_id,
    backfill_series.c.id,
    **where(backfill_series.c.state == word(FetchState.WAITING)),
)
