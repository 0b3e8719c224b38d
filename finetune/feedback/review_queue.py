"""The review queue: which utterances most deserve a person's time, a page at a time."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, Select, select

from finetune.feedback.records import QUEUED, QueuePlace, Status
from finetune.feedback.schema import REVIEWS, UTTERANCES


def read_page(connection: Connection, limit: int, reviewer: str | None, after: QueuePlace | None) -> list[Row[Any]]:
    """The rows of the next utterances of the queue, those after a place in it."""
    rows: list[Row[Any]] = []
    for status in QUEUED if after is None else QUEUED[QUEUED.index(after.status) :]:
        begun = after if after is not None and after.status == status else None
        query = _select(status, reviewer, begun).limit(limit - len(rows))
        rows += connection.execute(query).all()
    return rows


def _select(status: Status, reviewer: str | None, after: QueuePlace | None) -> Select[Any]:
    columns = UTTERANCES.c
    query = select(UTTERANCES).where(columns.status == status)
    if after is not None:
        beyond = (columns.priority == after.priority) & (columns.id < after.id)
        query = query.where((columns.priority < after.priority) | beyond)
    if reviewer is not None and status == "open":  # A conflict ends when one of its reviewers changes the text.
        done = (REVIEWS.c.utterance_id == columns.id) & (REVIEWS.c.reviewer == reviewer)
        query = query.where(~select(REVIEWS.c.id).where(done).exists())
    return query.order_by(columns.priority.desc(), columns.id.desc())
