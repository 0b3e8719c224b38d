"""What a recording says: words and characters with times in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from finetune.text.word_units import join_words


@dataclass(frozen=True)
class Character:
    """A character of a word, from when to when it is said (seconds), and how sure the model is, from 0 to 1."""

    text: str
    start: float
    end: float
    confidence: float


@dataclass(frozen=True)
class Word:
    """A word, from when to when it is said (seconds), and how sure the model is, from 0 to 1.

    `channel` counts from 1, and is 1 in a recording whose channels were mixed. `found` is false for a word of a given
    text that the audio doesn't have; where it would be is then its time.
    """

    text: str
    start: float
    end: float
    confidence: float
    characters: tuple[Character, ...] = ()
    channel: int = 1
    found: bool = True


@dataclass(frozen=True)
class Transcript:
    """The words of a recording of so many seconds, those of each channel in the order of time.

    No word of a channel begins before the one before it ends, and none ends behind the audio.
    """

    words: tuple[Word, ...]
    seconds: float
    channels: int = 1

    @property
    def text(self) -> str:
        """All words, spaced as their script is, a line for each channel that was transcribed by itself."""
        spoken = groupby(sorted(self.words, key=lambda word: word.channel), key=lambda word: word.channel)
        lines = {channel: join_words(word.text for word in words) for channel, words in spoken}
        return "\n".join(lines.get(channel, "") for channel in range(1, self.channels + 1))
