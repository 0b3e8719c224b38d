"""The vocabulary that a recipe asks for, and what is said about the characters."""

from collections.abc import Callable
from pathlib import Path

import pytest

from finetune.errors import UserError
from finetune.preparation import Preparation, describe, prepare
from finetune.recipe import Recipe, load_recipe

Write = Callable[..., Path]


def tokens(preparation: Preparation) -> str:
    return "".join(token for token in preparation.vocabulary if len(token) == 1 and token != "|")


@pytest.fixture
def written(tmp_path: Path, write_recipe: Write, make_corpus: Callable[..., Path]) -> Callable[..., Recipe]:
    """A recipe of a corpus with these transcripts in train, and `sections`."""

    def write(transcripts: list[str], **sections: dict[str, object]) -> Recipe:
        make_corpus(tmp_path / "corpus" / "train", transcripts)
        make_corpus(tmp_path / "corpus" / "validation", ["ab"])
        return load_recipe(write_recipe(tmp_path, data={"root": str(tmp_path / "corpus")}, **sections))

    return write


def test_rare_characters_can_be_left_out(written: Callable[..., Recipe]) -> None:
    transcripts = ["abc", "cab", "bac", "éab"]
    assert tokens(prepare(written(transcripts))) == "abcé"
    recipe = written(transcripts, text={"min_character_count": 2})
    preparation = prepare(recipe)
    assert tokens(preparation) == "abc"
    assert preparation.head_rows is None
    assert any(
        line.startswith("not in the vocabulary, learned as [UNK]: é × 1") for line in describe(preparation, recipe)
    )


def test_given_characters_are_the_vocabulary(written: Callable[..., Recipe]) -> None:
    assert tokens(prepare(written(["abc", "cab"], text={"characters": "zyx cba"}))) == "zyxcba"


def test_a_bases_vocabulary_is_kept_with_its_head(written: Callable[..., Recipe], model_folder: Path) -> None:
    recipe = written(["abe", "ebab"], model={"base": str(model_folder)}, text={"vocabulary": "base"})
    preparation = prepare(recipe)
    assert tokens(preparation) == "abcd"
    assert preparation.head_rows == tuple(range(7))


def test_a_bases_vocabulary_is_extended_by_what_training_adds(
    written: Callable[..., Recipe], model_folder: Path
) -> None:
    recipe = written(["abe", "ebab"], model={"base": str(model_folder)}, text={"vocabulary": "extended"})
    preparation = prepare(recipe)
    assert tokens(preparation) == "abcde"
    assert preparation.head_rows == (0, 1, 2, 3, 4, 5, None, 6)


def test_a_base_without_a_vocabulary_is_refused(written: Callable[..., Recipe]) -> None:
    with pytest.raises(UserError, match=r"has no vocabulary .*text.vocabulary=training"):
        prepare(written(["abc"] * 4, text={"vocabulary": "base"}))


def test_text_in_the_wrong_case_is_refused(written: Callable[..., Recipe], model_folder: Path) -> None:
    text = {"vocabulary": "base", "normalization": ["uppercase"]}
    with pytest.raises(UserError, match=r"Only 0 of the 8 characters .*\(abcd\).*its case"):
        prepare(written(["ab"] * 4, model={"base": str(model_folder)}, text=text))


def test_rare_combining_and_delimiting_characters_are_reported(written: Callable[..., Recipe]) -> None:
    recipe = written(["ab|ab", "abq\u0303", "ab", "abab"])
    said = "\n".join(describe(prepare(recipe), recipe))
    assert "note: rare in training: q × 1, COMBINING TILDE × 1;" in said
    assert "note: 1 transcripts hold |" in said
