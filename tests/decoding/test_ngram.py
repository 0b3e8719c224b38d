"""The language model's automaton against the definition of backoff models, computed by hand."""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from finetune.decoding.ngram import Level, NGramModel
from finetune.errors import UserError

WORDS = ("<unk>", "<s>", "</s>", "a", "b")


def level(parents: list[int], words: list[int], log_probs: list[float], backoffs: list[float]) -> Level:
    ids = (np.array(numbers, np.int32) for numbers in (parents, words))
    return Level(*ids, *(np.array(values, np.float32) for values in (log_probs, backoffs)))


@pytest.fixture
def model() -> NGramModel:
    """The bigrams `<s> a`, `a </s>`, `a b`, and the trigram `<s> a b`; all values are exact in binary."""
    return NGramModel.assemble(
        WORDS,
        [
            level([0] * 5, [0, 1, 2, 3, 4], [-5, -9, -1, -2, -3], [0, -0.5, 0, -0.25, 0]),
            level([1, 3, 3], [3, 2, 4], [-0.125, -0.5, -0.75], [-1.5, 0, 0]),
            level([0], [4], [-0.0625], [0]),
        ],
    )


def test_a_word_is_scored_after_the_longest_known_context_or_backs_off(model: NGramModel) -> None:
    # `a b </s>`: bigram, trigram, then the empty context, since b is not one.
    assert model.score(["a", "b"]) == [-0.125, -0.0625, -1]
    # There is no `<s> b`; b is not a context; there is neither `a a` nor the unknown word.
    assert model.score(["b", "a", "a", "z"]) == [-3.5, -2, -2.25, -5.25, -1]
    # From `<s> a` to the unigram both backoffs are added.
    assert model.score(["a", "a"], eos=False) == [-0.125, -1.5 - 0.25 - 2]
    assert model.score(["a", "b"], bos=False, eos=False) == [-2, -0.75]


def test_perplexity_counts_unknown_words_separately(model: NGramModel) -> None:
    found = model.perplexity([["a", "b"], ["z"]])
    assert (found.num_sentences, found.num_tokens, found.num_oovs) == (2, 5, 1)
    assert found.including_oovs == pytest.approx(math.exp((0.125 + 0.0625 + 1 + 5.5 + 1) / 5))
    assert found.excluding_oovs == pytest.approx(math.exp((0.125 + 0.0625 + 1 + 1) / 4))
    assert model.perplexity([]).including_oovs is None


def test_the_counts_of_each_order(model: NGramModel) -> None:
    assert (model.counts, model.order) == ([5, 3, 1], 3)


def test_a_saved_model_is_the_same(model: NGramModel, tmp_path: Path) -> None:
    model.save(tmp_path / "lm")
    loaded = NGramModel.load(tmp_path / "lm")
    assert (loaded.words, loaded.counts) == (model.words, model.counts)
    for mine, other in zip(model.trie, loaded.trie, strict=True):
        assert mine.dtype == other.dtype and np.array_equal(mine, other)
        # Both have the same types for compiled code.
        assert mine.flags.writeable is other.flags.writeable is False
    assert loaded.score(["a", "b"]) == model.score(["a", "b"])
    assert [file.name for file in tmp_path.iterdir()] == ["lm"]
    model.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "lm").read_bytes()


def test_a_file_cut_anywhere_is_refused(model: NGramModel, tmp_path: Path) -> None:
    model.save(tmp_path / "lm")
    whole = (tmp_path / "lm").read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(UserError, match="cut can't be used as a language model"):
            NGramModel.load(tmp_path / "cut")


def test_other_files_are_refused(tmp_path: Path) -> None:
    save_file({"words": np.zeros(3, np.uint8)}, tmp_path / "other")
    with pytest.raises(UserError, match="found the format None, expected"):
        NGramModel.load(tmp_path / "other")
    (tmp_path / "text").write_text("\\data\\\n")
    with pytest.raises(UserError, match="can't be used"):
        NGramModel.load(tmp_path / "text")
    with pytest.raises(UserError, match="No such file"):
        NGramModel.load(tmp_path / "none")


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [
        ("word", 6, 9),
        ("word", 6, -1),
        ("word", 6, 4),  # The siblings are no longer sorted.
        ("word", 0, 1),
        ("log_prob", 2, math.nan),
        ("backoff", 1, math.inf),
        ("suffix", 5, 5),  # A cycle.
        ("suffix", 5, -2),
        ("suffix", 3, 2),
        ("first_child", 0, 0),
        ("first_child", 2, 9),
        ("first_child", 9, 10),
        ("first_child", 3, -1),
    ],
)
def test_arrays_with_indices_out_of_bounds_are_refused(
    model: NGramModel, tmp_path: Path, name: str, place: int, value: float
) -> None:
    changed = getattr(model.trie, name).copy()
    changed[place] = value
    replace(model, trie=model.trie._replace(**{name: changed})).save(tmp_path / "lm")
    with pytest.raises(UserError, match="its n-grams are inconsistent"):
        NGramModel.load(tmp_path / "lm")


@pytest.mark.parametrize("words", [("<unk>", "<s>", "a", "b"), ("a", "<s>", "</s>", "<unk>", "b"), ("<unk>", *"sabb")])
def test_words_that_do_not_match_the_trie_are_refused(
    model: NGramModel, tmp_path: Path, words: tuple[str, ...]
) -> None:
    replace(model, words=words).save(tmp_path / "lm")
    with pytest.raises(UserError, match="its n-grams are inconsistent"):
        NGramModel.load(tmp_path / "lm")


def test_the_command_line_starts_without_numba() -> None:
    code = "import sys, finetune.cli; finetune.cli.main(['--help'])"
    check = "import atexit, sys; atexit.register(lambda: print('numba' in sys.modules)); "
    shown = subprocess.run([sys.executable, "-c", check + code], capture_output=True, text=True, check=True).stdout
    assert shown.endswith("False\n")
