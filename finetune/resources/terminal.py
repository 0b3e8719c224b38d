"""What a terminal is shown: control characters as escapes, addresses without secrets, whoever prints them."""

import io
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

from finetune.resources.addresses import public_address

# C0 without line end and tab, DEL and C1, which terminals obey; separators of lines; and the embeddings, overrides and
# isolates that show letters in another order than they stand in (https://trojansource.codes).
_CONTROLS = "\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069"
_OF_TEXT, _OF_LINE = re.compile(f"[{_CONTROLS}]"), re.compile(f"[{_CONTROLS}\n\t]")
# The colours of `evaluation.terminal_report`; they can do no more than colour.
_COLOURS = re.compile("(\x1b\\[(?:0|31|32|33)m)")
# What tqdm writes to move between bars.
_MOVES = re.compile("\r|(?:\n|\x1b\\[A)*")


def escape_controls(text: str, *, one_line: bool = False) -> str:
    r"""A text whose control characters are escapes such as \x1b; with `one_line` line ends and tabs, too."""
    return (_OF_LINE if one_line else _OF_TEXT).sub(lambda found: found[0].encode("unicode_escape").decode(), text)


@contextmanager
def safe_terminal() -> Iterator[None]:
    """Have all that is written to standard error, and to a terminal as standard output, pass `escape_controls`.

    Standard error hides the secrets of addresses, too. Standard output that is no terminal is left as it is, for what
    reads it. After an exception nothing is undone: Python prints it where nobody catches it.
    """
    before = sys.stdout, sys.stderr
    if isinstance(sys.stdout, io.TextIOWrapper):  # A terminal of few characters gets the others as escapes.
        sys.stdout.reconfigure(errors="backslashreplace")
    if sys.stdout is not None and sys.stdout.isatty():
        sys.stdout = cast(TextIO, _Results(sys.stdout))
    if sys.stderr is not None:
        sys.stderr = cast(TextIO, _Messages(sys.stderr))
    yield
    sys.stdout, sys.stderr = before


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Let standard error pass for a file, on which tqdm and others draw no bars."""
    before, sys.stderr = sys.stderr, cast(TextIO, _NoTerminal(sys.stderr))
    try:
        yield
    finally:
        sys.stderr = before


class _Results:
    """A terminal that results are written to."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text as `show` has it; returns the text's length."""
        self._stream.write(self.show(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each line."""
        for line in lines:
            self.write(line)

    def show(self, text: str) -> str:
        """What is written of a text."""
        return "".join(
            part if number % 2 else escape_controls(part) for number, part in enumerate(_COLOURS.split(text))
        )


class _Messages(_Results):
    """Standard error, on which progress bars return to the line's beginning and move between lines."""

    def show(self, text: str) -> str:
        """What is written of a text."""
        if _MOVES.fullmatch(text):
            return text
        returns = text[:1] == "\r"
        return "\r" * returns + escape_controls(public_address(text[returns:]))


class _NoTerminal(_Messages):
    """Standard error that says it is no terminal."""

    def isatty(self) -> bool:
        """No."""
        return False
