"""Frames in which symbols are emitted to seconds in which words and characters are said."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from finetune.decoding import hypotheses
from finetune.inference.transcript import Character, Word

# CTC emits a symbol late: when it has heard enough of it. How late is the base's nature. Measured on models of the
# quickstart recipe and its base, with the word events of espeak-ng as truth and ten voices that they never heard
# (medians, in seconds; scripts/bench_times.py says what is left):
_ONSET_DELAY = 0.1  # from a word's beginning to its first symbol,
_DELIMITER_DELAY = 0.095  # and to the end of the delimiter before it,
_OFFSET_DELAY = 0.035  # from a word's end to the end of its last symbol,
_BORDER_DELAY = 0.073  # from where one symbol turns into the next to the middle between the two.
# So close to each other two words' symbols are of fluent speech.
_SHORT_GAP = 0.15
# Shorter pauses are taken for the rest of the word before: its last symbol may come long before its end, as in the
# names of letters, of which AN4 is full (ends within 60 ms: 65 % without this, 81 % with it; starts by the delimiter
# 93 %, by the first symbol 76 %).
_SHORTEST_PAUSE = 0.13


def place_words(
    words: Iterable[hypotheses.Word], frame_seconds: float, audio_seconds: float, channel: int = 1
) -> tuple[Word, ...]:
    """The words with times in seconds: in order, and within the audio.

    A character lasts until the next one begins, and so does a word that no pause follows. A word without characters
    is one that was not found: it is between the words beside it. `frame_seconds` is from one frame to the next.
    """
    words = list(words)
    spoken = [word for word in words if word.characters]
    characters = iter(_place_characters(spoken, frame_seconds, audio_seconds))
    placed: list[Word] = []
    for word in words:
        own = tuple(islice(characters, len(word.characters)))
        start, end = (own[0].start, own[-1].end) if own else (0.0, 0.0)
        if not own:  # At its frame, unless that is in a word beside it.
            start = end = max(min(word.start_frame * frame_seconds, audio_seconds), placed[-1].end if placed else 0.0)
        timed = Word(text=word.text, start=start, end=end, confidence=word.confidence, characters=own)
        placed.append(replace(timed, channel=channel, found=bool(own)))
    latest = audio_seconds
    for number in range(len(placed) - 1, -1, -1):
        if not placed[number].found:
            moment = min(placed[number].start, latest)
            placed[number] = replace(placed[number], start=moment, end=moment)
        latest = placed[number].start
    return tuple(placed)


def _place_characters(words: Sequence[hypotheses.Word], frame_seconds: float, audio_seconds: float) -> list[Character]:
    if not words:
        return []
    emitted = [character for word in words for character in word.characters]
    spans = np.array([(character.start_frame, character.end_frame) for character in emitted]) * frame_seconds
    firsts = np.cumsum([len(word.characters) for word in words])[:-1]
    delimiters = np.array([word.delimiter_frame or np.nan for word in words[1:]], np.float64) * frame_seconds
    times = np.clip(_correct(spans, firsts, delimiters), 0.0, audio_seconds)
    times = np.maximum.accumulate(times.ravel()).reshape(-1, 2)  # What was emitted out of turn has no length.
    return [
        Character(text=character.text, start=start, end=end, confidence=character.confidence)
        for character, (start, end) in zip(emitted, times.tolist(), strict=True)
    ]


def _correct(
    spans: NDArray[np.float64], firsts: NDArray[np.int64], delimiters: NDArray[np.float64]
) -> NDArray[np.float64]:
    """When symbols are said, (symbols, 2), from when they are emitted.

    At each of `firsts` a word begins, as at the very first symbol, behind the end of a delimiter (NaN where there was
    none). All in seconds.
    """
    gaps = spans[1:, 0] - spans[:-1, 1]
    borders = spans[:-1, 1] + gaps / 2 - _BORDER_DELAY
    corrected = spans - (_ONSET_DELAY, _OFFSET_DELAY)
    ends = corrected[firsts - 1, 1]
    begins = np.where(np.isnan(delimiters), corrected[firsts, 0], np.maximum(delimiters - _DELIMITER_DELAY, ends))
    apart = gaps[firsts - 1] > _SHORT_GAP
    pauses = apart & (begins - ends >= _SHORTEST_PAUSE)
    corrected[1:, 0] = corrected[:-1, 1] = borders
    corrected[firsts, 0] = np.where(apart, begins, borders[firsts - 1])
    corrected[firsts - 1, 1] = np.where(pauses, ends, corrected[firsts, 0])
    return corrected
