"""A number becomes the words that are said for it, or its row is reported; it never becomes other words."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from noise import write_noise

from finetune.cli import main
from finetune.errors import TranscriptError
from finetune.text.numbers import count_number_words
from finetune.text.transcripts import build_normalizer, normalize

NO_BREAK, NARROW = "\u00a0", "\u202f"


@pytest.mark.parametrize(
    ("language", "text", "said"),
    [
        ("en", "21 books, 1,000.5 km", "twenty-one books, one thousand point five km"),
        ("en", "1,00,000 and 12,34,567", "one hundred thousand and one million, two hundred and thirty-four thousand, "
         "five hundred and sixty-seven"),
        ("en_IN", "1,00,000", "one lakh"),
        ("en", "the 1st, 22nd and 13th", "the first, twenty-second and thirteenth"),
        ("en", "the 1990s, ’80s and 2010s", "the nineteen nineties, eighties and twenty tens"),
        ("en", "in 1998", "in one thousand, nine hundred and ninety-eight"),
        ("en", "50% or 50 % of 2.50", "fifty percent or fifty percent of two point five zero"),
        ("en", "½ a cup, 2½", "one half a cup, two and a half"),
        ("en", "007", "zero zero seven"),
        ("en", "٢٥", "twenty-five"),
        ("en", "-5, (6) “7”.", "minus five, (six) “seven”."),
        ("en", "a 20-year-old F16", "a twenty-year-old F sixteen"),
        ("en", "1234567890" * 3, " ".join(["one two three four five six seven eight nine zero"] * 3)),
        ("de", "1.000,5 und 50 %", "eintausend Komma fünf und fünfzig Prozent"),
        ("de", "wir sind 3.", "wir sind drei."),
        ("fr", "2,5 fois", "deux virgule cinq fois"),
        ("fr", "12,50 et 3,05", "douze virgule cinquante et trois virgule zéro cinq"),
        ("fr", f"1 000, 1{NO_BREAK}000 et 1{NARROW}000{NARROW}000", "mille, mille et un million"),
        ("fr", "le 1er, la 1re, le 2e", "le premier, la première, le deuxième"),
        ("en", f"1{NARROW}000", "one thousand"),
        ("vi", "25", "hai mươi lăm"),
        ("id", "2,5", "dua koma lima"),
        ("it", "12,5", "dodici virgola cinque"),
        ("ru", "1 000", "одна тысяча"),
        ("ja", "3個と10円", "三個と十円"),
    ],
)  # fmt: skip
def test_numbers_become_the_words_of_a_language(language: str, text: str, said: str) -> None:
    for refuse in (True, False):
        assert build_normalizer([{"numbers_to_words": language}], refuse)(text) == said


@pytest.mark.parametrize(
    ("language", "number"),
    [
        ("en", "1.000.000"),
        ("en", "12,50"),
        ("en", "1 000"),  # One number, or two.
        ("en", "1.000"),  # A fraction, or a thousand in another notation.
        ("en", "11st"),
        ("en", "1000s"),  # Thousands, or years.
        ("en", "3.5.2020"),
        ("en", "$5"),
        ("en", "5 €"),
        ("en", "10:30"),
        ("en", "5–6"),
        ("en", "5km"),
        ("en", "1/2"),
        ("en", "⅔"),
        ("de", "1,000,000"),
        ("de", "3.14"),
        ("fr", "3.14"),
        ("it", "12,50"),  # By digits or as a number: Italians say both.
        ("ru", "5 %"),  # The word for percent depends on the number.
        ("tr", "5'te"),
        ("ko", "3개"),
    ],
)
def test_ambiguous_numbers_are_reported_and_unchanged_in_hypotheses(language: str, number: str) -> None:
    steps = [{"numbers_to_words": language}]
    with pytest.raises(TranscriptError, match=r"^unreadable number: ") as raised:
        build_normalizer(steps, refuse=True)(f"a {number} b")
    assert str(raised.value) == f"unreadable number: {number}"
    assert normalize(f"a {number} b", steps) == f"a {number} b"


def test_a_german_ordinal_is_reported_and_a_number_at_the_end_is_not() -> None:
    with pytest.raises(TranscriptError, match=r"^unreadable number: 3\.$"):
        build_normalizer([{"numbers_to_words": "de"}], refuse=True)("am 3. Mai")


@pytest.mark.parametrize("language", ["en", "de", "fr", "ru", "ja"])
@given(text=st.text("0123456789.,'-/: %½²a€$\u202f個", max_size=15))
def test_all_digits_are_replaced_or_the_row_is_reported(language: str, text: str) -> None:
    try:
        said = build_normalizer([{"numbers_to_words": language}], refuse=True)(text)
    except TranscriptError:
        return
    assert not any(c.isdigit() for c in said)


def test_the_language_of_number_words_is_recognised() -> None:
    german = count_number_words(["zwei und drei", "sieben drei"])
    assert german is not None and german[0] == "de" and german[1]["drei"] == 2
    assert list(german[1]) == ["drei", "sieben", "zwei"]
    assert count_number_words(["a word", "another two"]) is None


def test_check_reports_digits_beside_number_words_and_names_the_transform(
    tmp_path: Path, write_recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["one two three", "seven of 25", "three of 1.000.000", "eight nine"]
    write_noise(tmp_path / "corpus", texts)
    recipe = write_recipe(tmp_path, data={"root": "corpus"})
    assert main(["check", str(recipe)]) == 0
    said = capsys.readouterr().out
    assert (
        "2 utterances of train contain digits (000 × 2, 1 × 1, 25 × 1)" in said
        and "beside number words (three × 4" in said
    )
    assert "the transform {numbers_to_words: en}" in said
    assert main(["check", str(recipe), 'text.normalization=[{"numbers_to_words": "en"}, "english"]']) == 0
    said = capsys.readouterr().out
    assert "contain digits" not in said and "left out of train: 1 × unreadable number" in said
