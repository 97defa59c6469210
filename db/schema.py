"""
The tables: what is remembered, in the words of the house.

    study < series < header, instance what arrived; paths live in `instance` alone
    refusal                           what was turned away at the door, and why
    selection                         which series serves a program, and why not the others; a history by study revision
    job                               work to do, with a lease and a fencing token
    result < vertebra, quality_flag   what an analysis said; result_model, model: by which weights
    outbox                            report objects that wait for a peer
    backfill < backfill_part          an order to fetch from an archive, and the days, folders or lines it consists of
    backfill_series                   each series that was found by it, and how far it is
    event                             what changed and when, for people

Every change that belongs together is one transaction. `series.state` is "done" exactly while one current result of
the series' own revision stands; every other end is "set_aside" with a reason. Locks are taken in the order
study, series, job, result, outbox, so that no two transactions wait for each other.
"""

from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from db.columns import MultiValue, Numbers, SafeText, UtcTime, Word, word
from engine.records import BoneFinding, Program, Reason, VertebralLevel


class StudyState(StrEnum):
    """Whether instances of a study are still awaited."""

    RECEIVING = "receiving"
    CLOSED = "closed"


class SeriesState(StrEnum):
    """Where a series stands; "done" and "set_aside" are ends."""

    RECEIVING = "receiving"
    WAITING = "waiting"  # selected: a job is ready or running
    DONE = "done"  # one current result
    SET_ASIDE = "set_aside"  # one reason


class JobState(StrEnum):
    """Where a job stands; "done", "dead" and "obsolete" are ends."""

    READY = "ready"
    LEASED = "leased"
    DONE = "done"  # a result, or a reason that no second attempt would change
    DEAD = "dead"  # failed too often; a person can retry it
    OBSOLETE = "obsolete"  # its series changed, or lost to a better one, before it ended


class ObjectState(StrEnum):
    """Where a report object stands towards one destination; "sent", "dead" and "superseded" are ends."""

    READY = "ready"
    LEASED = "leased"
    SENT = "sent"
    DEAD = "dead"  # refused too often; a person can retry it
    SUPERSEDED = "superseded"  # its result is no longer current: not sent any more


class BackfillState(StrEnum):
    """Where an order to fetch from an archive stands."""

    OPEN = "open"
    PAUSED = "paused"  # by a person, who lets it go on
    DONE = "done"


class PartState(StrEnum):
    """Where a part of a backfill stands."""

    WAITING = "waiting"  # its search failed, and is tried again
    SEARCHED = "searched"  # its series are rows
    DEAD = "dead"  # its search failed too often; a person can retry it


class FetchState(StrEnum):
    """Where a series of a backfill stands; "done", "skipped" and "dead" are ends."""

    WAITING = "waiting"
    FETCHING = "fetching"
    DONE = "done"  # every instance that the archive names is here, or was refused with a reason
    SKIPPED = "skipped"  # not wanted: not asked for, or no program reads it
    DEAD = "dead"  # failed too often; a person can retry it


class Change(StrEnum):
    """What an event tells."""

    RECEIVED = "received"
    REOPENED = "reopened"
    CLOSED = "closed"
    QUEUED = "queued"
    SET_ASIDE = "set_aside"
    ATTEMPT_FAILED = "attempt_failed"
    RETRIED = "retried"
    DONE = "done"
    SENT = "sent"
    DEAD = "dead"
    SUPERSEDED = "superseded"


NAMING = {  # constraints are named alike on both databases, so that a migration can find them
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}

metadata = sa.MetaData(naming_convention=NAMING)

ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # SQLite's rowid must be declared INTEGER
UID = sa.String(64)


def _id() -> sa.Column[int]:
    return sa.Column("id", ID, primary_key=True)


def _belongs_to(table: str, *, primary_key: bool = False, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(
        f"{table}_id", ID, sa.ForeignKey(f"{table}.id"), nullable=nullable and not primary_key, primary_key=primary_key
    )


def _where(condition: sa.ColumnElement[bool]) -> dict[str, Any]:
    return {"sqlite_where": condition, "postgresql_where": condition}


study = sa.Table(
    "study",
    metadata,
    _id(),
    sa.Column("study_instance_uid", UID, nullable=False, unique=True),
    sa.Column("patient_key", sa.String(64), nullable=False, index=True),
    sa.Column("state", Word(StudyState), nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),  # grows with every batch that brings it new instances
    sa.Column("opened_at", UtcTime, nullable=False),  # its first new instance since it was last closed
    sa.Column("last_received_at", UtcTime, nullable=False),
    sa.Column("closed_at", UtcTime),
)
sa.Index("ix_study_receiving", study.c.last_received_at, **_where(study.c.state == word(StudyState.RECEIVING)))

series = sa.Table(
    "series",
    metadata,
    _id(),
    _belongs_to("study"),
    sa.Column("series_instance_uid", UID, nullable=False, unique=True),
    sa.Column("state", Word(SeriesState), nullable=False),
    sa.Column("reason", Word(Reason)),  # why it was set aside
    sa.Column("detail", SafeText(400), nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),  # grows with every batch that brings it new instances
    # what its headers say together; written when the study is closed, for people and population studies
    sa.Column("instance_count", sa.Integer),
    sa.Column("patient_sex", SafeText(16)),
    sa.Column("patient_age", sa.Integer),  # years
    sa.Column("study_date", SafeText(8)),
    sa.Column("acquisition_date", SafeText(8)),
    sa.Column("modality", SafeText(16)),
    sa.Column("image_type", MultiValue(256)),
    sa.Column("body_part_examined", SafeText(64)),
    sa.Column("manufacturer", SafeText(64)),
    sa.Column("manufacturer_model_name", SafeText(64)),
    sa.Column("convolution_kernel", MultiValue(256)),
    sa.Column("slice_thickness", sa.Double),  # mm
    sa.Column("kvp", sa.Double),
    sa.Column("contrast_bolus_agent", sa.Boolean),
    sa.Column("gantry_detector_tilt", sa.Double),  # degrees
    sa.Column("lossy_image_compression", sa.Boolean),
    sa.Column("transfer_syntax_uid", UID),
    sa.Column("extent_mm", sa.Double),
)
sa.Index("ix_series_study_id", series.c.study_id)
sa.Index("ix_series_state_reason", series.c.state, series.c.reason)

header = sa.Table(  # what the headers of a series say, each wording once: most series have one
    "header",
    metadata,
    _id(),
    _belongs_to("series"),
    sa.Column("sha256", sa.String(64), nullable=False),  # of `attributes`
    sa.Column("attributes", sa.Text, nullable=False),  # JSON, keyed as engine.records.InstanceHeader
    sa.UniqueConstraint("series_id", "sha256"),
)

instance = sa.Table(
    "instance",
    metadata,
    _id(),
    _belongs_to("series"),
    _belongs_to("header"),
    sa.Column("sop_instance_uid", UID, nullable=False, unique=True),
    sa.Column("instance_number", sa.BigInteger),
    sa.Column("image_position_patient", Numbers(160)),  # mm
    sa.Column("path", sa.Text, nullable=False, unique=True),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("received_at", UtcTime, nullable=False),
)
sa.Index("ix_instance_series_id", instance.c.series_id)

refusal = sa.Table(
    "refusal",
    metadata,
    _id(),
    sa.Column("subject", SafeText(64), nullable=False),  # the SOP Instance UID where it is one, else a SHA-256
    sa.Column("reason", Word(Reason), nullable=False),
    sa.Column("detail", SafeText(400), nullable=False),
    sa.Column("peer", SafeText(64), nullable=False),  # AE title
    sa.Column("times", sa.Integer, nullable=False),
    sa.Column("first_refused_at", UtcTime, nullable=False),
    sa.Column("last_refused_at", UtcTime, nullable=False),
    sa.UniqueConstraint("subject", "reason"),
)

selection = sa.Table(
    "selection",
    metadata,
    _id(),
    _belongs_to("series"),
    sa.Column("program", Word(Program), nullable=False),
    sa.Column("study_revision", sa.Integer, nullable=False),
    sa.Column("reason", Word(Reason)),  # NULL: selected
    sa.Column("detail", SafeText(400), nullable=False),
    sa.Column("score", sa.Double, nullable=False),
    sa.Column("selected_at", UtcTime, nullable=False),
    sa.UniqueConstraint("series_id", "program", "study_revision"),
)

job = sa.Table(
    "job",
    metadata,
    _id(),
    _belongs_to("series"),
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
sa.Index("ix_job_ready", job.c.priority, job.c.id, **_where(job.c.state == word(JobState.READY)))
sa.Index("ix_job_leased", job.c.lease_until, **_where(job.c.state == word(JobState.LEASED)))

model = sa.Table(
    "model",
    metadata,
    _id(),
    sa.Column("name", SafeText(64), nullable=False),
    sa.Column("version", SafeText(64), nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("reference_only", sa.Boolean, nullable=False),
    sa.UniqueConstraint("sha256", "name", "version"),
)


def _measures() -> tuple[sa.Column[float], ...]:
    return (
        sa.Column("attenuation_mean", sa.Double),  # HU
        sa.Column("attenuation_median", sa.Double),  # HU
        sa.Column("attenuation_sd", sa.Double),  # HU
        sa.Column("core_volume", sa.Double),  # cm3
        sa.Column("volumetric_bmd", sa.Double),  # mg/cm3
    )


result = sa.Table(
    "result",
    metadata,
    _id(),
    _belongs_to("series"),
    _belongs_to("job"),
    sa.Column("program", Word(Program), nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),  # of the series
    sa.Column("is_current", sa.Boolean, nullable=False),
    *_measures(),  # the patient's values
    sa.Column("finding", Word(BoneFinding)),  # the patient's
    sa.Column("reason", Word(Reason)),  # why no density was given
    sa.Column("attenuation_model", SafeText(130)),  # "name@version" that the HU values rest on
    sa.Column("density_model", SafeText(130)),
    sa.Column("policy", SafeText(130), nullable=False),
    sa.Column("engine_version", SafeText(64), nullable=False),
    sa.Column("analysed_at", UtcTime, nullable=False),
    sa.Column("recorded_at", UtcTime, nullable=False),
    sa.Column("stage_seconds", sa.JSON, nullable=False),
)
sa.Index(
    "uq_result_current",
    result.c.series_id,
    result.c.program,
    unique=True,
    **_where(result.c.is_current),
)
sa.Index("ix_result_series_id", result.c.series_id)

vertebra = sa.Table(
    "vertebra",
    metadata,
    _belongs_to("result", primary_key=True),
    sa.Column("level", Word(VertebralLevel), primary_key=True),
    *_measures(),
    sa.Column("finding", Word(BoneFinding)),
    sa.Column("reason", Word(Reason)),  # why its density is withheld
    sa.Column("aggregated", sa.Boolean, nullable=False),  # it went into the patient's value
    sqlite_with_rowid=False,
)

quality_flag = sa.Table(
    "quality_flag",
    metadata,
    _belongs_to("result", primary_key=True),
    sa.Column("ordinal", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("reason", Word(Reason), nullable=False),
    sa.Column("level", Word(VertebralLevel)),  # NULL: the whole series
    sa.Column("withholds", sa.Boolean, nullable=False),
    sa.Column("detail", SafeText(400), nullable=False),
    sqlite_with_rowid=False,
)

result_model = sa.Table(
    "result_model",
    metadata,
    _belongs_to("result", primary_key=True),
    sa.Column("ordinal", sa.Integer, primary_key=True, autoincrement=False),
    _belongs_to("model"),
    sa.Column("precision", SafeText(32), nullable=False),
    sa.Column("backend", SafeText(64), nullable=False),
    sqlite_with_rowid=False,
)

outbox = sa.Table(
    "outbox",
    metadata,
    _id(),
    _belongs_to("result"),
    sa.Column("kind", SafeText(16), nullable=False),
    sa.Column("sop_class_uid", UID, nullable=False),
    sa.Column("sop_instance_uid", UID, nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("destination", SafeText(64), nullable=False),
    sa.Column("state", Word(ObjectState), nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("token", sa.Integer, nullable=False),
    sa.Column("owner", SafeText(64)),
    sa.Column("lease_until", UtcTime),
    sa.Column("not_before", UtcTime, nullable=False),
    sa.Column("detail", SafeText(400), nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("sent_at", UtcTime),
    sa.UniqueConstraint("sop_instance_uid", "destination"),
)
sa.Index("ix_outbox_ready", outbox.c.destination, outbox.c.id, **_where(outbox.c.state == word(ObjectState.READY)))
sa.Index("ix_outbox_leased", outbox.c.lease_until, **_where(outbox.c.state == word(ObjectState.LEASED)))
sa.Index("ix_outbox_result_id", outbox.c.result_id)

backfill = sa.Table(
    "backfill",
    metadata,
    _id(),
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
    _id(),
    _belongs_to("backfill"),
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
    _id(),
    _belongs_to("backfill"),
    _belongs_to("backfill_part"),
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
    **_where(backfill_series.c.state == word(FetchState.WAITING)),
)

event = sa.Table(
    "event",
    metadata,
    _id(),
    sa.Column("at", UtcTime, nullable=False),
    sa.Column("subject", SafeText(16), nullable=False),  # "study", "series", "object"
    sa.Column("uid", SafeText(64), nullable=False),
    sa.Column("change", Word(Change), nullable=False),
    sa.Column("reason", Word(Reason)),
    sa.Column("detail", SafeText(400), nullable=False),
)
sa.Index("ix_event_uid", event.c.uid)
