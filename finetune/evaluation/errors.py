"""What goes wrong: confused words and characters, what is missed or said twice, the worst utterances."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from finetune.data.transcripts import split_words
from finetune.evaluation.results import Result
from finetune.evaluation.scores import Counts, align_characters, align_words, pair_units

MOST = 50  # of each kind


@dataclass(frozen=True)
class Confusion:
    """What was said, what was recognised in its place ("" for nothing), how often, and an utterance that shows it."""

    reference: str
    hypothesis: str
    count: int
    utterance: str


@dataclass(frozen=True)
class Missed:
    """A word, how often it was said and how often not recognised."""

    word: str
    said: int
    missed: int


@dataclass(frozen=True)
class Worst:
    """An utterance with its number of word errors and of reference words."""

    utterance: str
    errors: int
    words: int


@dataclass(frozen=True)
class Errors:
    """The most frequent errors of each kind, the most frequent first.

    `repeated` are inserted words that stand beside the same word; `characters` are substitutions, insertions and
    deletions of characters together.
    """

    substitutions: tuple[Confusion, ...]
    insertions: tuple[Confusion, ...]
    deletions: tuple[Confusion, ...]
    repeated: tuple[Confusion, ...]
    missed: tuple[Missed, ...]
    characters: tuple[Confusion, ...]
    worst: tuple[Worst, ...]

    def to_json(self) -> dict[str, Any]:
        """The whole as plain values."""
        return asdict(self)


class _Tally:
    """Counts pairs, and remembers the first utterance with each."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.examples: dict[tuple[str, str], str] = {}

    def add(self, pairs: Iterable[tuple[str, str]], utterance: str) -> None:
        for pair in pairs:
            self.counts[pair] += 1
            self.examples.setdefault(pair, utterance)

    def most(self, kind: Any = lambda said, heard: True) -> tuple[Confusion, ...]:
        chosen = [(pair, count) for pair, count in self.counts.items() if kind(*pair)]
        chosen.sort(key=lambda item: (-item[1], item[0]))
        return tuple(Confusion(*pair, count, self.examples[pair]) for pair, count in chosen[:MOST])


def analyse_errors(results: Sequence[Result], counts: Counts) -> Errors:
    """Look at each word and character that is wrong; `counts` is (utterances, 10).

    Words are aligned for the fewest errors, and which of several such alignments is taken is jiwer's choice: of two
    wrong words side by side, either may be called the inserted one.
    """
    words, characters, repeated = _Tally(), _Tally(), _Tally()
    said = Counter(word for result in results for word in split_words(result.reference))
    missed: Counter[str] = Counter()
    # Most utterances of a good model have nothing that would need looking at.
    wrong = [result for result, row in zip(results, counts, strict=True) if row[1:4].any() or row[5:8].any()]
    texts = [result.reference for result in wrong], [result.hypothesis for result in wrong]
    aligned = zip(wrong, align_words(*texts), align_characters(*texts), strict=True)
    for result, word_alignment, character_alignment in aligned:
        pairs = pair_units(word_alignment)
        words.add((pair for pair in pairs if pair[0] != pair[1]), result.name)
        missed.update(old for old, new in pairs if old and old != new)
        repeated.add(_find_repeated(pairs), result.name)
        characters.add((pair for pair in pair_units(character_alignment) if pair[0] != pair[1]), result.name)
    return Errors(
        substitutions=words.most(lambda old, new: old and new),
        insertions=words.most(lambda old, new: not old),
        deletions=words.most(lambda old, new: not new),
        repeated=repeated.most(),
        missed=tuple(
            Missed(word, said[word], missed[word])
            for word in sorted(missed, key=lambda word: (-missed[word], word))[:MOST]
        ),
        characters=characters.most(),
        worst=tuple(
            Worst(results[row].name, int(counts[row, 1:4].sum()), int(counts[row, :3].sum()))
            for row in rank_worst(counts)[:MOST]
            if counts[row, 8]
        ),
    )


def rank_worst(counts: Counts) -> list[int]:
    """The places of all utterances, those with most word errors first, of equals the shorter ones."""
    errors, words = counts[:, 1:4].sum(axis=1).tolist(), counts[:, :3].sum(axis=1).tolist()
    return sorted(range(len(counts)), key=lambda row: (-errors[row], words[row], row))


def _find_repeated(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    heard = [(old, new) for old, new in pairs if new]
    return [
        (old, new)
        for place, (old, new) in enumerate(heard)
        if not old and new in {near for _, near in (*heard[max(0, place - 1) : place], *heard[place + 1 : place + 2])}
    ]
