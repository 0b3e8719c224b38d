"""Lint, format, types and the direction of imports."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run(*command: str) -> str:
    """What a tool says when it finds something, and nothing when it is content."""
    finished = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    return "" if finished.returncode == 0 else finished.stdout + finished.stderr


def test_ruff_finds_nothing() -> None:
    assert run("-m", "ruff", "check", ".") == ""


def test_the_code_is_formatted() -> None:
    assert run("-m", "ruff", "format", "--check", ".") == ""


def test_types_are_right() -> None:
    assert run("-m", "mypy") == ""


def test_imports_run_downwards() -> None:
    assert run("-c", "from importlinter.cli import lint_imports_command; lint_imports_command()") == ""
