"""Terminal reports: signs, colours only on a terminal, and no control sequences from texts."""

import io

import pytest

from finetune.evaluation.analysis import analyse
from finetune.evaluation.comparison import compare
from finetune.evaluation.results import Result
from finetune.evaluation.terminal_report import (
    format_comparison,
    format_scores,
    format_table,
    has_colours,
    mark_differences,
    show_worst,
)

A = [
    Result("bad.wav", "one two three", "won two", "", 1.5, "Ann"),
    Result("good.wav", "four five", "four five", "", 2.0, "Bo"),
]
B = [Result("bad.wav", "one two three", "one two three", "", 1.5, "Ann"), A[1]]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_differences_have_signs_and_colours_only_if_asked_for():
    said, heard = "one two three four five six", "won two four five six seven"
    assert mark_differences(said, heard) == "one→won two −three four five six +seven"
    coloured = mark_differences(said, heard, colours=True)
    assert coloured == "\x1b[33mone→won\x1b[0m two \x1b[31m−three\x1b[0m four five six \x1b[32m+seven\x1b[0m"


def test_colours_are_used_on_terminals_without_no_color(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert has_colours(Terminal()) and not has_colours(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not has_colours(Terminal())


@pytest.mark.parametrize("colours", [False, True])
def test_control_sequences_in_texts_are_replaced(colours):
    hostile = "a\x1b[2Jb"
    shown = mark_differences(hostile, hostile, colours) + mark_differences(hostile, "c", colours)
    assert "\x1b[2J" not in shown
    lines = show_worst(analyse([Result(hostile, "a", "b", "", 1.0, hostile)]), 1)
    assert "\x1b" not in "".join(lines)


def test_worst_are_shown_first_and_no_more_than_asked_for():
    analysis = analyse(A)
    worst = ["bad.wav (Ann, 1.5 s): 2 errors in 3 words", "  one→won two −three"]
    assert show_worst(analysis, 1) == worst
    assert show_worst(analysis, 9) == [*worst, "good.wav (Bo, 2.0 s): 0 errors in 2 words", "  four five"]
    assert show_worst(analysis, 0) == []


def test_tables_line_up_with_wide_characters():
    assert format_table([("name", "n"), ("爱", "10"), ("é", "2")]).splitlines() == ["name   n", "爱    10", "é      2"]
    assert format_table([("a", "b", "c"), ("1", "234", "56")], names=2).splitlines() == ["a  b     c", "1  234  56"]


def test_scores_are_one_row_for_each_pair():
    lines = format_scores([("m", "d", analyse(A)), ("other", "d", analyse(A[:1]))]).splitlines()
    assert lines[0].split() == ["model", "data", "WER", "95", "%", "interval", "CER", "SER", "words", "utterances"]
    assert lines[1].split() == ["m", "d", "40.0", "%", "0.0", "to", "100.0", "36.4", "%", "50.0", "%", "5", "2"]
    assert lines[2].split()[:5] == ["other", "d", "66.7", "%", "61.5"], "one utterance has no interval"


def test_a_comparison_is_a_list_of_lines():
    lines = format_comparison(compare(A, B))
    assert lines[0].startswith(
        "no significant difference: WER 40.0 % of A, 0.0 % of B; B's WER minus A's is -40.0 points"
    )
    assert lines[1] == "B makes fewer errors in 1, more in 0 and as many in 1 of 2 utterances."
    shown = ["better: bad.wav: 2 → 0 errors", "  A: one→won two −three", "  B: one two three"]
    assert lines[-4:] == [*shown, "words that got better: one (only B 1, only A 0), three (only B 1, only A 0)"]


def test_slices_that_differ_are_a_table():
    good, bad = (
        [Result(f"{i}", "one two", heard if i % 2 else "one two", "", 1.0, "xy"[i % 2]) for i in range(20)]
        for heard in ("one two", "one")
    )
    lines = format_comparison(compare(bad, good))
    assert lines[2].startswith("The difference is significant in 1 of 2 slices")
    assert lines[3].splitlines()[1].split()[:2] == ["speaker:", "y"]
