"""The real command with little memory, little time and no network, and files outside that it must not touch."""

import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import soundfile
from programs import started

LIMIT_BYTES = 2 << 30
LIMIT_SECONDS = 60.0


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit code, both its streams, and the most memory that its processes had at once."""

    returncode: int
    said: str
    peak_bytes: int

    def require_clean(self, *codes: int) -> str:
        """What was said, by a command that ended within its limits with one of the codes (2) and no traceback."""
        assert self.peak_bytes < LIMIT_BYTES, f"{self.peak_bytes / 1e9:.1f} GB: {self.said[-2000:]}"
        assert "Traceback" not in self.said, self.said[-4000:]
        assert self.returncode in (codes or (2,)), f"{self.returncode}: {self.said[-2000:]}"
        assert "\x1b]" not in self.said, "a control sequence reached the terminal"
        return self.said


def run_limited(*arguments: Any, cwd: Path, stdin: bytes = b"", **variables: str) -> Outcome:
    """`finetune` with these arguments; it is killed, and the test fails, above 2 GiB or after 60 seconds.

    Without a network where the machine can take it away from one process.
    """
    command = [sys.executable, "-m", "finetune", *arguments]
    if _can_cut_the_network():
        command = ["unshare", "-rn", *command]
    given = cwd / ".standard-input"
    given.write_bytes(stdin)
    shell = ["sh", "-c", f'exec "$@" < "{given}"', "sh", *command]
    peak, deadline = 0, time.monotonic() + LIMIT_SECONDS
    with started(shell, cwd, **variables) as program:
        while program.process.poll() is None:
            peak = max(peak, _measure(program.process.pid))
            assert peak < LIMIT_BYTES, f"{peak / 1e9:.1f} GB: {program.said()[-2000:]}"
            assert time.monotonic() < deadline, f"not over after {LIMIT_SECONDS:g} s: {program.said()[-2000:]}"
            time.sleep(0.05)
        outcome = Outcome(program.process.returncode, program.said(), peak)
    given.unlink()
    return outcome


class Outside:
    """A home that is none of the command's business: a diary, its recording, and a shell's start file."""

    WORDS = "dear diary nobody may read this"

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder, self.text, self.audio, self.shell = (
            folder, folder / "diary.txt", folder / "diary.wav", folder / ".bashrc",
        )  # fmt: skip
        self.text.write_text(self.WORDS + "\n")
        self.shell.write_text("# mine\n")
        soundfile.write(self.audio, np.random.default_rng(7).uniform(-0.5, 0.5, 16000), 16000, subtype="PCM_16")
        self._before = self._read()

    def require_untouched(self, work: Path) -> None:
        """Nothing here was changed, and nothing of it lies in `work`, but what links there point to."""
        assert self._read() == self._before
        taken = (self.WORDS.encode(), self.audio.read_bytes()[1000:1400])
        for file in work.rglob("*"):
            if file.is_file() and not file.resolve().is_relative_to(self.folder):
                content = file.read_bytes()
                assert not any(part in content for part in taken), f"{file} holds what lies outside"

    def _read(self) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in sorted(self.folder.iterdir())}


def _can_cut_the_network() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False).returncode == 0


def _measure(process: int) -> int:
    """Bytes of memory that a process and all it started have for themselves."""
    total = 0
    try:
        launched = psutil.Process(process)
        for each in [launched, *launched.children(recursive=True)]:
            total += each.memory_info().rss
    except psutil.NoSuchProcess:
        return 0
    return total
