"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Create them; it is long because it names each column."""
    op.create_table(
        "settings",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    op.create_table(
        "data_keys",
        sa.Column("id", _ID, primary_key=True, autoincrement=True),
        sa.Column("wrapped", sa.LargeBinary, nullable=False),
        sa.Column("added_at", sa.String(27), nullable=False),
    )
    op.create_table(
        "utterances",
        sa.Column("id", _ID, primary_key=True, autoincrement=True),
        sa.Column("digest", sa.String(64), unique=True),
        sa.Column("suffix", sa.String(8), nullable=False),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("domain", sa.String(64), nullable=False),
        sa.Column("speaker", sa.Text),
        sa.Column("speaker_hash", sa.String(64), index=True),
        sa.Column("split", sa.String(16), nullable=False),
        sa.Column("consent", sa.Text, nullable=False),
        sa.Column("licence", sa.Text),
        sa.Column("added_at", sa.String(27), nullable=False),
        sa.Column("added_by", sa.String(64), nullable=False),
        sa.Column("reviewers_wanted", sa.Integer, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("text", sa.Text),
        sa.Column("priority", sa.Float, nullable=False),
        sa.Column("reasons", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("utterances_queue", "utterances", ["status", "priority", "id"])
    op.create_index("utterances_by_status", "utterances", ["status", "id"])
    op.create_table(
        "hypotheses",
        sa.Column("id", _ID, primary_key=True, autoincrement=True),
        sa.Column("utterance_id", _ID, sa.ForeignKey("utterances.id"), nullable=False),
        sa.Column("model", sa.String(64), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("confidence", sa.Float),
        sa.Column("words", sa.Text, nullable=False),
        sa.Column("added_at", sa.String(27), nullable=False),
        sa.UniqueConstraint("utterance_id", "model", name="hypotheses_once"),
    )
    op.create_table(
        "reviews",
        sa.Column("id", _ID, primary_key=True, autoincrement=True),
        sa.Column("utterance_id", _ID, sa.ForeignKey("utterances.id"), nullable=False, index=True),
        sa.Column("reviewer", sa.String(64), nullable=False),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("text", sa.Text),
        sa.Column("reason", sa.Text),
        sa.Column("added_at", sa.String(27), nullable=False),
    )
    op.create_table(
        "audit",
        sa.Column("id", _ID, primary_key=True, autoincrement=True),
        sa.Column("at", sa.String(27), nullable=False),
        sa.Column("who", sa.String(64), nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("details", sa.Text, nullable=False),
    )
    op.create_table(
        "snapshots",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("content_hash", sa.String(64), nullable=False),
        sa.Column("counts", sa.Text, nullable=False),
        sa.Column("added_at", sa.String(27), nullable=False),
        sa.Column("added_by", sa.String(64), nullable=False),
    )
    op.create_table(
        "snapshot_utterances",
        sa.Column("snapshot", sa.String(64), sa.ForeignKey("snapshots.name"), primary_key=True),
        sa.Column("utterance_id", _ID, sa.ForeignKey("utterances.id"), primary_key=True, index=True),
        sa.Column("file", sa.Text, nullable=False),
    )
    op.create_table(
        "models",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("parent", sa.String(64)),
        sa.Column("snapshot", sa.String(64)),
        sa.Column("gate", sa.Text, nullable=False),
        sa.Column("added_at", sa.String(27), nullable=False),
        sa.Column("added_by", sa.String(64), nullable=False),
    )
