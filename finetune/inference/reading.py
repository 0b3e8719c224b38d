"""Recordings to the windows that are computed, in a thread of its own: reading overlaps computing."""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Full, Queue
from typing import Any

from finetune.audio.speech_activity import SpeechDetector
from finetune.audio.stream import Audio, open_stream
from finetune.audio.waveforms import CANCELLED, AudioError, Recording, Waveform, fault_as_reason
from finetune.inference.windows import Lengths, Window, WindowCutter

# How often a thread that waits looks whether it is still wanted, and how long it may take to end: it may wait for a
# pipe that nothing comes through.
_LOOK_SECONDS, _END_SECONDS = 0.1, 1.0

_LOGGER = logging.getLogger(__name__)


@dataclass
class RecordingState:
    """A recording on its way, under its key: its tracks, and at its end its length or why it can't be used."""

    key: Any
    tracks: int = 1
    seconds: float = 0.0
    error: AudioError | None = None


@dataclass(frozen=True)
class Item:
    """A window of one track of a recording, or None at its end; `seconds` of the recording are done after it."""

    recording: RecordingState
    seconds: float
    track: int = 0
    window: Window | None = None


class Reader:
    """Reads recordings one after another and cuts them into windows, on which it does a model's preprocessing."""

    def __init__(
        self,
        detector: SpeechDetector,
        preprocess: Callable[[Waveform], tuple[Waveform, int]],
        sampling_rate: int,
        stride: int,
        lengths: Lengths,
        min_seconds: float,
    ) -> None:
        """`preprocess` also says how many samples it cuts off before; what is shorter than `min_seconds` can't be used.

        `stride` is the number of samples from one of the encoder's frames to the next.
        """
        self._detector, self._preprocess = detector, preprocess
        self._rate, self._stride, self._lengths = sampling_rate, stride, lengths
        self._min_seconds = min_seconds

    def read(
        self, recordings: Iterable[tuple[Any, Audio]], separate_channels: bool, source_rate: int | None
    ) -> Iterator[Item]:
        """All recordings' items in order; each recording's last has no window."""
        for key, audio in recordings:
            recording = RecordingState(key)
            try:
                with fault_as_reason():
                    yield from self._read_one(recording, audio, separate_channels, source_rate)
            except AudioError as error:
                recording.error = error
            yield Item(recording, recording.seconds)

    def _read_one(
        self, recording: RecordingState, audio: Audio, separate_channels: bool, source_rate: int | None
    ) -> Iterator[Item]:
        with open_stream(audio, self._rate, separate_channels=separate_channels, source_rate=source_rate) as stream:
            recording.tracks = stream.channels if separate_channels else 1
            cutters = [
                WindowCutter(self._detector, self._rate, self._stride, self._lengths) for _ in range(recording.tracks)
            ]
            for block in stream.blocks():
                for track, (cutter, samples) in enumerate(zip(cutters, block, strict=True)):
                    yield from self._prepare(recording, track, cutter.cut(samples))
            if stream.cancelled:
                _LOGGER.warning("%s: %s", _name(audio), CANCELLED)
            seconds = cutters[0].num_samples / self._rate
            # Resampling rounds up to whole samples: no word may end behind the audio.
            if stream.seconds is not None and 0 < seconds - stream.seconds < 1 / self._rate:
                seconds = stream.seconds
        if seconds < self._min_seconds:
            raise AudioError(f"too short: {seconds:.3f} s; expected {self._min_seconds} s or more")
        for track, cutter in enumerate(cutters):
            yield from self._prepare(recording, track, cutter.finish())
        recording.seconds = seconds

    def _prepare(self, recording: RecordingState, track: int, windows: Iterable[Window]) -> Iterator[Item]:
        for window in windows:
            seconds = window.first_frame * self._stride / self._rate + len(window.waveform) / self._rate
            waveform, gone = self._preprocess(window.waveform)
            if len(waveform) >= self._min_seconds * self._rate:
                first_frame = window.first_frame + round(gone / self._stride)
                yield Item(recording, seconds, track, replace(window, first_frame=first_frame, waveform=waveform))


def _name(audio: Audio) -> str:
    """What a person finds a recording by."""
    place = audio.path if isinstance(audio, Recording) else audio if isinstance(audio, str | Path) else None
    return str(place or "the audio")


@contextmanager
def read_ahead(items: Iterable[Item], num_samples: int) -> Iterator[Iterator[list[Item]]]:
    """The same items in lists with so many samples in windows, of which a thread has one ready and one in the making.

    What the iteration raises is raised where the lists are taken. The thread ends with the context.
    """
    ready: Queue[list[Item] | BaseException | None] = Queue(maxsize=1)
    left = threading.Event()

    def put(value: list[Item] | BaseException | None) -> None:
        while not left.is_set():
            with suppress(Full):
                ready.put(value, timeout=_LOOK_SECONDS)
                break

    def run() -> None:
        together: list[Item] = []
        gathered = 0
        try:
            for item in items:
                if left.is_set():
                    return
                together.append(item)
                gathered += len(item.window.waveform) if item.window else 0
                if gathered >= num_samples:
                    put(together)
                    together, gathered = [], 0
            if together:
                put(together)
            put(None)
        except BaseException as error:  # Whatever it is, it is for the other thread.
            put(error)

    def take() -> Iterator[list[Item]]:
        while (value := ready.get()) is not None:
            if isinstance(value, BaseException):
                raise value
            yield value

    thread = threading.Thread(target=run, name="reading", daemon=True)
    thread.start()
    try:
        yield take()
    finally:
        left.set()
        thread.join(_END_SECONDS)
