"""States that look like failure are put into words; the others are not talked about."""

import pytest

from finetune.training.health import describe


@pytest.mark.parametrize(("wer", "blank_ratio"), [(1.0, 1.0), (0.96, 0.99)])
def test_saying_nothing_is_explained_with_what_to_do(wer, blank_ratio):
    words = describe(wer, blank_ratio)
    assert words is not None
    assert "almost nothing" in words
    assert "training.learning_rate" in words


def test_too_many_words_are_explained():
    words = describe(1.5, 0.05)
    assert words is not None
    assert "more words than were said" in words


@pytest.mark.parametrize(
    ("wer", "blank_ratio"),
    [(0.1, 0.7), (0.9, 0.99), (1.0, 0.5), (1.2, 0.5), (0.0, 0.99)],
    ids=["good", "few words in long silence", "wrong words", "too many words and blanks", "perfect in long silence"],
)
def test_other_states_need_no_words(wer, blank_ratio):
    assert describe(wer, blank_ratio) is None
