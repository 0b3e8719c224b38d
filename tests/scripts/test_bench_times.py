"""What a synthesiser says it begins, as the times of words."""

import pytest
from bench_times import Event, Spoken, describe, find_words, match_words
from synthesis import ESPEAK_SAMPLING_RATE

from finetune.inference.transcript import Word

_WORD, _PHONEME = 1, 7


def test_a_word_lasts_until_the_next_one_or_a_pause() -> None:
    """One that the synthesiser joins to the word before has no times, and that one no end."""
    at = ESPEAK_SAMPLING_RATE // 10
    starts = {0: 0, 5: 2 * at, 10: 5 * at, 17: 7 * at}
    events = [Event(_WORD, place, sample) for place, sample in starts.items()]
    events.insert(2, Event(_PHONEME, 5, 3 * at, "_:"))
    words = find_words("Yes, it's in the house.", events, 9 * at)
    times = [(word.text, word.start, word.end) for word in words]
    seconds = [pytest.approx(tenths / 10, abs=1e-3) for tenths in range(10)]
    assert times == [
        ("Yes", seconds[0], seconds[2]),
        ("it's", seconds[2], seconds[3]),
        ("in", seconds[5], None),
        ("the", None, None),
        ("house", seconds[7], seconds[9]),
    ]


def test_errors_are_told_of_the_words_that_are_the_same() -> None:
    found = [Word("Yes,", 0.13, 0.5, 1.0), Word("my", 0.5, 0.6, 1.0), Word("lamp", 0.9, 1.0, 1.0, found=False)]
    words = [Spoken("yes", 0.1, 0.4), Spoken("the", 0.5, 0.6), Spoken("my", None, 0.62), Spoken("lamp", 0.9, 1.0)]
    pairs = match_words(found, words)
    assert [word.text for word, _ in pairs] == ["Yes,", "my"]
    told = describe("", pairs)
    assert "starts 100.0% of 1, median  +30 ms" in told and "ends  50.0% of 2, median  +40 ms" in told
