"""Transcripts: words and characters with times in seconds and confidences."""

from dataclasses import dataclass
from html import escape
from itertools import groupby

from finetune.text.word_units import join_words


@dataclass(frozen=True)
class Character:
    """A character of a word, its times in seconds, and its confidence from 0 to 1.

    >>> from finetune.inference.transcript import Character
    >>> Character("a", start=0.4, end=0.46, confidence=0.9).text
    'a'
    """

    text: str
    start: float
    end: float
    confidence: float


@dataclass(frozen=True)
class Word:
    """A word, its times in seconds, and its confidence from 0 to 1.

    `channel` counts from 1, and is 1 if channels were mixed. `found` is false for a word of a given text that is not in
    the audio; its time is then where it would be.

    >>> from finetune.inference.transcript import Word
    >>> Word("rained", start=0.6, end=1.1, confidence=0.9).channel
    1
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
    """The words of a recording of `seconds`; those of each channel are in order.

    Words of a channel do not overlap, and no word ends after the audio.

    >>> from finetune.inference.transcript import Transcript, Word
    >>> words = (Word("it", 0.4, 0.5, 0.98), Word("rained", 0.6, 1.1, 0.9))
    >>> Transcript(words, seconds=1.5).text
    'it rained'
    """

    words: tuple[Word, ...]
    seconds: float
    channels: int = 1

    @property
    def text(self) -> str:
        """All words, with spaces as their script needs them, and a line for each separately transcribed channel."""
        spoken = groupby(sorted(self.words, key=lambda word: word.channel), key=lambda word: word.channel)
        lines = {channel: join_words(word.text for word in words) for channel, words in spoken}
        return "\n".join(lines.get(channel, "") for channel in range(1, self.channels + 1))

    def _repr_html_(self) -> str:
        """For notebooks: the text, with each word's times and confidence beneath the pointer."""
        words = " ".join(
            f'<span title="{word.start:.2f} to {word.end:.2f} s, confidence {word.confidence:.2f}" '
            f'style="opacity: {0.4 + 0.6 * word.confidence:.2f}">{escape(word.text)}</span>'
            for word in sorted(self.words, key=lambda word: (word.channel, word.start))
        )
        return f"<p>{words or '<i>no words</i>'} <small>({self.seconds:.1f} s)</small></p>"


def count_milliseconds(seconds: float) -> int:
    """A time in whole milliseconds, rounded as `round(seconds, 3)` is in JSON.

    >>> from finetune.inference.transcript import count_milliseconds
    >>> count_milliseconds(0.57), int(0.57 * 1000)
    (570, 569)
    """
    return round(1000 * round(seconds, 3))
