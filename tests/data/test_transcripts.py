"""Normalisation: the same text on both sides of the comparison, and saved with the model."""

from pathlib import Path

import pytest

from finetune.data.transcripts import (
    DEFAULT_STEPS,
    NORMALIZATION_FILE,
    load_normalization,
    normalize,
    save_normalization,
)
from finetune.errors import UserError


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
def test_the_default_steps(text: str, normalized: str) -> None:
    assert normalize(text, DEFAULT_STEPS) == normalized


@pytest.mark.parametrize("text", ["It’s “five” o'clock", "A|B|C", "Ein Straßencafe\u0301", "½ ﬁsh"])
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalize(text, DEFAULT_STEPS)
    assert normalize(once, DEFAULT_STEPS) == once


def test_without_steps_only_spaces_and_the_word_delimiter_change() -> None:
    assert normalize(" It’s|A,  B ", ()) == "It’s A, B"


def test_steps_are_applied_in_their_order() -> None:
    assert normalize("aﬁ", ("uppercase", "lowercase")) == "afi"
    assert normalize("aﬁ", ("lowercase",)) == "aﬁ"


def test_steps_are_saved_with_a_model(tmp_path: Path) -> None:
    save_normalization(tmp_path, ("nfc", "uppercase"))
    assert load_normalization(tmp_path) == ("nfc", "uppercase")


def test_a_model_without_saved_steps_has_none(tmp_path: Path) -> None:
    assert load_normalization(tmp_path) is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{half", "is damaged"),
        (b"{}", "is damaged"),
        (b"[]", "is damaged"),
        (b"\xff\xfe", "is damaged"),
        (b'{"steps": null}', "is damaged"),
        (b'{"steps": [["nfc"]]}', "is damaged|unknown steps"),
        (b'{"steps": ["nfc", "shout"]}', "unknown steps .*shout.*; known are"),
    ],
)
def test_damaged_steps_are_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / NORMALIZATION_FILE).write_bytes(content)
    with pytest.raises(UserError, match=words):
        load_normalization(tmp_path)
