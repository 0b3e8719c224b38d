"""Rows of the tables to utterances, hypotheses and reviews, opened with the keys of the store."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Connection, Row, select

from finetune.errors import UserError
from finetune.feedback.records import Hypothesis, Review, Utterance
from finetune.feedback.schema import HYPOTHESES, REVIEWS, UTTERANCES
from finetune.feedback.sealing import Seal

_LARGEST_NUMBER = 2**63 - 1  # That a database has; a driver refuses larger ones with an error of its own.


class RowReader:
    """Reads rows; all methods raise UserError for what can't be decrypted."""

    def __init__(self, seal: Seal) -> None:
        """Take the keys."""
        self._seal = seal

    def hypotheses(self, connection: Connection, number: int) -> tuple[Hypothesis, ...]:
        """What models wrote of an utterance, the oldest first."""
        columns = HYPOTHESES.c
        rows = connection.execute(select(HYPOTHESES).where(columns.utterance_id == number).order_by(columns.id))
        return tuple(
            Hypothesis(
                text=self._seal.open_text(row.text, "hypothesis"),
                model=row.model,
                confidence=row.confidence,
                words=tuple((*each,) for each in json.loads(self._seal.open_text(row.words, "words"))),
            )
            for row in rows
        )

    def reviews(self, connection: Connection, number: int) -> tuple[Review, ...]:
        """What people said of an utterance, the oldest first."""
        rows = connection.execute(select(REVIEWS).where(REVIEWS.c.utterance_id == number).order_by(REVIEWS.c.id))
        return tuple(
            Review(
                reviewer=row.reviewer,
                action=row.action,
                text=self._open(row.text, "review"),
                reason=self._open(row.reason, "reason"),
                at=row.added_at,
            )
            for row in rows
        )

    def build(self, row: Row[Any], hypotheses: tuple[Hypothesis, ...], reviews: tuple[Review, ...]) -> Utterance:
        """An utterance from its row."""
        values = {name: value for name, value in row._mapping.items() if name != "speaker_hash"}
        values |= {"speaker": self._open(row.speaker, "speaker"), "text": self._open(row.text, "text")}
        values["reasons"] = json.loads(row.reasons)
        return Utterance(**values, hypotheses=hypotheses, reviews=reviews)

    def _open(self, text: str | None, purpose: str) -> str | None:
        return None if text is None else self._seal.open_text(text, purpose)


def require_row(connection: Connection, number: int, *, forgotten: bool = False) -> Row[Any]:
    """The row of an utterance; raises UserError for one that is not there, and unless asked for, a forgotten one."""
    query = select(UTTERANCES).where(UTTERANCES.c.id == number)
    if connection.get_execution_options().get("writes"):
        query = query.with_for_update()  # PostgreSQL: one at a time for each utterance.
    row = connection.execute(query).first() if 0 < number <= _LARGEST_NUMBER else None
    if row is None:
        raise UserError(f"The store has no utterance {number}.")
    if row.status == "forgotten" and not forgotten:
        raise UserError(f"Utterance {number} was forgotten: its audio and texts are deleted.")
    return row
