"""Normalisation: the same for references and hypotheses, and saved with the model."""

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.errors import UserError
from finetune.text.transcripts import (
    DEFAULT_TRANSFORMS,
    NORMALIZATION_FILE,
    PRESETS,
    Transform,
    TransformError,
    build_normalizer,
    load_normalization,
    normalize,
    save_normalization,
)
from finetune.text.vocabulary import build_vocabulary, count_characters, encode
from finetune.text.word_marks import WORD_MARKS, WordMarks
from finetune.text.word_units import split_words


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("Hello,  World!", "hello world"),
        ("one|two", "one two"),
        ("don’t", "don't"),
        ("don‘t donʼt don`t don´t", "don't don't don't don't"),
        ("'quoted' ’tis the dogs’", "quoted tis the dogs"),
        ("cafe\u0301", "caf\u00e9"),
        ("ﬁne ① ｆｕｌｌ", "fine 1 full"),
        ("well-known — so: $5", "well known so 5"),
        ("tab\tand\u00a0no-break\nspace", "tab and no break space"),
        ("हिन्दी", "हिन्दी"),
        ("… ' — !?", ""),
        ("", ""),
    ],
)
def test_the_default_transforms(text: str, normalized: str) -> None:
    assert normalize(text, DEFAULT_TRANSFORMS) == normalized


@pytest.mark.parametrize("text", ["It’s “five” o'clock", "A|B|C", "Ein Straßencafe\u0301", "½ ﬁsh"])
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalize(text, DEFAULT_TRANSFORMS)
    assert normalize(once, DEFAULT_TRANSFORMS) == once


def test_without_transforms_only_spaces_and_the_word_delimiter_change() -> None:
    assert normalize(" It’s|A,  B ", ()) == "It’s A, B"


def test_transforms_are_applied_in_their_order() -> None:
    assert normalize("aﬁ", ("uppercase", "lowercase")) == "afi"
    assert normalize("aﬁ", ("lowercase",)) == "aﬁ"


def test_transforms_are_saved_with_a_model(tmp_path: Path) -> None:
    save_normalization(tmp_path, ("nfc", "uppercase"))
    assert load_normalization(tmp_path) == ("nfc", "uppercase")


def test_transforms_of_older_models_keep_their_meaning_and_those_of_newer_models_are_refused(tmp_path: Path) -> None:
    (tmp_path / NORMALIZATION_FILE).write_text('{"steps": ["nfc", {"numbers_to_words": "en"}]}')
    steps = load_normalization(tmp_path)
    assert steps == ("nfc", {"numbers_to_words_1": "en"})
    assert normalize("3.5.2020", steps) == "three five two thousand and twenty"
    assert build_normalizer(steps, refuse=True)("1,00,000") == "one zero zero"
    save_normalization(tmp_path, steps)
    assert load_normalization(tmp_path) == steps
    (tmp_path / NORMALIZATION_FILE).write_text('{"version": 2, "steps": ["nfkc", {"numbers_to_words": "en"}]}')
    steps = load_normalization(tmp_path)
    assert steps == ("nfkc_2", {"numbers_to_words": "en"})
    assert normalize("ทำ", steps) == "ท\u0e4d\u0e32"
    (tmp_path / NORMALIZATION_FILE).write_text('{"version": 4, "steps": ["nfc"]}')
    with pytest.raises(UserError, match="they are of version 4, and this package supports up to 3"):
        load_normalization(tmp_path)


@pytest.mark.parametrize("text", ["น้ำ ทำ คำ", "ນ້ຳ ຄຳ"])
def test_thai_and_lao_keep_their_spelling(text: str) -> None:
    """Plain NFKC writes น้ำ as น, tone mark, nikhahit and aa, which is no word, and two of the units that WER counts."""
    assert normalize(text, DEFAULT_TRANSFORMS) == text
    assert normalize(unicodedata.normalize("NFKC", text), DEFAULT_TRANSFORMS) == text
    assert len(split_words(normalize(text, DEFAULT_TRANSFORMS))) == len(text.split())


def test_a_model_without_saved_transforms_has_none(tmp_path: Path) -> None:
    assert load_normalization(tmp_path) is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{half", "is damaged"),
        (b"{}", "is damaged"),
        (b"[]", "is damaged"),
        (b"\xff\xfe", "is damaged"),
        (b'{"steps": null}', "is damaged"),
        (b'{"steps": [["nfc"]]}', "unknown transform"),
        (b'{"steps": ["nfc", "shout"]}', "a transform that can't be used: unknown transform 'shout'"),
    ],
)
def test_damaged_transforms_are_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / NORMALIZATION_FILE).write_bytes(content)
    with pytest.raises(UserError, match=words):
        load_normalization(tmp_path)


@pytest.mark.parametrize(
    ("preset", "text", "normalized"),
    [
        ("english", "Well-known: the DOGS’ “tale”", "well known the dogs tale"),
        ("german", "Straße — ÄÖÜ!", "straße äöü"),
        ("french", "L’œuvre, ça va ?", "l'œuvre ça va"),
        ("turkish", "IŞIK İstanbul I\u0307zmir", "ışık istanbul izmir"),
        ("arabic", "السَّلامُ عليكـــم؟", "السلام عليكم"),
        ("hindi", "हिन्\u200dदी है।", "हिन्दी है"),
        ("vietnamese", "Tie\u0302\u0301ng Vie\u0323\u0302t!", "tiếng việt"),
        ("mandarin", "我 爱 你, Hello World 吗？", "我爱你 hello world 吗"),
    ],
)
def test_presets(preset: str, text: str, normalized: str) -> None:
    assert normalize(text, [preset]) == normalized


def test_transforms_with_arguments() -> None:
    assert normalize("a-b c", [{"replace": [r"(\w)-(\w)", r"\1\2"]}]) == "ab c"
    assert normalize("cab-Dé d'a", [{"keep": "abcd'"}]) == "cab d'a"
    assert normalize("ışık i", [{"uppercase": "tr"}]) == "IŞIK İ"


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ("shout", "unknown transform 'shout'"),
        ("keep", "expected an argument"),
        ({"keep": ""}, "expected the characters"),
        ({"replace": ["(", "x"]}, "can't be used"),
        ({"replace": ["a", r"\1"]}, "can't be used"),
        ({"replace": "a"}, "expected a regular expression"),
        ({"lowercase": "xx"}, "expected tr or az"),
        ({"numbers_to_words": "zz"}, "expected one of .* en, "),
        ({"nfc": 1}, "takes no argument"),
        ({"keep": "a", "nfc": 1}, "unknown transform"),
    ],
)
def test_transforms_that_cannot_be_used_are_named(step: Transform, words: str) -> None:
    with pytest.raises(TransformError, match=words):
        build_normalizer([step])


@pytest.mark.parametrize("preset", PRESETS)
@given(text=st.text())
def test_a_preset_is_idempotent_and_adds_no_character(preset: str, text: str) -> None:
    normalize_once = build_normalizer([preset])
    once = normalize_once(text)
    assert normalize_once(once) == once
    parts = set(unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).lower() + text.lower()))
    # The apostrophe and other marks replace their typographic forms, the dotless i the Turkish capital.
    marks = WORD_MARKS.get(preset, WordMarks({}))
    known = set(" 'ı").union(marks.kept, *marks.spellings.values())
    assert set(unicodedata.normalize("NFKD", once)) <= parts | set(unicodedata.normalize("NFKD", text)) | known


@given(text=st.text())
def test_a_normalised_transcript_is_encoded_and_decoded_without_loss(text: str) -> None:
    transcript = normalize(text, DEFAULT_TRANSFORMS)
    vocabulary = build_vocabulary(count_characters([transcript]))
    tokens = {row: token for token, row in vocabulary.items()}
    assert "".join(tokens[row] for row in encode(transcript, vocabulary)).replace("|", " ") == transcript
