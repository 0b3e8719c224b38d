"""Compare two systems on the same utterances: whether their WERs differ significantly, where, and in which words."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from finetune.errors import UserError
from finetune.evaluation.intervals import LEVEL, Interval, cluster, find_interval, resample
from finetune.evaluation.results import Result, add_up, count_results
from finetune.evaluation.scores import (
    RATES,
    Counts,
    Scores,
    align_words,
    collapse_whitespace,
    count,
    count_reference_words,
    count_word_errors,
    error_rates,
    pair_units,
    percent,
)
from finetune.evaluation.slices import partition
from finetune.text.word_units import split_words

MOST = 50  # utterances or words that got better or worse
FEWEST_FOR_NORMAL = 50  # segments that differ

_WER = RATES.index("wer")
_NO_WIDTH = 1e-9  # of an interval: rounding errors


@dataclass(frozen=True)
class Difference:
    """B's WER minus A's on a set of utterances, as fractions; B is better below zero.

    `interval` is from the paired bootstrap (`_find_interval`), `p_value` from the matched-pairs test; None if it cannot
    be computed.
    `better`, `worse` and `same` count the utterances in which B makes fewer, more or as many word errors.
    """

    wer_a: float | None
    wer_b: float | None
    difference: float | None
    interval: Interval | None
    p_value: float | None
    resampled: str
    clusters: int
    utterances: int
    better: int
    worse: int
    same: int

    @property
    def is_significant(self) -> bool:
        """Whether the interval excludes zero and the matched-pairs test agrees."""
        return is_significant(self.interval, self.p_value)

    @property
    def excludes_zero(self) -> bool:
        """Whether zero is outside the interval."""
        return _excludes_zero(self.interval)

    def to_json(self) -> dict[str, Any]:
        """All fields, the interval as [low, high]."""
        interval = self.interval and [self.interval.low, self.interval.high]
        return {**asdict(self), "interval": interval, "level": LEVEL}


@dataclass(frozen=True)
class Change:
    """An utterance in which B makes fewer or more word errors than A, with both numbers of errors."""

    utterance: str
    reference: str
    hypothesis_a: str
    hypothesis_b: str
    errors_a: int
    errors_b: int


@dataclass(frozen=True)
class WordChange:
    """A reference word, with the number of times that only A, and that only B, recognised it."""

    word: str
    only_a: int
    only_b: int


@dataclass(frozen=True)
class Comparison:
    """Two systems' scores on the same utterances, and their difference: overall, by slice, by utterance, by word."""

    a: Scores
    b: Scores
    overall: Difference
    slices: dict[str, dict[str, Difference]]
    better: tuple[Change, ...]
    worse: tuple[Change, ...]
    words_better: tuple[WordChange, ...]
    words_worse: tuple[WordChange, ...]

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values, with the conclusion."""
        slices = {
            name: [{"value": value, **difference.to_json()} for value, difference in values.items()]
            for name, values in self.slices.items()
        }
        return {
            "sentence": self.sentence(),
            "a": self.a.to_json(),
            "b": self.b.to_json(),
            "difference": self.overall.to_json(),
            "slices": slices,
            "better": [asdict(change) for change in self.better],
            "worse": [asdict(change) for change in self.worse],
            "words_better": [asdict(change) for change in self.words_better],
            "words_worse": [asdict(change) for change in self.words_worse],
        }

    def sentence(self) -> str:
        """The conclusion: which system is better, or that the difference is not significant."""
        found = self.overall
        assert found.difference is not None  # `compare` requires reference words.
        rates = f"WER {percent(found.wer_a)} of A, {percent(found.wer_b)} of B"
        test = "" if found.p_value is None else f"; matched-pairs test p {format_p_value(found.p_value)}"
        if found.excludes_zero and not found.is_significant:
            test += f", expected below {1 - LEVEL:.2f}"
        resampled = f"{count(found.clusters, found.resampled.removesuffix('s'))}{test}"
        points, interval = 100 * found.difference, found.interval
        if interval is None:
            return f"no significant difference: {rates}, of a single utterance."
        low, high = 100 * interval.low, 100 * interval.high
        if not found.is_significant:
            return (
                f"no significant difference: {rates}; B's WER minus A's is {points:.1f} points, 95 % interval "
                f"{low:.1f} to {high:.1f} ({resampled})."
            )
        name = "A" if points > 0 else "B"
        if points < 0:
            points, low, high = -points, -high, -low
        return f"{name} is better by {points:.1f} points, 95 % interval {low:.1f} to {high:.1f} ({rates}; {resampled})."


def compare(a: Sequence[Result], b: Sequence[Result]) -> Comparison:
    """Compare B with A; utterances are paired by name, and those with the same name by their order.

    Raises UserError if the utterances or references of the two differ, or if there are no reference words.

    >>> from finetune.evaluation.comparison import compare
    >>> from finetune.evaluation.results import Result
    >>> a = [Result(f"{i}.wav", "it rained", "it rain", "It rained.", 1.0, f"speaker {i}") for i in range(9)]
    >>> b = [Result(f"{i}.wav", "it rained", "it rained", "It rained.", 1.0, f"speaker {i}") for i in range(9)]
    >>> compare(a, b).sentence()
    'B is better by 50.0 points, 95 % interval 16.4 to 50.0 (WER 50.0 % of A, 0.0 % of B; 9 speakers; ...).'
    """
    a, b = _pair(a, b)
    counts_a, counts_b = count_results(a), count_results(b)
    if not count_reference_words(counts_a).any():
        raise UserError("Every reference is empty, so there is no WER to compare.")
    both = np.stack([counts_a, counts_b], axis=1)
    speakers = [result.speaker for result in a]
    slices = {
        name: {value: _measure(both[rows], [speakers[row] for row in rows]) for value, rows in values.items()}
        for name, values in partition(a).items()
    }
    better, worse = _list_changes(a, b, counts_a, counts_b)
    words_better, words_worse = _list_words(a, b)
    return Comparison(
        a=add_up(a, counts_a),
        b=add_up(b, counts_b),
        overall=_measure(both, speakers),
        slices=slices,
        better=better,
        worse=worse,
        words_better=words_better,
        words_worse=words_worse,
    )


def is_significant(interval: Interval | None, p_value: float | None) -> bool:
    """Whether a difference is significant: its interval excludes zero, and the matched-pairs test agrees.

    With few utterances the interval alone is too narrow, and the test alone takes utterances of one speaker as
    independent. Of simulated pairs of equal systems, with 2 to 8 speakers and 2 to 20 utterances each, at most 5 in 100
    differ significantly by both; 8 where five or six speakers differ much from each other.
    """
    return _excludes_zero(interval) and p_value is not None and p_value < 1 - LEVEL


def _excludes_zero(interval: Interval | None) -> bool:
    return interval is not None and (interval.low > 0 or interval.high < 0)


def matched_pairs_p_value(errors_a: Counts, errors_b: Counts) -> float | None:
    """Two-sided p-value of the matched-pairs sentence-segment word error test, (segments,) errors each.

    Gillick and Cox 1989 ("Some statistical issues in the comparison of speech recognition algorithms", ICASSP), as
    NIST's sclite does (MAPSSWE), but with utterances as segments. The test assumes that the mean difference over its
    standard error is normally distributed, which needs about fifty segments that differ; with fewer, the p-value is
    that of the exact permutation test instead: the share of all ways to swap A and B in them whose difference is at
    least as large. Both assume that segments are independent. Those of one speaker are not, so prefer the bootstrap
    over speakers. None for a single segment.
    """
    differences = errors_a - errors_b
    if len(differences) < 2:
        return None
    differing = np.abs(differences[differences != 0]).tolist()
    if len(differing) >= FEWEST_FOR_NORMAL:
        error = float(differences.std(ddof=1)) / math.sqrt(len(differences))
        return math.erfc(abs(float(differences.mean())) / error / math.sqrt(2)) if error else 0.0
    chances = np.ones(1)  # of each sum of differences, from the lowest to the highest
    for size in differing:
        chances = (np.pad(chances, (0, 2 * size)) + np.pad(chances, (2 * size, 0))) / 2
    sums = np.arange(len(chances)) - sum(differing)
    return float(chances[np.abs(sums) >= abs(differences.sum())].sum())


def format_p_value(p_value: float) -> str:
    """A p-value with its sign: "< 0.001" or "= 0.012"."""
    return "< 0.001" if p_value < 0.001 else f"= {p_value:.3f}"


def _measure(both: Counts, speakers: Sequence[str | None]) -> Difference:
    """The difference from both systems' counts, (utterances, 2, columns), resampled in pairs."""
    wer_a, wer_b = (None if math.isnan(rate) else rate for rate in error_rates(both.sum(axis=0))[:, _WER].tolist())
    clusters, resampled = cluster(both, speakers)
    errors_a, errors_b = count_word_errors(both).T
    return Difference(
        wer_a=wer_a,
        wer_b=wer_b,
        difference=None if wer_a is None or wer_b is None else wer_b - wer_a,
        interval=_find_interval(clusters, both),
        p_value=matched_pairs_p_value(errors_a, errors_b),
        resampled=resampled,
        clusters=len(clusters),
        utterances=len(both),
        better=int((errors_b < errors_a).sum()),
        worse=int((errors_b > errors_a).sum()),
        same=int((errors_b == errors_a).sum()),
    )


def _find_interval(clusters: Counts, utterances: Counts) -> Interval | None:
    """The 95 % interval of the difference of WERs over clusters, at least as wide as that over utterances.

    Correlated utterances make a difference less certain, not more: few speakers that agree by chance would have an
    interval that is too narrow, and without width if they agree exactly.
    """
    found = [_bootstrap_difference(clusters)]
    if clusters is not utterances:
        found.append(_bootstrap_difference(utterances))
    known = [each for each in found if each]
    return Interval(min(each.low for each in known), max(each.high for each in known)) if known else None


def _bootstrap_difference(units: Counts) -> Interval | None:
    """The bootstrap interval of the difference over units, (units, 2, columns), which are resampled in pairs.

    Units that all differ equally have an interval without width. It is widened to the difference that there would be
    if the largest share of units that the binomial distribution allows (Clopper and Pearson 1934: 1 - 0.025^(1/n)) had
    the opposite difference. That excludes zero from six units on, as the permutation test does. Equal systems keep 0.
    """
    if len(units) < 2:
        return None
    wers_a, wers_b = error_rates(resample(units))[..., _WER].T
    found = find_interval(wers_b - wers_a, len(units))
    if found is None or found.high - found.low > _NO_WIDTH:
        return found
    other = found.low * (2 * ((1 - LEVEL) / 2) ** (1 / len(units)) - 1)
    return Interval(min(found.low, other), max(found.high, other))


def _pair(a: Sequence[Result], b: Sequence[Result]) -> tuple[list[Result], list[Result]]:
    first, second = _by_name(a), _by_name(b)
    only_a, only_b = first.keys() - second.keys(), second.keys() - first.keys()
    if only_a or only_b:
        raise UserError(
            f"A and B have different utterances: {len(only_a)} of A's {len(a)} are not in B, {len(only_b)} of B's "
            f"{len(b)} not in A, such as {min(only_a or only_b)[0]}: expected both to be evaluated on the same data."
        )
    pairs = [(first[key], second[key]) for key in first]
    if other := [x for x, y in pairs if collapse_whitespace(x.reference) != collapse_whitespace(y.reference)]:
        raise UserError(
            f"A and B have different references in {len(other)} of {count(len(pairs), 'utterance')}, such as "
            f"{other[0].name}: expected the same data and normalisation; `finetune compare` with two models and --data "
            "normalises both in one way."
        )
    return [x for x, _ in pairs], [y for _, y in pairs]


def _by_name(results: Sequence[Result]) -> dict[tuple[str, int], Result]:
    """Results by their name and their number among those with the same name (segments of a recording)."""
    seen: Counter[str] = Counter()
    named = {}
    for result in results:
        named[result.name, seen[result.name]] = result
        seen[result.name] += 1
    return named


def _list_changes(
    a: Sequence[Result], b: Sequence[Result], counts_a: Counts, counts_b: Counts
) -> tuple[tuple[Change, ...], tuple[Change, ...]]:
    """The utterances that improved most and those that degraded most."""
    errors = [count_word_errors(counts).tolist() for counts in (counts_a, counts_b)]
    changes = [
        Change(
            utterance=x.name,
            reference=x.reference,
            hypothesis_a=x.hypothesis,
            hypothesis_b=y.hypothesis,
            errors_a=of_a,
            errors_b=of_b,
        )
        for x, y, of_a, of_b in zip(a, b, *errors, strict=True)
    ]
    ordered = sorted(changes, key=lambda change: change.errors_b - change.errors_a)
    better = [change for change in ordered if change.errors_b < change.errors_a]
    worse = [change for change in reversed(ordered) if change.errors_b > change.errors_a]
    return tuple(better[:MOST]), tuple(worse[:MOST])


def _list_words(a: Sequence[Result], b: Sequence[Result]) -> tuple[tuple[WordChange, ...], tuple[WordChange, ...]]:
    """The words that more often only B recognises, and those that more often only A recognises."""
    only_a: Counter[str] = Counter()
    only_b: Counter[str] = Counter()
    differing = [(x, y) for x, y in zip(a, b, strict=True) if split_words(x.hypothesis) != split_words(y.hypothesis)]
    references = [x.reference for x, _ in differing]
    aligned = (align_words(references, [pair[i].hypothesis for pair in differing]) for i in range(2))
    for of_a, of_b in zip(*aligned, strict=True):
        said = [[(old, old == new) for old, new in pair_units(each) if old] for each in (of_a, of_b)]
        for (word, right_a), (_, right_b) in zip(*said, strict=True):
            if right_a and not right_b:
                only_a[word] += 1
            if right_b and not right_a:
                only_b[word] += 1
    changes = [WordChange(word, only_a[word], only_b[word]) for word in sorted(only_a.keys() | only_b.keys())]
    changes.sort(key=lambda change: change.only_a - change.only_b)
    better = [change for change in changes if change.only_b > change.only_a]
    worse = [change for change in reversed(changes) if change.only_a > change.only_b]
    return tuple(better[:MOST]), tuple(worse[:MOST])
