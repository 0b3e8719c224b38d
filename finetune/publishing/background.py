"""Push models to a hub during training, from a background process of the lowest priority."""

import contextlib
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import psutil
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError

from finetune.errors import UserError
from finetune.files import new_folder
from finetune.publishing.connection import explain, requests_to_hub, require_token
from finetune.publishing.upload import Destination

_LOGGER = logging.getLogger(__name__)

BRANCH = "training"  # The branch for the model of every evaluation, if the recipe asks for it.

_END_SECONDS = 2.0  # Between SIGTERM and SIGKILL.
_AGAIN_SECONDS = 600.0  # Until a failed push is tried again, if there is no newer export.
# Variables of training launchers, which a push must not inherit.
_OF_LAUNCHERS = ("ACCELERATE_", "FSDP_", "GROUP_", "LOCAL_", "MASTER_", "RANK", "ROLE_", "TORCHELASTIC_", "WORLD_SIZE")
_QUIET = {
    "CUDA_VISIBLE_DEVICES": "",  # The GPU's memory is for training.
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "MKL_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}


class _Push(NamedTuple):
    """A process that pushes an export, and its output."""

    export: Path
    process: subprocess.Popen[bytes]
    output: IO[bytes]


class Publisher:
    """Pushes the models of one run: checkpoint exports during training, the newest first, and the final model.

    A failure neither stops nor slows training: it is logged once, and at the end the models that are not on the hub are
    logged with the command that pushes them. Exports are kept in `folder` until they are pushed or superseded.
    """

    def __init__(
        self,
        folder: Path,
        arguments: Sequence[str],
        *,
        every: bool,
        program: Sequence[str] = (sys.executable, "-m", "finetune", "push"),
    ) -> None:
        """`arguments` of `finetune push` are the repository and options.

        With `every` exports are pushed to the branch `BRANCH` instead of main. An export of an interrupted run is
        pushed too.
        """
        self.folder, self.every, self.program = folder, every, program
        self.arguments = list(arguments)
        self._push: _Push | None = None
        self._waiting: Path | None = None
        self._failed: Path | None = None
        self._failed_at = 0.0
        self._said: set[str] = set()
        for partial in folder.glob(".*.partial"):
            shutil.rmtree(partial, ignore_errors=True)
        for export in sorted(folder.glob("step-*")):
            self._wait_with(export)

    def offer(self, step: int, write: Callable[[Path], None]) -> None:
        """Create an export with `write(folder)` (see `write_export`) and push it as soon as possible; never raises."""
        final = self.folder / f"step-{step:06d}"
        try:
            with new_folder(final) as partial:
                write(partial)
        except Exception as error:  # Training continues after any failure.
            self._note(f"step-{step:06d}", f"{type(error).__name__}: {error}")
            return
        self._wait_with(final)
        self.poll()

    def poll(self) -> None:
        """Check whether the push has ended, and start the next one; returns at once and never raises."""
        if self._push and self._push.process.poll() is not None:
            self._take_result(self._push)
            self._push = None
        if self._failed and time.monotonic() > self._failed_at + _AGAIN_SECONDS:
            self._waiting, self._failed = self._failed, None
        if self._push is None and self._waiting:
            export, self._waiting = self._waiting, None
            try:
                self._push = self._start(export, in_background=True)
            except OSError as error:
                self._fail(export, f"{error}")

    def close(self) -> None:
        """Terminate the current push, which is safe since a push is atomic; a resumed run starts it again."""
        if self._push:
            _end(self._push.process)
            self._push.output.close()
            self._push = None

    def finish(self, run: Path) -> None:
        """Push a finished run's model, after the current push, and log the models that could not be pushed."""
        unsent = [run]
        try:
            self._settle()
            export = self._waiting or self._failed
            unsent += [export] if export and self.every else []
            while unsent and self._push_now(unsent[0]):
                del unsent[0]
        except KeyboardInterrupt:
            _LOGGER.warning("the push is interrupted; the run is finished")
        finally:
            self.close()
        if self.folder not in (source.parent for source in unsent):
            shutil.rmtree(self.folder, ignore_errors=True)
        if unsent:
            commands = [f"  {shlex.join(['finetune', 'push', *self._arguments(source)])}" for source in unsent]
            _LOGGER.warning("\n".join(["not on the hub yet; this pushes it later:", *commands]))

    def _arguments(self, source: Path) -> list[str]:
        is_checkpoint_export = source.parent == self.folder and self.every
        return [str(source), *self.arguments, *(["--revision", BRANCH] if is_checkpoint_export else [])]

    def _start(self, source: Path, in_background: bool) -> _Push:
        """Start a push in its own process group, so that signals to training do not reach it."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(_OF_LAUNCHERS)}
        # Temporary files of a killed push are removed with its export.
        environment |= {**_QUIET, "TMPDIR": str(source.absolute())} if in_background else {}
        output: IO[bytes] = tempfile.TemporaryFile() if in_background else os.fdopen(os.dup(2), "wb")  # noqa: SIM115
        process = subprocess.Popen(
            [*self.program, *self._arguments(source), "--with-parent"],
            stdin=subprocess.PIPE,  # See `end_with_parent`.
            stdout=output,
            stderr=output,
            env=environment,
            process_group=0,
        )
        if in_background:
            _lower_priority(process.pid)
        return _Push(source, process, output)

    def _push_now(self, source: Path) -> bool:
        """Push in the foreground with its output shown; returns whether it succeeded."""
        try:
            self._push = self._start(source, in_background=False)
        except OSError as error:
            _LOGGER.error(f"{error}")
            return False
        code = self._push.process.wait()
        self.close()
        return code == 0

    def _settle(self) -> None:
        """Wait for the current push, which often has the same weights as the final model."""
        if self._push and self._push.process.poll() is None:
            _LOGGER.info(f"waiting for {self._push.export.name}, which is being pushed")
            _restore_priority(self._push.process.pid)
            self._push.process.wait()
        waiting, self._waiting = self._waiting, None  # `poll` would start it in the background.
        self.poll()
        self._waiting = waiting

    def _wait_with(self, export: Path) -> None:
        for old in (self._waiting, self._failed):
            if old and old != export:
                shutil.rmtree(old, ignore_errors=True)
        self._waiting, self._failed = export, None

    def _take_result(self, push: _Push) -> None:
        push.output.seek(0)
        printed = push.output.read().decode(errors="replace").strip()
        push.output.close()
        assert push.process.stdin is not None
        push.process.stdin.close()
        if push.process.returncode:
            # A UserError is one sentence after this prefix; other errors are in the last line.
            reason = printed.rpartition("finetune: ")[2] if "finetune: " in printed else printed.rpartition("\n")[2]
            self._fail(push.export, reason or f"the push ended with code {push.process.returncode}")
        else:
            _LOGGER.info(f"{push.export.name}: {printed.rpartition(chr(10))[2]}")
            shutil.rmtree(push.export, ignore_errors=True)

    def _fail(self, export: Path, reason: str) -> None:
        self._note(export.name, reason)
        if self._waiting:
            shutil.rmtree(export, ignore_errors=True)
        else:
            self._failed, self._failed_at = export, time.monotonic()

    def _note(self, name: str, reason: str) -> None:
        if reason not in self._said:
            self._said.add(reason)
            _LOGGER.warning(f"{name} is not on the hub: {reason}")


def require_hub(destination: Destination) -> None:
    """Raise UserError for an invalid name or token; an unreachable hub is only logged."""
    destination.require_names()
    require_token()
    refused = None
    try:
        with requests_to_hub(destination.repo_id, waits=()):
            try:
                HfApi(endpoint=constants.ENDPOINT).whoami()
            except HfHubHTTPError as error:
                if error.response.status_code not in (401, 403):
                    raise
                refused = explain(error, destination.repo_id)
    except UserError as error:
        _LOGGER.warning(
            f"{error} Training starts all the same; models that are not on the hub at the end are reported."
        )
    if refused:
        raise refused


def end_with_parent() -> None:
    """End this process and its children when its parent has ended, for whatever reason.

    The process must have its own process group, and a pipe from its parent as standard input.
    """

    def watch() -> None:
        while os.read(0, 1):  # Not with Python's stream, which would block the exit of the program.
            pass
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _lower_priority(pid: int) -> None:
    """Let a process, its threads and its children run only when a processor and the disk are idle."""
    with contextlib.suppress(psutil.Error, OSError):
        try:
            os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
        except (AttributeError, OSError):  # Only Linux has it.
            psutil.Process(pid).nice(19)
    with contextlib.suppress(psutil.Error, OSError, AttributeError):
        psutil.Process(pid).ionice(psutil.IOPRIO_CLASS_IDLE)


def _restore_priority(pid: int) -> None:
    """Undo `_lower_priority`."""
    with contextlib.suppress(psutil.Error, OSError, AttributeError):
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            for thread in each.threads():
                os.sched_setscheduler(thread.id, os.SCHED_OTHER, os.sched_param(0))


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its children within `_END_SECONDS`."""
    _restore_priority(process.pid)  # Ending needs processor time too.
    with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(_END_SECONDS)
    with contextlib.suppress(ProcessLookupError):  # The rest of the group.
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert process.stdin is not None
    process.stdin.close()
