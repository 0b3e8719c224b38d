"""Bootstrap intervals: coverage of the true value, resampling over speakers, and cases without an interval."""

import math
from statistics import NormalDist

import numpy as np
import pytest

from finetune.evaluation import intervals
from finetune.evaluation.intervals import Interval, bootstrap, cluster, resample, tail_probability
from finetune.evaluation.scores import Column, count_errors

SPEAKERS, UTTERANCES, TRIALS = 60, 5, 300


def simulate(rng, number=SPEAKERS):
    """Counts of utterances by speakers with different error rates; the true WER is 0.2, CER 0.4, SER 0.3."""

    def errors(mean, units):
        rates = rng.beta(4 * mean, 4 * (1 - mean), number).repeat(UTTERANCES)
        return rng.binomial(units, rates)

    words = rng.integers(1, 20, number * UTTERANCES)
    counts = np.zeros((len(words), len(Column)), dtype=np.int64)
    for column, units, mean in ((Column.SUBSTITUTIONS, words, 0.2), (Column.CHARACTER_SUBSTITUTIONS, 5 * words, 0.4)):
        counts[:, column] = errors(mean, units)
        counts[:, column - 1] = units - counts[:, column]
    counts[:, Column.WRONG], counts[:, Column.UTTERANCES] = errors(0.3, np.ones_like(words)), 1
    return counts, [f"speaker {i}" for i in range(number) for _ in range(UTTERANCES)]


def cover(trials, with_speakers, number=SPEAKERS):
    """The numbers of trials whose intervals contain the true WER, CER and SER."""
    rng, covered = np.random.default_rng(0), np.zeros(3, dtype=int)
    for trial in range(trials):
        counts, speakers = simulate(rng, number)
        found = bootstrap(counts, speakers if with_speakers else [None] * len(counts), seed=trial)
        for i, (interval, truth) in enumerate(zip((found.wer, found.cer, found.ser), (0.2, 0.4, 0.3), strict=True)):
            covered[i] += interval.low <= truth <= interval.high
    return covered


def binomial_tail(successes, trials, probability):
    """The probability of at most `successes` successes."""
    terms = (math.comb(trials, k) * probability**k * (1 - probability) ** (trials - k) for k in range(successes + 1))
    return sum(terms)


def test_intervals_over_speakers_have_nominal_coverage_and_those_over_utterances_do_not():
    for covered in cover(TRIALS, with_speakers=True):
        # Within the 0.1 % tails of the binomial distribution.
        assert binomial_tail(covered, TRIALS, 0.95) > 0.001
        assert 1 - binomial_tail(covered - 1, TRIALS, 0.95) > 0.001
    assert max(cover(100, with_speakers=False)[:2]) < 85


def test_intervals_of_few_speakers_have_almost_nominal_coverage():
    assert sum(cover(100, with_speakers=True, number=7)) >= 273  # 91 in 100 of each rate, and 87 by plain percentiles.


@pytest.mark.parametrize(("number", "least"), [(2, 255), (3, 260), (4, 255)])
def test_intervals_of_two_to_four_speakers_are_wide_enough(number, least):
    covered = cover(100, with_speakers=True, number=number)  # By percentiles 155 of 300 with 2, and 217 with 3.
    assert sum(covered) >= least
    found = bootstrap(*simulate(np.random.default_rng(0), number))
    for interval in (found.wer, found.cer, found.ser):
        assert 0 <= interval.low < interval.high <= 1


@pytest.mark.parametrize(("clusters", "t"), [(6, 2.571), (11, 2.228), (31, 2.042), (1001, 1.962)])
def test_percentiles_are_expanded_by_students_quantiles(clusters, t):
    moved = NormalDist().cdf(-t * math.sqrt(clusters / (clusters - 1)))
    assert tail_probability(clusters) == pytest.approx(moved, rel=0.02)


def test_the_same_seed_gives_the_same_intervals_for_any_block_size(monkeypatch):
    counts, speakers = simulate(np.random.default_rng(1))
    found = bootstrap(counts, speakers)
    assert bootstrap(counts, speakers) == found
    assert bootstrap(counts, speakers, seed=1) != found
    monkeypatch.setattr(intervals, "_BLOCK", 7 * SPEAKERS)
    assert bootstrap(counts, speakers) == found
    assert (found.resampled, found.clusters) == ("speakers", SPEAKERS)


def test_resamples_are_sums_of_whole_clusters():
    clusters = np.array([[1, 10], [100, 1000]])
    sums = resample(clusters, 200)
    assert {tuple(row) for row in sums.tolist()} == {(2, 20), (101, 1010), (200, 2000)}
    assert sums[:, 0].mean() == pytest.approx(101, abs=15)


@pytest.mark.parametrize("speakers", [["a", None, "b"], ["a", "a", "a"], [None, None, None]])
def test_utterances_are_resampled_if_speakers_are_unknown_or_only_one(speakers):
    counts = count_errors(["a b", "c", "d"], ["a x", "c", ""])
    clusters, resampled = cluster(counts, speakers)
    assert resampled == "utterances" and clusters is counts
    assert bootstrap(counts, speakers).clusters == 3


def test_speakers_are_summed():
    counts = count_errors(["a b", "c", "d"], ["a x", "c", ""])
    clusters, resampled = cluster(counts, ["x", "y", "x"])
    assert resampled == "speakers"
    assert clusters.tolist() == [(counts[0] + counts[2]).tolist(), counts[1].tolist()]


def test_one_utterance_has_no_interval():
    found = bootstrap(count_errors(["a b"], ["a"]), ["x"])
    assert (found.wer, found.cer, found.ser, found.clusters) == (None, None, None, 1)
    assert found.to_json() == {
        "wer": None,
        "cer": None,
        "ser": None,
        "level": 0.95,
        "resampled": "utterances",
        "clusters": 1,
    }
    assert bootstrap(count_errors([], []), []).wer is None


def test_empty_references_add_errors_and_no_words():
    found = bootstrap(count_errors(["", ""], ["a", "b c"]), [None, None])
    assert (found.wer, found.cer, found.ser) == (None, None, Interval(1.0, 1.0))
    # A quarter of the resamples contain only the empty reference and have no rate.
    mixed = bootstrap(count_errors(["", "a b"], ["x", "a b"]), [None, None])
    assert mixed.wer == Interval(0.0, 1.0)


def test_no_errors_give_zero_to_zero():
    found = bootstrap(count_errors(["a", "b"], ["a", "b"]), [None, None])
    assert found.wer == found.ser == Interval(0.0, 0.0)
    assert found.to_json()["wer"] == [0.0, 0.0]
