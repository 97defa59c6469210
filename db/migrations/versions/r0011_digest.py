"""
What an instance is known again by is no SHA-256 any more, but a digest that names its algorithm; those there are stay,
and are compared as what they are.

Revision ID: 0011
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Rename the column: at once, however many rows there are, in both databases."""
    op.execute("ALTER TABLE instance RENAME COLUMN sha256 TO digest")


def downgrade() -> None:
    """Back. To an older program a file of a later digest is another one: what comes again is put aside, not lost."""
    op.execute("ALTER TABLE instance RENAME COLUMN digest TO sha256")
