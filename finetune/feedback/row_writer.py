"""Utterances, hypotheses and reviews to rows of the tables, sealed with the keys of the store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from sqlalchemy import Connection, insert, select, update

from finetune.feedback.configuration import log_step, require_words
from finetune.feedback.erasure import CONSENT, name_utterance
from finetune.feedback.priority import measure_priority
from finetune.feedback.records import Hypothesis, NewUtterance, Receipt, Review, SplitName, decide, normalize, now
from finetune.feedback.rows import RowReader, require_row
from finetune.feedback.schema import HYPOTHESES, REVIEWS, UTTERANCES
from finetune.feedback.sealing import Seal


class RowWriter:
    """Writes rows in a transaction; all methods raise UserError for an utterance that is not there."""

    def __init__(self, seal: Seal, reviewers_wanted: int, test_share: float, validation_share: float) -> None:
        """Take the keys and the settings of the store."""
        self._seal, self._reader = seal, RowReader(seal)
        self._reviewers_wanted, self._shares = reviewers_wanted, (test_share, validation_share)

    def insert(self, connection: Connection, new: NewUtterance, digest: str, who: str) -> int:
        """Add an utterance, and return its number."""
        priority, reasons = measure_priority((), new.signals)
        speaker = new.speaker or None
        values = {
            "digest": digest,
            "suffix": new.suffix,
            "seconds": new.seconds,
            "source": new.source,
            "domain": new.domain,
            "speaker": self._seal.seal_text(speaker, "speaker") if speaker else None,
            "speaker_hash": self._seal.hash_name(speaker) if speaker else None,
            "split": self._choose_split(f"speaker {speaker}" if speaker else f"audio {digest}"),
            "consent": new.consent,
            "licence": new.licence,
            "added_at": now(),
            "added_by": who,
            "reviewers_wanted": self._reviewers_wanted,
            "status": "open",
            "priority": priority,
            "reasons": json.dumps(reasons),
        }
        number = connection.execute(insert(UTTERANCES).values(**values)).inserted_primary_key
        assert number is not None
        return int(number[0])

    def renew_consent(self, connection: Connection, number: int, consent: str, who: str) -> bool:
        """Replace a consent, and return whether it was another one."""
        before = require_row(connection, number).consent
        if before == consent:
            return False
        connection.execute(update(UTTERANCES).where(UTTERANCES.c.id == number).values(consent=consent))
        log_step(connection, who, CONSENT, name_utterance(number), {"before": before, "after": consent})
        return True

    def insert_hypothesis(self, connection: Connection, number: int, hypothesis: Hypothesis) -> None:
        """Add what a model wrote, once for each model."""
        columns = HYPOTHESES.c
        query = select(columns.id).where(columns.utterance_id == number, columns.model == hypothesis.model)
        if connection.execute(query).first() is not None:
            return
        values = {
            "utterance_id": number,
            "model": hypothesis.model,
            "text": self._seal.seal_text(hypothesis.text, "hypothesis"),
            "confidence": hypothesis.confidence,
            "words": self._seal.seal_text(json.dumps(hypothesis.words), "words"),
            "added_at": now(),
        }
        connection.execute(insert(HYPOTHESES).values(**values))

    def insert_review(self, connection: Connection, number: int, review: Review, *, is_new: bool) -> Receipt:
        """Add what a person says, and settle the utterance; raises UserError for a text without words."""
        text = normalize(review.text or "")
        if review.action in ("accept", "edit"):
            require_words(text)
        before = self._reader.reviews(connection, number)
        last = next((each for each in reversed(before) if each.reviewer == review.reviewer), None)
        said = review.action, text, normalize(review.reason or "")
        if last is not None and (last.action, normalize(last.text or ""), normalize(last.reason or "")) == said:
            repeated = f"{review.reviewer} has said the same of utterance {number} before: nothing was added."
            return self.settle(connection, number, is_new=is_new, note=repeated)
        values = {
            "utterance_id": number,
            "reviewer": review.reviewer,
            "action": review.action,
            "text": self._seal.seal_text(text, "review") if text else None,
            "reason": self._seal.seal_text(review.reason, "reason") if review.reason else None,
            "added_at": now(),
        }
        connection.execute(insert(REVIEWS).values(**values))
        receipt = self.settle(connection, number, is_new=is_new)
        note: str | None = None
        if receipt.status == "conflict":
            note = f"Utterance {number} has different corrections: it waits in the review queue for a decision."
        elif last is not None and last.action != "skip":
            note = f"This replaces what {review.reviewer} said of utterance {number} before."
        return Receipt(id=number, is_new=is_new, status=receipt.status, note=note)

    def settle(self, connection: Connection, number: int, *, is_new: bool, note: str | None = None) -> Receipt:
        """Write the status that follows from all reviews."""
        wanted = require_row(connection, number).reviewers_wanted
        status, text = decide(self._reader.reviews(connection, number), wanted)
        sealed = self._seal.seal_text(text, "text") if text else None
        connection.execute(update(UTTERANCES).where(UTTERANCES.c.id == number).values(status=status, text=sealed))
        return Receipt(id=number, is_new=is_new, status=status, note=note)

    def update_priority(self, connection: Connection, number: int, signals: Mapping[str, float]) -> None:
        """Write the priority that follows from all hypotheses and signals."""
        row = require_row(connection, number)
        kept = {**json.loads(row.reasons), **signals}
        priority, reasons = measure_priority(self._reader.hypotheses(connection, number), kept)
        values = {"priority": priority, "reasons": json.dumps(reasons)}
        connection.execute(update(UTTERANCES).where(UTTERANCES.c.id == number).values(**values))

    def _choose_split(self, name: str) -> SplitName:
        """The split of a speaker, from its name alone: it never changes."""
        place = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
        test, validation = self._shares
        return "test" if place < test else "validation" if place < test + validation else "train"
