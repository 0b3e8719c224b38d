"""What a beam search finds: texts, their words and characters with times, and scores."""

from __future__ import annotations

from dataclasses import dataclass


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
    """

    text: str
    start_frame: int
    end_frame: int
    start_seconds: float
    end_seconds: float
    confidence: float
    characters: tuple[Character, ...]


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
