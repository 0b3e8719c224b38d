"""Forced alignment: the best path of a known text's symbols through a model's logits, and so the words' times.

torchaudio's `forced_align` stores a byte for each frame and symbol, 18 GB for an hour with its chapter, and cannot skip
words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from finetune.decoding.alphabet import split_symbols
from finetune.decoding.compilation import compiled
from finetune.decoding.hypotheses import SECONDS_PER_FRAME, Character, Word, check_logits

# With fewer cells (frames times symbols) all scores are stored, 16 bytes for each cell.
_MOST_CELLS = 2**22
# With more cells the frames are cut into so many stretches.
_STRETCHES = 64
# The least posterior of a symbol in a frame that it emits, as a natural logarithm.
_SURE = float(np.log(0.5))


@dataclass(frozen=True)
class Costs:
    """The costs of differences between text and audio, in natural logarithms of probability.

    `skip` is for each symbol of a word that is skipped, `foreign` for each frame of symbols that are not in the text.
    Measured with the defaults on the quickstart recipe's sentences by ten voices that are not in its training set: 1 of
    1000 words that are said is skipped, and 96 of 100 words of the corpus that replace words that are said. On AN4,
    most of whose words are single letters, these are 5 of 1000 and 93 of 100.
    """

    skip: float = 3.0
    foreign: float = 2.0


@dataclass(frozen=True)
class Alignment:
    """The words of a text in its order, and how much less likely the text is than the model's best path.

    A word that is not in the audio has no characters, and its frame is where it would be. `cost` is the natural
    logarithm of the ratio between the probabilities of the best path of any symbols and of the text's best path;
    `num_symbols` is the number of the text's symbols.
    """

    words: tuple[Word, ...]
    cost: float
    num_symbols: int


class _Text(NamedTuple):
    """A text's symbols with a gap before each; the last entry is no symbol and stands for the gap at the end.

    `symbols` and `gaps` are columns of emissions. `joins` is 0 where a symbol may follow the one before it without a
    gap, else -inf. `words` are the numbers of the gaps between words; `skips` are the costs from each to the next.
    """

    symbols: NDArray[np.uint32]
    gaps: NDArray[np.uint32]
    joins: NDArray[np.float64]
    words: NDArray[np.int64]
    skips: NDArray[np.float64]

    def cut(self, first: int, last: int) -> _Text:
        """The symbols `first` to `last` and the gaps before them."""
        low, high = np.searchsorted(self.words, (first, last + 1))
        part = slice(first, last + 1)
        words, skips = self.words[low:high] - first, self.skips[low : max(low, high - 1)]
        return _Text(self.symbols[part], self.gaps[part], self.joins[part], words, skips)


def align(
    logits: NDArray[np.float32],
    words: Sequence[str],
    ids: Mapping[str, int],
    *,
    blank_id: int,
    delimiter_id: int | None,
    costs: Costs = Costs(),
    seconds_per_frame: float = SECONDS_PER_FRAME,
) -> Alignment:
    """Find the best alignment of a text's symbols to the frames, in its order (Viterbi 1967); exact.

    `logits` is (frames, vocabulary), and `ids` has the column of each symbol, of one character or several (see
    `split_symbols`); a character without a column matches any symbol. Between two words there are one or more frames of
    blanks, delimiters and, at a cost, symbols that are not in the text; words may be skipped, at a cost.

    Memory is that of the logits and some 600 bytes for each symbol: the path's states are found for a few frames first,
    then between them (after Hirschberg 1975, doi:10.1145/360825.360861). Raises ValueError for an empty word, and
    UserError for logits that are not finite.
    """
    if not all(words):
        raise ValueError("Got an empty word.")
    logits = check_logits(logits, logits.shape[1], "The recording", 0)
    emissions, free = _score_frames(logits, blank_id, delimiter_id, costs.foreign)
    spelled = [split_symbols(word, ids) for word in words]
    text = _spell(spelled, ids, logits.shape[1], blank_id, costs.skip)
    before = np.full((2, len(text.symbols)), -np.inf)
    before[0, 0] = 0.0
    path = np.zeros(len(emissions) + 1, np.int64)
    path[-1] = 2 * (len(text.symbols) - 1)
    score = _find_path(emissions, text, 0, before, path)
    found = tuple(_read(path[2:-1], text, emissions[1:-1], spelled, delimiter_id, seconds_per_frame))
    return Alignment(found, free - score, sum(map(len, spelled)))


def _score_frames(
    logits: NDArray[np.float32], blank_id: int, delimiter_id: int | None, foreign: float
) -> tuple[NDArray[np.float32], float]:
    """Log-posteriors with two more columns (a gap between words, any symbol), and the best path's score without a text.

    One frame is added before the audio and one after it; both can only be a gap.
    """
    frames, vocabulary = logits.shape
    emissions = np.full((frames + 2, vocabulary + 2), -np.inf, np.float32)
    emissions[[0, -1], vocabulary] = 0.0
    inside = emissions[1:-1]
    log_probs = inside[:, :vocabulary]
    np.subtract(logits, logits.max(axis=1, keepdims=True, initial=-np.inf), out=log_probs)
    log_probs -= np.log(np.exp(log_probs).sum(axis=1, keepdims=True))
    gaps = [blank_id] if delimiter_id is None else [blank_id, delimiter_id]
    others = [column for column in range(vocabulary) if column not in gaps]
    inside[:, vocabulary + 1] = log_probs[:, others].max(axis=1)
    silent = log_probs[:, gaps].max(axis=1)
    inside[:, vocabulary] = np.maximum(silent, inside[:, vocabulary + 1] - foreign)
    return emissions, float(np.maximum(silent, inside[:, vocabulary + 1]).sum(dtype=np.float64))


def _spell(
    words: Sequence[Sequence[str]], ids: Mapping[str, int], vocabulary: int, blank_id: int, skip: float
) -> _Text:
    symbols = [ids.get(symbol, vocabulary + 1) for word in words for symbol in word]
    lengths = np.array([len(word) for word in words], np.int64)
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    row = np.array([*symbols, blank_id], np.uint32)
    gaps = np.full(len(row), blank_id, np.uint32)
    gaps[ends] = vocabulary
    joins = np.zeros(len(row))
    joins[1:][row[1:] == row[:-1]] = -np.inf
    joins[ends] = -np.inf
    return _Text(row, gaps, joins, ends, lengths * np.float64(skip))


def _find_path(
    emissions: NDArray[np.float32], text: _Text, first: int, before: NDArray[np.float64], path: NDArray[np.int64]
) -> float:
    """Write the states of the best path to its known last state, and return the path's score.

    `path` has the state before each row of emissions and after the last. State 2i is the gap before symbol i, 2i + 1
    the symbol; `before` has the states' scores before the first row, (gaps and symbols, symbols), from symbol `first`
    to that of the last state.
    """
    last = path[-1] // 2
    part = text.cut(first, last)
    room = 2, len(part.symbols) + 1
    if len(emissions) <= _STRETCHES or len(emissions) * len(part.symbols) <= _MOST_CELLS:
        scores = np.full((len(emissions) + 1, *room), -np.inf)
        scores[0, 0, :-1], scores[0, 1, 1:] = before
        _advance_all(emissions, part, scores)
        path[-1] -= 2 * first
        _trace(emissions, part, scores, path)
        path += 2 * first
        return float(_get(scores[-1], path[-1] - 2 * first))
    edges = np.linspace(0, len(emissions), _STRETCHES + 1).astype(np.int64).tolist()
    scores = np.full((len(edges), *room), -np.inf)
    scores[0, 0, :-1], scores[0, 1, 1:] = before
    for number, (edge, following) in enumerate(pairwise(edges)):
        _advance_to(emissions[edge:following], part, scores[number], scores[number + 1])
    for number, (edge, following) in reversed(list(enumerate(pairwise(edges)))):
        state = path[following]
        width = following - edge
        reached = None
        while reached != _get(scores[number + 1], state - 2 * first):  # The path comes from outside the window.
            width *= 2
            left = max(first, state // 2 - width)
            known = slice(left - first, state // 2 - first + 1)
            nearby = np.stack([scores[number, 0, :-1][known], scores[number, 1, 1:][known]])
            path[following] = state
            reached = _find_path(emissions[edge:following], text, left, nearby, path[edge : following + 1])
    return float(_get(scores[-1], path[-1] - 2 * first))


def _get(scores: NDArray[np.float64], state: int) -> np.float64:
    return scores[state % 2, state // 2 + state % 2]


@compiled
def _advance(row: NDArray[np.float32], text: _Text, old: NDArray[np.float64], new: NDArray[np.float64]) -> None:
    """Compute the scores after one frame: of gaps, and of symbols shifted by one."""
    old_gaps, old_symbols, new_gaps, new_symbols = old[0], old[1], new[0], new[1]
    for i in range(len(text.symbols)):
        gap, before, same = old_gaps[i], old_symbols[i], old_symbols[i + 1]
        new_symbols[i + 1] = max(max(same, gap), before + text.joins[i]) + row[text.symbols[i]]
        new_gaps[i] = max(gap, before) + row[text.gaps[i]]
    for k in range(1, len(text.words)):
        skipped = new_gaps[text.words[k - 1]] - text.skips[k - 1]
        new_gaps[text.words[k]] = max(new_gaps[text.words[k]], skipped)


@compiled
def _advance_all(rows: NDArray[np.float32], text: _Text, scores: NDArray[np.float64]) -> None:
    """Compute the scores after each row from those before the first."""
    for t in range(len(rows)):
        _advance(rows[t], text, scores[t], scores[t + 1])


@compiled
def _advance_to(rows: NDArray[np.float32], text: _Text, first: NDArray[np.float64], last: NDArray[np.float64]) -> None:
    """Compute the scores after the last row from those before the first, and store no others."""
    old, new = first.copy(), first.copy()
    for t in range(len(rows)):
        _advance(rows[t], text, old, new)
        old, new = new, old
    last[:] = old


@compiled
def _trace(rows: NDArray[np.float32], text: _Text, scores: NDArray[np.float64], path: NDArray[np.int64]) -> None:
    """Write the states of the best path to its last state; ties go to staying in a state, then to the gap."""
    words = text.words
    state = path[-1]
    for t in range(len(rows) - 1, -1, -1):
        gaps, symbols = scores[t, 0], scores[t, 1]
        i = state // 2
        if state % 2 == 0:
            # A score that the frame before does not explain comes from skipped words.
            while scores[t + 1, 0, i] > max(gaps[i], symbols[i]) + rows[t, text.gaps[i]]:
                i = words[np.searchsorted(words, i) - 1]
            state = 2 * i if gaps[i] >= symbols[i] else 2 * i - 1
        elif symbols[i] + text.joins[i] > max(gaps[i], symbols[i + 1]):
            state = 2 * i - 1
        elif gaps[i] > symbols[i + 1]:
            state = 2 * i
        path[t] = state


def _read(
    states: NDArray[np.int64],
    text: _Text,
    emissions: NDArray[np.float32],
    words: Sequence[Sequence[str]],
    delimiter_id: int | None,
    seconds_per_frame: float,
) -> Iterator[Word]:
    """The words with their times, from the states after each frame."""
    emitted = 2 * np.arange(len(text.symbols)) + 1
    starts = np.searchsorted(states, emitted, "left").tolist()
    ends = np.searchsorted(states, emitted, "right").tolist()
    columns = text.symbols.tolist()
    delimiters = np.array([], np.int64) if delimiter_id is None else np.flatnonzero(emissions[:, delimiter_id] > _SURE)
    before = 0  # The end of the previous word.
    for word, (first, behind) in zip(words, pairwise(text.words.tolist()), strict=True):
        start, end = starts[first], ends[behind - 1]
        times = start * seconds_per_frame, end * seconds_per_frame
        if start == end:  # A skipped word has no state.
            yield Word("".join(word), start, end, *times, confidence=0.0, characters=())
            continue
        characters = tuple(
            Character(letter, starts[i], ends[i], float(np.exp(emissions[starts[i] : ends[i], columns[i]].max())))
            for letter, i in zip(word, range(first, behind), strict=True)
        )
        confidence = sum(character.confidence for character in characters) / len(word)
        last = int(np.searchsorted(delimiters, start)) - 1
        delimiter_frame = int(delimiters[last]) + 1 if last >= 0 and delimiters[last] >= before else None
        yield Word(
            "".join(word),
            start,
            end,
            *times,
            confidence=confidence,
            characters=characters,
            delimiter_frame=delimiter_frame,
        )
        before = end
