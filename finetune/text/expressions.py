"""Regular expressions of recipes and models: those that could take long run in a process of its own, with a time limit.

Python's `re` backtracks over some texts for ever and can't be interrupted, and other engines find other matches: `\\w`
is a vowel sign for `regex`, and none for `re`.
"""

import json
import math
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from finetune.errors import StepError, UserError

# For one text, of which a usual expression takes less than a millisecond.
_MOST_SECONDS = 5.0
# So many steps of backtracking take a tenth of a second.
_MOST_STEPS = 1e7
_LONGEST_EXPRESSION, _MOST_REPEATED = 10_000, 1000
# Characters that any text may grow to, and how many times as long a longer one may become.
_MOST_CHARACTERS, _MOST_GROWTH = 1_000_000, 20

# What the process runs: a line of JSON in, a line out. Its watchdog ends it in the midst of an expression, too.
_PROGRAM = """
import faulthandler, json, os, re, sys
silent = open(os.devnull, "w")
for line in sys.stdin:
    pattern, template, text, most, seconds = json.loads(line)
    faulthandler.dump_traceback_later(seconds, exit=True, file=silent)
    written = 0
    def write(match):
        global written
        part = match.expand(template)
        written += len(part)
        if written > most:
            raise MemoryError
        return part
    try:
        found = bool(re.fullmatch(pattern, text)) if template is None else re.sub(pattern, write, text)
    except MemoryError:
        found = None
    faulthandler.cancel_dump_traceback_later()
    print(json.dumps(found), flush=True)
"""


class Replacement:
    """An expression, and what is written in the place of what it matches, as `re.sub` takes them."""

    def __init__(self, pattern: str, template: str) -> None:
        """Raises StepError for an expression or a template that can't be used."""
        if max(len(pattern), len(template)) > _LONGEST_EXPRESSION:
            raise StepError(f"replace: found more than {_LONGEST_EXPRESSION} characters, expected a shorter expression")
        try:
            self._compiled = re.compile(pattern)
            parser = re._parser  # type: ignore[attr-defined]
            parser.parse_template(template, self._compiled)  # A bad \1 shows only at a match.
            self._choices = _count_choices(parser.parse(pattern))
        except (re.error, IndexError, OverflowError, RecursionError) as error:
            raise StepError(f"replace: {pattern!r} to {template!r} can't be used: {error}") from error
        self._pattern, self._template = pattern, template

    def __call__(self, text: str) -> str:
        """Raises UserError where it takes longer than 5 s or makes too much of a text."""
        places = len(text) + 1.0
        parts = self._template.count("\\")
        written = places * (len(self._template) + parts * len(text))
        if places ** (self._choices + 1) <= _MOST_STEPS and written <= _MOST_CHARACTERS:
            return self._compiled.sub(self._template, text)
        return str(_ask(self._pattern, self._template, text))


def match_all(pattern: str, names: Iterable[str]) -> list[str]:
    """Those names that an expression matches as a whole.

    Raises UserError for one that can't be used, and where that takes longer than 5 s.
    """
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise UserError(f"The regular expression {pattern[:200]!r} can't be used: {error}.") from error
    return [name for name in names if _ask(pattern, None, name)]


def require_growth(text: str, before: str, what: str) -> str:
    """A text that was made of another; raises UserError where it is too long for that, which `what` did."""
    if len(text) > _limit(before):
        raise UserError(
            f"{what} makes {len(text)} characters of {len(before)}: expected at most {_limit(before)}; look at the "
            "replacements."
        )
    return text


def _limit(text: str) -> int:
    return max(_MOST_CHARACTERS, _MOST_GROWTH * len(text))


def _count_choices(parsed: Any) -> float:
    """How many times an expression can go on in several ways.

    With n characters and k choices it tries about (n + 1)^(k + 1) ways at most. Infinite is that of one that refers
    back, repeats what has choices, or repeats thousands of times what may be nothing.
    """
    choices = 0.0
    for operation, value in parsed:
        inside = sum(map(_count_choices, _find_parts(value)))
        repeats = operation.name.endswith("REPEAT")
        if operation.name.startswith("GROUPREF") or (repeats and (inside or value[0] > _MOST_REPEATED)):
            return math.inf
        choices += inside + (repeats or operation.name == "BRANCH")
    return choices


def _find_parts(value: Any) -> Iterator[Any]:
    """The expressions within what `re` makes of a part of one."""
    if isinstance(value, re._parser.SubPattern):  # type: ignore[attr-defined]
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _find_parts(part)


class _Process:
    """Runs `_PROGRAM`, started when it is first asked and again after each time that it took too long."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def ask(self, request: str) -> str:
        """The line that answers a line; nothing where there is none within the time."""
        with self._lock:
            if self._process is None:
                command = [sys.executable, "-I", "-S", "-c", _PROGRAM]
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    encoding="utf-8",
                )
            process, self._process = self._process, None
            assert process.stdin is not None and process.stdout is not None
            try:
                process.stdin.write(request + "\n")
                process.stdin.flush()
                answer = process.stdout.readline()
            except BrokenPipeError:
                answer = ""
            except BaseException:  # An interruption: the answer that is still to come would be taken for the next.
                process.kill()
                raise
            if answer:
                self._process = process
            else:
                process.kill()
                process.wait()
            return answer


# By process, as one that was forked has a copy of these.
_processes: dict[int, _Process] = {}


def _ask(pattern: str, template: str | None, text: str) -> Any:
    process = _processes.setdefault(os.getpid(), _Process())
    answer = process.ask(json.dumps([pattern, template, text, _limit(text), _MOST_SECONDS]))
    said = f"The regular expression {pattern[:200]!r}"
    if not answer:
        raise UserError(
            f"{said} takes longer than {_MOST_SECONDS:g} s for a text of {len(text)} characters: write it without "
            "repetitions within repetitions."
        )
    found = json.loads(answer)
    if found is None:
        raise UserError(f"{said} makes more than {_limit(text)} characters of {len(text)}: look at its replacement.")
    return found
