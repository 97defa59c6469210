"""
The first tables.

Revision ID: 0001
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _where(condition: str) -> dict[str, Any]:
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


def upgrade() -> None:
    """Make them."""
    op.create_table(
        "event",
        sa.Column("id", ID, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("subject", sa.String(16), nullable=False),
        sa.Column("uid", sa.String(64), nullable=False),
        sa.Column("change", sa.String(40), nullable=False),
        sa.Column("reason", sa.String(40)),
        sa.Column("detail", sa.String(400), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_event"),
    )
    op.create_index("ix_event_uid", "event", ["uid"])
    op.create_table(
        "model",
        sa.Column("id", ID, nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("reference_only", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_model"),
        sa.UniqueConstraint("sha256", "name", "version", name="uq_model_sha256_name_version"),
    )
    op.create_table(
        "refusal",
        sa.Column("id", ID, nullable=False),
        sa.Column("subject", sa.String(64), nullable=False),
        sa.Column("reason", sa.String(40), nullable=False),
        sa.Column("detail", sa.String(400), nullable=False),
        sa.Column("peer", sa.String(64), nullable=False),
        sa.Column("times", sa.Integer(), nullable=False),
        sa.Column("first_refused_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_refused_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_refusal"),
        sa.UniqueConstraint("subject", "reason", name="uq_refusal_subject_reason"),
    )
    op.create_table(
        "study",
        sa.Column("id", ID, nullable=False),
        sa.Column("study_instance_uid", sa.String(64), nullable=False),
        sa.Column("patient_key", sa.String(64), nullable=False),
        sa.Column("state", sa.String(40), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("id", name="pk_study"),
        sa.UniqueConstraint("study_instance_uid", name="uq_study_study_instance_uid"),
    )
    op.create_index("ix_study_patient_key", "study", ["patient_key"])
    op.create_index("ix_study_receiving", "study", ["last_received_at"], **_where("state = 'receiving'"))
    op.create_table(
        "series",
        sa.Column("id", ID, nullable=False),
        sa.Column("study_id", ID, nullable=False),
        sa.Column("series_instance_uid", sa.String(64), nullable=False),
        sa.Column("state", sa.String(40), nullable=False),
        sa.Column("reason", sa.String(40)),
        sa.Column("detail", sa.String(400), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("instance_count", sa.Integer()),
        sa.Column("patient_sex", sa.String(16)),
        sa.Column("patient_age", sa.Integer()),
        sa.Column("study_date", sa.String(8)),
        sa.Column("acquisition_date", sa.String(8)),
        sa.Column("modality", sa.String(16)),
        sa.Column("image_type", sa.String(256)),
        sa.Column("body_part_examined", sa.String(64)),
        sa.Column("manufacturer", sa.String(64)),
        sa.Column("manufacturer_model_name", sa.String(64)),
        sa.Column("convolution_kernel", sa.String(256)),
        sa.Column("slice_thickness", sa.Double()),
        sa.Column("kvp", sa.Double()),
        sa.Column("contrast_bolus_agent", sa.Boolean()),
        sa.Column("gantry_detector_tilt", sa.Double()),
        sa.Column("lossy_image_compression", sa.Boolean()),
        sa.Column("transfer_syntax_uid", sa.String(64)),
        sa.Column("extent_mm", sa.Double()),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name="fk_series_study_id"),
        sa.PrimaryKeyConstraint("id", name="pk_series"),
        sa.UniqueConstraint("series_instance_uid", name="uq_series_series_instance_uid"),
    )
    op.create_index("ix_series_state_reason", "series", ["state", "reason"])
    op.create_index("ix_series_study_id", "series", ["study_id"])
    op.create_table(
        "header",
        sa.Column("id", ID, nullable=False),
        sa.Column("series_id", ID, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("attributes", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["series_id"], ["series.id"], name="fk_header_series_id"),
        sa.PrimaryKeyConstraint("id", name="pk_header"),
        sa.UniqueConstraint("series_id", "sha256", name="uq_header_series_id_sha256"),
    )
    op.create_table(
        "job",
        sa.Column("id", ID, nullable=False),
        sa.Column("series_id", ID, nullable=False),
        sa.Column("program", sa.String(40), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(40), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("token", sa.Integer(), nullable=False),
        sa.Column("owner", sa.String(64)),
        sa.Column("lease_until", sa.DateTime(timezone=True)),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reason", sa.String(40)),
        sa.Column("detail", sa.String(400), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
        sa.ForeignKeyConstraint(["series_id"], ["series.id"], name="fk_job_series_id"),
        sa.PrimaryKeyConstraint("id", name="pk_job"),
        sa.UniqueConstraint("series_id", "program", "revision", name="uq_job_series_id_program_revision"),
    )
    op.create_index("ix_job_leased", "job", ["lease_until"], **_where("state = 'leased'"))
    op.create_index("ix_job_ready", "job", ["priority", "id"], **_where("state = 'ready'"))
    op.create_table(
        "selection",
        sa.Column("id", ID, nullable=False),
        sa.Column("series_id", ID, nullable=False),
        sa.Column("program", sa.String(40), nullable=False),
        sa.Column("study_revision", sa.Integer(), nullable=False),
        sa.Column("reason", sa.String(40)),
        sa.Column("detail", sa.String(400), nullable=False),
        sa.Column("score", sa.Double(), nullable=False),
        sa.Column("selected_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["series_id"], ["series.id"], name="fk_selection_series_id"),
        sa.PrimaryKeyConstraint("id", name="pk_selection"),
        sa.UniqueConstraint(
            "series_id", "program", "study_revision", name="uq_selection_series_id_program_study_revision"
        ),
    )
    op.create_table(
        "instance",
        sa.Column("id", ID, nullable=False),
        sa.Column("series_id", ID, nullable=False),
        sa.Column("header_id", ID, nullable=False),
        sa.Column("sop_instance_uid", sa.String(64), nullable=False),
        sa.Column("instance_number", sa.BigInteger()),
        sa.Column("image_position_patient", sa.String(160)),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["header_id"], ["header.id"], name="fk_instance_header_id"),
        sa.ForeignKeyConstraint(["series_id"], ["series.id"], name="fk_instance_series_id"),
        sa.PrimaryKeyConstraint("id", name="pk_instance"),
        sa.UniqueConstraint("path", name="uq_instance_path"),
        sa.UniqueConstraint("sop_instance_uid", name="uq_instance_sop_instance_uid"),
    )
    op.create_index("ix_instance_series_id", "instance", ["series_id"])
    op.create_table(
        "result",
        sa.Column("id", ID, nullable=False),
        sa.Column("series_id", ID, nullable=False),
        sa.Column("job_id", ID, nullable=False),
        sa.Column("program", sa.String(40), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("is_current", sa.Boolean(), nullable=False),
        sa.Column("attenuation_mean", sa.Double()),
        sa.Column("attenuation_median", sa.Double()),
        sa.Column("attenuation_sd", sa.Double()),
        sa.Column("core_volume", sa.Double()),
        sa.Column("volumetric_bmd", sa.Double()),
        sa.Column("finding", sa.String(40)),
        sa.Column("reason", sa.String(40)),
        sa.Column("attenuation_model", sa.String(130)),
        sa.Column("density_model", sa.String(130)),
        sa.Column("policy", sa.String(130), nullable=False),
        sa.Column("engine_version", sa.String(64), nullable=False),
        sa.Column("analysed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("stage_seconds", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_result_job_id"),
        sa.ForeignKeyConstraint(["series_id"], ["series.id"], name="fk_result_series_id"),
        sa.PrimaryKeyConstraint("id", name="pk_result"),
    )
    op.create_index("ix_result_series_id", "result", ["series_id"])
    op.create_index("uq_result_current", "result", ["series_id", "program"], unique=True, **_where("is_current"))
    op.create_table(
        "outbox",
        sa.Column("id", ID, nullable=False),
        sa.Column("result_id", ID, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("sop_class_uid", sa.String(64), nullable=False),
        sa.Column("sop_instance_uid", sa.String(64), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("destination", sa.String(64), nullable=False),
        sa.Column("state", sa.String(40), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("token", sa.Integer(), nullable=False),
        sa.Column("owner", sa.String(64)),
        sa.Column("lease_until", sa.DateTime(timezone=True)),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=False),
        sa.Column("detail", sa.String(400), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True)),
        sa.ForeignKeyConstraint(["result_id"], ["result.id"], name="fk_outbox_result_id"),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
        sa.UniqueConstraint("sop_instance_uid", "destination", name="uq_outbox_sop_instance_uid_destination"),
    )
    op.create_index("ix_outbox_leased", "outbox", ["lease_until"], **_where("state = 'leased'"))
    op.create_index("ix_outbox_ready", "outbox", ["destination", "id"], **_where("state = 'ready'"))
    op.create_index("ix_outbox_result_id", "outbox", ["result_id"])
    op.create_table(
        "quality_flag",
        sa.Column("result_id", ID, nullable=False),
        sa.Column("ordinal", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("reason", sa.String(40), nullable=False),
        sa.Column("level", sa.String(40)),
        sa.Column("withholds", sa.Boolean(), nullable=False),
        sa.Column("detail", sa.String(400), nullable=False),
        sa.ForeignKeyConstraint(["result_id"], ["result.id"], name="fk_quality_flag_result_id"),
        sa.PrimaryKeyConstraint("result_id", "ordinal", name="pk_quality_flag"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "result_model",
        sa.Column("result_id", ID, nullable=False),
        sa.Column("ordinal", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("model_id", ID, nullable=False),
        sa.Column("precision", sa.String(32), nullable=False),
        sa.Column("backend", sa.String(64), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["model.id"], name="fk_result_model_model_id"),
        sa.ForeignKeyConstraint(["result_id"], ["result.id"], name="fk_result_model_result_id"),
        sa.PrimaryKeyConstraint("result_id", "ordinal", name="pk_result_model"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "vertebra",
        sa.Column("result_id", ID, nullable=False),
        sa.Column("level", sa.String(40), nullable=False),
        sa.Column("attenuation_mean", sa.Double()),
        sa.Column("attenuation_median", sa.Double()),
        sa.Column("attenuation_sd", sa.Double()),
        sa.Column("core_volume", sa.Double()),
        sa.Column("volumetric_bmd", sa.Double()),
        sa.Column("finding", sa.String(40)),
        sa.Column("reason", sa.String(40)),
        sa.Column("aggregated", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["result_id"], ["result.id"], name="fk_vertebra_result_id"),
        sa.PrimaryKeyConstraint("result_id", "level", name="pk_vertebra"),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    """Drop them, and all that they hold."""
    op.drop_table("vertebra")
    op.drop_table("result_model")
    op.drop_table("quality_flag")
    op.drop_table("outbox")
    op.drop_table("result")
    op.drop_table("instance")
    op.drop_table("selection")
    op.drop_table("job")
    op.drop_table("header")
    op.drop_table("series")
    op.drop_table("study")
    op.drop_table("refusal")
    op.drop_table("model")
    op.drop_table("event")
