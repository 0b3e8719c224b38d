"""Computes many live sessions of one model together, in turn: no session waits for the backlog of another."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from finetune.audio.recordings import AudioError, Waveform, fault_as_reason
from finetune.audio.samples import Encoding
from finetune.inference.events import Event, Partial
from finetune.inference.live import LiveSession, LiveTranscriber
from finetune.inference.transcriber import Computation

# How long the engine sleeps at most when no session has audio.
_WAIT_SECONDS = 0.1


class Overloaded(Exception):
    """Too many sessions, audio that comes faster than it is computed, or events that are not read."""


class LiveEngine:
    """Computes one window at a time of each session, in the threads that call `run` or `step`.

    Sessions can be fed and read from any thread. On a GPU their windows share a batch, and one thread calls `run`. On a
    CPU several threads, each with one thread of torch, compute more small windows in a second than one that uses all
    cores for each window (scripts/bench_live.py). If the device is too slow, all sessions fall behind evenly: see
    `EngineSession.lag_seconds`.

    >>> from finetune.inference.live import LiveTranscriber
    >>> from finetune.inference.live_engine import LiveEngine
    >>> engine = LiveEngine(LiveTranscriber("runs/quickstart/model", device="cpu"), max_sessions=16)
    >>> session = engine.open(16000)
    >>> engine.num_sessions, engine.step()
    (1, False)
    """

    def __init__(
        self, live: LiveTranscriber, *, max_sessions: int = 8, max_lag_seconds: float = 30.0, max_unread: int = 1000
    ) -> None:
        """The limits: open sessions, and for each session uncomputed audio (s) and unread events."""
        self.live = live
        self.max_sessions, self.max_lag_seconds, self.max_unread = max_sessions, max_lag_seconds, max_unread
        self.changed = threading.Condition()
        self._sessions: list[EngineSession] = []  # The one that waits longest is first.
        self._most = 1 if live.recogniser.device.type == "cpu" else max_sessions

    def open(
        self,
        sampling_rate: int,
        *,
        encoding: Encoding = "s16le",
        channels: int = 1,
        channel: int | None = None,
        on_events: Callable[[], object] = lambda: None,
    ) -> EngineSession:
        """Begin a session as `LiveTranscriber.session` does; raises Overloaded if there are `max_sessions`.

        `on_events` is called, in a thread that computes, when there are events or the session has ended.
        """
        session = self.live.session(sampling_rate, encoding=encoding, channels=channels, channel=channel)
        with self.changed:
            if len(self._sessions) >= self.max_sessions:
                raise Overloaded(f"{self.max_sessions} sessions are open, which is the limit: try again later.")
            opened = EngineSession(self, session, on_events)
            self._sessions.append(opened)
        return opened

    def step(self) -> bool:
        """Compute a window of those sessions that wait longest, on a CPU of one; returns whether there was any."""
        with self.changed:
            taken = [session for session in self._sessions if session.has_work][: self._most]
            for session in taken:
                session.taken = True
                self._sessions.remove(session)
                self._sessions.append(session)
        try:
            waiting = [(session, waveform) for session in taken if (waveform := session.proceed()) is not None]
            for session, logits in self._compute(waiting):
                session.take_logits(logits)
        finally:
            with self.changed:
                for session in taken:
                    session.taken = False
        return bool(taken)

    def run(self, stopped: Callable[[], bool]) -> None:
        """Step until `stopped()` is true; it is called at least ten times a second."""
        while not stopped():
            if not self.step():
                with self.changed:
                    self.changed.wait_for(lambda: any(session.has_work for session in self._sessions), _WAIT_SECONDS)

    def _compute(self, waiting: list[tuple[EngineSession, Waveform]]) -> list[tuple[EngineSession, NDArray[Any]]]:
        """The logits of each window, computed together, or each alone if that fails."""
        if not waiting:
            return []
        sessions = [session for session, _ in waiting]
        try:
            with fault_as_reason():
                logits, num_frames = self.live.recogniser.logits([waveform for _, waveform in waiting])
        except AudioError as error:
            if len(waiting) > 1:
                return [pair for one in waiting for pair in self._compute([one])]
            sessions[0].fail(error)
            return []
        rows = [row[:frames].numpy() for row, frames in zip(logits, num_frames, strict=True)]
        return list(zip(sessions, rows, strict=True))

    @property
    def num_sessions(self) -> int:
        """The number of open sessions."""
        return len(self._sessions)

    @property
    def is_behind(self) -> bool:
        """Whether a session has work that no thread computes."""
        with self.changed:
            return any(session.has_work for session in self._sessions)

    def remove(self, session: EngineSession) -> None:
        """Remove a session."""
        with self.changed:
            if session in self._sessions:
                self._sessions.remove(session)


class EngineSession:
    """A session of an engine; `feed`, `finish`, `events` and `close` may be called from any thread.

    >>> import numpy as np
    >>> from finetune.inference.live import LiveTranscriber
    >>> from finetune.inference.live_engine import LiveEngine
    >>> engine = LiveEngine(LiveTranscriber("runs/quickstart/model", device="cpu"))
    >>> session = engine.open(16000)
    >>> session.feed(np.load("speech.npy"))
    >>> session.finish()
    >>> while engine.step():
    ...     pass
    >>> type(session.events()[-1]).__name__, session.ended
    ('Final', True)
    """

    def __init__(self, engine: LiveEngine, session: LiveSession, on_events: Callable[[], object]) -> None:
        self._engine, self._session, self._on_events = engine, session, on_events
        self._lock = engine.changed
        self._feeding = threading.Lock()  # Audio is taken in order, and none after the end.
        self._blocks: deque[Waveform] = deque()
        self._events: list[Event] = []
        self._computation: Computation[list[Event]] | None = None
        self._logits: NDArray[Any] | None = None
        self._finishing = self._ending = False
        self._error: Exception | None = None
        self.ended = False
        self.taken = False  # by a thread that computes it

    @property
    def lag_seconds(self) -> float:
        """The audio that is fed but not computed yet."""
        with self._lock:
            return sum(map(len, self._blocks)) / self._engine.live.recogniser.sampling_rate

    @property
    def has_work(self) -> bool:
        """Whether there is something that no thread computes yet; to be called with the engine's lock."""
        return bool(self._computation or self._blocks or self._finishing) and not (self.ended or self.taken)

    def feed(self, audio: bytes | bytearray | memoryview | NDArray[Any]) -> None:
        """Take the next audio as `LiveSession.feed` does, and raise what it raises.

        Raises Overloaded where the session is `max_lag_seconds` behind: the audio is not taken, and may be fed again.
        After an error it raises that, and ValueError after `finish` or `close`.
        """
        with self._feeding:
            if self._error:
                raise self._error
            if self.ended or self._finishing:
                raise ValueError("This session has ended: open another.")
            if self.lag_seconds > self._engine.max_lag_seconds:
                raise Overloaded(
                    f"the session is {self.lag_seconds:.0f} s behind: feed it no faster than it is computed"
                )
            try:
                blocks = self._session.take(audio)
            except AudioError as error:
                self.fail(error)
                raise
            with self._lock:
                self._blocks += [] if self.ended else blocks
                self._lock.notify_all()

    def finish(self) -> None:
        """End the stream; its last events come when they are computed, and then `ended` is set."""
        with self._feeding, self._lock:
            if not self._finishing and not self.ended:
                self._blocks += self._session.take_rest()
                self._finishing = True
                self._lock.notify_all()

    def close(self) -> None:
        """Close the session; audio that is not computed and events that are not read are dropped."""
        with self._lock:
            self._blocks.clear()
            self._events.clear()
            self.ended = True
        self._engine.remove(self)

    def events(self) -> list[Event]:
        """Take all events that are ready; when there are none, raises the error of the session, if any."""
        with self._lock:
            taken, self._events = self._events, []
            if not taken and self._error:
                raise self._error
        return taken

    def proceed(self) -> Waveform | None:
        """Continue until a window must be computed, and return its samples; None if there is nothing to do."""
        while not self.ended:
            if self._computation is None:
                self._computation = self._begin()
            if self._computation is None:
                return None
            logits, self._logits = self._logits, None
            try:
                with fault_as_reason():
                    waveform, events = _go_on(self._computation, logits)
            except AudioError as error:
                self.fail(error)
                return None
            if waveform is not None:
                return waveform
            self._computation = None
            self._deliver(events)
        return None

    def take_logits(self, logits: NDArray[Any]) -> None:
        """The logits, (frames, vocabulary), of the samples that `proceed` returned."""
        self._logits = logits

    def fail(self, error: Exception) -> None:
        """End the session with an error, which `events` raises."""
        with self._lock:
            if not self.ended:
                self._error, self.ended = error, True
            self._blocks.clear()
        self._engine.remove(self)
        self._on_events()

    def _begin(self) -> Computation[list[Event]] | None:
        """The events of the next block, or of the stream's end; None where there is neither yet."""
        with self._lock:
            if self._blocks:
                return self._session.advance(self._blocks.popleft())
            if self._finishing and not self._ending:
                self._ending = True
                return self._session.end()
        return None

    def _deliver(self, events: list[Event]) -> None:
        with self._lock:
            if self.ended:  # It was closed or has failed while it was computed.
                return
            for event in events:
                last = self._events[-1] if self._events else None
                if isinstance(event, Partial) and isinstance(last, Partial):
                    self._events.pop()  # It is not read, and the new one replaces it.
                self._events.append(event)
            overflow = len(self._events) > self._engine.max_unread
            done = self._ending and not self._blocks
        if overflow:
            self.fail(Overloaded(f"{self._engine.max_unread} events of the session were not read: it has ended"))
        elif done:
            with self._lock:
                self.ended = True
            self._engine.remove(self)
        if done or events:
            self._on_events()


def _go_on(computation: Computation[list[Event]], logits: NDArray[Any] | None) -> tuple[Waveform | None, list[Event]]:
    """The next samples to compute, or the events in the end."""
    try:
        return next(computation) if logits is None else computation.send(logits), []
    except StopIteration as end:
        return None, end.value
