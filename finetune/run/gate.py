"""The gate: the checks that a candidate has to pass before it may replace its champion.

Every check is always made, so that a report names all reasons for a refusal.
"""

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from finetune.audio.waveforms import Waveform
from finetune.evaluation.comparison import Comparison, compare, format_p_value, is_significant
from finetune.evaluation.intervals import Interval, bootstrap
from finetune.evaluation.results import Result, count_results
from finetune.evaluation.scores import Scores, count, count_errors, count_reference_words, percent
from finetune.inference.recogniser import Recogniser
from finetune.run.averaging import WEIGHTS
from finetune.run.candidate import DOMAIN

_UNKNOWN_DOMAIN = "unknown"
_SHUFFLES = 99


@dataclass(frozen=True, kw_only=True)
class GateLimits:
    """What the gate allows.

    `margin` is how much higher the WER of the golden set may be (a fraction), and `min_utterances` what each test set
    must have. `max_slowdown` is a ratio of times, `max_growth` the relative difference of the weights file's size.
    """

    margin: float = 0.01
    min_utterances: int = 20
    max_slowdown: float = 1.15
    max_growth: float = 0.01


@dataclass(frozen=True)
class Check:
    """One requirement: whether it is met, what was found, and what was expected, as texts."""

    name: str
    passed: bool
    found: str
    expected: str


@dataclass(frozen=True)
class WerChange:
    """WERs of a set of utterances before (champion) and after (candidate), and their difference, with 95 % intervals.

    Rates are fractions; the difference's interval is from the paired bootstrap and `p_value` from the matched-pairs
    test, and below zero the candidate is better. None is unknown: a set without words, or of a single utterance.
    """

    name: str
    utterances: int
    before: float | None
    before_interval: Interval | None
    after: float | None
    after_interval: Interval | None
    difference: float | None
    interval: Interval | None
    p_value: float | None = None

    @classmethod
    def parse(cls, values: dict[str, Any]) -> "WerChange":
        """What `to_json` returned."""
        intervals = {key: value and Interval(**value) for key, value in values.items() if key.endswith("interval")}
        return cls(**{**values, **intervals})

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)


@dataclass(frozen=True)
class ModelSize:
    """The shape of each weight by its name, and the bytes of the file that they are in."""

    shapes: dict[str, tuple[int, ...]]
    bytes: int

    @property
    def parameters(self) -> int:
        """The number of weights."""
        return sum(math.prod(shape) for shape in self.shapes.values())


@dataclass(frozen=True)
class Speeds:
    """Seconds in which the two models recognise the same utterances."""

    before_seconds: float
    after_seconds: float


def measure_change(name: str, before: Sequence[Result], after: Sequence[Result]) -> WerChange:
    """Compare the results of two models on the same utterances; raises UserError if these differ."""
    if not before or not count_reference_words(count_results(before)).any():
        return WerChange(name, len(before), None, None, None, None, None, None)
    comparison: Comparison = compare(before, after)
    intervals = [bootstrap(count_results(each), [one.speaker for one in each]).wer for each in (before, after)]
    found = comparison.overall
    return WerChange(
        name=name,
        utterances=found.utterances,
        before=found.wer_a,
        before_interval=intervals[0],
        after=found.wer_b,
        after_interval=intervals[1],
        difference=found.difference,
        interval=found.interval,
        p_value=found.p_value,
    )


def measure_domains(before: Sequence[Result], after: Sequence[Result]) -> list[WerChange]:
    """The changes of each domain of a snapshot's results, by name."""
    domains = sorted({_domain_of(result) for result in before})
    return [
        measure_change(
            domain, *([each for each in results if _domain_of(each) == domain] for results in (before, after))
        )
        for domain in domains
    ]


def _domain_of(result: Result) -> str:
    return result.columns.get(DOMAIN) or _UNKNOWN_DOMAIN


def measure_size(model: Path) -> ModelSize:
    """The size of a model's weights, from the header of their file."""
    with safe_open(model / WEIGHTS, "pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    return ModelSize(shapes, (model / WEIGHTS).stat().st_size)


def measure_speeds(
    champion: Recogniser, candidate: Recogniser, waveforms: Sequence[Waveform], passes: int = 5
) -> Speeds:
    """Time both models on the same waveforms, utterance by utterance in turns, so that other load meets both.

    The times are sums over the utterances of the median over the passes.
    """
    models = (champion, candidate)
    seconds: tuple[list[list[float]], ...] = tuple([[] for _ in waveforms] for _ in models)
    for number in range(passes + 1):
        for place, waveform in enumerate(waveforms):
            for model in (0, 1) if (number + place) % 2 else (1, 0):
                began = time.perf_counter()
                models[model].recognise([waveform])
                if number:  # The first pass warms up.
                    seconds[model][place].append(time.perf_counter() - began)
    return Speeds(*(sum(map(statistics.median, each)) for each in seconds))


def check_golden(change: WerChange, limits: GateLimits) -> Check:
    """Whether the golden set is no worse by more than the margin, with 95 % confidence.

    The interval decides alone: the p-value is of a difference of 0, and tells nothing about a margin.
    """
    expected = f"the upper end of the 95 % interval of the WER difference is at most {_points(limits.margin)} points"
    enough = change.utterances >= limits.min_utterances and change.interval is not None
    passed = enough and change.interval is not None and change.interval.high <= limits.margin
    return Check("golden set no worse", passed, _describe_change(change, limits), expected)


def check_snapshot(change: WerChange, limits: GateLimits) -> Check:
    """Whether the snapshot's test split is significantly better, as `finetune compare` says it."""
    enough = change.utterances >= limits.min_utterances and change.interval is not None
    better = change.difference is not None and change.difference < 0
    passed = enough and better and is_significant(change.interval, change.p_value)
    expected = "the whole 95 % interval of the WER difference is below 0, and the matched-pairs test's p below 0.05"
    found = _describe_change(change, limits)
    if enough and change.p_value is not None:
        found += f", p {format_p_value(change.p_value)}"
    if enough and not passed and (needed := _count_needed(change)):
        found += f"; with some {needed} utterances, of as many more speakers, such a difference would be certain"
    return Check("corrections better", passed, found, expected)


def _count_needed(change: WerChange) -> int | None:
    """How many utterances would make an improvement certain, as an interval's width falls with their root."""
    if change.difference is None or change.interval is None or change.difference >= 0 or change.interval.high < 0:
        return None
    needed = change.utterances * ((change.interval.high - change.difference) / change.difference) ** 2
    return math.ceil(needed / 10) * 10


def check_texts(after: Sequence[Result]) -> Check:
    """Whether a candidate fits each recording's own text better than those of others: shuffled texts it can't.

    A permutation test with 99 shuffles: of corrections whose texts are not of their recordings one in a hundred passes.
    Without it a model that only learns which words are frequent may be better than one that does not know the domain.
    """
    references, hypotheses = [each.reference for each in after], [each.hypothesis for each in after]
    own, rng = _character_error_rate(references, hypotheses), np.random.default_rng(0)
    shuffled = [
        _character_error_rate([references[place] for place in rng.permutation(len(references))], hypotheses)
        for _ in range(_SHUFFLES if own is not None else 0)
    ]
    lowest = min((each for each in shuffled if each is not None), default=None)
    found = f"CER {percent(own)} with their own texts, {percent(lowest)} or more with those of others"
    passed = own is not None and lowest is not None and (own < lowest or len(set(references)) == 1)
    return Check("texts belong to the recordings", passed, found, "fewer errors with their own texts, in 99 shuffles")


def _character_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> float | None:
    return Scores.from_counts(count_errors(references, hypotheses), 0.0).cer


def check_parity(problem: str | None, utterances: int) -> Check:
    """Whether plain Transformers gives the same texts; `problem` says how it does not."""
    found = f"the same texts of {count(utterances, 'utterance')}" if problem is None else problem
    return Check("parity with Transformers", problem is None, found, "plain Transformers gives the same texts")


def check_size(before: ModelSize, after: ModelSize, limits: GateLimits) -> Check:
    """Whether both models have the same weights by name and shape, in files of about the same size."""
    names = before.shapes.keys() | after.shapes.keys()
    other = sorted(name for name in names if before.shapes.get(name) != after.shapes.get(name))
    found = (
        f"{after.parameters:,} parameters in {after.bytes:,} bytes, {before.parameters:,} in {before.bytes:,} before"
        + (f"; another shape of {other[0]}" if other else "")
    )
    expected = f"the same shapes and number of parameters, and a file size within {percent(limits.max_growth)}"
    passed = (
        not other
        and before.parameters == after.parameters
        and abs(after.bytes - before.bytes) <= limits.max_growth * before.bytes
    )
    return Check("size", passed, found, expected)


def check_speed(speeds: Speeds, limits: GateLimits) -> Check:
    """Whether the candidate takes about the same time."""
    ratio = speeds.after_seconds / speeds.before_seconds
    found = f"{ratio:.2f} × the champion's time ({speeds.after_seconds:.2f} s and {speeds.before_seconds:.2f} s)"
    return Check("speed", ratio <= limits.max_slowdown, found, f"at most {limits.max_slowdown:g} × the champion's time")


def _describe_change(change: WerChange, limits: GateLimits) -> str:
    number = count(change.utterances, "utterance")
    if change.utterances < limits.min_utterances:
        return f"too few utterances: {number}, expected at least {limits.min_utterances}"
    if change.difference is None or change.interval is None:
        return f"no interval: {number} without enough words"
    return (
        f"WER {percent(change.before)} before, {percent(change.after)} after; difference {_points(change.difference)} "
        f"points, 95 % interval {_points(change.interval.low)} to {_points(change.interval.high)} ({number})"
    )


def _points(rate: float) -> str:
    return f"{100 * rate:.2f}"
