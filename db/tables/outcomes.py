"""
What analyses said, by which weights, policy and run, and which objects of it go where.

A vertebra is one row with a column a measure: a third of the size of one row a quantity, and no slower. A quantity
without a column of its own lies in `extra_measurement`; a program whose places are no vertebrae adds a table.
"""

from typing import Any

import sqlalchemy as sa

from db.columns import MultiValue, SafeText, UtcTime, Word, word
from db.tables.base import UID, belongs_to, metadata, row_id, where
from db.tables.states import ObjectState
from engine.records import (
    Anchor,
    BoneFinding,
    CalibrationMethod,
    Program,
    Quantity,
    Reason,
    ReferenceMaterial,
    VertebralLevel,
)

model = sa.Table(
    "model",
    metadata,
    row_id(),
    sa.Column("name", SafeText(64), nullable=False),
    sa.Column("version", SafeText(64), nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("reference_only", sa.Boolean, nullable=False),
    sa.UniqueConstraint("sha256", "name", "version"),
)

policy = sa.Table(
    "policy",
    metadata,
    row_id(),
    sa.Column("name", SafeText(130), nullable=False, unique=True),  # "name@version"
    sa.Column("first_used_at", UtcTime, nullable=False),
)

run = sa.Table(  # one process of a worker, from its first result to its last
    "run",
    metadata,
    row_id(),
    sa.Column("owner", SafeText(64), nullable=False, unique=True),  # host, process and something random
    sa.Column("program", Word(Program), nullable=False),
    sa.Column("engine_version", SafeText(64), nullable=False),
    sa.Column("first_result_at", UtcTime, nullable=False),
    sa.Column("last_result_at", UtcTime, nullable=False),
    sa.Column("results", sa.Integer, nullable=False),
)


def _core() -> tuple[sa.Column[Any], ...]:
    return (
        sa.Column("attenuation_mean", sa.Double),  # HU
        sa.Column("attenuation_median", sa.Double),  # HU
        sa.Column("attenuation_sd", sa.Double),  # HU
        sa.Column("core_volume", sa.Double),  # cm3
    )


def _values() -> tuple[sa.Column[Any], ...]:
    return (
        sa.Column("volumetric_bmd", sa.Double),  # mg/cm3
        sa.Column("calibrated_bmd", sa.Double),  # mg/cm3
        sa.Column("areal_bmd", sa.Double),  # g/cm2
        sa.Column("trabecular_bone_score", sa.Double),
        sa.Column("probability_normal", sa.Double),
        sa.Column("probability_osteopenia", sa.Double),
        sa.Column("probability_osteoporosis", sa.Double),
        sa.Column("finding", Word(BoneFinding)),  # what volumetric_bmd was called
        sa.Column("calibrated_bmd_finding", Word(BoneFinding)),
        sa.Column("areal_bmd_finding", Word(BoneFinding)),
        sa.Column("trabecular_bone_score_finding", Word(BoneFinding)),
    )


result = sa.Table(
    "result",
    metadata,
    row_id(),
    belongs_to("series"),
    belongs_to("job"),
    belongs_to("run", nullable=True),  # NULL: it was written before runs were kept
    sa.Column("program", Word(Program), nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),  # of the series
    sa.Column("is_current", sa.Boolean, nullable=False),
    *_values(),  # the patient's values; a core is a vertebra's, `population` has their mean
    sa.Column("reason", Word(Reason)),  # why no density was given
    sa.Column("attenuation_model", SafeText(130)),  # "name@version" that the HU values rest on
    sa.Column("density_model", SafeText(130)),
    sa.Column("calibrated_bmd_model", SafeText(130)),
    sa.Column("areal_bmd_model", SafeText(130)),
    sa.Column("trabecular_bone_score_model", SafeText(130)),
    sa.Column("class_model", SafeText(130)),  # that gave the probabilities
    sa.Column("policy", SafeText(130), nullable=False),
    sa.Column("calibrated_bmd_policy", SafeText(130)),
    sa.Column("areal_bmd_policy", SafeText(130)),
    sa.Column("trabecular_bone_score_policy", SafeText(130)),
    sa.Column("engine_version", SafeText(64), nullable=False),
    sa.Column("analysed_at", UtcTime, nullable=False),
    sa.Column("recorded_at", UtcTime, nullable=False),
    sa.Column("stage_seconds", sa.JSON, nullable=False),
)
sa.Index("uq_result_current", result.c.series_id, result.c.program, unique=True, **where(result.c.is_current))
sa.Index("ix_result_series_id", result.c.series_id)

vertebra = sa.Table(
    "vertebra",
    metadata,
    belongs_to("result", primary_key=True),
    sa.Column("level", Word(VertebralLevel), primary_key=True),
    *_core(),
    *_values(),
    sa.Column("reason", Word(Reason)),  # why its density is withheld
    # it went into the patient's volumetric, calibrated and areal values; NULL: written before that was kept
    sa.Column("aggregated", sa.Boolean, nullable=False),
    sa.Column("calibrated_aggregated", sa.Boolean),
    sa.Column("areal_aggregated", sa.Boolean),
    sqlite_with_rowid=False,
)

calibration = sa.Table(  # what a density rests on: value = slope * (HU, or a network's mg/cm3) + intercept
    "calibration",
    metadata,
    belongs_to("result", primary_key=True),
    sa.Column("ordinal", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("quantity", Word(Quantity), nullable=False),
    sa.Column("method", Word(CalibrationMethod), nullable=False),
    sa.Column("source", SafeText(130), nullable=False),
    sa.Column("reference_material", Word(ReferenceMaterial), nullable=False),
    sa.Column("slope", sa.Double, nullable=False),
    sa.Column("intercept", sa.Double, nullable=False),  # mg/cm3
    sa.Column("corrections", MultiValue(400), nullable=False),
    sqlite_with_rowid=False,
)

extra_measurement = sa.Table(  # quantities that have no column of their own
    "extra_measurement",
    metadata,
    belongs_to("result", primary_key=True),
    sa.Column("ordinal", sa.Integer, primary_key=True, autoincrement=False),  # as the result names them
    sa.Column("finding_site", Word(VertebralLevel)),  # NULL: the patient
    sa.Column("quantity", SafeText(40), nullable=False),
    sa.Column("value", sa.Double, nullable=False),
    sa.Column("model", SafeText(130), nullable=False),
    sqlite_with_rowid=False,
)

quality_flag = sa.Table(
    "quality_flag",
    metadata,
    belongs_to("result", primary_key=True),
    sa.Column("ordinal", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("reason", Word(Reason), nullable=False),
    sa.Column("level", Word(VertebralLevel)),  # NULL: the whole series
    sa.Column("withholds", sa.Boolean, nullable=False),
    sa.Column("detail", SafeText(400), nullable=False),
    sqlite_with_rowid=False,
)

numbering = sa.Table(  # how an anchor in view counts the vertebrae; shift 0: as the result names them
    "numbering",
    metadata,
    belongs_to("result", primary_key=True),
    sa.Column("ordinal", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("anchor", Word(Anchor), nullable=False),
    sa.Column("shift", sa.Integer, nullable=False),  # levels by which its names lie further down
    sqlite_with_rowid=False,
)

result_model = sa.Table(
    "result_model",
    metadata,
    belongs_to("result", primary_key=True),
    sa.Column("ordinal", sa.Integer, primary_key=True, autoincrement=False),
    belongs_to("model"),
    sa.Column("precision", SafeText(32), nullable=False),
    sa.Column("backend", SafeText(64), nullable=False),
    sqlite_with_rowid=False,
)

outbox = sa.Table(
    "outbox",
    metadata,
    row_id(),
    belongs_to("result"),
    sa.Column("kind", SafeText(16), nullable=False),
    sa.Column("sop_class_uid", UID, nullable=False),
    sa.Column("series_instance_uid", UID),  # of the object; NULL: written before this was kept
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
    sa.Column("transaction_uid", UID),  # of the latest request for storage commitment
    sa.Column("ask_at", UtcTime),  # when commitment is asked for next; NULL: it never was
    sa.Column("cleared_at", UtcTime),  # its file is gone
    sa.UniqueConstraint("sop_instance_uid", "destination"),
)
sa.Index("ix_outbox_ready", outbox.c.destination, outbox.c.id, **where(outbox.c.state == word(ObjectState.READY)))
sa.Index("ix_outbox_leased", outbox.c.lease_until, **where(outbox.c.state == word(ObjectState.LEASED)))
sa.Index("ix_outbox_transaction_uid", outbox.c.transaction_uid)
sa.Index("ix_outbox_result_id", outbox.c.result_id)

destination = sa.Table(  # how those who send get on with each peer that reports go to
    "destination",
    metadata,
    sa.Column("name", SafeText(64), primary_key=True),
    sa.Column("detail", SafeText(400), nullable=False),  # why it is left alone; empty: it takes what is sent
    sa.Column("since", UtcTime),  # when that began
    sa.Column("next_at", UtcTime),  # when it is tried again
    sa.Column("seen_at", UtcTime, nullable=False),  # the last sign of life of a process that sends to it
    sqlite_with_rowid=False,
)
