"""
State by series and program; scanners, runs, policies, more measures; what population studies ask.

Revision ID: 0003
"""

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
BATCH = 10_000  # series at a time
NEW_MEASURES = (
    "calibrated_bmd",
    "areal_bmd",
    "trabecular_bone_score",
    "probability_normal",
    "probability_osteopenia",
    "probability_osteoporosis",
)
NEW_FINDINGS = ("calibrated_bmd_finding", "areal_bmd_finding", "trabecular_bone_score_finding")
NEW_MODELS = ("calibrated_bmd_model", "areal_bmd_model", "trabecular_bone_score_model", "class_model")
NEW_POLICIES = ("calibrated_bmd_policy", "areal_bmd_policy", "trabecular_bone_score_policy")
NEW_MARKS = ("calibrated_aggregated", "areal_aggregated")


def upgrade() -> None:
    """Make them; each series keeps its state, now under its program."""
    _make_screening()
    _make_origins()
    _widen_results()
    _describe_series()
    _make_population()
    op.drop_index("ix_series_state_reason", "series")
    for name in ("state", "reason", "detail"):
        op.drop_column("series", name)


def downgrade() -> None:
    """Series get their state back; what has no place in the older tables is lost."""
    op.add_column("series", sa.Column("state", sa.String(40), nullable=False, server_default="receiving"))
    op.add_column("series", sa.Column("reason", sa.String(40)))
    op.add_column("series", sa.Column("detail", sa.String(400), nullable=False, server_default=""))
    for name in ("state", "reason", "detail"):
        op.execute(
            f"UPDATE series SET {name} = (SELECT s.{name} FROM screening s WHERE s.series_id = series.id"
            " AND s.program = 'vertebral') WHERE id IN (SELECT series_id FROM screening WHERE program = 'vertebral')"
        )
    op.create_index("ix_series_state_reason", "series", ["state", "reason"])
    op.drop_table("population")
    op.drop_table("densitometry")
    op.drop_table("extra_measurement")
    op.drop_table("calibration")
    for table in ("result", "vertebra"):
        for name in (*NEW_MEASURES, *NEW_FINDINGS):
            op.drop_column(table, name)
    for name in NEW_MARKS:
        op.drop_column("vertebra", name)
    for name in (*NEW_MODELS, *NEW_POLICIES, "run_id"):
        op.drop_column("result", name)
    op.drop_index("ix_series_accession_key", "series")
    for name in ("scanner_id", "study_day", "accession_key", "station_name"):
        op.drop_column("series", name)
    for table in ("run", "policy", "scanner", "screening"):
        op.drop_table(table)


def _make_screening() -> None:
    op.create_table(
        "screening",
        sa.Column("series_id", ID, nullable=False),
        sa.Column("program", sa.String(40), nullable=False),
        sa.Column("state", sa.String(40), nullable=False),
        sa.Column("selected", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.String(40)),
        sa.Column("detail", sa.String(400), nullable=False),
        sa.ForeignKeyConstraint(["series_id"], ["series.id"], name="fk_screening_series_id"),
        sa.PrimaryKeyConstraint("series_id", "program", name="pk_screening"),
        sqlite_with_rowid=False,
    )
    columns = ["program", "state", "selected", "reason"]
    op.create_index("ix_screening_program_state_selected_reason", "screening", columns)
    op.execute(  # what a job was made for was selected; before this revision there was one program
        "INSERT INTO screening (series_id, program, state, selected, reason, detail)"
        " SELECT s.id, 'vertebral', s.state,"
        " EXISTS (SELECT 1 FROM job j WHERE j.series_id = s.id AND j.revision = s.revision AND j.state != 'obsolete'),"
        " s.reason, s.detail FROM series s WHERE s.state != 'receiving'"
    )


def _make_origins() -> None:
    op.create_table(
        "scanner",
        sa.Column("id", ID, nullable=False),
        sa.Column("label", sa.String(400), nullable=False),
        sa.Column("manufacturer", sa.String(64)),
        sa.Column("manufacturer_model_name", sa.String(64)),
        sa.Column("station_name", sa.String(64)),
        sa.Column("convolution_kernel", sa.String(256)),
        sa.Column("kvp", sa.Double()),
        sa.PrimaryKeyConstraint("id", name="pk_scanner"),
        sa.UniqueConstraint("label", name="uq_scanner_label"),
    )
    op.create_table(
        "policy",
        sa.Column("id", ID, nullable=False),
        sa.Column("name", sa.String(130), nullable=False),
        sa.Column("first_used_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_policy"),
        sa.UniqueConstraint("name", name="uq_policy_name"),
    )
    op.execute("INSERT INTO policy (name, first_used_at) SELECT policy, min(recorded_at) FROM result GROUP BY policy")
    op.create_table(
        "run",
        sa.Column("id", ID, nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("program", sa.String(40), nullable=False),
        sa.Column("engine_version", sa.String(64), nullable=False),
        sa.Column("first_result_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_result_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("results", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_run"),
        sa.UniqueConstraint("owner", name="uq_run_owner"),
    )


def _widen_results() -> None:
    for table in ("result", "vertebra"):
        for name in NEW_MEASURES:
            op.add_column(table, sa.Column(name, sa.Double()))
        for name in NEW_FINDINGS:
            op.add_column(table, sa.Column(name, sa.String(40)))
    for name in (*NEW_MODELS, *NEW_POLICIES):
        op.add_column("result", sa.Column(name, sa.String(130)))
    for name in NEW_MARKS:
        op.add_column("vertebra", sa.Column(name, sa.Boolean()))
    _add_reference("result", "run")
    op.create_table(
        "calibration",
        sa.Column("result_id", ID, nullable=False),
        sa.Column("ordinal", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("quantity", sa.String(40), nullable=False),
        sa.Column("method", sa.String(40), nullable=False),
        sa.Column("source", sa.String(130), nullable=False),
        sa.Column("reference_material", sa.String(40), nullable=False),
        sa.Column("slope", sa.Double(), nullable=False),
        sa.Column("intercept", sa.Double(), nullable=False),
        sa.Column("corrections", sa.String(400), nullable=False),
        sa.ForeignKeyConstraint(["result_id"], ["result.id"], name="fk_calibration_result_id"),
        sa.PrimaryKeyConstraint("result_id", "ordinal", name="pk_calibration"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "extra_measurement",
        sa.Column("result_id", ID, nullable=False),
        sa.Column("ordinal", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("finding_site", sa.String(40)),
        sa.Column("quantity", sa.String(40), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("model", sa.String(130), nullable=False),
        sa.ForeignKeyConstraint(["result_id"], ["result.id"], name="fk_extra_measurement_result_id"),
        sa.PrimaryKeyConstraint("result_id", "ordinal", name="pk_extra_measurement"),
        sqlite_with_rowid=False,
    )


def _add_reference(table: str, other: str) -> None:
    """A column that names a row of another table; SQLite takes the constraint only with the column."""
    if op.get_bind().dialect.name == "sqlite":
        constraint = f"CONSTRAINT fk_{table}_{other}_id REFERENCES {other} (id)"
        op.execute(f"ALTER TABLE {table} ADD COLUMN {other}_id INTEGER {constraint}")
    else:
        op.add_column(table, sa.Column(f"{other}_id", ID))
        op.create_foreign_key(f"fk_{table}_{other}_id", table, other, [f"{other}_id"], ["id"])


def _describe_series() -> None:
    op.add_column("series", sa.Column("study_day", sa.Integer()))
    op.add_column("series", sa.Column("accession_key", sa.String(64)))
    op.add_column("series", sa.Column("station_name", sa.String(64)))
    _add_reference("series", "scanner")
    op.create_index("ix_series_accession_key", "series", ["accession_key"])
    bind = op.get_bind()
    scanners: dict[str, int] = {}
    last = 0
    while rows := bind.execute(sa.text(_DESCRIBED), {"last": last, "batch": BATCH}).all():
        bind.execute(
            sa.text("UPDATE series SET study_day = :day, scanner_id = :scanner WHERE id = :id"),
            [{"id": row.id, "day": _day(row.study_date), "scanner": _scanner(bind, row, scanners)} for row in rows],
        )
        last = rows[-1].id


_DESCRIBED = """
    SELECT id, study_date, manufacturer, manufacturer_model_name, convolution_kernel, kvp
    FROM series WHERE id > :last AND instance_count IS NOT NULL ORDER BY id LIMIT :batch
"""


def _scanner(bind: sa.Connection, row: Any, known: dict[str, int]) -> int:
    kvp = "" if row.kvp is None else f"{row.kvp:g} kV"
    parts = (row.manufacturer, row.manufacturer_model_name, None, row.convolution_kernel, kvp)
    label = " | ".join(part or "-" for part in parts)[:400]
    if label not in known:
        said = {name: row[n] for n, name in enumerate(row._fields) if n >= 2}
        known[label] = bind.execute(
            sa.text(
                "INSERT INTO scanner (label, manufacturer, manufacturer_model_name, convolution_kernel, kvp) VALUES"
                " (:label, :manufacturer, :manufacturer_model_name, :convolution_kernel, :kvp) RETURNING id"
            ),
            {"label": label, **said},
        ).scalar_one()
    return known[label]


def _day(date: str | None) -> int | None:
    try:
        given = datetime.strptime(date or "", "%Y%m%d").replace(tzinfo=UTC)
    except ValueError:
        return None
    return (given - datetime(1970, 1, 1, tzinfo=UTC)).days


def _make_population() -> None:
    op.create_table(
        "densitometry",
        sa.Column("patient_key", sa.String(64), nullable=False),
        sa.Column("examination_day", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("examination_date", sa.String(8), nullable=False),
        sa.Column("origin", sa.String(16), nullable=False),
        sa.PrimaryKeyConstraint("patient_key", "examination_day", "kind", name="pk_densitometry"),
        sqlite_with_rowid=False,
    )
    op.create_table(  # empty: every upgrade fills it anew
        "population",
        sa.Column("result_id", ID, nullable=False),
        sa.Column("series_id", ID, nullable=False),
        sa.Column("program", sa.String(40), nullable=False),
        sa.Column("patient_key", sa.String(64), nullable=False),
        sa.Column("study_date", sa.String(8)),
        sa.Column("study_day", sa.Integer()),
        sa.Column("patient_sex", sa.String(16)),
        sa.Column("patient_age", sa.Integer()),
        sa.Column("age_decade", sa.Integer()),
        sa.Column("scanner_id", ID),
        sa.Column("attenuation_mean", sa.Double()),
        sa.Column("volumetric_bmd", sa.Double()),
        sa.Column("calibrated_bmd", sa.Double()),
        sa.Column("areal_bmd", sa.Double()),
        sa.Column("trabecular_bone_score", sa.Double()),
        sa.Column("finding", sa.String(40)),
        sa.Column("reason", sa.String(40)),
        sa.Column("reference_only", sa.Boolean(), nullable=False),
        sa.Column("eligible", sa.Boolean(), nullable=False),
        sa.Column("is_latest", sa.Boolean(), nullable=False),
        sa.Column("previous_day", sa.Integer()),
        sa.Column("previous_bmd", sa.Double()),
        sa.Column("previous_scanner_id", ID),
        sa.Column("first_day", sa.Integer()),
        sa.Column("first_bmd", sa.Double()),
        sa.Column("first_scanner_id", ID),
        sa.ForeignKeyConstraint(["result_id"], ["result.id"], name="fk_population_result_id"),
        sa.ForeignKeyConstraint(["scanner_id"], ["scanner.id"], name="fk_population_scanner_id"),
        sa.ForeignKeyConstraint(["series_id"], ["series.id"], name="fk_population_series_id"),
        sa.PrimaryKeyConstraint("result_id", name="pk_population"),
    )
    op.create_index("ix_population_patient_key", "population", ["patient_key"])
    latest: dict[str, Any] = {"sqlite_where": sa.text("is_latest"), "postgresql_where": sa.text("is_latest")}
    op.create_index("uq_population_latest", "population", ["patient_key", "program"], unique=True, **latest)
