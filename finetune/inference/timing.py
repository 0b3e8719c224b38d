"""Frames in which symbols are emitted to seconds in which words and characters are said."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from finetune.decoding import hypotheses
from finetune.inference.transcript import Character, Word

# CTC emits a symbol late: when it has heard enough of it. Measured on a model of the quickstart recipe, with the word
# events of espeak-ng as truth and ten voices that it never heard (medians, in seconds):
_ONSET_DELAY = 0.10  # from a word's beginning to its first symbol,
_OFFSET_DELAY = 0.035  # from its end to the end of its last symbol,
_BORDER_DELAY = 0.073  # from where one symbol turns into the next to the middle between the two.
# Between words that are further apart than this there is a pause; in fluent speech 1 of 100 is.
_LONGEST_GAP = 0.15


def place_words(
    words: Iterable[hypotheses.Word], frame_seconds: float, audio_seconds: float, channel: int = 1
) -> tuple[Word, ...]:
    """The words with times in seconds: in order, and within the audio.

    A character lasts until the next one begins, and so does a word that no pause follows. A word without characters
    is one that was not found: it is between the words beside it. `frame_seconds` is from one frame to the next.
    """
    words = list(words)
    spoken = [word.characters for word in words if word.characters]
    characters = iter(_place_characters(spoken, frame_seconds, audio_seconds))
    placed: list[Word] = []
    for word in words:
        own = tuple(islice(characters, len(word.characters)))
        start, end = (own[0].start, own[-1].end) if own else (0.0, 0.0)
        if not own:  # At its frame, unless that is in a word beside it.
            start = end = max(min(word.start_frame * frame_seconds, audio_seconds), placed[-1].end if placed else 0.0)
        placed.append(Word(word.text, start, end, word.confidence, own, channel, bool(own)))
    latest = audio_seconds
    for number in range(len(placed) - 1, -1, -1):
        if not placed[number].found:
            moment = min(placed[number].start, latest)
            placed[number] = replace(placed[number], start=moment, end=moment)
        latest = placed[number].start
    return tuple(placed)


def _place_characters(
    words: Sequence[Sequence[hypotheses.Character]], frame_seconds: float, audio_seconds: float
) -> list[Character]:
    emitted = [character for word in words for character in word]
    if not emitted:
        return []
    spans = np.array([(character.start_frame, character.end_frame) for character in emitted]) * frame_seconds
    firsts = np.cumsum([len(word) for word in words])[:-1]
    times = np.clip(_correct(spans, firsts), 0.0, audio_seconds)
    times = np.maximum.accumulate(times.ravel()).reshape(-1, 2)  # What was emitted out of turn has no length.
    return [
        Character(character.text, start, end, character.confidence)
        for character, (start, end) in zip(emitted, times.tolist(), strict=True)
    ]


def _correct(spans: NDArray[np.float64], firsts: NDArray[np.int64]) -> NDArray[np.float64]:
    """When symbols are said, (symbols, 2), from when they are emitted; a word begins at each of `firsts` but the first.

    All in seconds.
    """
    gaps = spans[1:, 0] - spans[:-1, 1]
    pauses = np.zeros(len(gaps), bool)
    pauses[firsts - 1] = gaps[firsts - 1] > _LONGEST_GAP
    borders = spans[:-1, 1] + gaps / 2 - _BORDER_DELAY
    corrected = spans - (_ONSET_DELAY, _OFFSET_DELAY)
    corrected[1:, 0] = np.where(pauses, corrected[1:, 0], borders)
    corrected[:-1, 1] = np.where(pauses, corrected[:-1, 1], borders)
    return corrected
