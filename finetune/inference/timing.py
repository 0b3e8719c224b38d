"""Times of words and characters in seconds, from the frames in which CTC emits their symbols."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from finetune.decoding import hypotheses
from finetune.inference.transcript import Character, Word

# CTC emits symbols late. The delay depends on the pretrained checkpoint. Measured on models of the quickstart recipe
# and on its checkpoint, with the word events of espeak-ng as reference and ten voices that were not in training
# (medians, in seconds; scripts/bench_times.py prints the remaining errors):
_ONSET_DELAY = 0.1  # from the beginning of a word to its first symbol
_DELIMITER_DELAY = 0.095  # from the beginning of a word to the end of the delimiter before it
_OFFSET_DELAY = 0.035  # from the end of a word to the end of its last symbol
_BORDER_DELAY = 0.073  # from the border between two sounds to the middle between their symbols
# Words whose symbols are nearer than this have no pause between them.
_SHORT_GAP = 0.15
# Shorter pauses are counted as part of the word before: its last symbol may be emitted long before its end, as in the
# spelled letters of AN4 (ends within 60 ms: 65 % without this, 81 % with it; starts by the delimiter 93 %, by the first
# symbol 76 %).
_SHORTEST_PAUSE = 0.13


def place_words(
    words: Iterable[hypotheses.Word],
    frame_seconds: float,
    audio_seconds: float,
    channel: int = 1,
    lead_seconds: float = 0.0,
) -> tuple[Word, ...]:
    """The words with times in seconds, in order and within the audio.

    A character lasts until the next one begins, and so does a word without a pause after it. A word without characters
    was not found; it is placed between its neighbours. `frame_seconds` is the step from one frame to the next,
    `lead_seconds` how much later than in wav2vec2 the middle of what a frame hears is.
    """
    words = list(words)
    spoken = [word for word in words if word.characters]
    characters = iter(_place_characters(spoken, frame_seconds, audio_seconds, lead_seconds))
    placed: list[Word] = []
    for word in words:
        own = tuple(islice(characters, len(word.characters)))
        start, end = (own[0].start, own[-1].end) if own else (0.0, 0.0)
        if not own:  # At its frame, unless a neighbour covers it.
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


def _place_characters(
    words: Sequence[hypotheses.Word], frame_seconds: float, audio_seconds: float, lead_seconds: float
) -> list[Character]:
    if not words:
        return []
    emitted = [character for word in words for character in word.characters]
    spans = np.array([(character.start_frame, character.end_frame) for character in emitted]) * frame_seconds
    firsts = np.cumsum([len(word.characters) for word in words])[:-1]
    delimiters = np.array([word.delimiter_frame or np.nan for word in words[1:]], np.float64) * frame_seconds
    times = np.clip(_correct(spans, firsts, delimiters) + lead_seconds, 0.0, audio_seconds)
    times = np.maximum.accumulate(times.ravel()).reshape(-1, 2)  # Symbols out of order have no duration.
    return [
        Character(text=character.text, start=start, end=end, confidence=character.confidence)
        for character, (start, end) in zip(emitted, times.tolist(), strict=True)
    ]


def _correct(
    spans: NDArray[np.float64], firsts: NDArray[np.int64], delimiters: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Start and end of each symbol in the audio, (symbols, 2), from the times when it is emitted, in seconds.

    Words begin at the first symbol and at each of `firsts`; `delimiters` are the ends of the delimiters before them,
    NaN without a delimiter.
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
