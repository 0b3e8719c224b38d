"""How far reviewers of the same utterances agree."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, groupby

import jiwer
from sqlalchemy import distinct, func, select

from finetune.feedback.records import normalize
from finetune.feedback.schema import REVIEWS
from finetune.feedback.store import Store


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Counts over the utterances of which two or more reviewers gave a text or rejected it.

    `same` are those where all of them gave the same; `errors` and `words` are of the texts of each pair of reviewers,
    the one who gave the first text as the reference. A rejection has no words.
    """

    utterances: int = 0
    same: int = 0
    errors: int = 0
    words: int = 0

    @property
    def share(self) -> float | None:
        """The share of utterances where all gave the same; None without any."""
        return self.same / self.utterances if self.utterances else None

    @property
    def word_error_rate(self) -> float | None:
        """The word error rate between two reviewers; None without any."""
        return self.errors / self.words if self.words else None

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(
            utterances=self.utterances + other.utterances,
            same=self.same + other.same,
            errors=self.errors + other.errors,
            words=self.words + other.words,
        )


def measure_agreement(store: Store) -> Agreement:
    """The agreement of all reviewers of a store; the last text, or rejection, of each counts. Raises UserError."""
    total = Agreement()
    for texts in _iterate_texts(store):
        total += compare_texts(texts)
    return total


def compare_texts(texts: Mapping[str, str | None]) -> Agreement:
    """The agreement on one utterance, from the texts by reviewer; None for a rejection."""
    if len(texts) < 2:
        return Agreement()
    errors = words = 0
    for reference, text in combinations([text for text in texts.values() if text], 2):
        found = jiwer.process_words(reference, text)
        errors += found.substitutions + found.deletions + found.insertions
        words += found.hits + found.substitutions + found.deletions
    return Agreement(utterances=1, same=int(len(set(texts.values())) == 1), errors=errors, words=words)


def _iterate_texts(store: Store) -> Iterator[dict[str, str | None]]:
    """The texts by reviewer of each utterance with two or more reviewers."""
    columns = REVIEWS.c
    said = columns.action != "skip"
    several = select(columns.utterance_id).where(said).group_by(columns.utterance_id)
    several = several.having(func.count(distinct(columns.reviewer)) > 1)
    query = select(columns.utterance_id, columns.reviewer, columns.action, columns.text).where(said)
    query = query.where(columns.utterance_id.in_(several)).order_by(columns.utterance_id, columns.id)
    with store.database.read() as connection:
        rows: Iterable[tuple[int, str, str, str | None]] = connection.execute(query).tuples().all()
    for _, group in groupby(rows, key=lambda row: row[0]):
        texts: dict[str, str | None] = {}
        for _, reviewer, action, text in group:
            is_text = action != "reject" and text is not None
            texts[reviewer] = normalize(store.seal.open_text(text or "", "review")) if is_text else None
        yield texts
