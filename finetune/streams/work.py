"""What a consumer holds: recordings that are transcribed, live sessions, and what is known of each partition."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Literal

from finetune.audio.waveforms import AudioError
from finetune.inference.events import Event, Final, Partial
from finetune.inference.live import LiveTranscriber
from finetune.resources.addresses import public_address
from finetune.resources.terminal import escape_controls
from finetune.streams.ledger import MAX_OPEN, Ledger, Unit
from finetune.streams.messages import Chunk, Place, Rejected, locate, read_message
from finetune.streams.metrics import StreamMetrics
from finetune.streams.output import Delivery, Offsets, Output, Partition
from finetune.streams.recordings import Job, Outcome, RecordingThread
from finetune.streams.results import Record, is_shown, write_dead_letter, write_end, write_event, write_recording
from finetune.streams.sessions import LiveSessions, Session
from finetune.streams.settings import DEAD_LETTER_BYTES, StreamSettings

_LOGGER = logging.getLogger(__name__)
# Recordings and dead letters that are not acknowledged; each is a few bytes of a commit's metadata.
_MAX_RECORDINGS = 128


class Work:
    """Everything between the messages of a consumer and its output; used by the consumer's thread."""

    def __init__(self, live: LiveTranscriber, settings: StreamSettings, output: Output, metrics: StreamMetrics) -> None:
        self._settings, self._output, self._metrics = settings, output, metrics
        self._ledgers: dict[Partition, Ledger] = {}
        self._sessions = LiveSessions(
            live, settings.max_live, settings.idle_seconds, lambda seconds: metrics.audio("live", seconds)
        )
        self._recordings = RecordingThread(live.transcriber, self._sessions.give_way)

    def begin_partition(self, partition: Partition, offset: int | None, metadata: str | None) -> None:
        """A partition is ours, from a committed offset on."""
        self._ledgers[partition] = Ledger(offset, metadata)

    def end_partitions(self, partitions: set[Partition]) -> int:
        """Partitions are not ours any more; returns how many live sessions go with them."""
        self._recordings.drop_waiting(partitions)
        for partition in partitions:
            ledger = self._ledgers.pop(partition, None)
            for unit in ledger.open.values() if ledger else ():
                unit.dropped = True
        return self._sessions.drop(partitions)

    def take(self, message: Any, place: Place) -> None:
        """Begin what a message asks for; a message that can't be used becomes a dead letter."""
        ledger = self._ledgers.get((place.topic, place.partition))
        if ledger is None:  # It was fetched before its partition went.
            return
        ledger.pass_by(place.offset)
        try:
            found = read_message(message, self._settings.max_message_bytes, self._settings.references)
        except Rejected as error:
            self._begin_dead_letter(ledger, message, place, error)
            return
        if isinstance(found, Chunk):
            self._take_chunk(ledger, place, found)
        elif ledger.is_done(place.offset):
            self._metrics.message("recording", "repeated")
        else:
            self._recordings.submit(Job(place, ledger.begin(place.offset), found, message))

    def _take_chunk(self, ledger: Ledger, place: Place, chunk: Chunk) -> None:
        session = self._sessions.find(place)
        try:
            if session:
                self._sessions.feed(session, place, chunk)
            elif ledger.is_done(place.offset):  # The rest of a session that has ended.
                self._metrics.message("chunk", "repeated")
                return
            elif len(ledger.open) >= MAX_OPEN:
                rejected = Rejected("too_many_sessions", f"{MAX_OPEN} sessions of a partition are open")
                self._begin_dead_letter(ledger, chunk.message, place, rejected)
                return
            else:
                self._open_session(ledger.begin(place.offset), place, chunk)
        except Rejected as error:
            assert session
            self._dead_letter(session.unit, chunk.message, place, error, "chunk")

    def _open_session(self, unit: Unit, place: Place, chunk: Chunk) -> None:
        try:
            self._sessions.open(place, unit, chunk)
        except Rejected as error:
            self._sessions.refuse(place, unit, chunk, error)
            self._dead_letter(unit, chunk.message, place, error, "chunk")

    def advance(self) -> None:
        """Write what is done by now."""
        for outcome in self._recordings.outcomes():
            self._write_outcome(outcome)
        ended = self._sessions.advance(self._write_event)
        for session, chunk, rejected in self._sessions.take_rejected():
            self._dead_letter(session.unit, chunk.message, locate(chunk.message), rejected, "chunk")
        for session in ended:
            self._end_session(session)

    def _write_outcome(self, outcome: Outcome) -> None:
        job, found = outcome.job, outcome.found
        if job.unit.dropped:
            return
        if isinstance(found, AudioError):
            reason = public_address(str(found))
            self._dead_letter(job.unit, job.message, job.place, Rejected("audio", reason), "recording", closes=True)
            return
        self._metrics.audio("recording", found.seconds)

        def count() -> None:
            self._metrics.message("recording", "result")
            if job.place.milliseconds:
                self._metrics.waited(time.time() - job.place.milliseconds / 1000)

        def give_up() -> None:
            rejected = Rejected("result_too_large", f"its result is too large for the topic {self._settings.results}")
            self._dead_letter(job.unit, job.message, job.place, rejected, "recording")
            self._settle(job.place, job.unit)

        job.unit.closed = True
        self._send(write_recording(self._settings.results, job.place, found), job.place, job.unit, count, give_up)

    def _write_event(self, session: Session, event: Event, segment: int) -> None:
        if not is_shown(event, self._settings.partials) or session.unit.dropped:
            return
        assert isinstance(event, Final | Partial)
        if segment < session.unit.num_repeated:  # The previous owner has written it.
            return
        record = write_event(self._settings.results, session.place, segment, event)
        self._send(record, session.place, session.unit, lambda: None, num_texts=int(isinstance(event, Final)))

    def _end_session(self, session: Session) -> None:
        session.unit.closed = True
        failure = str(session.failure) if session.failure else None
        record = write_end(self._settings.results, session.place, session.texts, session.reason, failure)
        self._send(record, session.place, session.unit, lambda: self._metrics.message("chunk", "result"))

    def _begin_dead_letter(self, ledger: Ledger, message: Any, place: Place, rejected: Rejected) -> None:
        if ledger.is_done(place.offset):
            self._metrics.message("unknown", "repeated")
        else:
            self._dead_letter(ledger.begin(place.offset), message, place, rejected, "unknown", closes=True)

    def _dead_letter(
        self,
        unit: Unit,
        message: Any,
        place: Place,
        rejected: Rejected,
        kind: Literal["recording", "chunk", "unknown"],
        *,
        closes: bool = False,
    ) -> None:
        """Write a message to the topic for those that can't be used; `closes` says that its unit is done with it."""
        name = f"{place.topic}/{place.partition}/{place.offset}"
        _LOGGER.warning(escape_controls(f"{name} can't be used: {rejected}", one_line=True))
        self._metrics.error(rejected.code)
        unit.closed = unit.closed or closes
        record = write_dead_letter(self._settings.dead_letters, message, place, rejected, DEAD_LETTER_BYTES)
        self._send(record, place, unit, lambda: self._metrics.message(kind, "dead_letter"))

    def _send(
        self,
        record: Record,
        place: Place,
        unit: Unit,
        count: Callable[[], object],
        give_up: Callable[[], object] | None = None,
        *,
        num_texts: int = 0,
    ) -> None:
        """Write a record of a unit with so many final texts, and call `count` once it is there to be read."""
        unit.unacknowledged += 1
        waits = [True]  # In a transaction a record is acknowledged first, and may turn out to be too large later.

        def acknowledge() -> None:
            unit.num_written += num_texts
            waits.clear()
            unit.unacknowledged -= 1
            self._settle(place, unit)

        def abandon() -> None:
            unit.unacknowledged -= len(waits)
            if give_up:
                give_up()
            else:
                _LOGGER.warning(f"a result of {place.topic}/{place.partition}/{place.offset} is too large: left out")
                self._settle(place, unit)

        self._output.send(Delivery(record, (place.topic, place.partition), acknowledge, abandon, count))

    def _settle(self, place: Place, unit: Unit) -> None:
        ledger = self._ledgers.get((place.topic, place.partition))
        if ledger:
            ledger.settle(unit)

    def offsets(self) -> Offsets:
        """The offsets to commit now, with their metadata."""
        found = [(partition, ledger.snapshot()) for partition, ledger in self._ledgers.items()]
        return [(partition, *snapshot) for partition, snapshot in found if snapshot is not None]

    def positions(self) -> dict[Partition, int | None]:
        """The next offset to read of each partition."""
        return {partition: ledger.position for partition, ledger in self._ledgers.items()}

    @property
    def held_bytes(self) -> int:
        """Bytes of messages and results that are held."""
        return self._recordings.num_bytes + self._sessions.num_bytes + self._output.num_bytes

    @property
    def fullness(self) -> float:
        """How much is held of what may be: from 1 on no more is to be read."""
        recordings = sum(len(ledger.open) for ledger in self._ledgers.values()) - len(self._sessions)
        return max(self.held_bytes / self._settings.buffer_bytes, recordings / _MAX_RECORDINGS)

    @property
    def has_sessions(self) -> bool:
        """Whether there are live sessions, whose results must not wait."""
        return len(self._sessions) > 0

    @property
    def has_results(self) -> bool:
        """Whether there are results that are not written yet."""
        return self._recordings.has_outcomes

    @property
    def num_computing(self) -> int:
        """Recordings that have begun and have no outcome."""
        return len(self._recordings.begun())

    @property
    def is_computing(self) -> bool:
        """Whether recordings have begun that are not written yet."""
        return self.num_computing > 0 or self._recordings.has_outcomes

    def computes(self, partitions: set[Partition]) -> bool:
        """Whether recordings of partitions have begun that have no result yet."""
        return self._recordings.has_outcomes or any(
            (job.place.topic, job.place.partition) in partitions for job in self._recordings.begun()
        )

    def drop_waiting(self, partitions: set[Partition] | None = None) -> None:
        """Forget the recordings that have not begun, of partitions or all: whoever owns them next does them."""
        self._recordings.drop_waiting(partitions)

    def end_idle(self, caught_up: set[Partition]) -> None:
        """End the live sessions that have been silent for too long."""
        self._sessions.end_idle(caught_up.__contains__)

    def report(self, paused: bool) -> None:
        """Renew the gauges."""
        units = sum(len(ledger.open) for ledger in self._ledgers.values())
        self._metrics.state(units=units, sessions=len(self._sessions), held_bytes=self.held_bytes, paused=paused)

    def stop(self) -> None:
        """End the threads; what has no result is left to others."""
        self._recordings.close()
        self._sessions.close()
