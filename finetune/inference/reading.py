"""Reading recordings and cutting them into windows, in a thread of its own, while the model computes."""

import logging
import math
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

# How often a waiting thread checks whether it should end, and how long its end is waited for: it may be blocked by a
# pipe without data.
_LOOK_SECONDS, _END_SECONDS = 0.1, 1.0

_LOGGER = logging.getLogger(__name__)


@dataclass
class RecordingState:
    """The state of a recording while it is read: its key, its tracks, and at its end its length or its error."""

    key: Any
    tracks: int = 1
    seconds: float = 0.0
    error: AudioError | None = None


@dataclass(frozen=True)
class Item:
    """A window of one track of a recording, or None at its end; `seconds` is how far the recording is read then."""

    recording: RecordingState
    seconds: float
    track: int = 0
    window: Window | None = None


class Reader:
    """Reads recordings one after another, cuts them into windows and applies the preprocessing of the model."""

    def __init__(
        self,
        detector: SpeechDetector,
        preprocess: Callable[[Waveform], tuple[Waveform, int]],
        sampling_rate: int,
        stride: int,
        lengths: Lengths,
        min_seconds: float,
    ) -> None:
        """`preprocess` also returns how many samples it removes from the beginning.

        Audio shorter than `min_seconds` can't be used. `stride` is the number of samples from one frame of the encoder
        to the next.
        """
        self._detector, self._preprocess = detector, preprocess
        self._rate, self._stride, self._lengths = sampling_rate, stride, lengths
        self._min_seconds = min_seconds

    def read(
        self,
        recordings: Iterable[tuple[Any, Audio]],
        separate_channels: bool,
        source_rate: int | None,
        on_block: Callable[[float], object] = lambda _: None,
    ) -> Iterator[Item]:
        """The items of all recordings, in order; the last item of each recording has no window.

        `on_block` is called with the seconds of a recording that were decoded, about every ten seconds; what it raises
        ends the recording.
        """
        for key, audio in recordings:
            recording = RecordingState(key)
            try:
                with fault_as_reason():
                    yield from self._read_one(recording, audio, separate_channels, source_rate, on_block)
            except AudioError as error:
                recording.error = error
            yield Item(recording, recording.seconds)

    def _read_one(
        self,
        recording: RecordingState,
        audio: Audio,
        separate_channels: bool,
        source_rate: int | None,
        on_block: Callable[[float], object],
    ) -> Iterator[Item]:
        with open_stream(audio, self._rate, separate_channels=separate_channels, source_rate=source_rate) as stream:
            recording.tracks = stream.channels if separate_channels else 1
            cutters = [
                WindowCutter(self._detector, self._rate, self._stride, self._lengths) for _ in range(recording.tracks)
            ]
            for block in stream.blocks():
                on_block((cutters[0].num_samples + block.shape[1]) / self._rate)
                for track, (cutter, samples) in enumerate(zip(cutters, block, strict=True)):
                    yield from self._prepare(recording, track, cutter.cut(samples))
            if stream.cancelled:
                _LOGGER.warning("%s: %s", _name(audio), CANCELLED)
            seconds = cutters[0].num_samples / self._rate
            # Resampling rounds up to whole samples, but no word may end after the audio.
            if stream.seconds is not None and 0 < seconds - stream.seconds < 1 / self._rate:
                seconds = stream.seconds
        if seconds < self._min_seconds:
            found = math.floor(seconds * 1000) / 1000  # Rounded it could be what is expected.
            raise AudioError(f"too short: {found:.3f} s; expected {self._min_seconds} s or more")
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
    """The name of a recording for messages."""
    place = audio.path if isinstance(audio, Recording) else audio if isinstance(audio, str | Path) else None
    return str(place or "the audio")


@contextmanager
def read_ahead(items: Iterable[Item], num_samples: int) -> Iterator[Iterator[list[Item]]]:
    """Read items ahead in a thread, in lists whose windows have `num_samples` samples; at most one list waits.

    Exceptions of the thread are raised to the consumer of the lists. The thread ends with the context.
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
        except BaseException as error:  # The consumer raises it.
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
