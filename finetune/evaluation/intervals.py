"""95 % bootstrap confidence intervals of error rates, over speakers or utterances, from integer counts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.evaluation.scores import RATES, Counts, error_rates

LEVEL = 0.95
# The ends of a 95 % interval then vary by a few hundredths of its width (Efron and Tibshirani 1993, chapter 19).
RESAMPLES = 1000
SEED = 0

# Student's 97.5 % quantiles for the numbers of clusters whose percentiles would be too near to each other.
_FEW_CLUSTERS = {2: 12.706, 3: 4.303, 4: 3.182}

# Numbers drawn at once: 16 MB.
_BLOCK = 2_000_000


@dataclass(frozen=True)
class Interval:
    """A 95 % interval of a rate or of a difference of rates, as fractions."""

    low: float
    high: float


@dataclass(frozen=True)
class Intervals:
    """The intervals of a set's error rates, resampled over `clusters`, which are "speakers" or "utterances".

    None is a rate without an interval: there is a single cluster, or there are no reference units.
    """

    wer: Interval | None
    cer: Interval | None
    ser: Interval | None
    resampled: str
    clusters: int

    def to_json(self) -> dict[str, Any]:
        """[low, high] of each rate, and what was resampled."""
        intervals = {name: getattr(self, name) for name in RATES}
        pairs = {name: interval and [interval.low, interval.high] for name, interval in intervals.items()}
        return {**pairs, "level": LEVEL, "resampled": self.resampled, "clusters": self.clusters}


def bootstrap(
    counts: Counts, speakers: Sequence[str | None], resamples: int = RESAMPLES, seed: int = SEED
) -> Intervals:
    """Percentile bootstrap intervals of WER, CER and SER (Bisani and Ney 2004, "Bootstrap estimates …", ICASSP).

    `counts` is (utterances, columns). Errors of one speaker's utterances are correlated, so speakers are resampled if
    each utterance has a known speaker and there are at least two; else utterances. The same seed gives the same
    intervals.

    A few clusters vary less than their population, so the percentiles are expanded as in Hesterberg 2015 ("What
    teachers should know about the bootstrap", The American Statistician 69, expanded percentile interval). Measured on
    simulated speakers, an interval contains the true value in 92 of 100 cases with 6 speakers (86 without expansion),
    94 with 10, 95 with 60. Of 2 to 4 clusters the intervals are Student's, which contain it in about 90: the
    percentiles of two speakers are their own two rates, between which the true value is in 50.

    An utterance with an empty reference adds its insertions as errors and no reference words; a resample without
    reference words has no rate and is dropped. Without any error the interval is 0 to 0, although the true share of
    wrong utterances may be up to 3 / n for n utterances (the rule of three).

    >>> from finetune.evaluation.intervals import bootstrap
    >>> from finetune.evaluation.scores import count_errors
    >>> counts = count_errors(["a b", "a c", "b c"] * 4, ["a b", "a c", "b"] * 4)
    >>> found = bootstrap(counts, speakers=[None] * 12)
    >>> found.resampled, found.wer.low < 1 / 6 < found.wer.high
    ('utterances', True)
    """
    clusters, resampled = cluster(counts, speakers)
    rates = error_rates(resample(clusters, resamples, seed)) if len(clusters) > 1 else np.empty((0, len(RATES)))
    found = {name: _find_rate(values, len(clusters)) for name, values in zip(RATES, rates.T, strict=True)}
    return Intervals(**found, resampled=resampled, clusters=len(clusters))


def _find_rate(values: npt.NDArray[np.float64], clusters: int) -> Interval | None:
    """The interval of a rate: not below 0, and above 1 only as far as it has been found there."""
    found = find_interval(values, clusters)
    return found and Interval(max(found.low, 0.0), min(found.high, max(1.0, float(np.nanmax(values)))))


def cluster(counts: Counts, speakers: Sequence[str | None]) -> tuple[Counts, str]:
    """Counts summed by cluster, (clusters, …), and what a cluster is: "speakers" or "utterances"."""
    known = set(speakers)
    if None in known or len(known) < 2:
        return counts, "utterances"
    _, codes = np.unique(np.array(speakers, dtype=object).astype(str), return_inverse=True)
    sums = np.zeros((len(known), *counts.shape[1:]), dtype=np.int64)
    np.add.at(sums, codes, counts)
    return sums, "speakers"


def resample(clusters: Counts, resamples: int = RESAMPLES, seed: int = SEED) -> npt.NDArray[np.float64]:
    """Sums over as many clusters as there are, drawn with replacement: (resamples, …) of clusters, (clusters, …).

    Integers as floats, exact below 2**53, because their matrix product is much faster.
    """
    rng = np.random.default_rng(seed)
    number = len(clusters)
    values = clusters.reshape(number, -1).astype(np.float64)
    size = max(1, _BLOCK // number)
    sums = []
    for start in range(0, resamples, size):
        rows = min(size, resamples - start)
        drawn = rng.integers(0, number, (rows, number)) + number * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * number).reshape(rows, number)
        sums.append(times.astype(np.float64) @ values)
    return np.concatenate(sums).reshape(resamples, *clusters.shape[1:])


def find_interval(values: npt.NDArray[np.float64], clusters: int) -> Interval | None:
    """The 95 % interval of values resampled from a number of clusters, without NaN; None if no value is left."""
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    if clusters in _FEW_CLUSTERS:
        # Few clusters vary less than their population: see `tail_probability`.
        error = float(values.std()) * math.sqrt(clusters / (clusters - 1))
        margin, middle = _FEW_CLUSTERS[clusters] * error, float(values.mean())
        return Interval(middle - margin, middle + margin)
    tail = tail_probability(clusters)
    low, high = np.quantile(values, [tail, 1 - tail]).tolist()
    return Interval(low, high)


def tail_probability(clusters: int) -> float:
    """The probability outside a 95 % percentile interval at each end: 0.025 for many clusters, less for few.

    It is the normal probability beyond t × sqrt(n / (n - 1)) for Student's t with n - 1 degrees of freedom: few values
    vary less around their own mean than around the true mean, and their deviation is uncertain (Hesterberg 2015).
    """
    normal, freedom = NormalDist(), clusters - 1
    z = normal.inv_cdf((1 + LEVEL) / 2)
    # Student's quantile in powers of 1 / freedom (Abramowitz and Stegun 1964, 26.7.5): 0.1 % error at five.
    t = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    t += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    return normal.cdf(-t * math.sqrt(clusters / freedom))
