"""Other processes that a test starts: what they say is kept, also where they are when they hang, and none is left."""

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import psutil

# What launchers leave in the environment, and would read there again.
_OF_LAUNCHERS = ("ACCELERATE_", "FSDP_", "MASTER_", "RANK", "LOCAL_RANK", "WORLD_SIZE", "TORCHELASTIC_")


def read_output(file: IO[Any]) -> str:
    """All that a program has written so far into a file that is its output.

    Not by `seek`: both have one position, and the program would go on writing at the one that is set here.
    """
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode(errors="replace")


class Program:
    """A started command with all processes that it starts in turn."""

    def __init__(self, process: "subprocess.Popen[bytes]", output: IO[bytes]) -> None:
        self.process = process
        self._output = output

    def said(self) -> str:
        """All that was written so far, to either stream."""
        return read_output(self._output)

    def wait(self, seconds: float = 600) -> str:
        """What was said, once all has ended; each process that has not by then says where it is."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._fail(f"not over after {seconds:g} s")
        return self.said()

    def wait_for(self, condition: Callable[[], bool], seconds: float = 300) -> None:
        """Wait until a condition holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            if self.process.poll() is not None:
                raise AssertionError(f"ended with {self.process.returncode}:\n{self.said()}")
            if time.monotonic() > deadline:
                self._fail(f"nothing came of it after {seconds:g} s")
            time.sleep(0.01)

    def signal_all(self, number: signal.Signals) -> None:
        """Send a signal to every process; torchrun's are in groups of their own, so the group is not enough."""
        if self.process.poll() is None:
            launched = psutil.Process(self.process.pid)
            for process in [launched, *launched.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(number)

    def _fail(self, why: str) -> None:
        self.signal_all(signal.SIGABRT)  # At which faulthandler says where each thread is.
        time.sleep(5)
        raise AssertionError(f"{why}:\n{self.said()}")


@contextmanager
def started(command: Sequence[Any], cwd: Path | None = None, **variables: str) -> Iterator[Program]:
    """A command of which no process is left at the end of the `with` statement."""
    environment: Mapping[str, str] = {
        **{key: value for key, value in os.environ.items() if not key.startswith(_OF_LAUNCHERS)},
        "OMP_NUM_THREADS": "1",
        "PYTHONFAULTHANDLER": "1",
        **variables,
    }
    # A file: a pipe that nobody empties stops whoever writes into it.
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            list(map(str, command)), cwd=cwd, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        program = Program(process, output)
        try:
            yield program
        finally:
            program.signal_all(signal.SIGKILL)
            process.wait()


def execute(command: Sequence[Any], cwd: Path | None = None, **variables: str) -> str:
    """What a command said that succeeded."""
    with started(command, cwd, **variables) as program:
        said = program.wait()
    assert program.process.returncode == 0, said
    return said
