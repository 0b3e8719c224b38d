"""The events of a live session: start and end of speech, partial and final texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from finetune.inference.transcript import Word


@dataclass(frozen=True)
class SpeechStarted:
    """A segment begins at `start` (seconds from the start of the stream).

    Two segments share a short pause between them, so `start` can be before the `end` of the previous segment.
    """

    start: float


@dataclass(frozen=True)
class Partial:
    """The text of the segment so far; its prefix `stable` does not change any more, except in the final text.

    `stable_until` is the time of the last frame with its full right context (seconds from the start of the stream).
    """

    text: str
    stable: str
    start: float
    stable_until: float
    words: tuple[Word, ...]


@dataclass(frozen=True)
class SpeechEnded:
    """The segment ends at `end` (seconds from the start of the stream); its final text follows."""

    end: float


@dataclass(frozen=True)
class Final:
    """The transcript of the audio from `start` to `end` (seconds from the start of the stream), as by `Transcriber`.

    `confidence` is the mean over the words, None without words. The text may differ from the last stable prefix.
    """

    text: str
    words: tuple[Word, ...]
    start: float
    end: float
    confidence: float | None


Event = SpeechStarted | Partial | SpeechEnded | Final


def average_confidence(words: Sequence[Word]) -> float | None:
    """The mean confidence of words; None without words."""
    return sum(word.confidence for word in words) / len(words) if words else None
