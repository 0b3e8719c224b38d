"""Being asked to stop: the first signal ends training after its step, the second at once."""

import contextlib
import os
import signal
import threading
from types import FrameType

# Windows has no SIGHUP.
STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class StopSignals:
    """Listens for SIGINT (Ctrl-C), SIGTERM and SIGHUP (a terminal that closes) in a `with` statement.

    `asked()` says whether one has come. A signal that is ignored already, as nohup has SIGHUP, stays so.
    """

    def __init__(self, announce: bool = True) -> None:
        """`announce` says on stderr what a signal will do."""
        self._announce = announce
        self._asked = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopSignals":
        # Python lets only the main thread listen; a caller with threads has its own way to stop.
        if threading.current_thread() is threading.main_thread():
            heard = [number for number in STOPPING if signal.getsignal(number) != signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._hear) for number in heard}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def asked(self) -> bool:
        """Whether a signal has come."""
        return self._asked

    def _hear(self, number: int, _: FrameType | None) -> None:
        self._asked = True
        for each in self._before:
            signal.signal(each, signal.SIG_DFL)
        if self._announce:
            line = f"{signal.Signals(number).name}: stopping after this step and a checkpoint; again stops at once"
            # Past Python's streams: what the signal came upon may be writing to them, and they can't be entered twice.
            with contextlib.suppress(OSError):  # Of a terminal that has closed.
                os.write(2, f"\n{line}\n".encode())
