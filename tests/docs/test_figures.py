"""A figure of time or speed says on which machine it was measured, on the same part of the page."""

import re
from pathlib import Path

import pytest
from manual import PAGES, name_of

_NUMBER = r"\d[\d.,]*"
# What was measured: a duration of work, a speed, or a relation of two.
_FIGURES = re.compile(
    rf"{_NUMBER} times (as (fast|long)|faster|slower|the speed)|{_NUMBER}x (faster|slower|real)|"
    rf"real-time factor {_NUMBER}|{_NUMBER} s a step|keep up|"
    rf"({_NUMBER} (to|and) )?{_NUMBER} (min(utes)?|hours) (in|on|of both)|whole command \||\| time \||"
    rf"in (about )?{_NUMBER} (minutes|hours)\b|{_NUMBER} (utterances|streams|pages) (a|per) second"
)
_MACHINES = re.compile(
    r"AMD EPYC|Intel Xeon|NVIDIA|\bH200\b|same CPU|not run here|not measured|estimate", re.IGNORECASE
)
# What sounds like a measurement and is none: limits, published facts, and settings.
_OTHERS = (
    "at most 1.15 times the champion's time",
    "no live session can keep up",
    "at least 5 in 30 minutes",  # the window of an alarm
)


def find_parts(text: str) -> list[str]:
    """The parts of a page below its headings; a page without figures elsewhere names the machine once, in its head."""
    return re.split(r"(?m)^#+ ", re.sub(r"(?ms)^ *```.*?^ *```", "", text))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_figures_name_their_machine(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for other in _OTHERS:
        text = text.replace(other, "")
    nameless = [
        figure[0]
        for part in find_parts(text)
        for figure in [_FIGURES.search(part)]
        if figure and not _MACHINES.search(part) and not _MACHINES.search(text.split("\n## ")[0])
    ]
    assert not nameless


def test_figures_are_found() -> None:
    assert sum(bool(_FIGURES.search(page.read_text(encoding="utf-8"))) for page in PAGES) >= 8
