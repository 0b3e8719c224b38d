"""One recording of any length, block by block (stand-in until the real one is merged)."""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from finetune.data.audio import Recording, Waveform, read_waveform

Audio = str | Path | BinaryIO | np.ndarray | Recording


class AudioStream:
    def __init__(self, waveform: Waveform, sampling_rate: int) -> None:
        self._waveform, self.sampling_rate = waveform, sampling_rate
        self.channels, self.seconds = 1, len(waveform) / sampling_rate

    def blocks(self) -> Iterator[Waveform]:
        size = 10 * self.sampling_rate
        for first in range(0, len(self._waveform), size):
            yield self._waveform[None, first : first + size]

    def __enter__(self) -> "AudioStream":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


def open_stream(
    audio: Any, sampling_rate: int, *, separate_channels: bool = False, source_rate: int | None = None
) -> AudioStream:
    if isinstance(audio, np.ndarray):
        return AudioStream(audio, sampling_rate)
    recording = audio if isinstance(audio, Recording) else Recording(str(audio), None)
    return AudioStream(read_waveform(recording, sampling_rate), sampling_rate)
