"""Greedy CTC decoding: the likeliest symbol of each frame, with repeats collapsed and blanks dropped."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from finetune.decoding.alphabet import Alphabet
from finetune.decoding.hypotheses import (
    SECONDS_PER_FRAME,
    Character,
    Hypothesis,
    Word,
    build_word,
    check_logits,
    clean_words,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def decode_greedy(logits: torch.Tensor, num_frames: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Decode logits into one text for each utterance, the same text as that of transformers' pipeline.

    `logits` is (batch, frames, vocabulary), logits or log-probabilities, on any device. `num_frames` has the number of
    valid frames of each utterance; the rest is padding. The tokenizer is a CTC tokenizer whose pad token is the blank.

    Each utterance is decoded by `tokenizer.decode(ids, skip_special_tokens=False)`, as in the pipeline. Three other
    ways look right and are wrong:

    - `skip_special_tokens=True` drops blanks before repeats are collapsed: "hello book" -> "helo bok".
    - In transformers 5 the word delimiter "|" is a special token too, so skipping special tokens anywhere else joins
      the words.
    - Filling the padding with -100, as for labels, puts "[UNK]" at the end of the text, since no token has that id.
      Here the ids are cut at `num_frames`.

    Two word delimiters with a blank between them give a double space, as in the pipeline; scoring collapses it.

    Raises ValueError when `num_frames` does not fit the logits.
    """
    _check(logits, num_frames)
    best = logits.argmax(dim=-1).tolist()  # (batch, frames)
    return [
        # The phone tokenizer cannot decode an empty list.
        str(tokenizer.decode(ids[:frames], skip_special_tokens=False)) if frames else ""
        for ids, frames in zip(best, num_frames, strict=True)
    ]


def count_blanks(logits: torch.Tensor, num_frames: Sequence[int], blank_id: int) -> tuple[int, int]:
    """Count the valid frames whose likeliest symbol is the blank.

    `logits` is (batch, frames, vocabulary), `num_frames` as for `decode_greedy`. Returns (blank frames, frames), which
    add up over batches; with a ratio near 1 the model's texts are empty.

    Raises ValueError when `num_frames` does not fit the logits.
    """
    _check(logits, num_frames)
    lengths = torch.tensor(list(num_frames), device=logits.device)
    valid = torch.arange(logits.shape[1], device=logits.device) < lengths[:, None]  # (batch, frames)
    blanks = (logits.argmax(dim=-1) == blank_id) & valid
    return int(blanks.sum()), int(valid.sum())


@dataclass
class GreedyState:
    """The state of a greedy search after some frames; made by `GreedySearch.start`."""

    num_frames: int = 0
    score: float = 0.0
    words: list[Word] = field(default_factory=list)
    characters: list[Character] = field(default_factory=list)  # Of the unfinished word.
    delimiter_frame: int | None = None  # After the delimiter before that word.
    # The symbol of the last frames, the first of these frames, and the logarithm of its largest posterior in them.
    symbol: int | None = None
    first_frame: int = 0
    peak: float = 0.0


class GreedySearch:
    """The text of `decode_greedy` with its words' frames and confidences; frames may come in pieces.

    It has the interface of `BeamSearch` and can be used by several threads.
    """

    def __init__(
        self,
        symbols: Sequence[str],
        *,
        blank_id: int,
        delimiter_id: int | None,
        special_ids: Iterable[int] = (),
        symbols_are_words: bool = False,
        clean_up: Callable[[str], str] | None = None,
        seconds_per_frame: float = SECONDS_PER_FRAME,
    ) -> None:
        """The arguments are as for `BeamSearch`; without a `delimiter_id` a text is one word."""
        special = frozenset(special_ids)
        self.alphabet = Alphabet(tuple(symbols), blank_id, delimiter_id, special, symbols_are_words, clean_up)
        self.symbols = self.alphabet.symbols
        self.blank_id, self.delimiter_id = blank_id, delimiter_id
        self.seconds_per_frame = seconds_per_frame

    def start(self) -> GreedyState:
        """The state before the first frame."""
        return GreedyState()

    def advance(self, state: GreedyState, logits: Any, name: str = "The utterance") -> GreedyState:
        """Decode further frames, (frames, vocabulary), logits or log-probabilities; the state given is used up.

        Words and times do not depend on how the frames are divided. Raises UserError when a logit is not finite.
        """
        array = check_logits(logits, len(self.symbols), name, state.num_frames)
        if not len(array):
            return state
        best = array.argmax(axis=1)
        top = array.max(axis=1, keepdims=True)
        posteriors = -np.log(np.exp(array - top).sum(axis=1, dtype=np.float64))
        state.score += float(posteriors.sum())
        starts = [0, *(np.flatnonzero(np.diff(best)) + 1).tolist()]
        peaks = np.maximum.reduceat(posteriors, starts).tolist()
        for start, symbol, peak in zip(starts, best[starts].tolist(), peaks, strict=True):
            if symbol == state.symbol:
                state.peak = max(state.peak, peak)
                continue
            self._emit(state, state.num_frames + start)
            state.symbol, state.first_frame, state.peak = symbol, state.num_frames + start, peak
        state.num_frames += len(array)
        return state

    def finish(self, state: GreedyState, n_best: int = 1) -> list[Hypothesis]:
        """The text as if the audio ended here; the state is not changed and can be advanced further."""
        ended = replace(state, words=list(state.words), characters=list(state.characters))
        self._emit(ended, ended.num_frames)
        self._end_word(ended)
        words = clean_words(ended.words, self.alphabet.clean_up, self.seconds_per_frame)
        return [Hypothesis(" ".join(word.text for word in words), words, ended.score, 0.0)]

    def _emit(self, state: GreedyState, end_frame: int) -> None:
        """Append the symbol of the last frames to the text."""
        if state.symbol is None or state.symbol in (self.blank_id, *self.alphabet.silent_ids):
            return
        text = self.symbols[state.symbol]
        if state.symbol == self.delimiter_id or not text.strip():
            self._end_word(state)
            state.delimiter_frame = end_frame
            return
        state.characters.append(Character(text, state.first_frame, end_frame, math.exp(state.peak)))
        if self.alphabet.symbols_are_words:
            self._end_word(state)

    def _end_word(self, state: GreedyState) -> None:
        if state.characters:
            state.words.append(build_word(state.characters, self.seconds_per_frame, state.delimiter_frame))
            state.characters = []


def measure_confidence(search: GreedySearch, logits: torch.Tensor) -> float | None:
    """The mean confidence of the words of an utterance with these logits, (frames, vocabulary).

    None without words, and for the logits of a model that has diverged, which are not finite.
    """
    if not bool(logits.isfinite().all()):
        return None
    words = search.finish(search.advance(search.start(), logits))[0].words
    return sum(word.confidence for word in words) / len(words) if words else None


def _check(logits: torch.Tensor, num_frames: Sequence[int]) -> None:
    if logits.ndim != 3 or len(num_frames) != logits.shape[0]:
        raise ValueError(
            f"Got logits of shape {tuple(logits.shape)} with {len(num_frames)} lengths: "
            "needs (batch, frames, vocabulary) and one length for each utterance."
        )
    # Python accepts a slice past the end, and a negative one.
    if not all(0 <= frames <= logits.shape[1] for frames in num_frames):
        raise ValueError(f"Lengths {list(num_frames)} do not fit in {logits.shape[1]} frames.")
