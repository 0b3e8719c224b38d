"""Regular expressions have the results of Python's `re`; time and length of results are limited."""

import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.errors import TransformError, UserError
from finetune.text import expressions
from finetune.text.expressions import Replacement, match_all
from finetune.text.transcripts import NORMALIZATION_FILE, build_normalizer, load_normalization

USUAL = (
    (r"[,?.!\-;:\"“%|*+]", ""),
    (r"[^\w\s']", " "),
    (r"(\d+)\s*(kg|g)\b", r"\1 \2"),
    (r"\b(\w+)( \1\b)+", r"\1"),
    (r"(?<=\d),(?=\d{3})", ""),
    (r"(?:ab|a)+(b*)", r"<\g<1>>"),
    (r"^\s+|\s+$", ""),
    ("(?x) a # [ (\n b?", "x"),
)
ENDLESS = (
    r"^(([a-z])+ ?)+$!",
    r"(a+)+b",
    r"(a|a)*b",
    r"(?:a?){40}a{40}b",
    r"(.*)*.*\1!",
    r"(?#[)(a+)+b(?#])",
    r"(?:){4000000}b",
)


@given(st.text(alphabet="ab1,. g'िki\n", max_size=300), st.sampled_from(USUAL))
def test_a_replacement_is_the_same_as_with_re(text: str, pair: tuple[str, str]) -> None:
    assert Replacement(*pair)(text) == re.sub(*pair, text)


def test_a_long_text_has_the_same_result_in_the_other_process() -> None:
    for pattern, template in USUAL:
        text = "ab, 12 kg kg 1,000 aabb हिन्दी  " * 400
        assert Replacement(pattern, template)(text) == re.sub(pattern, template, text)


@pytest.mark.parametrize("pattern", ENDLESS)
def test_an_endless_match_is_stopped(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expressions, "_MOST_SECONDS", 0.3)
    began = time.monotonic()
    replace = Replacement(pattern, "x")
    try:
        replace("a" * 60)
    except UserError as error:
        assert "takes longer than 0.3 s for a text of 60 characters" in str(error)
    assert time.monotonic() - began < 30  # Some would take centuries.
    assert Replacement(r"(a+b?)+", "x")("aab") == "x"  # The next one starts a new process.


def test_an_expression_with_too_long_a_result_is_refused(tmp_path: Path) -> None:
    for pattern, template in ((r"(?=(.*))", r"\1" * 3000), ("", "a" * 9000)):
        with pytest.raises(UserError, match="makes more than 1000000 characters"):
            Replacement(pattern, template)("ab" * 500)
    doubling = [{"replace": ["^(.*)$", r"\1\1"]}] * 40
    with pytest.raises(UserError, match="characters of"):
        build_normalizer(doubling)
    (tmp_path / NORMALIZATION_FILE).write_text('{"steps": [' + ", ".join(['{"replace": ["a", "aa"]}'] * 101) + "]}")
    with pytest.raises(UserError, match="found 101 transforms"):
        load_normalization(tmp_path)


@pytest.mark.parametrize("pattern", ["(" * 3000 + ")" * 3000, "a{99999999999}", "a" * 10_001, "(?P<", "["])
def test_an_invalid_expression_raises_a_transform_error(pattern: str) -> None:
    with pytest.raises(TransformError, match="replace"):
        Replacement(pattern, "")


def test_names_that_an_expression_matches(monkeypatch: pytest.MonkeyPatch) -> None:
    assert match_all(r"(.*\.)?(q|v)_proj", ["a.q_proj", "v_proj", "k_proj", "a.q_proj.b"]) == ["a.q_proj", "v_proj"]
    monkeypatch.setattr(expressions, "_MOST_SECONDS", 0.3)
    with pytest.raises(UserError, match="takes longer"):
        match_all(r"(.+)+!", ["layers." * 20])
