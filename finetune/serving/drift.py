"""The drift score: whether a model's confidences and blank ratios are still those of its validation split."""

from __future__ import annotations

import math
import threading

import numpy as np
from numpy.typing import NDArray

from finetune.inference.utterance_statistics import Distribution, UtteranceStatistics

# The utterances of a window. Simulated: where the mean confidence falls by 0.05, from 0.90 with a standard deviation of
# 0.07, a window shows it in 90 % of the cases with 60 utterances of validation, 99 % with 100, and always with 300.
WINDOW = 200
FALSE_ALARM_RATE = 1e-3


class DriftMonitor:
    """Compares a model's utterances with the statistics that training saved with it; thread-safe.

    The statistic is that of Kolmogorov and Smirnov for two samples: the largest distance D between the cumulative
    distributions of a window of `WINDOW` utterances and of the n utterances of the validation split (Smirnov 1939;
    Hodges 1958, doi 10.1007/BF02589501). It finds changes of place, spread and shape, and assumes nothing about the
    distributions. A score is D divided by its critical value in Kolmogorov's limit distribution at half of
    `FALSE_ALARM_RATE` (Bonferroni: there are two values). So in at most `FALSE_ALARM_RATE` of the windows of unchanged
    speech one of the scores is above 1. In 20,000 simulated windows for each of 20, 60, 100, 300, 1000 and 2000
    utterances of validation one value's score was above 1 in 0.0001 to 0.00045 of them. Windows do not overlap.

    That rate is over models and windows, of independent utterances. The rate of one model depends on its validation
    split: of 100 simulated splits of 60 or 100 utterances the worst had 3 % of its windows above 1, of 1000 utterances
    1 %. And utterances of one speaker are alike. So one window above 1 is a reason to look, several in sequence are a
    drift. An utterance must be what it was in training, a stretch of speech about as long as the training utterances:
    the mean confidence of an hour varies less than that of a sentence.
    """

    def __init__(self, reference: UtteranceStatistics | None) -> None:
        """Without a reference, or for a value that it lacks, there is no score."""
        self._lock = threading.Lock()
        distributions = vars(reference) if reference else {}
        self._windows = {name: _Window(each) for name, each in distributions.items() if each}

    def add(self, confidence: float | None, blank_ratio: float | None) -> None:
        """Add an utterance's values, as in `UtteranceStatistics`; None for one that is not known."""
        with self._lock:
            for name, value in (("confidence", confidence), ("blank_ratio", blank_ratio)):
                if value is not None and name in self._windows:
                    self._windows[name].add(value)

    @property
    def scores(self) -> dict[str, float]:
        """The score of the last complete window by the name of the value; without a window there is none."""
        with self._lock:
            return {name: window.score for name, window in self._windows.items() if not math.isnan(window.score)}

    @property
    def score(self) -> float:
        """The larger score: above 1 there is a drift; NaN if there is none yet."""
        return max(self.scores.values(), default=math.nan)


class _Window:
    """The values of the current window, and the score of the last one."""

    def __init__(self, reference: Distribution) -> None:
        # Imported here: it takes a while, and most models of a service are not compared.
        from scipy.special import kolmogi

        self._reference = reference
        self._values: list[float] = []
        size = WINDOW * reference.count / (WINDOW + reference.count)
        self._critical = float(kolmogi(FALSE_ALARM_RATE / 2)) / math.sqrt(size)
        self.score = math.nan

    def add(self, value: float) -> None:
        self._values.append(value)
        if len(self._values) == WINDOW:
            self.score = measure_distance(np.array(self._values), self._reference) / self._critical
            self._values.clear()


def measure_distance(values: NDArray[np.float64], reference: Distribution) -> float:
    """The largest distance between the cumulative distributions of values, (values,), and of a reference.

    Between its quantiles the reference is interpolated. Many utterances can have the same value, such as a blank ratio
    of 1: then both distributions have steps, and are compared before and after them.
    """
    found, counts = np.unique(values, return_counts=True)
    up_to = np.cumsum(counts) / len(values)  # The share of values up to each of those found.
    below = up_to - counts / len(values)
    quantiles, shares = np.array(reference.quantiles), np.linspace(0, 1, len(reference.quantiles))
    # Of equal quantiles `interp` takes the last one; seen from the other side that is the first one.
    reference_up_to = np.interp(found, quantiles, shares)
    reference_below = 1 - np.interp(-found, -quantiles[::-1], shares)
    return float(max(np.abs(up_to - reference_up_to).max(), np.abs(below - reference_below).max()))
