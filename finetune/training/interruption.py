"""Being asked to stop: the first signal ends training after its step, the second at once."""

import os
import signal
import threading
from types import FrameType


class StopSignals:
    """Listens for SIGINT (Ctrl-C) and SIGTERM in a `with` statement; `asked()` says whether one has come."""

    def __init__(self, announce: bool = True) -> None:
        """`announce` says on stderr what a signal will do."""
        self._announce = announce
        self._asked = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopSignals":
        # Python lets only the main thread listen; a caller with threads has its own way to stop.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._hear) for number in (signal.SIGINT, signal.SIGTERM)}
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
            os.write(2, f"\n{line}\n".encode())
