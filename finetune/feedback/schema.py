"""The tables of a store. They change by a new file in migrations/ only, and `test_migrations.py` compares the two."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

METADATA = MetaData()

# SQLite counts rows by itself only in a column of the type INTEGER.
_ID = BigInteger().with_variant(Integer, "sqlite")
_TIME = String(27)  # UTC in ISO 8601 with microseconds, which sorts as text


def _id() -> Column[int]:
    return Column("id", _ID, primary_key=True, autoincrement=True)


SETTINGS = Table(
    "settings",
    METADATA,
    Column("name", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)

DATA_KEYS = Table(
    "data_keys",
    METADATA,
    _id(),
    Column("wrapped", LargeBinary, nullable=False),
    Column("added_at", _TIME, nullable=False),
)

UTTERANCES = Table(
    "utterances",
    METADATA,
    _id(),
    Column("digest", String(64), unique=True),  # of the audio; None once forgotten
    Column("suffix", String(8), nullable=False),
    Column("seconds", Float, nullable=False),
    Column("source", Text, nullable=False),
    Column("domain", String(64), nullable=False),
    Column("speaker", Text),  # sealed
    Column("speaker_hash", String(64), index=True),
    Column("split", String(16), nullable=False),
    Column("consent", Text, nullable=False),
    Column("licence", Text),
    Column("added_at", _TIME, nullable=False),
    Column("added_by", String(64), nullable=False),
    Column("reviewers_wanted", Integer, nullable=False),
    Column("status", String(16), nullable=False),
    Column("text", Text),  # sealed; what its reviewers agree on
    Column("priority", Float, nullable=False),
    Column("reasons", Text, nullable=False),
    Index("utterances_queue", "status", "priority", "id"),
    Index("utterances_by_status", "status", "id"),  # what snapshots read
)

REMOVALS = Table(
    "removals",
    METADATA,
    Column("digest", String(64), primary_key=True),  # of audio that is forgotten, until its file is deleted
    Column("added_at", _TIME, nullable=False),
)

HYPOTHESES = Table(
    "hypotheses",
    METADATA,
    _id(),
    Column("utterance_id", _ID, ForeignKey("utterances.id"), nullable=False),
    Column("model", String(64), nullable=False),
    Column("text", Text, nullable=False),  # sealed
    Column("confidence", Float),
    Column("words", Text, nullable=False),  # sealed
    Column("added_at", _TIME, nullable=False),
    UniqueConstraint("utterance_id", "model", name="hypotheses_once"),
)

REVIEWS = Table(
    "reviews",
    METADATA,
    _id(),
    Column("utterance_id", _ID, ForeignKey("utterances.id"), nullable=False, index=True),
    Column("reviewer", String(64), nullable=False),
    Column("action", String(16), nullable=False),
    Column("text", Text),  # sealed
    Column("reason", Text),  # sealed
    Column("added_at", _TIME, nullable=False),
)

AUDIT = Table(
    "audit",
    METADATA,
    _id(),
    Column("at", _TIME, nullable=False),
    Column("who", String(64), nullable=False),
    Column("action", String(32), nullable=False),
    Column("subject", Text, nullable=False),
    Column("details", Text, nullable=False),
)

SNAPSHOTS = Table(
    "snapshots",
    METADATA,
    Column("name", String(64), primary_key=True),
    Column("path", Text, nullable=False),
    Column("content_hash", String(64), nullable=False),
    Column("counts", Text, nullable=False),
    Column("added_at", _TIME, nullable=False),
    Column("added_by", String(64), nullable=False),
)

SNAPSHOT_UTTERANCES = Table(
    "snapshot_utterances",
    METADATA,
    Column("snapshot", String(64), ForeignKey("snapshots.name"), primary_key=True),
    Column("utterance_id", _ID, ForeignKey("utterances.id"), primary_key=True, index=True),
    Column("file", Text, nullable=False),
)

MODELS = Table(
    "models",
    METADATA,
    Column("name", String(64), primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("parent", String(64)),
    Column("snapshot", String(64)),
    Column("gate", Text, nullable=False),  # JSON: what was checked and found; {} for a model that came from elsewhere
    Column("added_at", _TIME, nullable=False),
    Column("added_by", String(64), nullable=False),
)
