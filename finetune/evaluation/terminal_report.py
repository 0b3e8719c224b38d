"""Reports for a terminal: tables, aligned texts with marked differences, and comparisons."""

import os
import unicodedata
from collections.abc import Sequence
from typing import TextIO

from finetune.evaluation.analysis import Analysis
from finetune.evaluation.comparison import Comparison, Difference, format_p_value
from finetune.evaluation.errors import rank_worst
from finetune.evaluation.results import Result
from finetune.evaluation.scores import ErrorCounts, align_words, count, pair_units, percent

_YELLOW, _RED, _GREEN, _PLAIN = "\x1b[33m", "\x1b[31m", "\x1b[32m", "\x1b[0m"
_FEW = 5  # utterances or words of a comparison; the JSON has more


def has_colours(file: TextIO) -> bool:
    """Whether to write colours: to a terminal, unless NO_COLOR is set (https://no-color.org)."""
    return file.isatty() and not os.environ.get("NO_COLOR")


def format_table(rows: Sequence[Sequence[str]], names: int = 1) -> str:
    """Rows, the first a heading, as aligned columns; the first `names` columns are aligned left, the others right."""
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        spaces = [" " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)]
        left = [cell + space for cell, space in zip(row[:names], spaces, strict=False)]
        right = [space + cell for cell, space in zip(row[names:], spaces[names:], strict=True)]
        lines.append("  ".join([*left, *right]).rstrip())
    return "\n".join(lines)


def mark_differences(reference: str, hypothesis: str, colours: bool = False) -> str:
    """Both texts as one line: reference→hypothesis, −deletion, +insertion; signs work without colours."""
    [alignment] = align_words([reference], [hypothesis])
    pieces = []
    for old, new in (map(_printable, pair) for pair in pair_units(alignment)):
        if old == new:
            pieces.append(old)
            continue
        text, colour = f"{old}→{new}", _YELLOW
        if not new:
            text, colour = f"−{old}", _RED
        elif not old:
            text, colour = f"+{new}", _GREEN
        pieces.append(f"{colour}{text}{_PLAIN}" if colours else text)
    return " ".join(pieces)


def format_scores(rows: Sequence[tuple[str, str, Analysis]]) -> str:
    """A table of scores; a row is a model's name, a data set's name and the analysis."""
    table = [("model", "data", "WER", "95 % interval", "CER", "SER", "words", "utterances")]
    for model, data, analysis in rows:
        scores, interval = analysis.scores, analysis.intervals.wer
        between = "" if interval is None else f"{100 * interval.low:.1f} to {100 * interval.high:.1f}"
        rates = percent(scores.wer), between, percent(scores.cer), percent(scores.ser)
        table.append((model, data, *rates, f"{scores.words.reference_length:,}", f"{scores.utterances:,}"))
    return format_table(table, names=2)


def show_worst(analysis: Analysis, number: int, colours: bool = False) -> list[str]:
    """The utterances with the most word errors: a heading and the aligned texts for each."""
    lines = []
    for row in rank_worst(analysis.counts)[:number]:
        result, words = analysis.results[row], ErrorCounts.of_words(analysis.counts[row])
        errors = f"{count(words.errors, 'error')} in {count(words.reference_length, 'word')}"
        lines.append(f"{_format_heading(result)}: {errors}")
        lines.append("  " + mark_differences(result.reference, result.hypothesis, colours))
    return lines


def format_comparison(comparison: Comparison, colours: bool = False) -> list[str]:
    """A comparison as lines: its conclusion, slices that differ, utterances and words that changed."""
    overall = comparison.overall
    lines = [
        comparison.sentence(),
        f"B makes fewer errors in {overall.better}, more in {overall.worse} and as many in {overall.same} of "
        f"{count(overall.utterances, 'utterance')}.",
    ]
    slices = [(name, value, found) for name, values in comparison.slices.items() for value, found in values.items()]
    significant = [each for each in slices if each[2].is_significant]
    if slices:
        lines.append(
            f"The difference is significant in {len(significant)} of {count(len(slices), 'slice')}; one in twenty is "
            "expected by chance."
        )
    if significant:
        head = ("slice", "utterances", "WER of A", "WER of B", "points", "95 % interval", "p")
        lines.append(format_table([head, *(_slice_row(*each) for each in significant)]))
    for title, changes in (("better", comparison.better), ("worse", comparison.worse)):
        for change in changes[:_FEW]:
            lines.append(f"{title}: {_printable(change.utterance)}: {change.errors_a} → {change.errors_b} errors")
            for name, text in (("A", change.hypothesis_a), ("B", change.hypothesis_b)):
                lines.append(f"  {name}: {mark_differences(change.reference, text, colours)}")
    for title, words in (("better", comparison.words_better), ("worse", comparison.words_worse)):
        if words:
            listed = ", ".join(f"{_printable(w.word)} (only B {w.only_b}, only A {w.only_a})" for w in words[:_FEW])
            lines.append(f"words that got {title}: {listed}")
    return lines


def _slice_row(name: str, value: str, found: Difference) -> tuple[str, ...]:
    assert found.difference is not None and found.interval is not None  # It is significant.
    points = f"{100 * found.difference:+.1f}"
    interval = f"{100 * found.interval.low:+.1f} to {100 * found.interval.high:+.1f}"
    p_value = "" if found.p_value is None else format_p_value(found.p_value)
    where = _printable(f"{name}: {value}")
    return where, f"{found.utterances:,}", percent(found.wer_a), percent(found.wer_b), points, interval, p_value


def _format_heading(result: Result) -> str:
    return _printable(f"{result.name} ({f'{result.speaker}, ' if result.speaker else ''}{result.seconds:.1f} s)")


def _width(text: str) -> int:
    """Columns that a text occupies: two for a wide character, none for a combining one."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _printable(text: str) -> str:
    # A name or a transcript could contain terminal control sequences.
    return "".join("�" if unicodedata.category(c) == "Cc" else c for c in text)
