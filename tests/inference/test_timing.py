"""The times of words from the frames of their symbols."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from finetune.decoding import hypotheses
from finetune.inference.timing import place_words


def make_word(*frames: tuple[int, int], delimiter_frame: int | None = None) -> hypotheses.Word:
    """A word of symbols that are emitted from one frame to (not including) another."""
    characters = tuple(hypotheses.Character("x", start, end, 0.9) for start, end in frames)
    return hypotheses.Word("x" * len(frames), frames[0][0], frames[-1][1], 0.0, 0.0, 0.9, characters, delimiter_frame)


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 4)), min_size=1), min_size=1),
    st.booleans(),
    st.booleans(),
)
def test_times_are_in_order_and_within_the_audio(
    emitted: list[list[tuple[int, int]]], in_turn: bool, delimited: bool
) -> None:
    if in_turn:
        at = iter(sorted(start for word in emitted for start, _ in word))
        emitted = [[(next(at), length) for _, length in word] for word in emitted]
    frames = [[(start, start + length) for start, length in word] for word in emitted]
    words = place_words(
        [make_word(*word, delimiter_frame=word[0][0] if delimited else None) for word in frames], 0.02, 1.0, channel=2
    )
    times = [time for word in words for letter in word.characters for time in (letter.start, letter.end)]
    assert times == sorted(times) and times[0] >= 0 and times[-1] <= 1.0
    assert [(len(word.characters), word.channel) for word in words] == [(len(word), 2) for word in emitted]
    for word in words:
        assert (word.start, word.end) == (word.characters[0].start, word.characters[-1].end)


def test_symbols_are_spoken_before_they_are_emitted() -> None:
    """The figures are those measured: in fluent speech a word lasts until the next one, and a pause parts them."""
    words = place_words([make_word((20, 21), (24, 25)), make_word((28, 29)), make_word((50, 52))], 0.02, 2.0)
    times = [(round(word.start, 3), round(word.end, 3)) for word in words]
    assert times == [(0.3, 0.457), (0.457, 0.545), (0.9, 1.005)]
    first, second = words[0].characters
    assert first.end == second.start and round(first.end, 3) == 0.377


def test_what_a_frame_hears_later_is_said_later() -> None:
    words = [make_word((20, 21), (24, 25)), make_word((28, 29)), make_word((50, 52))]
    usual, wide = (place_words(words, 0.02, 1.01, lead_seconds=lead) for lead in (0.0, 0.02))
    moments = np.array([(word.start, word.end) for word in usual])
    assert np.allclose([(word.start, word.end) for word in wide], np.minimum(moments + 0.02, 1.01))
    assert moments[-1, 1] + 0.02 > 1.01  # A word ends with the audio at the latest.


def test_the_delimiter_sets_the_beginning_of_a_word() -> None:
    """Its first symbol may be as late as that of a letter's name; the word before lasts until then, but for a pause."""
    words = [make_word((20, 21)), make_word((40, 41), delimiter_frame=30), make_word((70, 72), delimiter_frame=60)]
    times = [(round(word.start, 3), round(word.end, 3)) for word in place_words(words, 0.02, 2.0)]
    assert times == [(0.3, 0.505), (0.505, 0.785), (1.105, 1.405)]


def test_a_missing_word_is_placed_between_its_neighbours() -> None:
    missing = [hypotheses.Word("no", frame, frame, 0.0, 0.0, 0.0, ()) for frame in (0, 30, 49, 50, 200)]
    first, second = make_word((20, 21), (24, 25)), make_word((50, 52))
    words = place_words([missing[0], first, missing[1], missing[2], second, missing[3], missing[4]], 0.02, 2.0)
    assert [word.found for word in words] == [False, True, False, False, True, False, False]
    times = [(round(word.start, 3), round(word.end, 3)) for word in words]
    assert times[1] == (0.3, 0.465) and times[4] == (0.9, 1.005)
    assert [start for start, _ in times] == [0, 0.3, 0.6, 0.9, 0.9, 1.005, 2.0]
    assert [word.end for word in words if not word.found] == [word.start for word in words if not word.found]


def test_no_words_have_no_times() -> None:
    assert place_words([], 0.02, 1.0) == ()
