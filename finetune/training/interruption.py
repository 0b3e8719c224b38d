"""Signals that stop training: the first ends it after the current step, the second at once."""

import contextlib
import os
import signal
import threading
from types import FrameType

# Windows has no SIGHUP.
STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class StopSignals:
    """Handles SIGINT (Ctrl-C), SIGTERM and SIGHUP (the terminal closes) in a `with` statement.

    `asked()` says whether one was received. A signal that is ignored already (SIGHUP under nohup) stays ignored.
    """

    def __init__(self, announce: bool = True) -> None:
        """With `announce` a line on stderr says what a signal does."""
        self._announce = announce
        self._asked = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopSignals":
        # Python lets only the main thread handle signals; a caller with threads stops in its own way.
        if threading.current_thread() is threading.main_thread():
            heard = [number for number in STOPPING if signal.getsignal(number) != signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._hear) for number in heard}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def asked(self) -> bool:
        """Whether a signal was received."""
        return self._asked

    def _hear(self, number: int, _: FrameType | None) -> None:
        self._asked = True
        for each in self._before:
            signal.signal(each, signal.SIG_DFL)
        if self._announce:
            line = f"{signal.Signals(number).name}: stopping after this step and a checkpoint; again stops at once"
            # Not through Python's streams, which are not reentrant: the interrupted code may be writing to them.
            with contextlib.suppress(OSError):  # The terminal may have closed.
                os.write(2, f"\n{line}\n".encode())
