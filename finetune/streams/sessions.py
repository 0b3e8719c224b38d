"""Live sessions whose audio comes as messages: one for each key, from its first chunk to its last."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from finetune.audio.waveforms import AudioError
from finetune.inference.events import Event, Final
from finetune.inference.live import LiveTranscriber
from finetune.inference.live_engine import EngineSession, LiveEngine, Overloaded
from finetune.resources.machine import count_threads
from finetune.streams.ledger import Unit
from finetune.streams.messages import Chunk, Place, Rejected

_LOGGER = logging.getLogger(__name__)
# More audio than this is not given to a session before it is computed: it is held as bytes.
_MAX_LAG_SECONDS = 2.0
# Recordings give way to live sessions, but are not held back for longer.
_MAX_HELD_SECONDS, _LOOK_SECONDS = 1.0, 0.01


@dataclass(eq=False)
class Session:
    """One session: where its first chunk stands, the chunks that wait, and the texts so far."""

    place: Place
    unit: Unit
    sampling_rate: int
    encoding: str
    engine: EngineSession | None
    next_sequence: int | None
    last_milliseconds: int
    last_arrival: float
    waiting: deque[Chunk] = field(default_factory=deque)
    texts: list[str] = field(default_factory=list)
    reason: str = ""  # why it ends: end or idle
    failure: Rejected | None = None

    @property
    def partition(self) -> tuple[str, int]:
        """The topic and the partition of its chunks."""
        return self.place.topic, self.place.partition


class LiveSessions:
    """The open sessions and the threads that compute them; all methods are for one thread."""

    def __init__(
        self, live: LiveTranscriber, max_sessions: int, idle_seconds: float, on_audio: Callable[[float], object]
    ) -> None:
        """`on_audio` is called with the seconds of each chunk that a session has taken."""
        self._engine = LiveEngine(live, max_sessions=max_sessions)
        self._max_sessions, self._idle_seconds, self._on_audio = max_sessions, idle_seconds, on_audio
        self._sessions: dict[tuple[str, int, bytes], Session] = {}
        self._ending: list[Session] = []  # They take no more chunks.
        self._rejected: list[tuple[Session, Chunk, Rejected]] = []
        self._closed = threading.Event()
        on_cpu = live.recogniser.device.type == "cpu"
        self._threads = [
            threading.Thread(target=self._run, name=f"live-{number}", daemon=True)
            for number in range(count_threads() if on_cpu else 1)
        ]
        for thread in self._threads:
            thread.start()

    def __len__(self) -> int:
        return len(self._sessions) + len(self._ending)

    @property
    def num_bytes(self) -> int:
        """Bytes of chunks that are not given to a session yet."""
        return sum(len(chunk.audio) for session in self._all() for chunk in session.waiting)

    def find(self, place: Place) -> Session | None:
        """The open session of a chunk; one whose last chunk is much older ends, as if it had ended by itself."""
        name = (place.topic, place.partition, place.key or b"")
        session = self._sessions.get(name)
        if session is not None and place.milliseconds - session.last_milliseconds > 1000 * self._idle_seconds:
            self._end(session, "idle")
            return None
        return session

    def open(self, place: Place, unit: Unit, chunk: Chunk) -> None:
        """Begin a session with its first chunk; raises Rejected."""
        if chunk.sequence:
            raise Rejected("sequence", f"the session begins with chunk {chunk.sequence}; expected chunk 0")
        try:
            engine = self._engine.open(chunk.sampling_rate, encoding=chunk.encoding)
        except Overloaded as error:
            message = f"{self._max_sessions} live sessions are open, which is the limit (--max-live)"
            raise Rejected("too_many_sessions", message) from error
        session = Session(
            *(place, unit, chunk.sampling_rate, chunk.encoding, engine, chunk.sequence),
            last_milliseconds=place.milliseconds,
            last_arrival=time.monotonic(),
        )
        self._sessions[place.topic, place.partition, place.key or b""] = session
        self.feed(session, place, chunk)

    def refuse(self, place: Place, unit: Unit, chunk: Chunk, rejected: Rejected) -> None:
        """Open a session that only ends: its further chunks are rejected for the same reason."""
        session = Session(
            *(place, unit, chunk.sampling_rate, chunk.encoding, None, None),
            last_milliseconds=place.milliseconds,
            last_arrival=time.monotonic(),
            failure=rejected,
        )
        self._sessions[place.topic, place.partition, place.key or b""] = session
        if chunk.ends:
            self._end(session, "end")

    def feed(self, session: Session, place: Place, chunk: Chunk) -> None:
        """Take the next chunk of a session; raises Rejected, also for each one after the session has failed."""
        session.last_milliseconds, session.last_arrival = place.milliseconds, time.monotonic()
        try:
            if session.failure:
                raise Rejected(session.failure.code, f"the session had failed before: {session.failure}")
            self._check(session, chunk)
        except Rejected as error:
            self._fail(session, error)
            if chunk.ends:
                self._end(session, "end")
            raise
        session.waiting.append(chunk)
        if chunk.ends:
            self._end(session, "end")

    def advance(self, on_text: Callable[[Session, Event, int], object]) -> list[Session]:
        """Feed what waits, call `on_text` with each new event and its segment, and return the sessions that ended."""
        ended: list[Session] = []
        for session in self._all():
            self._feed_waiting(session)
            over = session.engine is None or session.engine.ended  # Events that are read after it are the last ones.
            for event in self._read_events(session):
                on_text(session, event, len(session.texts))
                if isinstance(event, Final):
                    session.texts.append(event.text)
            if over and session in self._ending and not session.waiting:
                ended.append(session)
        for session in ended:
            self._ending.remove(session)
        return ended

    def take_rejected(self) -> list[tuple[Session, Chunk, Rejected]]:
        """The chunks that were taken and turned out to be unusable, with those that waited behind them."""
        rejected, self._rejected = self._rejected, []
        return rejected

    def end_idle(self, caught_up: Callable[[tuple[str, int]], bool]) -> None:
        """End the sessions without a chunk for the idle time whose partitions have nothing more to read."""
        now, milliseconds = time.monotonic(), time.time() * 1000
        for session in list(self._sessions.values()):
            # Both, so that a new owner, who knows the times of the messages only, ends it at the same chunk.
            is_old = milliseconds - session.last_milliseconds > 1000 * self._idle_seconds
            if is_old and now - session.last_arrival > self._idle_seconds and caught_up(session.partition):
                self._end(session, "idle")

    def drop(self, partitions: Iterable[tuple[str, int]]) -> int:
        """Forget the sessions of partitions that another consumer owns now; returns how many."""
        gone = set(partitions)
        dropped = [session for session in self._all() if session.partition in gone]
        for session in dropped:
            session.unit.dropped = True
            if session.engine:
                session.engine.close()
        self._sessions = {name: each for name, each in self._sessions.items() if each not in dropped}
        self._ending = [each for each in self._ending if each not in dropped]
        return len(dropped)

    def give_way(self) -> None:
        """Wait while live audio is not computed yet, but not long."""
        latest = time.monotonic() + _MAX_HELD_SECONDS
        while self._engine.is_behind and time.monotonic() < latest and not self._closed.is_set():
            time.sleep(_LOOK_SECONDS)

    def close(self) -> None:
        """End the threads; sessions are dropped."""
        self.drop({session.partition for session in self._all()})
        self._closed.set()
        for thread in self._threads:
            thread.join(10.0)

    def _all(self) -> list[Session]:
        return [*self._sessions.values(), *self._ending]

    def _check(self, session: Session, chunk: Chunk) -> None:
        given, expected = (chunk.sampling_rate, chunk.encoding), (session.sampling_rate, session.encoding)
        if given != expected:
            raise Rejected(
                "headers", f"the chunk is {given[1]} at {given[0]} Hz, but the session {expected[1]} at {expected[0]}"
            )
        if (chunk.sequence is None) != (session.next_sequence is None) or chunk.sequence != session.next_sequence:
            raise Rejected("sequence", f"the chunk's sequence is {chunk.sequence}; expected {session.next_sequence}")
        if session.next_sequence is not None:
            session.next_sequence += 1

    def _end(self, session: Session, reason: str) -> None:
        session.reason = reason
        self._sessions.pop((*session.partition, session.place.key or b""), None)
        self._ending.append(session)

    def _fail(self, session: Session, rejected: Rejected) -> None:
        if session.failure is None:
            session.failure = rejected
        self._rejected += [(session, chunk, rejected) for chunk in session.waiting]
        session.waiting.clear()
        if session.engine:
            session.engine.finish()

    def _feed_waiting(self, session: Session) -> None:
        engine = session.engine
        try:
            while engine and session.waiting and engine.lag_seconds <= _MAX_LAG_SECONDS and not engine.ended:
                engine.feed(session.waiting[0].audio)
                self._on_audio(session.waiting.popleft().seconds)
        except AudioError as error:
            self._fail(session, Rejected("audio", f"the session's audio can't be used: {error}"))
        except Overloaded:  # It is fed again.
            return
        if engine and session in self._ending and not session.waiting:
            engine.finish()

    def _read_events(self, session: Session) -> list[Event]:
        if session.engine is None:
            return []
        try:
            return session.engine.events()
        except (AudioError, Overloaded) as error:
            self._fail(session, Rejected("audio", f"the session's audio can't be used: {error}"))
            return []

    def _run(self) -> None:
        import torch

        torch.set_num_threads(1)
        self._engine.run(self._closed.is_set)
