"""The log on standard error: for people, for programs, and only as much as was asked for."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from finetune.cli import main
from finetune.commands import env

_LOGGER = logging.getLogger("finetune.training.loop")


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """`log(*options)` is what a command shows that logs each kind of message and prints a result."""

    def run(_: object) -> int:
        _LOGGER.debug("a detail")
        _LOGGER.info("step 1/2", extra={"values": {"step": 1, "loss": 0.5}})
        for _ in range(2):
            _LOGGER.warning("100 % of it is rare: \x9b2J", extra={"once": True})
            _LOGGER.warning("left out: a.wav")
        print("a result")
        _LOGGER.error("it can't be read")
        return 0

    def show(*options: str) -> list[str]:
        monkeypatch.setattr(env, "run", run)
        assert main(options) == 0
        written = capsys.readouterr()
        assert written.out == "a result\n"
        return written.err.splitlines()

    return show


NOTES = ["note: 100 % of it is rare: \\x9b2J", *["note: left out: a.wav"] * 2]


def test_people_get_lines_and_those_of_once_once(log: Callable[..., list[str]]) -> None:
    assert log("env") == ["step 1/2", *NOTES, "finetune: it can't be read"]


@pytest.mark.parametrize("options", [("--quiet", "env"), ("env", "--quiet")], ids=["before", "behind"])
def test_quiet_leaves_notes_and_errors(log: Callable[..., list[str]], options: tuple[str, ...]) -> None:
    assert log(*options) == [*NOTES, "finetune: it can't be read"]


def test_verbose_adds_details_times_and_origins(log: Callable[..., list[str]]) -> None:
    lines = log("--verbose", "env")
    assert len(lines) == 6 and lines[0].endswith("finetune.training.loop: a detail")
    assert lines[0][:2] == "20", "it begins with the date"


def test_programs_get_an_object_for_each_line(log: Callable[..., list[str]]) -> None:
    step, note, *_, error = map(json.loads, log("env", "--log-format", "json"))
    assert datetime.fromisoformat(step.pop("time")).utcoffset() == timedelta(0)
    assert step == {
        "level": "info", "logger": "finetune.training.loop", "message": "step 1/2", "step": 1, "loss": 0.5
    }  # fmt: skip
    assert (note["level"], note["message"]) == ("warning", "100 % of it is rare: \x9b2J")
    assert (error["level"], error["message"]) == ("error", "it can't be read")


def test_verbose_shows_where_an_error_was_raised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = str(tmp_path / "recipe.yaml")
    assert main(["recipe", missing]) == 2 and "Traceback" not in capsys.readouterr().err
    assert main(["recipe", missing, "--verbose"]) == 2 and "Traceback" in capsys.readouterr().err


def test_nothing_stays_behind_and_other_processes_are_silent(
    monkeypatch: pytest.MonkeyPatch, log: Callable[..., list[str]]
) -> None:
    logger = logging.getLogger("finetune")
    before = (logger.level, logger.propagate, list(logger.handlers), sys.stderr)
    monkeypatch.setenv("RANK", "1")
    assert log("env", "--quiet") == []
    assert (logger.level, logger.propagate, list(logger.handlers), sys.stderr) == before


def test_as_a_library_warnings_alone_are_shown() -> None:
    code = "import logging, finetune; log = logging.getLogger('finetune.x'); log.info('no'); log.warning('yes')"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stderr == "yes\n"
