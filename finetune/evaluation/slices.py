"""Scores by slice: speaker, source, other columns, duration, speaking rate, noise, and unseen words."""

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
# Values with a slice of their own; the rest are one slice.
MOST_VALUES = 200


@dataclass(frozen=True)
class Slice:
    """The scores of the utterances with one value."""

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
    """The indices of the results in each slice, by property; each result is in one slice of each property.

    Speaker, source and other columns are sliced by value, the most frequent first; seconds and estimated SNR (dB) at
    fixed boundaries; the speaking rate (characters per second without spaces) at its quartiles; unseen words if the
    training transcripts are known. A property with a single value is dropped.
    """
    columns = {name: None for result in results for name in result.columns}
    found = {
        "speaker": _by_value([result.speaker for result in results]),
        "source": _by_value([result.source or None for result in results]),
        "seconds": _by_boundary([result.seconds for result in results], SECONDS, "s"),
        "characters_per_second": _by_quartile([speaking_rate(result) for result in results], "characters/s"),
        "snr_db": _by_boundary([result.snr_db for result in results], DECIBELS, "dB"),
        "unseen_words": _by_value([_novelty(result) for result in results]),
    }
    for name in columns:
        # A column may have the name of a property.
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


def _by_boundary(values: Sequence[float | None], boundaries: Sequence[float], unit: str) -> dict[str, list[int]]:
    """Half-open ranges between boundaries, in order, without empty ones."""
    if not boundaries:
        return {}
    names = [f"under {boundaries[0]:g} {unit}"]
    names += [f"{low:g} to {high:g} {unit}" for low, high in itertools.pairwise(boundaries)]
    names += [f"{boundaries[-1]:g} {unit} or more", UNKNOWN]
    slices: dict[str, list[int]] = {name: [] for name in names}
    for place, value in enumerate(values):
        slices[names[-1 if value is None else bisect.bisect_right(boundaries, value)]].append(place)
    return {name: rows for name, rows in slices.items() if rows}


def _by_quartile(values: Sequence[float], unit: str) -> dict[str, list[int]]:
    quartiles = np.quantile(values, [0.25, 0.5, 0.75]).round(1).tolist() if values else []
    return _by_boundary(values, sorted(set(quartiles)), unit)


def speaking_rate(result: Result) -> float:
    """Characters per second, without spaces."""
    return len("".join(result.reference.split())) / result.seconds if result.seconds else 0.0


def _novelty(result: Result) -> str | None:
    if result.unseen_words is None:
        return None
    return "words unseen in training" if result.unseen_words else "all words seen in training"
