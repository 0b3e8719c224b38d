"""Anchors: runs of equal words that occur once on both sides, in order."""

from itertools import pairwise

import numpy as np

from finetune.decoding.anchors import find_anchors


def test_equal_words_are_anchors_everywhere() -> None:
    words = [f"w{i}" for i in range(20)]
    assert find_anchors(words, words, 5) == [(i, i) for i in range(16)]


def test_inserted_missing_and_repeated_words_are_none() -> None:
    words = [f"w{i}" for i in range(40)]
    heard = [*words[:10], "x", "y", *words[10:20], *words[25:]]
    pairs = find_anchors(heard, words, 5)
    assert all(heard[a : a + 5] == words[b : b + 5] for a, b in pairs)
    assert {b - a for a, b in pairs} == {0, -2, 3}
    refrain = ["a", "b", "c", "d", "e"] * 4
    assert find_anchors(refrain, refrain, 5) == []
    assert find_anchors([], words, 5) == find_anchors(words, [], 5) == []


def test_a_passage_that_moved_does_not_break_the_order() -> None:
    words = [f"w{i}" for i in range(60)]
    heard = [*words[50:], *words[:50]]
    pairs = find_anchors(heard, words, 5)
    assert len(pairs) == 46 and pairs == sorted(pairs) and all(a - b == 10 for a, b in pairs)


def test_the_chain_ascends_in_both_whatever_the_words() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        heard, words = ([str(n) for n in rng.integers(0, 12, 80)] for _ in range(2))
        pairs = find_anchors(heard, words, 2)
        assert all(a < c and b < d for (a, b), (c, d) in pairwise(pairs))
