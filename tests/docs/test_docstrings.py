"""The public Python API: every name of the manual's page has a docstring whose example runs."""

import doctest
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from manual import DOCS

PAGE = (DOCS / "reference" / "python.md").read_text(encoding="utf-8")
NAMES = re.findall(r"^\.\. auto(?:class|function|exception):: (\S+)", PAGE, re.MULTILINE)
EVENTS = [f"finetune.inference.events.{name}" for name in ("SpeechStarted", "Partial", "SpeechEnded", "Final")]


def find(name: str) -> Any:
    """The object of a dotted name."""
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def test_the_page_lists_them() -> None:
    assert len(NAMES) > 20


@pytest.mark.parametrize("name", [*NAMES, *EVENTS])
def test_a_docstring_is_one_sentence_and_then_the_rest(name: str) -> None:
    lines = (inspect.getdoc(find(name)) or "").splitlines()
    assert lines and lines[0].endswith((".", ":")) and (len(lines) == 1 or not lines[1]), name


@pytest.mark.parametrize("name", NAMES)
def test_examples_run(name: str, sandbox: Path) -> None:
    found = find(name)
    tests = doctest.DocTestFinder(recurse=inspect.isclass(found)).find(found, name)
    examples = [test for test in tests if test.examples]
    assert examples, f"{name} has no example"
    for test in examples:
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        assert not runner.run(test).failed, test.name
