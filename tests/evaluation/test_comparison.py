"""Comparisons: correct on simulated systems, with correct pairs of utterances and a clear conclusion."""

import math
from dataclasses import replace

import numpy as np
import pytest

from finetune.errors import UserError
from finetune.evaluation.comparison import compare, matched_pairs_p_value
from finetune.evaluation.results import Result

WORDS = ["one", "two", "three", "four", "five", "six", "seven"]


def recognise(errors, seed=0, speakers=10, utterances=120):
    """Results with a share of wrong words; an utterance is equally hard for every system."""
    texts, own = np.random.default_rng(0), np.random.default_rng(seed)
    results = []
    for i in range(utterances):
        said = texts.choice(WORDS, size=int(texts.integers(3, 10))).tolist()
        hardness = texts.uniform(0, 2)
        heard = [word if own.random() > errors * hardness else "wrong" for word in said]
        results.append(
            Result(f"{i}.wav", " ".join(said), " ".join(heard), "", 2.0, f"s{i % speakers}" if speakers else None)
        )
    return results


def test_a_better_system_is_significantly_better():
    found = compare(recognise(0.4), recognise(0.1, seed=1))
    difference = found.overall
    assert difference.is_significant and difference.difference == found.b.wer - found.a.wer
    assert difference.interval.low < difference.difference < difference.interval.high < 0
    assert difference.p_value < 0.001
    assert (difference.resampled, difference.clusters) == ("speakers", 10)
    points, low, high = (100 * x for x in (-difference.difference, -difference.interval.high, -difference.interval.low))
    assert found.sentence().startswith(
        f"B is better by {points:.1f} points, 95 % interval {low:.1f} to {high:.1f} (WER"
    )
    assert "10 speakers; matched-pairs test p < 0.001" in found.sentence()
    other = compare(recognise(0.1, seed=1), recognise(0.4))
    assert other.sentence().startswith(f"A is better by {points:.1f} points")


def test_two_equal_systems_have_no_significant_difference():
    found = compare(recognise(0.2), recognise(0.2, seed=1))
    assert not found.overall.is_significant
    assert found.overall.interval.low < 0 < found.overall.interval.high
    assert found.overall.p_value > 0.05
    assert found.sentence().startswith("no significant difference: WER ")
    same = compare(recognise(0.2), recognise(0.2))
    assert (same.overall.difference, same.overall.p_value, same.overall.same) == (0.0, 1.0, 120)
    assert same.better == same.worse == same.words_better == same.words_worse == ()


def test_both_tests_have_their_nominal_error_rate():
    """With equal systems and independent utterances, 5 in 100 differences are significant."""
    called = [0, 0]
    for trial in range(100):
        a, b = (recognise(0.2, seed, speakers=0, utterances=60) for seed in (2 * trial + 1, 2 * trial + 2))
        found = compare(a, b).overall
        called[0] += found.is_significant
        called[1] += found.p_value < 0.05
    # The probability of 13 or more of 100 is 0.001.
    assert max(called) < 13 and min(called) > 0


@pytest.mark.parametrize("speakers", [2, 3])
def test_few_speakers_do_not_make_equal_systems_differ(speakers):
    pairs = [[recognise(0.2, 2 * trial + i, speakers, utterances=60) for i in (1, 2)] for trial in range(50)]
    # By percentiles it would be half of the pairs with two speakers, whose differences have the same sign by chance.
    assert sum(compare(a, b).overall.is_significant for a, b in pairs) < 9


@pytest.mark.parametrize(("number", "expected"), [(2, False), (3, False), (5, False), (6, True)])
@pytest.mark.parametrize("speaker", ["s{}", None])
def test_few_equal_differences_are_not_significant(number, expected, speaker):
    """They have no variance; of five signs all are equal by chance once in 16 times."""
    names = [speaker and speaker.format(i) for i in range(number)]
    a, b = ([Result(f"{i}.wav", "it rained", heard, "", 1.0, s) for i, s in enumerate(names)] for heard in ("it", ""))
    found = compare(a, b)
    # The largest share q of units that may differ otherwise has (1 - q)^n = 0.025.
    low = 0.5 * (2 * 0.025 ** (1 / number) - 1)
    assert (found.overall.interval.low, found.overall.interval.high) == (pytest.approx(low), 0.5)
    assert (low > 0) is expected and found.overall.is_significant is expected
    start = "A is better by 50.0 points" if expected else "no significant difference: WER 50.0 % of A, 100.0 % of B"
    assert found.sentence().startswith(start) and f"p = {2 / 2**number:.3f}" in found.sentence()
    other = compare(b, a).overall.interval
    assert (other.low, other.high) == (-0.5, pytest.approx(-low))


def test_an_interval_that_few_utterances_do_not_confirm_is_not_significant():
    a = [Result(f"{i}.wav", "it rained", "it rained", "", 1.0, f"s{i}") for i in range(5)]
    b = [replace(each, hypothesis=heard) for each, heard in zip(a, ["it", "", "it", "it", "it"], strict=True)]
    found = compare(a, b)
    assert found.overall.excludes_zero and not found.overall.is_significant
    assert found.sentence().endswith("(5 speakers; matched-pairs test p = 0.062, expected below 0.05).")


@pytest.mark.parametrize("number", [3, 7])
def test_speakers_that_differ_equally_by_chance_have_an_interval_as_wide_as_their_utterances(number):
    """Each speaker has two utterances that got worse and one that got better."""
    utterances = [(f"s{i}", *heard) for i in range(number) for heard in (("a", ""), ("a", ""), ("", "a"))]
    a = [Result(f"{i}.wav", "a", heard, "", 1.0, name) for i, (name, heard, _) in enumerate(utterances)]
    b = [replace(each, hypothesis=heard) for each, (_, _, heard) in zip(a, utterances, strict=True)]
    found = compare(a, b).overall
    alone = compare(*([replace(each, speaker=None) for each in results] for results in (a, b))).overall
    assert found.interval.low <= alone.interval.low < found.difference < alone.interval.high <= found.interval.high
    assert (found.resampled, found.clusters, found.is_significant) == ("speakers", number, False)


@pytest.mark.long
def test_equal_systems_of_few_speakers_are_seldom_told_apart_by_the_interval_alone():
    """The bootstrap over five speakers alone excludes zero in 14 of 150 pairs, whose utterances are independent."""
    pairs = [[recognise(0.2, 2 * trial + i, speakers=5, utterances=100) for i in (1, 2)] for trial in range(150)]
    assert sum(compare(a, b).overall.excludes_zero for a, b in pairs) < 11


def test_pairing_finds_differences_that_two_intervals_do_not():
    """Utterances that are hard for both make each WER uncertain, but not their difference."""
    found = compare(recognise(0.3), recognise(0.24, seed=0))  # The same random numbers: B is correct wherever A is.
    assert found.overall.worse == 0 and found.overall.is_significant


def test_matched_pairs_by_hand():
    # 50 differences of 1 and 50 of 0: mean 1/2, deviation sqrt(25/99), standard error sqrt(25/99)/10, W = sqrt(99).
    few = np.tile([0, 1], 50)
    assert matched_pairs_p_value(few + 1, np.ones_like(few)) == pytest.approx(math.erfc(math.sqrt(99 / 2)))
    # 30 differences of 1 and 20 of -1: mean 0.2, deviation sqrt(48/49), standard error 0.13997, W = 1.4289.
    mixed = np.repeat([1, -1], [30, 20])
    assert matched_pairs_p_value(mixed, np.zeros_like(mixed)) == pytest.approx(0.1530, abs=1e-4)


def test_matched_pairs_of_few_segments_are_swapped_in_all_ways():
    def p_value(*differences):
        return matched_pairs_p_value(np.array(differences) + 3, np.full(len(differences), 3))

    assert p_value(1, 0, 1, 0) == 2 / 4 and p_value(1, 1) == 2 / 4 and p_value(0, 0) == 1
    assert p_value(3, -1) == 1  # The sums are 4, 2, -2 and -4; this one is 2.
    assert p_value(3, 2, -1) == 4 / 8  # ±6, ±4, ±2 and 0 twice; this one is 4.
    assert p_value(*[1] * 10) == 2 / 1024
    assert matched_pairs_p_value(np.array([1]), np.array([0])) is None
    # The same answer on both sides of the bound: 49 and 51 differences, about as lopsided.
    exact, normal = (p_value(*np.repeat([1, -1], counts)) for counts in ((30, 19), (31, 20)))
    assert exact == pytest.approx(normal, abs=0.04)


def test_improvements_and_degradations_are_listed():
    texts = [("one two three", "wrong two wrong", "one two three"), ("one two", "one two", "one")]
    a = [Result(str(i), said, heard, "", 1.0, None) for i, (said, heard, _) in enumerate(texts)]
    b = [Result(str(i), said, heard, "", 1.0, None) for i, (said, _, heard) in enumerate(texts)]
    found = compare(a, b)
    assert [(c.utterance, c.errors_a, c.errors_b) for c in found.better] == [("0", 2, 0)]
    assert [(c.utterance, c.hypothesis_a, c.hypothesis_b) for c in found.worse] == [("1", "one two", "one")]
    assert [(w.word, w.only_a, w.only_b) for w in found.words_better] == [("one", 0, 1), ("three", 0, 1)]
    assert [(w.word, w.only_a, w.only_b) for w in found.words_worse] == [("two", 1, 0)]
    assert (found.overall.better, found.overall.worse, found.overall.same) == (1, 1, 0)
    values = found.to_json()
    assert values["sentence"] == found.sentence() and values["difference"]["interval"] is not None
    assert values["a"]["substitutions"] == 2 and values["b"]["deletions"] == 1


def test_slices_are_compared_too():
    a, b = recognise(0.4), recognise(0.4)
    better = [replace(y, hypothesis=y.reference) if y.speaker == "s3" else y for y in b]
    slices = compare(a, better).slices["speaker"]
    assert [name for name, found in slices.items() if found.difference] == ["s3"]
    assert slices["s3"].is_significant and slices["s3"].resampled == "utterances"


def test_utterances_are_paired_by_name_and_then_by_order():
    a = [Result("x", "one", "one", "", 1.0, None), Result("y", "two", "no", "", 1.0, None)]
    assert compare(a, a[::-1]).overall.same == 2
    pieces = [replace(each, name="long.wav") for each in a]
    assert compare(pieces, pieces).overall.same == 2
    with pytest.raises(UserError, match=r"different references in 2 of 2 utterances, such as long\.wav"):
        compare(pieces, pieces[::-1])


def test_different_utterances_and_different_references_are_refused():
    a = recognise(0.2)
    with pytest.raises(UserError, match=r"2 of A's 120 are not in B, 0 of B's 118 not in A, such as 118.wav"):
        compare(a, a[:-2])
    changed = [replace(a[0], reference="something else"), *a[1:]]
    with pytest.raises(UserError, match=r"different references in 1 of 120 utterances, such as 0.wav"):
        compare(a, changed)
    spaced = [replace(each, reference=f" {each.reference} ") for each in a]
    assert compare(a, spaced).overall.same == 120


def test_without_reference_words_there_is_nothing_to_compare():
    empty = [Result("x", "", "one", "", 1.0, None)]
    with pytest.raises(UserError, match="Every reference is empty"):
        compare(empty, empty)


def test_a_single_utterance_gives_no_conclusion():
    one = [Result("x", "one two", "one", "", 1.0, None)]
    found = compare(one, [replace(one[0], hypothesis="one two")])
    assert (found.overall.interval, found.overall.p_value) == (None, None)
    assert found.sentence() == "no significant difference: WER 50.0 % of A, 0.0 % of B, of a single utterance."
