"""Analysis of results: scores with confidence intervals, slices, and the most frequent errors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.evaluation.errors import Errors, analyse_errors
from finetune.evaluation.intervals import Interval, Intervals, bootstrap
from finetune.evaluation.results import Result, add_up, count_results
from finetune.evaluation.scores import Counts, Scores, count, count_reference_words, percent
from finetune.evaluation.slices import Slice, score_slices


@dataclass(frozen=True)
class Analysis:
    """The findings of an evaluation; `counts` is (utterances, columns), a row for each of `results`.

    `wordless` are the scores of utterances without words in the reference (noise); all their errors are insertions.
    """

    results: tuple[Result, ...]
    counts: Counts
    scores: Scores
    wordless: Scores
    intervals: Intervals
    slices: dict[str, list[Slice]]
    errors: Errors

    def to_json(self) -> dict[str, Any]:
        """The values of `scores.json`: rates (fractions) and counts, intervals, slices, errors."""
        slices = {name: [each.to_json() for each in slices] for name, slices in self.slices.items()}
        return {
            **self.scores.to_json(),
            "utterances_without_words": self.wordless.utterances,
            "insertions_without_words": self.wordless.words.insertions,
            "intervals": self.intervals.to_json(),
            "slices": slices,
            "errors": self.errors.to_json(),
        }

    def summary(self) -> str:
        """The scores as one line of text."""
        scores, words = self.scores, self.scores.words
        return (
            f"WER {percent(scores.wer)} ({format_interval(self.intervals.wer)}"
            f"{count(words.substitutions, 'substitution')}, "
            f"{count(words.deletions, 'deletion')}, {count(words.insertions, 'insertion')} "
            f"in {count(words.reference_length, 'word')}), CER {percent(scores.cer)}, "
            f"SER {percent(scores.ser)} of {count(scores.utterances, 'utterance')}{format_wordless(self.wordless)}, "
            f"{scores.audio_seconds / 60:.1f} minutes of audio"
        )

    def _repr_html_(self) -> str:
        """For notebooks: each rate with its interval."""
        rows = "".join(
            f"<tr><td>{name.upper()}</td><td>{percent(getattr(self.scores, name))}</td>"
            f"<td>{format_interval(getattr(self.intervals, name)).removesuffix('; ')}</td></tr>"
            for name in ("wer", "cer", "ser")
        )
        return f"<table>{rows}</table><p>{count(self.scores.utterances, 'utterance')}</p>"


def analyse(results: Sequence[Result], counts: Counts | None = None) -> Analysis:
    """Analyse results; `counts`, (utterances, columns), are computed unless given."""
    counts = count_results(results) if counts is None else counts
    silent: list[int] = np.flatnonzero(count_reference_words(counts) == 0).tolist()
    return Analysis(
        results=tuple(results),
        counts=counts,
        scores=add_up(results, counts),
        wordless=add_up([results[place] for place in silent], counts[silent]),
        intervals=bootstrap(counts, [result.speaker for result in results]),
        slices=score_slices(results, counts),
        errors=analyse_errors(results, counts),
    )


def format_wordless(wordless: Scores) -> str:
    """The number of utterances without reference words and the insertions in them; "" if there are none."""
    if not wordless.utterances:
        return ""
    return (
        f" ({wordless.utterances:,} without words in the reference, where "
        f"{count(wordless.words.insertions, 'word')} {'was' if wordless.words.insertions == 1 else 'were'} added)"
    )


def format_interval(interval: Interval | None) -> str:
    """A 95 % interval in percent, as the summary shows it; "" for None."""
    return "" if interval is None else f"95 % interval {100 * interval.low:.1f} to {100 * interval.high:.1f}; "
