"""Terminals show names and texts without obeying control characters in them, whichever code prints them."""

import io
import os
import pty
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from programs import started
from tqdm import tqdm

from finetune.cli import main
from finetune.resources.terminal import escape_controls, safe_terminal

# What writes the clipboard, clears the screen, starts a sequence in one character, goes back, and turns text around.
EVIL = "a\x1b]52;c;aGk=\x07b\x1b[2J\x9b1mc\rd\x7f\u202ee\u2066"
SHOWN = r"a\x1b]52;c;aGk=\x07b\x1b[2J\x9b1mc\rd\x7f\u202ee\u2066"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@contextmanager
def terminals() -> Iterator[tuple[Terminal, Terminal]]:
    """Standard output and standard error, which are terminals."""
    found = Terminal(), Terminal()
    with redirect_stdout(found[0]), redirect_stderr(found[1]):
        yield found


def test_control_characters_are_escaped_and_letters_are_not() -> None:
    assert escape_controls(EVIL) == SHOWN
    letters = "é字\u0644\u200f\u0915\u094d\u200d\u200c\N{GRINNING FACE}\n\t "
    assert escape_controls(letters) == letters
    assert escape_controls("a\nb\tc\u2028", one_line=True) == r"a\nb\tc\u2028"


def test_all_ways_of_writing_are_escaped() -> None:
    with terminals() as (output, errors):
        with safe_terminal():
            print(EVIL)
            sys.stdout.writelines([EVIL, "\n"])
            print(EVIL, file=sys.stderr)
            tqdm.write(EVIL, file=sys.stderr)
        assert output.getvalue() == errors.getvalue() == f"{SHOWN}\n" * 2
        print(EVIL)
    assert "\x1b" in output.getvalue()  # As it was before.


def test_colours_and_progress_bars_work() -> None:
    with terminals() as (output, errors), safe_terminal():
        print("\x1b[31mwrong\x1b[0m")
        for _ in tqdm(range(2), desc=EVIL, position=1):
            pass
    assert output.getvalue() == "\x1b[31mwrong\x1b[0m\n"
    assert f"\r{SHOWN}: 100%" in errors.getvalue() and "\x1b[A" in errors.getvalue()
    assert "\x1b]" not in errors.getvalue()


def test_output_to_a_pipe_is_not_escaped_but_messages_are(capsys: pytest.CaptureFixture[str]) -> None:
    with safe_terminal():
        print(EVIL)
        print(EVIL, "https://ann:s3cret@host/a?sig=b", file=sys.stderr)
    assert capsys.readouterr() == (EVIL + "\n", SHOWN + " https://host/a\n")


def test_output_of_libraries_and_of_python_is_escaped() -> None:
    program = f"""
import logging, warnings
from finetune.resources.terminal import safe_terminal
EVIL = {EVIL!r}
with safe_terminal():
    warnings.warn(EVIL)
    logging.getLogger("of a library").warning(EVIL)
    raise ValueError(EVIL)
"""
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert finished.stderr.decode().count(SHOWN) == 3 and b"\x1b" not in finished.stderr
    assert b"Traceback" in finished.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["transcribe", "model", "x.wav", "--f" + EVIL],
        ["transcribe", "model", "x.wav", "--format", EVIL],
        ["transcribe", "model", EVIL],
        ["train", EVIL],
        ["evaluate", EVIL, "--data", EVIL],
    ],
)
def test_arguments_are_escaped(
    arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # With a shell's pattern they may be others' file names.
    try:
        code = main(arguments)
    except SystemExit as ended:
        code = int(str(ended.code))
    said = capsys.readouterr().err
    assert code == 2 and "\x1b" not in said and "\x9b" not in said and r"\x1b]52;c;" in said


@pytest.mark.long
def test_the_vocabulary_of_a_corpus_only_shows_on_a_real_terminal(
    tmp_path: Path, make_corpus: Callable[..., Path], write_recipe: Callable[..., Path]
) -> None:
    for split in ("train", "validation"):
        make_corpus(tmp_path / "corpus" / split, ["ab\x1b\x9b ba", "ab \u202e"], ["anna", "ben"])
    recipe = write_recipe(tmp_path, data={"root": "corpus"}, text={"normalization": ["lowercase"]})
    main_end, other_end = pty.openpty()
    command = f'exec "$@" > {os.ttyname(other_end)} 2>&1'
    arguments = ["sh", "-c", command, "sh", sys.executable, "-m", "finetune", "check", str(recipe)]
    shown = b""
    with started(arguments, tmp_path) as running:
        ended = False
        while select.select([main_end], [], [], 0.1)[0] or not ended:
            ended = running.process.poll() is not None
            if select.select([main_end], [], [], 0.1)[0]:
                shown += os.read(main_end, 65536)
    os.close(other_end)
    os.close(main_end)
    assert rb"vocabulary: 5 characters: \x1b a b \x9b \u202e" in shown
    assert "\x9b".encode() not in shown and "\u202e".encode() not in shown
    assert not [part for part in shown.split(b"\x1b")[1:] if not part.startswith(b"[A")]
