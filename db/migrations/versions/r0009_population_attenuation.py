"""
The mean HU of each row of `population` is that of the cores that went into its density; it was empty.

Revision ID: 0009
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Fill it."""
    op.execute(
        "UPDATE population SET attenuation_mean = (SELECT AVG(vertebra.attenuation_mean) FROM vertebra"
        " WHERE vertebra.result_id = population.result_id AND vertebra.aggregated)"
    )


def downgrade() -> None:
    """Nothing: an older program makes rows without it, and reads those that have it."""
