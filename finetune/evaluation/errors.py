"""Error analysis: substituted, deleted, inserted and repeated words, characters, and the worst utterances."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from finetune.evaluation.results import Result
from finetune.evaluation.scores import (
    Counts,
    ErrorCounts,
    align_characters,
    align_words,
    count_character_errors,
    count_reference_words,
    count_word_errors,
    pair_units,
)
from finetune.text.word_units import split_words

MOST = 50  # of each kind


@dataclass(frozen=True)
class Confusion:
    """A reference unit and what was recognised in its place ("" for nothing), its count and an example utterance.

    `places` are the indices of all results with this error.
    """

    reference: str
    hypothesis: str
    count: int
    utterance: str
    places: tuple[int, ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True)
class Missed:
    """A word, its count in the references and how often it was not recognised, in the results at `places`."""

    word: str
    said: int
    missed: int
    places: tuple[int, ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True)
class Worst:
    """An utterance with its number of word errors and of reference words."""

    utterance: str
    errors: int
    words: int


@dataclass(frozen=True)
class Errors:
    """The most frequent errors of each kind, the most frequent first.

    `repeated` are inserted words next to the same word; `characters` are substitutions, insertions and deletions of
    characters together.
    """

    substitutions: tuple[Confusion, ...]
    insertions: tuple[Confusion, ...]
    deletions: tuple[Confusion, ...]
    repeated: tuple[Confusion, ...]
    missed: tuple[Missed, ...]
    characters: tuple[Confusion, ...]
    worst: tuple[Worst, ...]

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values but the places, which `utterances.jsonl` makes unnecessary."""
        return {
            kind: [{name: value for name, value in vars(each).items() if name != "places"} for each in found]
            for kind, found in vars(self).items()
        }


class _Tally:
    """Counts pairs, and keeps the indices of the results with each."""

    def __init__(self, results: Sequence[Result]) -> None:
        self.results = results
        self.counts: Counter[tuple[str, str]] = Counter()
        self.places: dict[tuple[str, str], dict[int, None]] = {}

    def add(self, pairs: Iterable[tuple[str, str]], place: int) -> None:
        for pair in pairs:
            self.counts[pair] += 1
            self.places.setdefault(pair, {})[place] = None

    def most(self, kind: Any = lambda old, new: True) -> tuple[Confusion, ...]:
        chosen = [(pair, count) for pair, count in self.counts.items() if kind(*pair)]
        chosen.sort(key=lambda item: (-item[1], item[0]))
        return tuple(self._confusion(*item) for item in chosen[:MOST])

    def _confusion(self, pair: tuple[str, str], count: int) -> Confusion:
        places = tuple(self.places[pair])
        return Confusion(*pair, count, self.results[places[0]].name, places)


def analyse_errors(results: Sequence[Result], counts: Counts) -> Errors:
    """Collect all word and character errors; `counts` is (utterances, columns).

    Words are aligned with the fewest errors. Several such alignments can exist and jiwer chooses one: of two adjacent
    wrong words, either may be reported as the insertion.
    """
    words, characters, repeated, missed = (_Tally(results) for _ in range(4))
    said = Counter(word for result in results for word in split_words(result.reference))
    # Most utterances of a good model have no errors.
    wrong: list[int] = np.flatnonzero(count_word_errors(counts) + count_character_errors(counts)).tolist()
    texts = [results[place].reference for place in wrong], [results[place].hypothesis for place in wrong]
    aligned = zip(wrong, align_words(*texts), align_characters(*texts), strict=True)
    for place, word_alignment, character_alignment in aligned:
        pairs = pair_units(word_alignment)
        words.add((pair for pair in pairs if pair[0] != pair[1]), place)
        missed.add(((old, "") for old, new in pairs if old and old != new), place)
        repeated.add(_find_repeated(pairs), place)
        characters.add((pair for pair in pair_units(character_alignment) if pair[0] != pair[1]), place)
    return Errors(
        substitutions=words.most(lambda old, new: old and new),
        insertions=words.most(lambda old, new: not old),
        deletions=words.most(lambda old, new: not new),
        repeated=repeated.most(),
        missed=tuple(Missed(each.reference, said[each.reference], each.count, each.places) for each in missed.most()),
        characters=characters.most(),
        worst=tuple(
            Worst(results[row].name, errors=found.errors, words=found.reference_length)
            for row in rank_worst(counts)[:MOST]
            if (found := ErrorCounts.of_words(counts[row])).errors
        ),
    )


def rank_worst(counts: Counts) -> list[int]:
    """The indices of all utterances, by word errors in descending order, then by length in ascending order."""
    errors, words = count_word_errors(counts).tolist(), count_reference_words(counts).tolist()
    return sorted(range(len(counts)), key=lambda row: (-errors[row], words[row], row))


def _find_repeated(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    recognised = [(old, new) for old, new in pairs if new]
    return [
        (old, new)
        for i, (old, new) in enumerate(recognised)
        if not old and new in {near for _, near in (*recognised[max(0, i - 1) : i], *recognised[i + 1 : i + 2])}
    ]
