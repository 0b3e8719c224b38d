"""What a beam search finds: texts, their words and characters with times, and scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.errors import UserError

# A wav2vec2 encoder makes a frame of 320 samples at 16 kHz.
SECONDS_PER_FRAME = 0.02


@dataclass(frozen=True)
class Character:
    """A symbol of a word and when it was emitted; frames are counted from the audio's start, the end is behind it.

    `confidence` is the largest posterior that it has in its frames.
    """

    text: str
    start_frame: int
    end_frame: int
    confidence: float


@dataclass(frozen=True)
class Word:
    """A word, when it was said (frames, the end behind it, and seconds) and how sure the model is, from 0 to 1.

    Times are those of the frames in which the word's symbols are emitted in the prefix's best alignment; CTC emits
    peaks, so a word is rather longer than it seems. `confidence` is the mean over the symbols of the largest posterior
    that each has in its frames, which needs no other hypotheses and means the same for any beam width and language
    model (frame posteriors aggregated over a word: Laptev and Ginsburg 2022, arXiv 2212.08703).

    `delimiter_frame` is behind the last frame of the word delimiter before it, None where there is none: a model emits
    that one as soon as it hears that another word begins.
    """

    text: str
    start_frame: int
    end_frame: int
    start_seconds: float
    end_seconds: float
    confidence: float
    characters: tuple[Character, ...]
    delimiter_frame: int | None = None


@dataclass(frozen=True)
class Hypothesis:
    """A text and its natural-logarithmic scores.

    `logit_score` is that of all alignments in the beam; `lm_score` is what language model, word bonus, unknown words
    and hotwords add to it, weighed.
    """

    text: str
    words: tuple[Word, ...]
    logit_score: float
    lm_score: float

    @property
    def score(self) -> float:
        """What hypotheses are ordered by."""
        return self.logit_score + self.lm_score


def build_word(characters: Sequence[Character], seconds_per_frame: float, delimiter_frame: int | None = None) -> Word:
    """A word from its characters, and the frame behind the delimiter before it."""
    start, end = characters[0].start_frame, characters[-1].end_frame
    return Word(
        "".join(character.text for character in characters),
        start,
        end,
        start * seconds_per_frame,
        end * seconds_per_frame,
        sum(character.confidence for character in characters) / len(characters),
        tuple(characters),
        delimiter_frame,
    )


def check_logits(logits: Any, num_symbols: int, name: str, first_frame: int) -> NDArray[np.float32]:
    """Logits as an array (frames, vocabulary), of an utterance with such a name; `first_frame` is its first's number.

    Raises UserError when one is not finite, and ValueError for another shape.
    """
    if hasattr(logits, "detach"):  # A tensor of torch, maybe bf16, which numpy doesn't know.
        logits = logits.detach().float().cpu().numpy()
    array = np.ascontiguousarray(logits, np.float32)
    if array.ndim != 2 or array.shape[1] != num_symbols:
        raise ValueError(f"Got logits of shape {array.shape}: needs (frames, {num_symbols}).")
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        raise UserError(
            f"{name} has logits that are not finite numbers, first in frame {first_frame + int(finite.argmin())} "
            f"(counted from 0): the model has diverged or its input was not finite; check both."
        )
    return array
