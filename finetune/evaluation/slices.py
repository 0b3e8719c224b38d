"""Where errors are made: scores by speaker, source and other columns, and by length, rate, noise and new words."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.evaluation.intervals import Intervals, bootstrap
from finetune.evaluation.results import Result, add_up
from finetune.evaluation.scores import Counts, Scores

SECONDS = (2.0, 5.0, 10.0, 20.0)
DECIBELS = (0.0, 10.0, 20.0, 30.0)
UNKNOWN, OTHERS = "unknown", "others"
# More values than these make a page that nobody reads: the rest are one slice.
MOST_VALUES = 200


@dataclass(frozen=True)
class Slice:
    """The utterances with one value, scored."""

    value: str
    scores: Scores
    intervals: Intervals

    def to_json(self) -> dict[str, Any]:
        """The value, its rates and counts, and their intervals."""
        return {"value": self.value, **self.scores.to_json(), "intervals": self.intervals.to_json()}


def score_slices(results: Sequence[Result], counts: Counts) -> dict[str, list[Slice]]:
    """Scores of each slice of `partition`; `counts` is (utterances, columns)."""

    def score(value: str, rows: list[int]) -> Slice:
        chosen = [results[row] for row in rows]
        intervals = bootstrap(counts[rows], [result.speaker for result in chosen])
        return Slice(value, add_up(chosen, counts[rows]), intervals)

    return {name: [score(value, rows) for value, rows in slices.items()] for name, slices in partition(results).items()}


def partition(results: Sequence[Result]) -> dict[str, dict[str, list[int]]]:
    """The places of the results with each value, by what they are parted by; each result is in one slice of each.

    Speaker, source and other columns by their values, the most frequent first; seconds and estimated SNR (dB) at fixed
    borders; the speaking rate (characters a second, spaces left out) at its quartiles; new words where the training
    transcripts are known. What has one value only is left out, for it says nothing.
    """
    columns = {name: None for result in results for name in result.columns}
    found = {
        "speaker": _by_value([result.speaker for result in results]),
        "source": _by_value([result.source or None for result in results]),
        "seconds": _by_border([result.seconds for result in results], SECONDS, "s"),
        "characters_per_second": _by_quartile([speaking_rate(result) for result in results], "characters/s"),
        "snr_db": _by_border([result.snr_db for result in results], DECIBELS, "dB"),
        "unseen_words": _by_value([_novelty(result) for result in results]),
    }
    for name in columns:
        # A column that bears one of these names stands beside it.
        key = f"column {name}" if name in found else name
        found[key] = _by_value([result.columns.get(name) for result in results])
    return {name: slices for name, slices in found.items() if len(slices) > 1}


def _by_value(values: Sequence[str | None]) -> dict[str, list[int]]:
    slices: dict[str | None, list[int]] = {}
    for place, value in enumerate(values):
        slices.setdefault(value, []).append(place)
    unknown = slices.pop(None, [])
    ordered = sorted(((str(value), rows) for value, rows in slices.items()), key=lambda item: (-len(item[1]), item[0]))
    kept = dict(ordered if len(ordered) <= MOST_VALUES else ordered[: MOST_VALUES - 1])
    others = sorted(row for value, rows in ordered[len(kept) :] for row in rows)
    for name, rows in ((OTHERS, others), (UNKNOWN, unknown)):
        if rows:
            kept[name] = sorted([*kept.get(name, []), *rows])
    return kept


def _by_border(values: Sequence[float | None], borders: Sequence[float], unit: str) -> dict[str, list[int]]:
    """Half-open ranges between borders, in their order; empty ones are left out."""
    if not borders:
        return {}
    names = [f"under {borders[0]:g} {unit}"]
    names += [f"{low:g} to {high:g} {unit}" for low, high in itertools.pairwise(borders)]
    names += [f"{borders[-1]:g} {unit} or more", UNKNOWN]
    slices: dict[str, list[int]] = {name: [] for name in names}
    for place, value in enumerate(values):
        slices[names[-1 if value is None else bisect.bisect_right(borders, value)]].append(place)
    return {name: rows for name, rows in slices.items() if rows}


def _by_quartile(values: Sequence[float], unit: str) -> dict[str, list[int]]:
    quartiles = np.quantile(values, [0.25, 0.5, 0.75]).round(1).tolist() if values else []
    return _by_border(values, sorted(set(quartiles)), unit)


def speaking_rate(result: Result) -> float:
    """Characters a second, spaces left out."""
    return len("".join(result.reference.split())) / result.seconds if result.seconds else 0.0


def _novelty(result: Result) -> str | None:
    if result.unseen_words is None:
        return None
    return "words unseen in training" if result.unseen_words else "all words seen in training"
