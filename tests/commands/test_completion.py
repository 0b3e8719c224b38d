"""Shells complete commands, options and recipe keys."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from finetune.cli import main

LINES = [
    ("finetune trans", {"transcribe"}),
    (
        "finetune train recipe.yaml training.max_",
        {"training.max_steps=", "training.max_epochs=", "training.max_minutes=", "training.max_gradient_norm="},
    ),
    ("finetune compare-runs --ht", {"--html"}),
    ("finetune pretrain recipe.yaml pretraining.mask_p", {"pretraining.mask_probability="}),
]
REQUIRED = os.environ.get("FINETUNE_SHELLS") == "required"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A PATH on which `finetune` is this checkout's command."""
    command = tmp_path / "bin" / "finetune"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m finetune "$@"\n')
    command.chmod(0o755)
    root = Path(__file__).parents[2]
    return {**os.environ, "PATH": f"{command.parent}:{os.environ['PATH']}", "PYTHONPATH": str(root)}


def find_shell(name: str) -> str:
    """The program of a shell; without it the test is skipped, unless all shells are required."""
    program = shutil.which(name)
    if program is None:
        assert not REQUIRED, f"{name} is not installed, and FINETUNE_SHELLS=required"
        pytest.skip(f"{name} is not installed")
    return program


@pytest.mark.parametrize(("line", "expected"), LINES)
def test_bash_completes(line: str, expected: set[str], environment: dict[str, str], tmp_path: Path) -> None:
    script = f"""
        source <(finetune completion bash)
        COMP_LINE="{line}" COMP_POINT={len(line)} COMP_TYPE=9 COMP_WORDBREAKS=$' \\t\\n' COMP_WORDS=({line})
        COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
        _python_argcomplete finetune
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    found = subprocess.run(
        [find_shell("bash"), "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert {each.strip() for each in found.stdout.splitlines()} == expected, found.stderr


@pytest.mark.long
def test_fish_completes(environment: dict[str, str], tmp_path: Path) -> None:
    fish = find_shell("fish")
    for line, expected in LINES:
        script = f"finetune completion fish | source; complete --do-complete '{line}'"
        found = subprocess.run(
            [fish, "-c", script],
            env={**environment, "HOME": str(tmp_path)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        assert {each.partition("\t")[0].strip() for each in found.stdout.splitlines()} >= expected, found.stderr


def test_zsh_reads_its_script(environment: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    zsh = find_shell("zsh")
    assert main(["completion", "zsh"]) == 0
    script = "autoload -U compinit; compinit -D -u\n" + capsys.readouterr().out + "\nprint $_comps[finetune]\n"
    found = subprocess.run([zsh, "-f"], input=script, env=environment, capture_output=True, text=True, check=True)
    assert "python_argcomplete" in found.stdout and not found.stderr


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["completion", "cmd"])
    assert "bash" in capsys.readouterr().err
