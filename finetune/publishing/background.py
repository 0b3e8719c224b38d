"""Models pushed while training goes on, by a process beside it that takes only what training leaves."""

from __future__ import annotations

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

BRANCH = "training"  # has every evaluation's model, where a recipe asks for that

_END_SECONDS = 2.0  # that a process has to end when it is asked to
_AGAIN_SECONDS = 600.0  # until what failed is tried again, where nothing newer has come
# By these a process knows that it is one of several that train: one that pushes is not.
_OF_LAUNCHERS = ("ACCELERATE_", "FSDP_", "GROUP_", "LOCAL_", "MASTER_", "RANK", "ROLE_", "TORCHELASTIC_", "WORLD_SIZE")
_QUIET = {
    "CUDA_VISIBLE_DEVICES": "",  # The GPU's memory is training's.
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "MKL_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}


class _Push(NamedTuple):
    """A process that pushes an export, and what it says."""

    export: Path
    process: subprocess.Popen[bytes]
    output: IO[bytes]


class Publisher:
    """Pushes the models of one run: exports while it trains, one at a time and the newest first, its own at last.

    Nothing that goes wrong stops or slows training: it is said, once, and what is not on the hub in the end is said
    with the command that pushes it. Exports lie in `folder` until they are pushed or there is a newer one.
    """

    def __init__(
        self,
        folder: Path,
        arguments: Sequence[str],
        *,
        every: bool,
        program: Sequence[str] = (sys.executable, "-m", "finetune", "push"),
    ) -> None:
        """`arguments` of the program `finetune push` are the repository and its options.

        With `every` the exports go to the branch `BRANCH`, and not to main. One that an interrupted run left there
        is taken up again.
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
        """Have `write(folder)` make an export (see `write_export`), which is pushed when its turn comes.

        It never raises.
        """
        final = self.folder / f"step-{step:06d}"
        try:
            with new_folder(final) as partial:
                write(partial)
        except Exception as error:  # Whatever it is, training is worth more than this.
            self._note(f"step-{step:06d}", f"{type(error).__name__}: {error}")
            return
        self._wait_with(final)
        self.poll()

    def poll(self) -> None:
        """See whether the push has ended, and begin the next one; takes no time and never raises."""
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
        """End the push that is under way: as a push is whole or nothing, it can be. A resumed run begins it anew."""
        if self._push:
            _end(self._push.process)
            self._push.output.close()
            self._push = None

    def finish(self, run: Path) -> None:
        """Push a finished run's model, after the export that is on its way, and say what could not be pushed."""
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
        """Begin a push, in a group of its own: a signal for training is none for it, and it ends as a whole."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(_OF_LAUNCHERS)}
        # What a push that was killed leaves is removed with its export.
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
            _give_way(process.pid)
        return _Push(source, process, output)

    def _push_now(self, source: Path) -> bool:
        """Push while others wait for it, with all that it says; returns whether it went well."""
        try:
            self._push = self._start(source, in_background=False)
        except OSError as error:
            _LOGGER.error(f"{error}")
            return False
        code = self._push.process.wait()
        self.close()
        return code == 0

    def _settle(self) -> None:
        """Wait for the push that is under way, which often is of the very weights that are the run's in the end."""
        if self._push and self._push.process.poll() is None:
            _LOGGER.info(f"waiting for {self._push.export.name}, which is being pushed")
            _hurry(self._push.process.pid)
            self._push.process.wait()
        waiting, self._waiting = self._waiting, None  # It would be begun in the background.
        self.poll()
        self._waiting = waiting

    def _wait_with(self, export: Path) -> None:
        for old in (self._waiting, self._failed):
            if old and old != export:
                shutil.rmtree(old, ignore_errors=True)
        self._waiting, self._failed = export, None

    def _take_result(self, push: _Push) -> None:
        push.output.seek(0)
        said = push.output.read().decode(errors="replace").strip()
        push.output.close()
        assert push.process.stdin is not None
        push.process.stdin.close()
        if push.process.returncode:
            # A problem that the user can mend is one sentence behind this, and anything else is in the last line.
            reason = said.rpartition("finetune: ")[2] if "finetune: " in said else said.rpartition("\n")[2]
            self._fail(push.export, reason or f"the push ended with code {push.process.returncode}")
        else:
            _LOGGER.info(f"{push.export.name}: {said.rpartition(chr(10))[2]}")
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
    """Raise UserError where a name or the token can't be right; a hub that can't be reached now is only noted."""
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
        _LOGGER.warning(f"{error} Training begins all the same, and what is not on the hub in the end is named then.")
    if refused:
        raise refused


def end_with_parent() -> None:
    """End this process, with those it started, when the one that started it has ended, however that came about.

    To be called in a process whose standard input is a pipe from its parent, in a group of its own.
    """

    def watch() -> None:
        while os.read(0, 1):  # Past Python's stream, which can't be left when the program ends.
            pass
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _give_way(pid: int) -> None:
    """Let a process run only where a processor, and the disk, would be idle: threads and processes it starts too."""
    with contextlib.suppress(psutil.Error, OSError):
        try:
            os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
        except (AttributeError, OSError):  # Only Linux has it.
            psutil.Process(pid).nice(19)
    with contextlib.suppress(psutil.Error, OSError, AttributeError):
        psutil.Process(pid).ionice(psutil.IOPRIO_CLASS_IDLE)


def _hurry(pid: int) -> None:
    """Undo `_give_way`, as somebody waits for the process."""
    with contextlib.suppress(psutil.Error, OSError, AttributeError):
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            for thread in each.threads():
                os.sched_setscheduler(thread.id, os.SCHED_OTHER, os.sched_param(0))


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and those it started, soon."""
    _hurry(process.pid)  # Ending takes a little work, too.
    with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(_END_SECONDS)
    with contextlib.suppress(ProcessLookupError):  # What is left of the group.
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert process.stdin is not None
    process.stdin.close()
