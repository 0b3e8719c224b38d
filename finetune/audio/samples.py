"""Decode raw audio of a stream: PCM, mu-law and A-law."""

from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from finetune.audio.containers import scale
from finetune.audio.recordings import AudioError, Waveform

Encoding = Literal["s16le", "f32le", "mulaw", "alaw"]
ENCODINGS = get_args(Encoding)

_MAX_CHANNELS = 256
_BYTES = {"s16le": 2, "f32le": 4, "mulaw": 1, "alaw": 1}


class SampleReader:
    """Converts bytes or arrays of any size to samples, (samples, channels) float32; an incomplete sample is kept."""

    def __init__(self, encoding: Encoding = "s16le", channels: int = 1, channel: int | None = None) -> None:
        """`channel`, from 1, is the only one that is returned. Raises AudioError for invalid values."""
        if encoding not in ENCODINGS or not 1 <= channels <= _MAX_CHANNELS:
            raise AudioError(
                f"{channels} channels of {encoding}; expected 1 to {_MAX_CHANNELS} of {', '.join(ENCODINGS)}"
            )
        if channel is not None and not 1 <= channel <= channels:
            raise AudioError(f"channel {channel} of {channels}: expected one from 1 to the number of channels")
        self._encoding, self._channels, self._channel = encoding, channels, channel
        self._rest = b""

    @property
    def unread_bytes(self) -> int:
        """The number of bytes of an incomplete sample."""
        return len(self._rest)

    def read(self, audio: bytes | bytearray | memoryview | npt.NDArray[Any]) -> Waveform:
        """The samples of the next bytes, or of the next array: (samples,) or (samples, channels), floats or integers.

        Raises AudioError for an array of another shape or type, and TypeError for anything else.
        """
        if not isinstance(audio, bytes | bytearray | memoryview | np.ndarray):
            raise TypeError(f"a {type(audio).__name__} is not audio; expected bytes or a numpy array")
        samples = self._check(audio) if isinstance(audio, np.ndarray) else self._decode(bytes(audio))
        chosen = samples if self._channel is None else samples[:, self._channel - 1 : self._channel]
        return np.ascontiguousarray(chosen, np.float32)

    def _check(self, array: npt.NDArray[Any]) -> Waveform:
        samples = array[:, None] if array.ndim == 1 else array
        if samples.ndim != 2 or samples.shape[1] != self._channels or array.dtype.kind not in "fiu":
            raise AudioError(
                f"an array of {array.dtype}, shape {array.shape}; expected numbers, (samples, {self._channels})"
            )
        return scale(samples)

    def _decode(self, received: bytes) -> Waveform:
        size = _BYTES[self._encoding] * self._channels
        held = self._rest + received
        whole = len(held) // size * size
        self._rest = held[whole:]
        stored = held[:whole]
        samples: Waveform
        if self._encoding == "s16le":
            samples = np.frombuffer(stored, "<i2").astype(np.float32) / np.float32(2**15)
        elif self._encoding == "f32le":
            samples = np.frombuffer(stored, "<f4").astype(np.float32)
        else:
            samples = _TABLES[self._encoding][np.frombuffer(stored, np.uint8)]
        return samples.reshape(-1, self._channels)


def _build_mulaw() -> Waveform:
    """Samples of the 256 codes of ITU-T G.711 mu-law, where full scale is 1."""
    codes = ~np.arange(256, dtype=np.uint8)
    exponent, mantissa = (codes >> 4) & 7, (codes & 15).astype(np.int32)
    magnitude = ((mantissa * 8 + 132) << exponent) - 132
    return (np.where(codes & 128, -magnitude, magnitude) / 2**15).astype(np.float32)


def _build_alaw() -> Waveform:
    """Samples of the 256 codes of ITU-T G.711 A-law, where full scale is 1."""
    codes = np.arange(256, dtype=np.uint8) ^ 0x55
    exponent, mantissa = (codes >> 4) & 7, (codes & 15).astype(np.int32) * 16
    magnitude = np.where(exponent == 0, mantissa + 8, (mantissa + 264) << np.maximum(exponent.astype(np.int32) - 1, 0))
    return (np.where(codes & 128, magnitude, -magnitude) / 2**15).astype(np.float32)


_TABLES = {"mulaw": _build_mulaw(), "alaw": _build_alaw()}
