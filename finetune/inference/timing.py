"""Frames in which symbols are emitted to seconds in which words and characters are said."""

from collections.abc import Iterable
from itertools import accumulate, pairwise

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
    """The words, which have characters, with times in seconds: in order, and within the audio.

    A character lasts until the next one begins, and so does a word that no pause follows. `frame_seconds` is from one
    frame to the next.
    """
    words = list(words)
    emitted = [character for word in words for character in word.characters]
    if not emitted:
        return ()
    spans = np.array([(character.start_frame, character.end_frame) for character in emitted]) * frame_seconds
    firsts = list(accumulate((len(word.characters) for word in words), initial=0))
    times = np.clip(_correct(spans, np.array(firsts[1:-1], np.int64)), 0.0, audio_seconds)
    times = np.maximum.accumulate(times.ravel()).reshape(-1, 2)  # What was emitted out of turn has no length.
    characters = [
        Character(character.text, start, end, character.confidence)
        for character, (start, end) in zip(emitted, times.tolist(), strict=True)
    ]
    return tuple(
        Word(
            word.text,
            characters[first].start,
            characters[behind - 1].end,
            word.confidence,
            tuple(characters[first:behind]),
            channel,
        )
        for word, (first, behind) in zip(words, pairwise(firsts), strict=True)
    )


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
