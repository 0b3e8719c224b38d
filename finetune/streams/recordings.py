"""The thread that transcribes recordings: several at a time where they wait, and none that nobody needs any more."""

from __future__ import annotations

import io
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from finetune.audio.stream import Audio
from finetune.audio.waveforms import AudioError
from finetune.inference.transcriber import Transcriber
from finetune.inference.transcript import Transcript
from finetune.streams.ledger import Unit
from finetune.streams.messages import Place, Recording

_LOGGER = logging.getLogger(__name__)
# So many recordings are read ahead and share batches; the first is acknowledged when it is done.
_TOGETHER = 32
_WAIT_SECONDS = 0.1
# What a held message costs beside its bytes.
_MESSAGE_BYTES = 1000


@dataclass(frozen=True, eq=False)
class Job:
    """A recording to transcribe, and the message that it came with."""

    place: Place
    unit: Unit
    recording: Recording
    message: Any

    @property
    def num_bytes(self) -> int:
        """Bytes that are held for it."""
        return self.recording.num_bytes + _MESSAGE_BYTES


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of a job."""

    job: Job
    found: Transcript | AudioError


class _Dropped(Exception):
    """The recording that is computed is not needed any more."""


class RecordingThread:
    """Transcribes jobs in their order; `submit`, `outcomes`, `drop` and `close` are for one other thread."""

    def __init__(self, transcriber: Transcriber, give_way: Callable[[], object] = lambda: None) -> None:
        """`give_way` is called between windows, and may wait while live sessions are computed."""
        self._transcriber, self._give_way = transcriber, give_way
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._begun: list[Job] = []
        self._done: SimpleQueue[Outcome] = SimpleQueue()
        self._stopped = False
        self.failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="recordings", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Add a job."""
        with self._changed:
            self._waiting.append(job)
            self._changed.notify()

    def outcomes(self) -> Iterator[Outcome]:
        """What is done by now; raises what a bug of ours has ended the thread with."""
        with suppress(Empty):
            while True:
                yield self._done.get_nowait()
        if self.failure:
            raise self.failure

    @property
    def num_bytes(self) -> int:
        """Bytes that are held, also for recordings that nobody needs and that are still in the model's hands."""
        with self._changed:
            return sum(job.num_bytes for job in (*self._waiting, *self._begun))

    @property
    def has_outcomes(self) -> bool:
        """Whether `outcomes` has something."""
        return not self._done.empty() or self.failure is not None

    def drop_waiting(self, partitions: Iterable[tuple[str, int]] | None = None) -> None:
        """Forget the jobs of some partitions, or all, that have not begun."""
        chosen = None if partitions is None else set(partitions)
        with self._changed:
            for job in list(self._waiting):
                if chosen is None or (job.place.topic, job.place.partition) in chosen:
                    job.unit.dropped = True
                    self._waiting.remove(job)

    def begun(self) -> list[Job]:
        """The jobs that are computed now, or read ahead."""
        with self._changed:
            return [job for job in self._begun if not job.unit.dropped]

    def close(self) -> None:
        """End the thread after the window that it computes."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join(10.0)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self._begun or self._stopped):
                    self._changed.wait(_WAIT_SECONDS)
                if self._stopped:
                    return
                while self._waiting and len(self._begun) < _TOGETHER:
                    self._begun.append(self._waiting.popleft())
            try:
                self._transcribe(self.begun())
            except _Dropped:  # The others are begun again.
                continue
            except Exception as error:
                _LOGGER.debug("the thread of recordings has failed", exc_info=True)
                self.failure = error
                return

    def _transcribe(self, jobs: Sequence[Job]) -> None:
        with self._changed:  # Those that were dropped meanwhile.
            self._begun = list(jobs)
        recordings: list[tuple[Job, Audio]] = [(job, _open(job.recording)) for job in jobs]
        for job, found in self._transcriber.transcribe_many(recordings, on_progress=self._check):
            with self._changed:
                self._begun.remove(job)
            self._done.put(Outcome(job, found))

    def _check(self, _: float) -> None:
        """Called after each window, of which the first recording that is not done may be the reason."""
        self._give_way()
        if self._stopped or (self._begun and self._begun[0].unit.dropped):
            raise _Dropped


def _open(recording: Recording) -> Audio:
    return recording.audio if isinstance(recording.audio, str) else io.BytesIO(recording.audio)
