"""Computes the recordings of many requests together, window by window: fair between keys, short recordings first."""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from finetune.audio.waveforms import AudioError, Waveform, fault_as_reason
from finetune.inference.recogniser import Recogniser
from finetune.inference.stepwise import StepwiseTranscription
from finetune.inference.transcript import Transcript, Word

_LOGGER = logging.getLogger(__name__)

# Threads of recordings give way to those of live sessions by this much (the unit of `nice`).
_NICENESS = 10
# On a GPU the windows of so many recordings share a batch.
_GPU_RECORDINGS = 16
_WAIT_SECONDS = 0.1
# Live sessions go first, but a recording is not held back for longer, and is looked after so often.
_MAX_HELD_SECONDS, _LOOK_SECONDS = 1.0, 0.01
_MAX_RETRY_SECONDS = 120


class Busy(Exception):
    """The queue is full; after `retry_seconds` there should be room."""

    def __init__(self, retry_seconds: int) -> None:
        super().__init__(f"The service is busy: try again in {retry_seconds} s.")
        self.retry_seconds = retry_seconds


class Cancelled(Exception):
    """The client has gone."""


@dataclass(eq=False)
class Job:
    """A recording in the engine; `key` is whose it is.

    `on_words` gets the words that are final, in the engine's threads; `done` has the transcript or the error in the
    end: AudioError for a recording that can't be transcribed, Cancelled when its client has `gone`.
    """

    key: str
    recogniser: Recogniser
    transcription: StepwiseTranscription
    max_samples: int  # of a step
    on_words: Callable[[Sequence[Word]], object] = lambda _: None
    done: Future[Transcript] = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)
    gone: threading.Event = field(default_factory=threading.Event)  # Set it to drop the work that is not done yet.
    windows: list[Waveform] = field(default_factory=list)  # that are read and not computed
    started: float | None = None
    computed_seconds: float = 0.0  # of audio
    start: float = 0.0  # the engine's virtual time when it came


@dataclass(frozen=True)
class Step:
    """What an engine did at once: seconds of audio, and the seconds that their computation took."""

    audio_seconds: float
    seconds: float


class FileEngine:
    """Threads that compute the windows of jobs; on a CPU one window at a time in each thread, on a GPU in batches.

    The next window is of the key with the least work so far, and of its recordings the one with the least: a short
    recording does not wait for a long one, and many recordings of one key do not delay another's (least attained
    service, Kleinrock 1976, within fair queueing by key). New ones do not keep it waiting for ever: it is before them
    as long as it has had less than half of its fair share (as in start-time fair queueing, Goyal 1996). So
    that live sessions go first, the threads have a lower priority than others of the process (on Linux), and no
    computation begins while `must_wait` says that they wait.
    """

    def __init__(
        self,
        num_threads: int,
        max_jobs: int,
        *,
        on_step: Callable[[Step], object] = lambda _: None,
        on_start: Callable[[float], object] = lambda _: None,
        must_wait: Callable[[], bool] = lambda: False,
    ) -> None:
        """`on_start` is called with the seconds that a job waited, `on_step` after each computation.

        While `must_wait()` is true no computation begins, but each thread begins one every second.
        """
        self._max_jobs, self._on_step, self._on_start = max_jobs, on_step, on_start
        self._must_wait = must_wait
        self._changed = threading.Condition()
        self._waiting: list[Job] = []
        self._open: set[Job] = set()
        self._work: dict[str, float] = {}  # of each key with jobs, relative to the others
        self._share = 0.0  # seconds of audio that each recording would have had with half of its fair share
        self._pace = _Pace()
        self._stopped = False
        self._threads = [
            threading.Thread(target=self._run, name=f"files-{number}", daemon=True) for number in range(num_threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def num_jobs(self) -> int:
        """Recordings that are waiting or computed."""
        return len(self._open)

    def submit(self, job: Job) -> None:
        """Add a job; raises Busy if there are `max_jobs`."""
        with self._changed:
            if len(self._open) >= self._max_jobs:
                raise Busy(self._pace.next_seconds())
            if job.key not in self._work:  # A key that comes back does not make up for the time it was away.
                self._work[job.key] = min(self._work.values(), default=0.0)
            job.done.set_running_or_notify_cancel()  # From here on only the engine ends it.
            self._open.add(job)
            job.start = self._share
            self._waiting.append(job)
            self._changed.notify()

    def close(self, grace_seconds: float) -> None:
        """Finish the jobs for at most so long, and drop the rest."""
        deadline = time.monotonic() + grace_seconds
        with self._changed:
            self._changed.wait_for(lambda: not self._open, max(0.0, deadline - time.monotonic()))
            for job in self._open:
                job.gone.set()
            self._changed.wait_for(lambda: not self._open, 1.0)
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(1.0)

    def _run(self) -> None:
        _set_up_thread()
        while True:
            with self._changed:
                while not self._waiting and not self._stopped:
                    self._changed.wait(_WAIT_SECONDS)
                if self._stopped:
                    return
            latest = time.monotonic() + _MAX_HELD_SECONDS
            while self._must_wait() and time.monotonic() < latest:
                time.sleep(_LOOK_SECONDS)
            with self._changed:
                if not self._waiting:  # Another thread was faster.
                    continue
                jobs = self._choose()
            try:
                self._step(jobs)
            except Exception as error:  # A bug of ours ends these jobs, not the thread.
                _LOGGER.exception("a computation failed by a bug")
                for job in jobs:
                    self._end(job, error)

    def _choose(self) -> list[Job]:
        """Take the jobs of the next step out of those that wait: one, or on a GPU several of the same model."""
        order = sorted(
            self._waiting,
            # Who has gone gives its place free first, which takes no time.
            key=lambda job: (not job.gone.is_set(), self._work[job.key], job.computed_seconds + job.start, job.arrived),
        )
        first = order[0].recogniser
        most = 1 if first.device.type == "cpu" else _GPU_RECORDINGS
        chosen = [job for job in order if job.recogniser is first][:most]
        for job in chosen:
            self._waiting.remove(job)
        return chosen

    def _step(self, jobs: Sequence[Job]) -> None:
        """Compute the next windows of each job, and put those that go on back."""
        began, audio_seconds = time.monotonic(), 0.0
        read = [job for job in jobs if (job.windows and not job.gone.is_set()) or self._read(job)]
        computed = self._compute(read)
        for job in computed:
            seconds = sum(map(len, job.windows)) / job.recogniser.sampling_rate
            job.computed_seconds += seconds
            audio_seconds += seconds
            with self._changed:
                self._work[job.key] += seconds
                self._share += seconds / (2 * len(self._open))
        if audio_seconds:
            self._on_step(Step(audio_seconds, time.monotonic() - began))
        for job, rows in computed.items():
            self._decode(job, rows)

    def _read(self, job: Job) -> bool:
        """Read the next windows of a job; returns whether there are any: otherwise it has ended."""
        if job.started is None:
            job.started = time.monotonic()
            self._on_start(job.started - job.arrived)
        try:
            if job.gone.is_set():
                raise Cancelled
            job.windows = job.transcription.next_windows(job.max_samples)
            if job.windows:
                return True
            words, transcript = job.transcription.finish()
            if words:
                job.on_words(words)
        except Exception as error:
            self._end(job, error)
        else:
            self._end(job, transcript)
        return False

    def _compute(self, jobs: Sequence[Job]) -> dict[Job, list[NDArray[np.float32]]]:
        """The logits of the windows of each job, computed together, or each job's alone if that fails."""
        if not jobs:
            return {}
        try:
            with fault_as_reason():
                logits, num_frames = jobs[0].recogniser.logits([window for job in jobs for window in job.windows])
        except AudioError as error:
            if len(jobs) > 1:
                return {job: rows for one in jobs for job, rows in self._compute([one]).items()}
            self._end(jobs[0], error)
            return {}
        rows = iter([row[:frames].numpy() for row, frames in zip(logits, num_frames, strict=True)])
        return {job: [next(rows) for _ in job.windows] for job in jobs}

    def _decode(self, job: Job, rows: Sequence[NDArray[np.float32]]) -> None:
        """Decode logits, and read on: a recording without further windows ends now, and waits for no other."""
        try:
            words = job.transcription.take(rows)
            if words:
                job.on_words(words)
        except Exception as error:
            self._end(job, error)
            return
        if self._read(job):
            with self._changed:
                self._waiting.append(job)
                self._changed.notify()

    def _end(self, job: Job, result: Transcript | Exception) -> None:
        with suppress(Exception):
            job.transcription.close()
        with self._changed:
            if job not in self._open:
                return
            self._open.remove(job)
            if not any(other.key == job.key for other in self._open):
                del self._work[job.key]
            self._pace.count()
            self._changed.notify_all()
        if isinstance(result, Transcript):
            job.done.set_result(result)
        else:
            job.done.set_exception(result)


class _Pace:
    """How often a job ends: an exponential average of the intervals, and the time since the last one."""

    def __init__(self) -> None:
        self._interval, self._last = 0.0, time.monotonic()

    def count(self) -> None:
        now = time.monotonic()
        self._interval = 0.8 * self._interval + 0.2 * (now - self._last) if self._interval else now - self._last
        self._last = now

    def next_seconds(self) -> int:
        """When the next job should end: 1 to 120 s."""
        waited = time.monotonic() - self._last
        return min(max(1, math.ceil(max(self._interval, waited))), _MAX_RETRY_SECONDS)


def _set_up_thread() -> None:
    """One thread of torch for this thread, and on Linux a lower priority."""
    import torch

    torch.set_num_threads(1)
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
