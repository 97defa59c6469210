"""
Indexes that population views are answered from: groups by sex and age, and the lowest densities first.

Revision ID: 0005
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def _where(condition: str) -> dict[str, Any]:
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


def upgrade() -> None:
    """Make them."""
    grouped = ["program", "patient_sex", "age_decade", "volumetric_bmd", "finding"]
    op.create_index("ix_population_groups", "population", grouped, **_where("is_latest"))
    lowest = _where("is_latest AND finding = 'osteoporosis'")
    op.create_index("ix_population_worklist", "population", ["volumetric_bmd"], **lowest)


def downgrade() -> None:
    """Drop them."""
    op.drop_index("ix_population_worklist", "population")
    op.drop_index("ix_population_groups", "population")
