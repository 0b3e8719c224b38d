"""What happens in a live session: speech begins and ends, and its text is partial or final."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from finetune.inference.transcript import Word


@dataclass(frozen=True)
class SpeechStarted:
    """A segment begins at `start` (seconds from the stream's beginning).

    After a short pause, which both segments contain, that is before the end of the segment before.
    """

    start: float


@dataclass(frozen=True)
class Partial:
    """The text of the segment so far; `stable` is its beginning, which only grows until the segment's final text.

    `stable_until` is the time up to which the audio is decided (seconds from the stream's beginning).
    """

    text: str
    stable: str
    start: float
    stable_until: float
    words: tuple[Word, ...]


@dataclass(frozen=True)
class SpeechEnded:
    """The segment ends at `end` (seconds from the stream's beginning); its final text follows."""

    end: float


@dataclass(frozen=True)
class Final:
    """What `Transcriber` transcribes of the audio from `start` to `end` (seconds from the stream's beginning).

    `confidence` is the mean over the words, None without words. The text may differ from the stable text before it.
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
