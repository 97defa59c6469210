"""
A core is a vertebra's: `result` loses four columns that no program ever filled.

Revision ID: 0013
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

COLUMNS = ("attenuation_mean", "attenuation_median", "attenuation_sd", "core_volume")


def upgrade() -> None:
    """Drop them."""
    for name in COLUMNS:
        op.drop_column("result", name)


def downgrade() -> None:
    """Make them, empty as they were."""
    for name in COLUMNS:
        op.add_column("result", sa.Column(name, sa.Double()))
