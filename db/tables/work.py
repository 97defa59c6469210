"""
What is to be done with what arrived: choices, where each series stands towards each program, and jobs.
"""

import sqlalchemy as sa

from db.columns import SafeText, UtcTime, Word, word
from db.tables.base import belongs_to, metadata, row_id, where
from db.tables.states import JobState, SeriesState
from engine.records import Program, Reason

selection = sa.Table(
    "selection",
    metadata,
    row_id(),
    belongs_to("series"),
    sa.Column("program", Word(Program), nullable=False),
    sa.Column("study_revision", sa.Integer, nullable=False),
    sa.Column("reason", Word(Reason)),  # NULL: selected
    sa.Column("detail", SafeText(400), nullable=False),
    sa.Column("score", sa.Double, nullable=False),
    sa.Column("selected_at", UtcTime, nullable=False),
    sa.UniqueConstraint("series_id", "program", "study_revision"),
)

screening = sa.Table(  # where a series stands towards a program; no row: its study is open, nothing is decided
    "screening",
    metadata,
    belongs_to("series", primary_key=True),
    sa.Column("program", Word(Program), primary_key=True),
    sa.Column("state", Word(SeriesState), nullable=False),  # "waiting", "done" or "set_aside"
    sa.Column("selected", sa.Boolean, nullable=False),  # the latest choice; False: set aside by its header
    sa.Column("reason", Word(Reason)),  # why it was set aside
    sa.Column("detail", SafeText(400), nullable=False),
    sqlite_with_rowid=False,
)
sa.Index(
    "ix_screening_program_state_selected_reason",
    screening.c.program,
    screening.c.state,
    screening.c.selected,
    screening.c.reason,
)

job = sa.Table(
    "job",
    metadata,
    row_id(),
    belongs_to("series"),
    sa.Column("program", Word(Program), nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),  # of the series
    sa.Column("state", Word(JobState), nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),  # smaller is sooner
    sa.Column("attempts", sa.Integer, nullable=False),  # counted when claimed
    sa.Column("token", sa.Integer, nullable=False),  # fencing: grows with each claim
    sa.Column("owner", SafeText(64)),
    sa.Column("lease_until", UtcTime),
    sa.Column("not_before", UtcTime, nullable=False),
    sa.Column("reason", Word(Reason)),  # why the last attempt gave no result
    sa.Column("detail", SafeText(400), nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("ended_at", UtcTime),
    sa.UniqueConstraint("series_id", "program", "revision"),
)
sa.Index("ix_job_ready", job.c.priority, job.c.id, **where(job.c.state == word(JobState.READY)))
sa.Index("ix_job_leased", job.c.lease_until, **where(job.c.state == word(JobState.LEASED)))
