"""Parts of a benchmark, each in a process of its own: what one loads, compiles and allocates is no other's."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Done:
    """What a part measured, what it printed before, and what it said on standard error."""

    values: dict[str, float]
    printed: list[str]
    said: str


def start_part(
    script: str, arguments: Sequence[str], part: str, folder: Path, environment: Mapping[str, str] | None = None
) -> Done:
    """Run a script with `--part` and `--folder`, whose last line of output is JSON; where it fails, all ends here.

    `environment` is added to this process's own, of which no variable of oneDNN is left.
    """
    own = {key: value for key, value in os.environ.items() if not key.startswith("ONEDNN")}
    command = [sys.executable, script, *arguments, "--part", part, "--folder", str(folder)]
    done = subprocess.run(command, env={**own, **(environment or {})}, capture_output=True, check=False, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    *printed, result = done.stdout.strip().split("\n")
    return Done(json.loads(result), printed, done.stderr)


def parse_arguments(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str],
    run_part: Callable[[argparse.Namespace], dict[str, float]],
) -> argparse.Namespace:
    """A script's options; in a process that `start_part` began its part is run here, and all ends."""
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.part:
        print("\n" + json.dumps(run_part(options)))
        sys.exit()
    return options
