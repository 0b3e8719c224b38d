"""The results of decoding: texts with scores, their words and characters with times."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.errors import UserError

# A frame of a wav2vec2 encoder is 320 samples at 16 kHz.
SECONDS_PER_FRAME = 0.02


@dataclass(frozen=True)
class Character:
    """A symbol of a word and its frames, counted from the audio's start; `end_frame` is exclusive.

    `confidence` is its largest posterior in these frames.
    """

    text: str
    start_frame: int
    end_frame: int
    confidence: float


@dataclass(frozen=True)
class Word:
    """A word with its times (frames, the end exclusive, and seconds) and its confidence from 0 to 1.

    Times are those of the frames that emit the word's symbols in the prefix's best alignment; CTC posteriors are peaky,
    so a word usually lasts longer. `confidence` is the mean over the symbols of each one's largest posterior in its
    frames, which needs no other hypotheses and does not depend on beam width or language model (frame posteriors
    aggregated over a word: Laptev and Ginsburg 2022, arXiv 2212.08703).

    `delimiter_frame` is the frame after the word delimiter before it, None where there is none: a model emits the
    delimiter as soon as the next word begins.
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
    """A text and its scores, natural logarithms.

    `logit_score` is that of all alignments in the beam; `lm_score` is the weighted sum of what language model, word
    bonus, unknown words and hotwords add to it.
    """

    text: str
    words: tuple[Word, ...]
    logit_score: float
    lm_score: float

    @property
    def score(self) -> float:
        """The score by which hypotheses are sorted."""
        return self.logit_score + self.lm_score


def build_word(characters: Sequence[Character], seconds_per_frame: float, delimiter_frame: int | None = None) -> Word:
    """A word from its characters and the frame after the delimiter before it."""
    start, end = characters[0].start_frame, characters[-1].end_frame
    return Word(
        text="".join(character.text for character in characters),
        start_frame=start,
        end_frame=end,
        start_seconds=start * seconds_per_frame,
        end_seconds=end * seconds_per_frame,
        confidence=sum(character.confidence for character in characters) / len(characters),
        characters=tuple(characters),
        delimiter_frame=delimiter_frame,
    )


def clean_words(
    words: Sequence[Word], clean_up: Callable[[str], str] | None, seconds_per_frame: float
) -> tuple[Word, ...]:
    """Words joined where `clean_up` removes the space between them; None joins none."""
    if clean_up is None:
        return tuple(words)
    text, place = clean_up(" ".join(word.text for word in words)), 0
    joined: list[Word] = []
    for word in words:
        if joined and not text.startswith(" ", place):
            before = joined.pop()
            joined.append(build_word(before.characters + word.characters, seconds_per_frame, before.delimiter_frame))
        else:
            place += len(joined) > 0  # The space.
            joined.append(word)
        place += len(word.text)
    return tuple(joined)


def check_logits(logits: Any, num_symbols: int, name: str, first_frame: int) -> NDArray[np.float32]:
    """Logits as an array (frames, vocabulary); errors mention the utterance's name and frames from `first_frame` on.

    Raises UserError when one is not finite, and ValueError for another shape.
    """
    if hasattr(logits, "detach"):  # A torch tensor, possibly bf16, which numpy doesn't have.
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
