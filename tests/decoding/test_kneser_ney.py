"""Modified Kneser-Ney smoothing against values computed by hand, and against the axioms of probability."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.decoding.kneser_ney import FALLBACK_DISCOUNTS, Estimate, estimate
from finetune.decoding.ngram import NGramModel, advance
from finetune.errors import UserError

SENTENCES = st.lists(st.lists(st.sampled_from("abcde"), max_size=6).map(" ".join), min_size=1, max_size=20)


def probability(model: NGramModel, *words: str) -> float:
    """The probability of the last word given the others."""
    return math.exp(model.score(words, bos=False, eos=False)[-1])


def sums(model: NGramModel) -> list[float]:
    """The sums of the probabilities of all words after each state; `<s>` is never predicted."""
    words = [number for number, word in enumerate(model.words) if word != "<s>"]
    states = range(-1, len(model.trie.word))
    return [sum(math.exp(advance(model.trie, state, word)[0]) for word in words) for state in states]


def test_bigrams_by_hand() -> None:
    """Chen and Goodman's equations for `a b` and `b`, with the discounts 0.5, 1 and 1.5 of a tiny text.

    The bigrams `<s> a`, `<s> b` and `a b` occur once, `b </s>` twice. a and </s> follow one word each, b two, so
    that of their sum 4 the unigrams give 0.5 + 0.5 + 1 = 2 to the backoff: a half for four words.
    """
    found = estimate(["a b", "b"], 2)
    assert found.fallbacks == (1, 2)
    assert found.discounts == (FALLBACK_DISCOUNTS, FALLBACK_DISCOUNTS)
    model = found.model
    assert model.counts == [5, 4]
    unknown, a, b, end = 0.5 / 4, 0.5 / 4 + 0.5 / 4, 1 / 4 + 0.5 / 4, 0.5 / 4 + 0.5 / 4
    assert [probability(model, word) for word in ("<unk>", "a", "b", "</s>")] == pytest.approx([unknown, a, b, end])
    # After <s> two bigrams are seen once: half of each goes to the backoff.
    assert probability(model, "<s>", "a") == pytest.approx(0.25 + 0.5 * a)
    assert probability(model, "<s>", "</s>") == pytest.approx(0.5 * end)
    assert probability(model, "a", "b") == pytest.approx(0.5 + 0.5 * b)
    # b </s> is seen twice: 1 is discounted.
    assert probability(model, "b", "</s>") == pytest.approx(0.5 + 0.5 * end)
    assert probability(model, "b", "a") == pytest.approx(0.5 * a)


def test_lower_orders_count_contexts_and_not_occurrences() -> None:
    """The paper's example: a word that only follows one other word is unlikely elsewhere, even if it is frequent."""
    model = estimate(["san francisco"] * 20 + ["red dog", "blue dog", "green dog"], 2).model
    assert probability(model, "<unk>", "dog") > probability(model, "<unk>", "francisco")


def test_ngrams_from_the_beginning_of_a_sentence_count_their_occurrences() -> None:
    """No word precedes `<s> a`: in the trigram model its two occurrences count, while `b a` counts one context.

    After <s> there are a twice and b once: 3 in all, of which 1 and 0.5 are discounted.
    """
    model = estimate(["a", "a b", "b a"], 3).model
    a, b = (probability(model, word) for word in "ab")
    assert probability(model, "<s>", "a") == pytest.approx(1 / 3 + 0.5 * a)
    assert probability(model, "<s>", "b") == pytest.approx(0.5 / 3 + 0.5 * b)
    # b follows <s> and a, a follows <s> and b, </s> follows a and b: two contexts each, 1 is discounted.
    assert [a, b] == pytest.approx([1 / 6 + 0.5 / 4] * 2)


def test_discounts_of_a_text_that_is_large_enough() -> None:
    """Equation 26 with the counts of counts 4, 2, 1 and 1: Y = 4 / (4 + 2 × 2)."""
    text = [*"abcd", *"ee", *"ff", *"ggg", *"hhhh"]
    found = estimate(text, 1)
    # The sentences' ends are counted 15 times.
    assert found.discounts == (pytest.approx((1 - 2 * 0.5 * 2 / 4, 2 - 3 * 0.5 * 1 / 2, 3 - 4 * 0.5 * 1 / 1)),)
    assert found.fallbacks == ()
    assert probability(found.model, "e") == pytest.approx(
        (2 - 1.25) / 30 + (4 * 0.5 + 2 * 1.25 + 3 * 1) / 30 / (len(found.model.words) - 1)
    )


@settings(max_examples=60, deadline=None)
@given(SENTENCES, st.integers(1, 4), st.sampled_from([(), (0, 1), (0, 0, 1), (0, 0, 2)]))
def test_probabilities_sum_to_one_after_each_context(sentences: list[str], order: int, prune: tuple[int, ...]) -> None:
    if not any(sentences):
        sentences = ["a"]
    found = estimate(sentences, order, prune[:order])
    assert np.allclose(sums(found.model), 1, atol=1e-5)
    assert np.isfinite(found.model.trie.log_prob).all() and np.isfinite(found.model.trie.backoff).all()


def test_probabilities_sum_to_one_with_estimated_discounts_and_pruning() -> None:
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(50)]
    chances = 1 / np.arange(1, 51)
    text = [" ".join(rng.choice(words, size=8, p=chances / chances.sum())) for _ in range(500)]
    found = estimate(text, 3, (0, 0, 1))
    assert found.fallbacks == (1,)  # 50 words have too few rare ones.
    assert np.allclose(sums(found.model), 1, atol=1e-5)
    assert found.model.counts[:2] == list(found.counts[:2]) and found.model.counts[2] < found.counts[2]


def trigrams(found: Estimate) -> int:
    return found.model.counts[2]


def test_pruning_removes_rare_ngrams() -> None:
    """`a b c` occurs twice, all other trigrams once; occurrences are counted, not contexts."""
    text = ["x a b c y", "z a b c w"]
    assert trigrams(estimate(text, 3, (0, 0, 0))) == 9
    assert trigrams(estimate(text, 3, (0, 0, 1))) == 1
    assert estimate(text, 4, (0, 0, 1)).model.counts == estimate(text, 3, (0, 0, 1)).model.counts
    assert estimate(text, 3, (0, 0, 2)).model.order == 2


def test_short_sentences_give_a_model_of_a_lower_order() -> None:
    found = estimate(["a", "", "b"], 5)
    assert (found.model.order, found.model.counts) == (3, [5, 4, 2])
    assert estimate(["a"], 1).model.counts == [4]


@pytest.mark.parametrize("prune", [(1,), (0, 2, 1), (0, -1), (0, 0, 0, 0)])
def test_thresholds_that_cannot_be_used_are_refused(prune: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="expected up to 3, the first 0"):
        estimate(["a b"], 3, prune)


@pytest.mark.parametrize(
    ("sentences", "order", "words"),
    [
        ([], 2, "no words"),
        (["", " "], 2, "no words"),
        (["a", "b <s> c"], 2, "Sentence 2 has the word <s>"),
        (["<unk>"], 2, "Sentence 1 has the word <unk>"),
        (["a"], 0, "Found the order 0"),
        (["a"], 21, "Found the order 21"),
    ],
)
def test_texts_and_orders_that_cannot_be_used_are_refused(sentences: list[str], order: int, words: str) -> None:
    with pytest.raises(UserError, match=words):
        estimate(sentences, order)
