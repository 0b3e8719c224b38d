"""One HTML file of an evaluation that loads nothing: figures, plots, errors, and a table to sort, filter and play.

`html_report.html` is its template, `html_report.js` its script; the style sheet is in `finetune.resources`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.evaluation.analysis import Analysis, format_wordless
from finetune.evaluation.errors import Confusion, Errors, rank_worst
from finetune.evaluation.intervals import Interval
from finetune.evaluation.results import Result
from finetune.evaluation.scores import ErrorCounts, align_words, count, pair_units, percent
from finetune.evaluation.slices import partition, speaking_rate
from finetune.resources.templates import render_html
from finetune.text.word_units import split_words

_TITLES = {
    "speaker": "Speaker",
    "source": "Source",
    "seconds": "Duration",
    "characters_per_second": "Speaking rate, characters/s",
    "snr_db": "Signal-to-noise ratio, estimated",
    "unseen_words": "Words unseen in training",
}
# Shorter, since the title names the rest.
_LABELS = {"all words seen in training": "none", "words unseen in training": "one or more"}
# Slices in their natural order; the others are ordered by WER, the highest first.
_ORDERED = frozenset({"seconds", "characters_per_second", "snr_db"})

_Piece = str | tuple[str, str]


@dataclass(frozen=True)
class Figure:
    """A number at the top of the report, its confidence interval as text, and the counts it comes from."""

    name: str
    value: str
    interval: str
    counts: str


def build_html_report(
    title: str, analysis: Analysis, details: Mapping[str, str] | None = None, audio: Sequence[str | None] = ()
) -> str:
    """The report as HTML. No text in it is interpreted as markup, and it loads nothing but audio.

    `details` say what was scored and how; `audio` is the URL of each result's audio, relative to the file or `data:`.
    """
    return render_html(
        "evaluation/html_report.html",
        title,
        script="evaluation/html_report.js",
        figures=_list_figures(analysis),
        details=details or {},
        data=_collect(analysis, audio),
    )


def _list_figures(analysis: Analysis) -> list[Figure]:
    scores, intervals = analysis.scores, analysis.intervals
    wrong = f"{scores.wrong:,} of {scores.utterances:,}{format_wordless(analysis.wordless)}"
    resampled = count(intervals.clusters, intervals.resampled.removesuffix("s"))
    return [
        Figure("Word error rate (WER)", percent(scores.wer), _between(intervals.wer), _describe(scores.words, "word")),
        Figure(
            "Character error rate (CER)",
            percent(scores.cer),
            _between(intervals.cer),
            _describe(scores.characters, "character"),
        ),
        Figure("Utterances with an error (SER)", percent(scores.ser), _between(intervals.ser), wrong),
        Figure("Speech", f"{scores.audio_seconds / 60:,.1f} min", "", f"intervals drawn over {resampled}"),
    ]


def _between(interval: Interval | None) -> str:
    return "" if interval is None else f"95 % interval {100 * interval.low:.1f} to {100 * interval.high:.1f} %"


def _describe(counts: ErrorCounts, unit: str) -> str:
    parts = ((counts.substitutions, "substituted"), (counts.deletions, "deleted"), (counts.insertions, "inserted"))
    return ", ".join(f"{number:,} {how}" for number, how in parts) + f" in {counts.reference_length:,} {unit}s"


def _collect(analysis: Analysis, audio: Sequence[str | None]) -> dict[str, Any]:
    """All values that html_report.js shows; utterances are identified by their rank, the worst is 0."""
    worst = rank_worst(analysis.counts)
    rank = {place: row for row, place in enumerate(worst)}

    def rows(places: Iterable[int]) -> list[int]:
        return sorted(rank[place] for place in places)

    return {
        "wer": analysis.scores.wer,
        "utterances": _list_utterances(analysis, worst, audio),
        "slices": [
            {"title": _TITLES.get(name, name), "bars": _list_bars(analysis, name, places, rows)}
            for name, places in partition(analysis.results).items()
        ],
        "errors": _list_errors(analysis.errors, rows),
    }


def _list_utterances(analysis: Analysis, worst: Sequence[int], audio: Sequence[str | None]) -> dict[str, list[Any]]:
    """A list for each property; None is an unknown value, or a text equal to the one next to it."""
    results = [analysis.results[place] for place in worst]
    words = [ErrorCounts.of_words(analysis.counts[place]) for place in worst]
    characters = [ErrorCounts.of_characters(analysis.counts[place]) for place in worst]
    return {
        "name": [result.name for result in results],
        "reference": [result.reference for result in results],
        "hypothesis": [_unless(result.hypothesis, result.reference) for result in results],
        "raw_reference": [_unless(result.raw_reference, result.reference) for result in results],
        "raw_hypothesis": [_unless(result.raw_hypothesis, result.hypothesis) for result in results],
        "aligned": _align(results),
        "errors": [each.errors for each in words],
        "words": [each.reference_length for each in words],
        "wer": [each.rate for each in words],
        "cer": [each.rate for each in characters],
        "speaker": [result.speaker for result in results],
        "seconds": [_round(result.seconds) for result in results],
        "rate": [_round(speaking_rate(result)) for result in results],
        "snr": [_round(result.snr_db) for result in results],
        "unseen": [result.unseen_words for result in results],
        "columns": [", ".join(f"{name}: {value}" for name, value in each.columns.items()) or None for each in results],
        "audio": [audio[place] if audio else None for place in worst],
    }


def _unless(text: str, other: str) -> str | None:
    return None if text in ("", other) else text


def _round(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 2)


def _align(results: Sequence[Result]) -> list[list[_Piece]]:
    """Each result's words: correct words are joined to one text, each difference is a pair."""
    # Alignment takes most of the time, and most results of a good model are correct.
    aligned: list[list[_Piece]] = [[" ".join(split_words(result.reference))] for result in results]
    wrong = [row for row, each in enumerate(results) if each.reference != each.hypothesis]
    texts = [results[row].reference for row in wrong], [results[row].hypothesis for row in wrong]
    for row, alignment in zip(wrong, align_words(*texts), strict=True):
        pieces: list[_Piece] = []
        same: list[str] = []
        for reference, hypothesis in pair_units(alignment):
            if reference == hypothesis:
                same.append(reference)
                continue
            if same:
                pieces.append(" ".join(same))
                same = []
            pieces.append((reference, hypothesis))
        aligned[row] = [*pieces, " ".join(same)] if same else pieces
    return aligned


def _list_bars(analysis: Analysis, name: str, places: Mapping[str, Sequence[int]], rows: Any) -> list[dict[str, Any]]:
    bars = [
        {
            "label": _LABELS.get(slice.value, slice.value).replace(" characters/s", ""),
            "wer": slice.scores.wer,
            "low": slice.intervals.wer and slice.intervals.wer.low,
            "high": slice.intervals.wer and slice.intervals.wer.high,
            "words": slice.scores.words.reference_length,
            "rows": rows(places[slice.value]),
        }
        for slice in analysis.slices[name]
    ]
    return bars if name in _ORDERED else sorted(bars, key=lambda bar: -(bar["wer"] or 0.0))


def _list_errors(errors: Errors, rows: Any) -> list[dict[str, Any]]:
    def confusions(title: str, found: Sequence[Confusion], characters: bool = False) -> dict[str, Any]:
        listed = [
            {"reference": each.reference, "hypothesis": each.hypothesis, "count": each.count, "rows": rows(each.places)}
            for each in found
        ]
        return {"title": title, "characters": characters, "errors": listed}

    missed = [
        {"reference": each.word, "hypothesis": "", "count": each.missed, "of": each.said, "rows": rows(each.places)}
        for each in errors.missed
    ]
    return [
        confusions("Substituted words", errors.substitutions),
        confusions("Deleted words", errors.deletions),
        confusions("Inserted words", errors.insertions),
        confusions("Repeated words", errors.repeated),
        {"title": "Words missed most often", "characters": False, "errors": missed},
        confusions("Characters", errors.characters, characters=True),
    ]
