"""Regular expressions of recipes and models; those that may take long run in a separate process with a time limit.

Python's `re` may backtrack without end and cannot be interrupted, and other engines find other matches: `\\w` matches a
vowel sign in `regex` and not in `re`.
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

from finetune.errors import TransformError, UserError

# The time limit for one text; a usual expression takes less than a millisecond.
_MOST_SECONDS = 5.0
# This number of backtracking steps takes a tenth of a second.
_MOST_STEPS = 1e7
_LONGEST_EXPRESSION, _MOST_REPEATED = 10_000, 1000
# A result may have this many characters, or be this many times as long as the text.
_MOST_CHARACTERS, _MOST_GROWTH = 1_000_000, 20

# The program of the process: a line of JSON in, a line out. A watchdog ends it, also during a match.
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
    """A regular expression and the template that replaces its matches, as in `re.sub`."""

    def __init__(self, pattern: str, template: str) -> None:
        """Raises TransformError for an expression or a template that can't be used."""
        if max(len(pattern), len(template)) > _LONGEST_EXPRESSION:
            raise TransformError(f"replace: found more than {_LONGEST_EXPRESSION} characters, expected fewer")
        try:
            self._compiled = re.compile(pattern)
            parser = re._parser  # type: ignore[attr-defined]
            parser.parse_template(template, self._compiled)  # An invalid \1 would raise only at a match.
            self._choices = _count_choices(parser.parse(pattern))
        except (re.error, IndexError, OverflowError, RecursionError) as error:
            raise TransformError(f"replace: {pattern!r} to {template!r} can't be used: {error}") from error
        self._pattern, self._template = pattern, template

    def __call__(self, text: str) -> str:
        """Raises UserError where it takes longer than 5 s or the result is too long."""
        places = len(text) + 1.0
        parts = self._template.count("\\")
        written = places * (len(self._template) + parts * len(text))
        if places ** (self._choices + 1) <= _MOST_STEPS and written <= _MOST_CHARACTERS:
            return self._compiled.sub(self._template, text)
        return str(_ask(self._pattern, self._template, text))


def match_all(pattern: str, names: Iterable[str]) -> list[str]:
    """The names that an expression matches in full.

    Raises UserError for an invalid expression, and where a match takes longer than 5 s.
    """
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise UserError(f"The regular expression {pattern[:200]!r} can't be used: {error}.") from error
    return [name for name in names if _ask(pattern, None, name)]


def require_growth(text: str, before: str, what: str) -> str:
    """`text`, which `what` made of `before`; raises UserError where it is too long for that."""
    if len(text) > _limit(before):
        raise UserError(
            f"{what} makes {len(text)} characters of {len(before)}: expected at most {_limit(before)}; look at the "
            "replacements."
        )
    return text


def _limit(text: str) -> int:
    return max(_MOST_CHARACTERS, _MOST_GROWTH * len(text))


def _count_choices(parsed: Any) -> float:
    """How many choices an expression has: places where it can continue in several ways.

    With n characters and k choices a match tries at most about (n + 1)^(k + 1) ways. It is infinite for an expression
    with a back-reference, a repetition of a part that has choices, or a minimum of more than 1000 repetitions.
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
    """The expressions within a part of an expression that `re` has parsed."""
    if isinstance(value, re._parser.SubPattern):  # type: ignore[attr-defined]
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _find_parts(part)


class _Process:
    """Runs `_PROGRAM`; started at the first request, and again after each timeout."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def ask(self, request: str) -> str:
        """The answer to a request, both lines of JSON; empty after a timeout."""
        with self._lock:
            if self._process is None:
                command = [sys.executable, "-I", "-S", "-c", _PROGRAM]
                self._process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8"
                )
            process, self._process = self._process, None
            assert process.stdin is not None and process.stdout is not None
            try:
                process.stdin.write(request + "\n")
                process.stdin.flush()
                answer = process.stdout.readline()
            except BrokenPipeError:
                answer = ""
            except BaseException:  # An interruption: the late answer would be read as that of the next request.
                process.kill()
                raise
            if answer:
                self._process = process
            else:
                process.kill()
                process.wait()
            return answer


# By process, since a forked process has a copy of this dictionary.
_processes: dict[int, _Process] = {}


def _ask(pattern: str, template: str | None, text: str) -> Any:
    process = _processes.setdefault(os.getpid(), _Process())
    answer = process.ask(json.dumps([pattern, template, text, _limit(text), _MOST_SECONDS]))
    beginning = f"The regular expression {pattern[:200]!r}"
    if not answer:
        raise UserError(
            f"{beginning} takes longer than {_MOST_SECONDS:g} s for a text of {len(text)} characters: write it without "
            "nested repetitions."
        )
    found = json.loads(answer)
    if found is None:
        raise UserError(
            f"{beginning} makes more than {_limit(text)} characters of {len(text)}: look at its replacement."
        )
    return found
