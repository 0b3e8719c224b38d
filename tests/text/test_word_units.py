"""What counts as a word, with and without spaces between words."""

import pytest

from finetune.evaluation.scores import score
from finetune.text.word_units import join_words, split_timed_words, split_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("two  words", "two words"),
        ("我爱你 hello世界", "我 爱 你 hello 世 界"),
        ("葛\U000e0100飾", "葛\U000e0100 飾"),  # A variation selector is not a character.
        ("น้ำที่เก่า", "น้ำ ที่ เ ก่ า"),
        ("ปี 2024 ok", "ปี 2024 ok"),
        ("ເຂົ້າດຳ", "ເ ຂົ້ າ ດຳ"),
        ("ខ្មែរ", "ខ្មែ រ"),
        ("မြန်မာ", "မြ န် မ ာ"),
        ("သတ္တဝါ", "သ တ္တ ဝ ါ"),
        ("हिन्दी में", "हिन्दी में"),  # Only spaces separate words.
        ("Việt e\u0301té", "Việt e\u0301té"),
        ("a\u0e31b", "a\u0e31b"),
    ],
)
def test_words_are_characters_with_their_marks_in_scripts_without_spaces(text: str, words: str) -> None:
    assert split_words(text) == words.split()
    assert score([text], [text]).words.hits == len(words.split())


def test_spaces_between_thai_phrases_are_kept_and_those_between_han_are_not() -> None:
    assert split_timed_words("สวัสดี ครับ 你好") == ["สวัสดี", "ครับ", "你", "好"]
    assert join_words(split_timed_words("สวัสดี ครับ 你好")) == "สวัสดี ครับ 你好"


def test_one_wrong_character_of_a_thai_sentence_is_one_error() -> None:
    reference, hypothesis = "สวัสดีครับ", "สวัสดี ครัก"
    scores = score([reference], [hypothesis])
    assert (scores.words.errors, scores.words.reference_length) == (1, 7)


@pytest.mark.parametrize(
    "text",
    [
        "你好，世界。我們 ok，好",
        "他说：“你好”……好",
        "「はい」と言った。",
        "ok，ok 好",
        "“yes” “no” he said…",
        "안녕, 세계",
    ],
)
def test_punctuation_has_no_spaces_beside_han_characters(text):
    assert join_words(split_timed_words(text)) == text
