"""Safe output to terminals: control characters are escaped, and secrets are removed from addresses."""

import io
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

from finetune.resources.addresses import public_address

# C0 without line feed and tab, DEL and C1, which control terminals; line separators; and the embeddings, overrides and
# isolates that change the order in which characters are displayed (https://trojansource.codes).
_CONTROLS = "\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069"
_OF_TEXT, _OF_LINE = re.compile(f"[{_CONTROLS}]"), re.compile(f"[{_CONTROLS}\n\t]")
# The colour codes of `evaluation.terminal_report`, which are harmless.
_COLOURS = re.compile("(\x1b\\[(?:0|31|32|33)m)")
# The control sequences by which tqdm moves between bars.
_MOVES = re.compile("\r|(?:\n|\x1b\\[A)*")


def escape_controls(text: str, *, one_line: bool = False) -> str:
    r"""Escape the control characters of a text, as \x1b; with `one_line` also line ends and tabs."""
    return (_OF_LINE if one_line else _OF_TEXT).sub(lambda found: found[0].encode("unicode_escape").decode(), text)


@contextmanager
def safe_terminal() -> Iterator[None]:
    """Escape what is written to standard error, and to standard output if it is a terminal, by `escape_controls`.

    In standard error addresses are written without secrets. Standard output to a file or a program does not change.
    After an exception the streams stay replaced: Python may still print its traceback.
    """
    before = sys.stdout, sys.stderr
    if isinstance(sys.stdout, io.TextIOWrapper):  # Characters that the encoding lacks are escaped.
        sys.stdout.reconfigure(errors="backslashreplace")
    if sys.stdout is not None and sys.stdout.isatty():
        sys.stdout = cast(TextIO, _Results(sys.stdout))
    if sys.stderr is not None:
        sys.stderr = cast(TextIO, _Messages(sys.stderr))
    yield
    sys.stdout, sys.stderr = before


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Make standard error look like a file, to which tqdm and other libraries write no progress bars."""
    before, sys.stderr = sys.stderr, cast(TextIO, _NoTerminal(sys.stderr))
    try:
        yield
    finally:
        sys.stderr = before


class _Results:
    """Standard output as a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text as `show` returns it; returns the length of the text."""
        self._stream.write(self.show(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each line."""
        for line in lines:
            self.write(line)

    def show(self, text: str) -> str:
        """What is written of a text."""
        parts = enumerate(_COLOURS.split(text))
        return "".join(part if number % 2 else escape_controls(part) for number, part in parts)


class _Messages(_Results):
    """Standard error, in which progress bars use carriage returns and move between lines."""

    def show(self, text: str) -> str:
        """What is written of a text."""
        if _MOVES.fullmatch(text):
            return text
        returns = text[:1] == "\r"
        return "\r" * returns + escape_controls(public_address(text[returns:]))


class _NoTerminal(_Messages):
    """Standard error that is not reported as a terminal."""

    def isatty(self) -> bool:
        """No."""
        return False
