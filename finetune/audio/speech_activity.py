"""Voice activity detection: the probability of speech every 20 ms, for audio streams of any length."""

import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from finetune.audio.resampling import FloatArray, Resampler
from finetune.errors import UserError

FRAME_SECONDS = 0.02
"""The duration of a detector's frame: frame n is the audio from n to n + 1 times this."""


class DetectorState(Protocol):
    """The state of a detector for one track."""

    def detect(self, samples: FloatArray) -> FloatArray:
        """Take the next samples, (samples,) float32; returns the speech probabilities of the frames that are final."""

    def finish(self) -> FloatArray:
        """The speech probabilities of the remaining frames; the last frame may be shorter than 20 ms."""


class SpeechDetector(Protocol):
    """A voice activity detector; it has no state, so one serves any number of tracks and threads."""

    def start(self) -> DetectorState:
        """Begin a track."""


def build_detector(name: Literal["energy", "silero"], sampling_rate: int, *, live: bool = False) -> SpeechDetector:
    """A detector for audio at `sampling_rate` Hz; a `live` one answers within 0.1 s, from the past alone.

    Raises UserError if a package that it needs is missing.
    """
    return EnergyDetector(sampling_rate, live=live) if name == "energy" else SileroDetector(sampling_rate)


# The energy detector. Power is measured in bands, 32 ms around each frame, and averaged over five frames.
_WINDOW_SECONDS = 0.032
_BANDS, _LOWEST_HERTZ, _HIGHEST_HERTZ = 8, 150, 6000
_SMOOTHED = 2
# A band's noise is its least power from 2 s before to 1 s after: each band is silent at times between syllables, also
# where speech doesn't pause (Martin 2001, "Noise power spectral density estimation based on optimal smoothing and
# minimum statistics").
_NOISE_PAST, _NOISE_AHEAD = 100, 50
# The threshold of speech in dB above the noise: 4.5 where the loudest frame from 10 s before to 1 s after is at 19, 11
# where it is at 30 or more, linear in between. It and the bands were chosen on noisy AN4 (scripts/bench_detection.py).
_LEAST_DECIBELS, _SHARE, _OFFSET, _LIMIT = 4.5, 0.6, 7.0, 30.0
_RECENT_PAST, _RECENT_AHEAD = 500, 50
# A live detector uses the past only. It assumes this noise power in each band before the stream begins (-66 dB of full
# scale in all): speech in the first seconds exceeds it, and so does louder noise.
_FIRST_NOISE = 3e-8
# Speech is at most 40 dB below the loudest frame, so that a room's noise between digital silences is not speech.
_RANGE_DECIBELS, _RANGE_SOFTNESS = 40.0, 2.0
# Added to each band's power, with full scale at 1: about the dither of 16 bits. It is the power of digital silence.
_LEAST_POWER = 1e-10


class EnergyDetector:
    """Detects speech by its energy in eight bands relative to the least energy of the seconds around.

    It needs only numpy and does not depend on the level. It misses closures of plosives and weak ends, so cut with a
    margin. It takes sounds that vary as speech does, like music or background voices, for speech. Its latency is 2.1 s,
    or 0.1 s if it is `live`.
    """

    def __init__(self, sampling_rate: int, *, live: bool = False) -> None:
        self.sampling_rate, self.live = sampling_rate, live
        self.frame, self.window = (round(seconds * sampling_rate) for seconds in (FRAME_SECONDS, _WINDOW_SECONDS))
        self.weights = np.hanning(self.window).astype(np.float32)
        highest = min(_HIGHEST_HERTZ, 0.45 * sampling_rate)
        edges = np.geomspace(_LOWEST_HERTZ, highest, _BANDS + 1) * self.window / sampling_rate
        self.edges = np.ceil(edges).astype(int)

    def start(self) -> "_EnergyState":
        """Begin a track."""
        return _EnergyState(self)

    def measure_power(self, samples: FloatArray, frames: int) -> FloatArray:
        """The power in each band, (frames, bands), of windows with a hop of one frame."""
        windows = np.lib.stride_tricks.sliding_window_view(samples, self.window)[:: self.frame][:frames]
        spectrum = np.abs(np.fft.rfft(windows * self.weights)) ** 2
        # A full-scale sine has a power of 1/2 in its band.
        power = np.add.reduceat(spectrum, self.edges, axis=1)[:, :_BANDS] / (self.weights.sum() ** 2 / 2)
        return (power + _LEAST_POWER).astype(np.float32)


class _EnergyState:
    """The state of the energy detector for one track."""

    def __init__(self, detector: EnergyDetector) -> None:
        self._detector = detector
        self._held = np.zeros(0, np.float32)
        self._power: FloatArray | None = None  # Of the last frame, (1, bands).
        self._samples = self._frames = 0
        self._smoothed = _Surroundings(_SMOOTHED, _SMOOTHED, _mean)
        live = detector.live
        quiet = np.full((1, _BANDS), _FIRST_NOISE, np.float32) if live else None
        self._noise = _Surroundings(_NOISE_PAST, 0 if live else _NOISE_AHEAD, partial(_slide, np.minimum), quiet)
        self._recent = _Surroundings(_RECENT_PAST, 0 if live else _RECENT_AHEAD, partial(_slide, np.maximum))

    def detect(self, samples: FloatArray) -> FloatArray:
        """The frames known by now; see `DetectorState`."""
        self._samples += len(samples)
        samples = np.concatenate([self._held, samples])
        frame, window = self._detector.frame, self._detector.window
        frames = max(0, (len(samples) - window) // frame + 1)
        self._held = samples[frames * frame :].copy()
        if not frames:
            return np.zeros(0, np.float32)
        power = self._detector.measure_power(samples, frames)
        self._frames, self._power = self._frames + frames, power[-1:]
        return self._judge(power)

    def finish(self) -> FloatArray:
        """The frames that are left; see `DetectorState`."""
        if self._samples == 0:
            return np.zeros(0, np.float32)
        # The rest is shorter than a window. Padding with zeros would lower the noise estimate.
        left = -(-self._samples // self._detector.frame) - self._frames
        power = self._power
        if power is None:
            padded = np.pad(self._held, (0, self._detector.window - len(self._held)))
            power = self._detector.measure_power(padded, 1)
        return self._judge(np.repeat(power, left, axis=0), last=True)

    def _judge(self, power: FloatArray, last: bool = False) -> FloatArray:
        """The speech probabilities, (frames,), of the frames that become final with these powers, (frames, bands)."""
        power, noise = self._noise.push(self._smoothed.push(power, last)[1], last)
        excess = np.clip(10 * np.log10(power / noise), 0, _LIMIT)
        measured = np.stack([np.sqrt((excess**2).mean(axis=1)), 10 * np.log10(power.sum(axis=1))], axis=1)
        measured, recent = self._recent.push(measured, last)
        threshold = np.maximum(_SHARE * recent[:, 0] - _OFFSET, _LEAST_DECIBELS)
        sure = _squash(measured[:, 0] - threshold)
        return sure * _squash((measured[:, 1] - recent[:, 1] + _RANGE_DECIBELS) / _RANGE_SOFTNESS)


class _Surroundings:
    """A function of each frame of a stream and the `past` frames before and `ahead` frames after it.

    At the stream's ends the first and the last frame are repeated, or at its beginning `before`, (1, features).
    """

    def __init__(
        self, past: int, ahead: int, reduce: Callable[[FloatArray, int], FloatArray], before: FloatArray | None = None
    ) -> None:
        self._past, self._ahead, self._reduce = past, ahead, reduce
        self._held = None if before is None else np.repeat(before, past, axis=0)

    def push(self, frames: FloatArray, last: bool = False) -> tuple[FloatArray, FloatArray]:
        """Take the next (frames, features); return the frames whose surroundings are complete, and their values."""
        if self._held is None:
            if len(frames) == 0:
                return frames, frames
            self._held = np.repeat(frames[:1], self._past, axis=0)
        held = np.concatenate([self._held, frames])
        if last:
            held = np.concatenate([held, np.repeat(held[-1:], self._ahead, axis=0)])
        size = self._past + 1 + self._ahead
        ready = max(0, len(held) - size + 1)
        self._held = held[ready:]
        if not ready:
            return held[:0], held[:0]
        return held[self._past : self._past + ready], self._reduce(held, size)


def _mean(frames: FloatArray, size: int) -> FloatArray:
    """The mean of each `size` consecutive frames."""
    return np.lib.stride_tricks.sliding_window_view(frames, size, axis=0).mean(axis=-1)


def _slide(choose: np.ufunc, frames: FloatArray, size: int) -> FloatArray:
    """The minimum or maximum of each `size` consecutive frames: of spans that double, then of two spans."""
    chosen, span = frames, 1
    while 2 * span <= size:
        chosen = choose(chosen[:-span], chosen[span:])
        span *= 2
    count = len(frames) - size + 1
    return choose(chosen[:count], chosen[size - span : size - span + count])


def _squash(values: FloatArray) -> FloatArray:
    # The logistic function, by the hyperbolic tangent, which doesn't overflow.
    return np.asarray(0.5 + 0.5 * np.tanh(values / 2), np.float32)


# The variant that takes many windows at once: 32 ms each, with 4 ms of context before.
_SILERO_MODEL = "silero_vad_16k_sequence.onnx"
_SILERO_RATE, _SILERO_FRAME, _SILERO_WINDOW, _SILERO_CONTEXT, _SILERO_STATE = 16000, 320, 512, 64, (1, 1, 128)


class SileroDetector:
    """Detects speech by a small network (https://github.com/snakers4/silero-vad), with ONNX Runtime on one CPU thread.

    Raises UserError where silero-vad or onnxruntime is not installed. Only silero-vad's model file is used.
    """

    def __init__(self, sampling_rate: int) -> None:
        self.sampling_rate = sampling_rate
        package = importlib.util.find_spec("silero_vad")
        places = package.submodule_search_locations if package else None
        model = Path(places[0]) / "data" / _SILERO_MODEL if places else None
        if model is None or not model.is_file() or importlib.util.find_spec("onnxruntime") is None:
            raise UserError(
                "The Silero detector needs silero-vad (6.2.3 or later) and onnxruntime: "
                "pip install 'finetune[silero]'. The energy detector needs nothing."
            )
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.inter_op_num_threads = options.intra_op_num_threads = 1
        self.session: Any = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])

    def start(self) -> "_SileroState":
        """Begin a track."""
        return _SileroState(self)


class _SileroState:
    """The state of Silero's network for one track."""

    def __init__(self, detector: SileroDetector) -> None:
        self._session = detector.session
        self._resampler = Resampler(detector.sampling_rate, _SILERO_RATE)
        self._rate, self._samples = detector.sampling_rate, 0
        self._held = np.zeros(_SILERO_CONTEXT, np.float32)  # The context, and samples that don't fill a window yet.
        self._hidden = self._cell = np.zeros(_SILERO_STATE, np.float32)
        self._sure = np.zeros(0, np.float32)  # Of the windows whose frames are not all returned.
        self._windows = self._frames = 0  # Windows before those, and returned frames.

    def detect(self, samples: FloatArray) -> FloatArray:
        """The frames known by now; see `DetectorState`."""
        self._samples += len(samples)
        self._run(self._resampler.push(samples))
        return self._give((self._windows + len(self._sure)) * _SILERO_WINDOW // _SILERO_FRAME)

    def finish(self) -> FloatArray:
        """The frames that are left; see `DetectorState`."""
        if self._samples == 0:
            return np.zeros(0, np.float32)
        rest = self._resampler.push(np.zeros(0, np.float32), last=True)
        missing = -(len(self._held) - _SILERO_CONTEXT + len(rest)) % _SILERO_WINDOW
        self._run(np.pad(rest, (0, missing)))
        return self._give(-(-self._samples // round(FRAME_SECONDS * self._rate)))

    def _run(self, samples: FloatArray) -> None:
        held = np.concatenate([self._held, samples])
        windows = (len(held) - _SILERO_CONTEXT) // _SILERO_WINDOW
        self._held = held[windows * _SILERO_WINDOW :]
        if windows:
            size = _SILERO_WINDOW + _SILERO_CONTEXT
            taken = np.lib.stride_tricks.sliding_window_view(held, size)[::_SILERO_WINDOW][:windows]
            feed = {"input": np.ascontiguousarray(taken), "h": self._hidden, "c": self._cell}
            sure, self._hidden, self._cell = self._session.run(["speech_probs", "hn", "cn"], feed)
            self._sure = np.concatenate([self._sure, sure])

    def _give(self, until: int) -> FloatArray:
        """The frames before `until` that are not returned yet, each with the value of the window at its middle."""
        windows = (np.arange(self._frames, until + 1) * _SILERO_FRAME + _SILERO_FRAME // 2) // _SILERO_WINDOW
        windows -= self._windows
        given = self._sure[np.minimum(windows[:-1], len(self._sure) - 1)]
        # The last window is kept for a last frame whose middle is after it.
        gone = min(int(windows[-1]), max(len(self._sure) - 1, 0))
        self._sure = self._sure[gone:]
        self._windows, self._frames = self._windows + gone, until
        return given
