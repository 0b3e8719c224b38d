"""The commands of OPERATIONS.md, and a shell that runs them."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
Shell = Callable[[str], str]


def block(name: str) -> str:
    """The commands under a marker."""
    text = (ROOT / "scripts" / "deploy" / "OPERATIONS.md").read_text()
    found = re.search(rf"<!-- {name} -->\n```\n(.*?)\n```\n<!-- end -->", text, re.DOTALL)
    assert found, name
    return found[1]


def make_shell(folder: Path, **variables: str) -> Shell:
    """`shell(commands)` runs a block with STORE, BACKUP and AUDIT in a folder, and finetune on its path."""
    programs = folder / "bin"
    programs.mkdir()
    (programs / "finetune").write_text(f'#!/bin/sh\nexec {sys.executable} -m finetune "$@"\n')
    (programs / "python3").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    places = {"STORE": folder / "store", "BACKUP": folder / "backup", "AUDIT": folder / "newest.jsonl"}
    environment = {name: str(place) for name, place in places.items()} | variables
    environment |= {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}

    def run(commands: str) -> str:
        command = ["bash", "-eu", "-c", commands]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
