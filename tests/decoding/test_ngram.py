"""The language model's automaton against what backoff models mean, worked out by hand."""

import math

import numpy as np
import pytest

from finetune.decoding.ngram import Level, NGramModel

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


def test_a_word_is_scored_after_the_longest_context_known_and_backs_off_from_it(model: NGramModel) -> None:
    # `a b </s>`: bigram, trigram, then b is no context.
    assert model.score(["a", "b"]) == [-0.125, -0.0625, -1]
    # `<s>` does not continue with b; b is no context; neither `a a` nor an unknown word is known.
    assert model.score(["b", "a", "a", "z"]) == [-3.5, -2, -2.25, -5.25, -1]
    # From `<s> a` both backoffs are taken on the way to the unigram.
    assert model.score(["a", "a"], eos=False) == [-0.125, -1.5 - 0.25 - 2]
    assert model.score(["a", "b"], bos=False, eos=False) == [-2, -0.75]


def test_perplexity_counts_unknown_words_apart(model: NGramModel) -> None:
    found = model.perplexity([["a", "b"], ["z"]])
    assert (found.num_sentences, found.num_tokens, found.num_oovs) == (2, 5, 1)
    assert found.including_oovs == pytest.approx(math.exp((0.125 + 0.0625 + 1 + 5.5 + 1) / 5))
    assert found.excluding_oovs == pytest.approx(math.exp((0.125 + 0.0625 + 1 + 1) / 4))
    assert model.perplexity([]).including_oovs is None


def test_the_counts_of_each_order(model: NGramModel) -> None:
    assert model.counts == [5, 3, 1]
