"""Count word and character errors over a corpus; rates are derived from the counts, never averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jiwer

from finetune.data.transcripts import split_words


@dataclass(frozen=True)
class ErrorCounts:
    """How many words (or characters) were right, changed, left out and added. Counts add; rates do not."""

    hits: int
    substitutions: int
    deletions: int
    insertions: int

    def __add__(self, other: ErrorCounts) -> ErrorCounts:
        return ErrorCounts(
            self.hits + other.hits,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )

    @property
    def reference_length(self) -> int:
        """Number of words (or characters) that were really said."""
        return self.hits + self.substitutions + self.deletions

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions together."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float | None:
        """Errors for each reference unit: a fraction that may exceed 1, None without reference units."""
        return self.errors / self.reference_length if self.reference_length else None


@dataclass(frozen=True)
class Scores:
    """Error counts of a set of utterances; `+` joins two sets, over batches or processes."""

    utterances: int
    audio_seconds: float
    words: ErrorCounts
    characters: ErrorCounts

    def __add__(self, other: Scores) -> Scores:
        return Scores(
            self.utterances + other.utterances,
            self.audio_seconds + other.audio_seconds,
            self.words + other.words,
            self.characters + other.characters,
        )

    @property
    def wer(self) -> float | None:
        """Word error rate of the corpus: a fraction, None without reference words."""
        return self.words.rate

    @property
    def cer(self) -> float | None:
        """Character error rate of the corpus: a fraction, None without reference characters."""
        return self.characters.rate

    def to_json(self) -> dict[str, Any]:
        """Return rates (fractions) and the counts they come from; substitutions and so on are of words."""
        return {
            "wer": self.wer,
            "cer": self.cer,
            "utterances": self.utterances,
            "audio_seconds": self.audio_seconds,
            "words": self.words.reference_length,
            "substitutions": self.words.substitutions,
            "deletions": self.words.deletions,
            "insertions": self.words.insertions,
            "characters": self.characters.reference_length,
            "character_substitutions": self.characters.substitutions,
            "character_deletions": self.characters.deletions,
            "character_insertions": self.characters.insertions,
        }

    def summary(self) -> str:
        """Say the scores in one line for people; the only place here where rates become percent."""
        words = self.words
        return (
            f"WER {percent(self.wer)} ({count(words.substitutions, 'substitution')}, "
            f"{count(words.deletions, 'deletion')}, {count(words.insertions, 'insertion')} "
            f"in {count(words.reference_length, 'word')}), CER {percent(self.cer)}, "
            f"{count(self.utterances, 'utterance')}, {self.audio_seconds / 60:.1f} minutes"
        )


def percent(rate: float | None) -> str:
    """Print a rate (a fraction) as percent with one decimal; None is printed as "unknown"."""
    return "unknown" if rate is None else f"{100 * rate:.1f} %"


def count(number: int, noun: str) -> str:
    """Print a number with its noun: "1 word", "2 words"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def collapse_whitespace(text: str) -> str:
    """Strip the ends and leave single spaces between words."""
    # jiwer splits on the plain space alone: a tab or a no-break space would glue two words into one.
    return " ".join(text.split())


def score(references: Sequence[str], hypotheses: Sequence[str], audio_seconds: float = 0.0) -> Scores:
    """Compare hypotheses with their references, utterance by utterance, and count errors over them all.

    Whitespace is collapsed on both sides, nothing else is changed; a Han character or kana counts as a word.
    An empty reference makes all of its hypothesis insertions, an empty hypothesis makes all of its reference
    deletions. Characters include the single spaces between words. `audio_seconds` is the length of all
    utterances together.

    Raises ValueError when the two lists differ in length.
    """
    if len(references) != len(hypotheses):
        raise ValueError(f"Got {len(references)} references but {len(hypotheses)} hypotheses.")
    references = [collapse_whitespace(text) for text in references]
    hypotheses = [collapse_whitespace(text) for text in hypotheses]
    return Scores(
        utterances=len(references),
        audio_seconds=audio_seconds,
        words=_counts(align_words(references, hypotheses)),
        characters=_counts(jiwer.process_characters(references, hypotheses)),
    )


def align_words(references: Sequence[str], hypotheses: Sequence[str]) -> jiwer.WordOutput:
    """jiwer's alignment of the words of each pair."""
    return jiwer.process_words(
        [" ".join(split_words(text)) for text in references], [" ".join(split_words(text)) for text in hypotheses]
    )


def _counts(output: jiwer.WordOutput | jiwer.CharacterOutput) -> ErrorCounts:
    # Only the counts are taken: with no reference words jiwer's own rate is a count of insertions.
    return ErrorCounts(output.hits, output.substitutions, output.deletions, output.insertions)
