"""
The series that a report object lies in, so that a later document can name the one that it replaces; and the order
in which scanner drift is summed up.

Revision ID: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Unknown for objects that are there already: they are no document's predecessor."""
    op.add_column("outbox", sa.Column("series_instance_uid", sa.String(64)))
    summed = ["scanner_id", "program", "study_date", "patient_age", "attenuation_mean", "volumetric_bmd"]
    op.create_index("ix_population_drift", "population", summed)


def downgrade() -> None:
    """Drop it."""
    op.drop_index("ix_population_drift", "population")
    op.drop_column("outbox", "series_instance_uid")
