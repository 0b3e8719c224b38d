"""Run the tests in fresh environments: with the oldest versions that pyproject.toml allows, the newest, other Pythons.

    python scripts/check_versions.py                                        before a release
    python scripts/check_versions.py oldest 3.13 --tests tests/data tests/training
    python scripts/check_versions.py newest --torch 2.15.0                  can the upper pin move?

`oldest` pins each direct dependency to its lower bound exactly, on the oldest Python that is allowed: a bound that
cannot be installed fails. An environment takes about 6 GB of disk; there is one at a time, removed also on Ctrl-C.
Prints one line for each, and exits with 1 if one of them failed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
ENVIRONMENTS = ["oldest", "newest", "3.12", "3.13"]
# What the line of an environment names, beside Python.
_SHOWN = ("torch", "transformers", "numpy", "numba", "onnxruntime")


def main(arguments: Sequence[str]) -> int:
    """Run the command line; 0 if the tests passed in each environment that could be made here."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("environments", nargs="*", default=ENVIRONMENTS, help="oldest, newest or a Python like 3.13")
    parser.add_argument("--tests", nargs="+", default=[], metavar="PATH", help="these tests only; all by default")
    parser.add_argument("--torch", metavar="VERSION", help="this torch in all but oldest, whatever pyproject.toml says")
    options = parser.parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    return max([check_environment(name, options.tests, options.torch) for name in options.environments])


def check_environment(name: str, tests: Sequence[str], torch: str | None = None) -> int:
    """Make an environment, run the tests in it, print its line and remove it; 0 where they passed or it has no Python.

    `name` is `oldest`, `newest` (on this Python) or a version of Python, on which it is the newest too.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    oldest_python = project["requires-python"].removeprefix(">=")
    python = sys.executable if name == "newest" else find_python(oldest_python if name == "oldest" else name)
    if python is None:
        print(f"{name}: skipped, for its Python is not installed here", flush=True)
        return 0
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="check_versions_", ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        subprocess.run([python, "-m", "venv", folder / "venv"], check=True)
        own = str(folder / "venv" / "bin" / "python")
        bounds = list_lower_bounds(project) if name == "oldest" else []
        (folder / "bounds.txt").write_text("\n".join(bounds), encoding="utf-8")
        pip = [own, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        installed = run(folder, *pip, "-c", str(folder / "bounds.txt"), "-e", ".[test]")
        if installed.returncode == 0 and torch and name != "oldest":
            installed = run(folder, *pip, f"torch=={torch}")
        if installed.returncode:
            print(f"{name}: cannot be installed\n{installed.stderr[-3000:]}", flush=True)
            return 1
        code = f"from importlib.metadata import version\nprint(*(n + ' ' + version(n) for n in {_SHOWN}), sep=', ')"
        versions = run(folder, own, "-c", "import platform\nprint('Python', platform.python_version())\n" + code)
        tested = run(folder, own, "-m", "pytest", "-q", "-rfE", "--basetemp", str(folder / "tests"), *tests)
    said = tested.stdout.strip().rpartition("\n")[2]  # "1 failed, 271 passed, 13 skipped in 63.34s"
    facts = ", ".join(versions.stdout.split("\n")).strip(", ")
    print(f"{name}: {facts}: {said}, {time.monotonic() - started:.0f} s with installation", flush=True)
    if tested.returncode:
        print(tested.stdout[-6000:], tested.stderr[-2000:], file=sys.stderr, flush=True)
    return int(tested.returncode != 0)


def stop(number: int, frame: object) -> None:
    """Leave by way of the cleaning up, which takes some time and which another signal must not stop."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the repository, its temporary files in the folder that is removed at the end."""
    (folder / "tmp").mkdir(exist_ok=True)
    environment = {**os.environ, "TMPDIR": str(folder / "tmp")}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def list_lower_bounds(project: dict[str, object]) -> list[str]:
    """Each requirement of a `project` table, extras too, pinned to its lower bound; those without one are left out."""
    dependencies, extras = project["dependencies"], project["optional-dependencies"]
    assert isinstance(dependencies, list) and isinstance(extras, dict)
    requirements = [Requirement(line) for lines in [dependencies, *extras.values()] for line in lines]
    lowest = {(each.name, bound.version) for each in requirements for bound in each.specifier if bound.operator == ">="}
    return sorted(f"{name}=={version}" for name, version in lowest)


def find_python(version: str) -> str | None:
    """An interpreter of a version like 3.12 that starts: on the PATH or one of pyenv's; None without one."""
    found = shutil.which(f"python{version}")
    own = sorted(Path("~/.pyenv/versions").expanduser().glob(f"{version}.*/bin/python{version}"))
    for candidate in [*([found] if found else []), *map(str, own)]:  # A shim of pyenv may be there for nothing.
        if subprocess.run([candidate, "--version"], capture_output=True, check=False).returncode == 0:
            return candidate
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
