"""The audio that is forgotten, until its file is deleted."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "removals",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("added_at", sa.String(27), nullable=False),
    )
