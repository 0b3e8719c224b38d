"""Count word and character errors over a corpus; rates are derived from the counts, never averaged."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import jiwer
import numpy as np
import numpy.typing as npt

from finetune.text.word_units import split_words


class Column(IntEnum):
    """The columns of `Counts`, which all add up; `WRONG` is 1 for an utterance with a word error."""

    HITS = 0
    SUBSTITUTIONS = 1
    DELETIONS = 2
    INSERTIONS = 3
    CHARACTER_HITS = 4
    CHARACTER_SUBSTITUTIONS = 5
    CHARACTER_DELETIONS = 6
    CHARACTER_INSERTIONS = 7
    WRONG = 8
    UTTERANCES = 9


# The fields of `ErrorCounts`, of words and of characters.
_WORDS = slice(Column.HITS, Column.INSERTIONS + 1)
_CHARACTERS = slice(Column.CHARACTER_HITS, Column.CHARACTER_INSERTIONS + 1)

Counts = npt.NDArray[np.int64]
"""Integer counts, (…, columns), with the columns of `Column`."""

RATES = ("wer", "cer", "ser")

# Utterances aligned at once: jiwer's alignments are lists of objects and take much memory.
_BLOCK = 1000


@dataclass(frozen=True)
class ErrorCounts:
    """Numbers of correct, substituted, deleted and inserted words (or characters). Counts add; rates do not.

    >>> from finetune.evaluation.scores import ErrorCounts
    >>> (ErrorCounts(8, 1, 1, 0) + ErrorCounts(9, 0, 0, 1)).rate
    0.15789473684210525
    """

    hits: int
    substitutions: int
    deletions: int
    insertions: int

    def __add__(self, other: ErrorCounts) -> ErrorCounts:
        return ErrorCounts(**{name: count + getattr(other, name) for name, count in vars(self).items()})

    @classmethod
    def of_words(cls, counts: Counts) -> ErrorCounts:
        """The word counts of one row, (columns,)."""
        return cls(*counts[_WORDS].tolist())

    @classmethod
    def of_characters(cls, counts: Counts) -> ErrorCounts:
        """The character counts of one row, (columns,)."""
        return cls(*counts[_CHARACTERS].tolist())

    @property
    def reference_length(self) -> int:
        """Number of reference words (or characters)."""
        return self.hits + self.substitutions + self.deletions

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions together."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float | None:
        """Errors per reference unit: a fraction that may exceed 1, None without reference units."""
        return self.errors / self.reference_length if self.reference_length else None


@dataclass(frozen=True)
class Scores:
    """Error counts of a set of utterances; `+` adds those of two sets, such as batches or processes.

    `wrong` is the number of utterances with a word error.

    >>> from finetune.evaluation.scores import score
    >>> scores = score(["it rained", "yes"], ["it rain", "yes"])
    >>> round(scores.wer, 3), round(scores.cer, 3), scores.ser
    (0.333, 0.167, 0.5)
    """

    utterances: int
    audio_seconds: float
    words: ErrorCounts
    characters: ErrorCounts
    wrong: int

    @classmethod
    def from_counts(cls, counts: Counts, audio_seconds: float) -> Scores:
        """The sum of a table of counts, (utterances, columns)."""
        sums = counts.sum(axis=0)
        return cls(
            utterances=int(sums[Column.UTTERANCES]),
            audio_seconds=audio_seconds,
            words=ErrorCounts.of_words(sums),
            characters=ErrorCounts.of_characters(sums),
            wrong=int(sums[Column.WRONG]),
        )

    def __add__(self, other: Scores) -> Scores:
        return Scores(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    @property
    def wer(self) -> float | None:
        """Word error rate of the corpus: a fraction, None without reference words."""
        return self.words.rate

    @property
    def cer(self) -> float | None:
        """Character error rate of the corpus: a fraction, None without reference characters."""
        return self.characters.rate

    @property
    def ser(self) -> float | None:
        """Sentence error rate: the share of utterances with a word error, None without utterances."""
        return self.wrong / self.utterances if self.utterances else None

    def to_json(self) -> dict[str, Any]:
        """Rates (fractions) and their counts; counts without a prefix are of words."""
        return {
            "wer": self.wer,
            "cer": self.cer,
            "ser": self.ser,
            "utterances": self.utterances,
            "wrong_utterances": self.wrong,
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


def percent(rate: float | None) -> str:
    """A rate (a fraction) as percent with one decimal; "unknown" for None."""
    return "unknown" if rate is None else f"{100 * rate:.1f} %"


def count(number: int, noun: str) -> str:
    """A number with its noun: "1 word", "2 words"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def collapse_whitespace(text: str) -> str:
    """Strip the ends and leave single spaces between words."""
    # Tabs and no-break spaces separate words too.
    return " ".join(text.split())


def score(references: Sequence[str], hypotheses: Sequence[str], audio_seconds: float = 0.0) -> Scores:
    """Count errors as `count_errors` does, and add the counts.

    `audio_seconds` is the length of all utterances together. Raises ValueError when the two lists differ in length.

    >>> from finetune.evaluation.scores import score
    >>> score(["it rained"], ["it has rained"], audio_seconds=1.5).words
    ErrorCounts(hits=2, substitutions=0, deletions=0, insertions=1)
    """
    return Scores.from_counts(count_errors(references, hypotheses), audio_seconds)


def count_errors(references: Sequence[str], hypotheses: Sequence[str]) -> Counts:
    """Each utterance's counts, (utterances, columns).

    Whitespace is collapsed in both texts, nothing else is changed; words are those of `split_words`. With an empty
    reference all of the hypothesis is insertions, with an empty hypothesis all of the reference is deletions.
    Characters include the single spaces between words.

    Raises ValueError when the two lists differ in length.
    """
    aligned = zip(align_words(references, hypotheses), align_characters(references, hypotheses), strict=True)
    rows = [[*_tally(words), *_tally(characters)] for (_, _, words), (_, _, characters) in aligned]
    counts = np.zeros((len(rows), len(Column)), dtype=np.int64)
    if rows:
        counts[:, : Column.WRONG] = rows
    counts[:, Column.WRONG] = count_word_errors(counts) > 0
    counts[:, Column.UTTERANCES] = 1
    return counts


def count_word_errors(counts: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Substitutions, deletions and insertions of words, (…,), from counts, (…, columns)."""
    return counts[..., Column.SUBSTITUTIONS : Column.INSERTIONS + 1].sum(axis=-1)


def count_reference_words(counts: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Words of the references, (…,), from counts, (…, columns)."""
    return counts[..., Column.HITS : Column.DELETIONS + 1].sum(axis=-1)


def count_character_errors(counts: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Substitutions, deletions and insertions of characters, (…,), from counts, (…, columns)."""
    return counts[..., Column.CHARACTER_SUBSTITUTIONS : Column.CHARACTER_INSERTIONS + 1].sum(axis=-1)


def count_reference_characters(counts: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Characters of the references, (…,), from counts, (…, columns)."""
    return counts[..., Column.CHARACTER_HITS : Column.CHARACTER_DELETIONS + 1].sum(axis=-1)


def error_rates(sums: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """The rates of `RATES`, (…, 3), of sums of counts, (…, columns); NaN where there are no reference units."""
    errors = np.stack([count_word_errors(sums), count_character_errors(sums), sums[..., Column.WRONG]], axis=-1)
    words, characters = count_reference_words(sums), count_reference_characters(sums)
    units = np.stack([words, characters, sums[..., Column.UTTERANCES]], axis=-1)
    return np.divide(errors, units, out=np.full(errors.shape, np.nan), where=units > 0)


Alignment = tuple[list[str], list[str], list[Any]]
"""The units of a reference, those of its hypothesis, and jiwer's chunks, which align them."""


def align_words(references: Sequence[str], hypotheses: Sequence[str]) -> Iterator[Alignment]:
    """jiwer's alignment of the words of each pair; raises ValueError when the two lists differ in length."""
    return _align(references, hypotheses, split_words)


def align_characters(references: Sequence[str], hypotheses: Sequence[str]) -> Iterator[Alignment]:
    """jiwer's alignment of the characters of each pair, single spaces among them; raises ValueError as above."""
    return _align(references, hypotheses, lambda text: list(collapse_whitespace(text)))


def _align(
    references: Sequence[str], hypotheses: Sequence[str], split: Callable[[str], list[str]]
) -> Iterator[Alignment]:
    if len(references) != len(hypotheses):
        raise ValueError(f"Got {len(references)} references but {len(hypotheses)} hypotheses.")

    def split_all(texts: Sequence[str]) -> list[list[str]]:
        return [split(text) for text in texts]

    for start in range(0, len(references), _BLOCK):
        block = slice(start, start + _BLOCK)
        # jiwer's own transforms take twice as long and split words only at the plain space.
        output = jiwer.process_words(list(references[block]), list(hypotheses[block]), split_all, split_all)
        yield from zip(output.references, output.hypotheses, output.alignments, strict=True)


def pair_units(alignment: Alignment) -> list[tuple[str, str]]:
    """Pairs of reference and hypothesis units; "" is a deleted or inserted unit's other side."""
    reference, hypothesis, chunks = alignment
    pairs: list[tuple[str, str]] = []
    for chunk in chunks:
        left = reference[chunk.ref_start_idx : chunk.ref_end_idx]
        right = hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx]
        pairs += itertools.zip_longest(left, right, fillvalue="")
    return pairs


def _tally(chunks: Sequence[Any]) -> list[int]:
    counts = dict.fromkeys(("equal", "substitute", "delete", "insert"), 0)
    for chunk in chunks:
        counts[chunk.type] += max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
    return list(counts.values())
