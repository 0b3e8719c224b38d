"""Recordings of any length, beginning and end: no exceptions, times within the audio, the same text for any blocks."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from conftest import SAMPLING_RATE, WORDS, speak
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune.audio.speech_activity import build_detector
from finetune.audio.stream import open_stream
from finetune.audio.waveforms import AudioError, Waveform
from finetune.inference import reading
from finetune.inference.recogniser import Recogniser
from finetune.inference.transcriber import Transcriber
from finetune.inference.windows import Lengths, WindowCutter

LENGTHS = Lengths(2.0, 5.0)
FOUR_WINDOWS = round(4 * LENGTHS.longest * SAMPLING_RATE)
STRIDE = FRAME = 320
KINDS = ("speech", "silence", "click", "noise")
MIN_SECONDS = 0.05
SECOND = np.zeros(SAMPLING_RATE, np.float32)

Hear = Callable[..., list[str]]


def make(kind: str, samples: int, seed: int = 0) -> Waveform:
    """So many samples of speech without a pause at its ends, silence, faint noise, or silence with a click."""
    rng = np.random.default_rng(seed)
    if kind == "speech":
        return np.resize(speak(" ".join(rng.choice(WORDS, 6)), rng)[1600:-1600], samples)
    made = np.zeros(samples, np.float32)
    if kind == "noise":
        made = (0.02 * rng.standard_normal(samples)).astype(np.float32)
    if kind == "click":
        made[samples // 2 : samples // 2 + 8] = 0.9
    return made


def join(stretches: Sequence[tuple[str, int]]) -> Waveform:
    return np.concatenate([make(kind, samples, place) for place, (kind, samples) in enumerate(stretches)])


@pytest.fixture
def hear(tone_recogniser: Recogniser, monkeypatch: pytest.MonkeyPatch) -> Hear:
    """`hear(samples, block=None)` is the words of a recording that is delivered in blocks of so many samples.

    It requires that their times are in order and inside the audio.
    """
    size: int | None = None

    class Blocks:
        """An opened recording in blocks of another size."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            self._stream = open_stream(*arguments, **options)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._stream, name)

        def __enter__(self) -> "Blocks":
            return self

        def __exit__(self, *raised: object) -> None:
            self._stream.__exit__(*raised)

        def blocks(self) -> Iterator[Waveform]:
            whole = np.concatenate(list(self._stream.blocks()), axis=1)
            for first in range(0, whole.shape[1], size or whole.shape[1]):
                yield whole[:, first : first + (size or whole.shape[1])]

    monkeypatch.setattr(reading, "open_stream", Blocks)
    monkeypatch.setattr(tone_recogniser, "trained_lengths", LENGTHS)
    transcriber = Transcriber(tone_recogniser)

    def run(samples: Waveform, block: int | None = None) -> list[str]:
        nonlocal size
        size = block
        transcript = transcriber.transcribe(samples, sampling_rate=SAMPLING_RATE)
        assert transcript.seconds == len(samples) / SAMPLING_RATE
        times = [time for word in transcript.words for time in (word.start, word.end)]
        assert times == sorted(times) and all(0 <= time <= transcript.seconds for time in times)
        return [word.text for word in transcript.words]

    return run


def require_alike(words: Sequence[str], followed: Sequence[str]) -> None:
    """The same words as with silence behind them, but for the letter that the end of the audio cuts.

    Its last 719 samples may be in no whole frame of the encoder: the letter may be missing, and it may be a word.
    """
    assert words[:-1] == followed[: len(words[:-1])]
    assert " ".join(followed).startswith(" ".join(words))
    assert sum(map(len, followed)) - sum(map(len, words)) <= 1


@given(
    st.lists(st.tuples(st.sampled_from(KINDS), st.integers(1, 4 * SAMPLING_RATE)), min_size=1, max_size=7),
    st.integers(1, FOUR_WINDOWS),
    st.sampled_from([1370, 1600, 16001]),
)
@settings(
    max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_parts_of_any_length_in_any_blocks(
    hear: Hear, stretches: list[tuple[str, int]], length: int, block: int
) -> None:
    samples = join(stretches)[:length]
    if len(samples) < MIN_SECONDS * SAMPLING_RATE:
        with pytest.raises(AudioError, match="too short"):
            hear(samples)
        return
    words = hear(samples)
    assert hear(samples, block) == words
    require_alike(words, hear(np.concatenate([samples, SECOND])))


@pytest.mark.parametrize("end", KINDS)
@pytest.mark.parametrize("begin", KINDS)
def test_any_beginning_and_end(hear: Hear, begin: str, end: str) -> None:
    """Of lengths around those where something changes: samples, frames, the receptive field, windows."""
    edges = (1, 400, 800, 801, FRAME * 3, 16000, FOUR_WINDOWS // 4, FOUR_WINDOWS // 2, FOUR_WINDOWS)
    for length in sorted({edge + shift for edge in edges for shift in (-1, 0, 1, 79)} - {0}):
        third = -(-length // 3)
        samples = join([(begin, third), ("speech", max(length - 2 * third, 0)), (end, third)])[-length:]
        if length < MIN_SECONDS * SAMPLING_RATE:
            with pytest.raises(AudioError, match="too short"):
                hear(samples)
        else:
            require_alike(hear(samples, 16001), hear(np.concatenate([samples, SECOND])))


@pytest.mark.parametrize("end", KINDS)
def test_cut_anywhere_within_two_frames(hear: Hear, end: str) -> None:
    whole = join([("speech", 3 * SAMPLING_RATE), ("silence", 9000), ("speech", 2 * SAMPLING_RATE), (end, 8000)])
    detector = build_detector("energy", SAMPLING_RATE)
    for missing in range(0, 2 * FRAME, 1 if end in ("speech", "noise") else 5):
        samples = whole[: len(whole) - missing]
        cutter = WindowCutter(detector, SAMPLING_RATE, STRIDE, LENGTHS)
        windows = [*cutter.cut(samples), *cutter.finish()]
        for window in windows:
            first = window.first_frame * STRIDE
            assert len(window.waveform) and np.array_equal(window.waveform, samples[first:][: len(window.waveform)])
        last = windows[-1].first_frame * STRIDE + len(windows[-1].waveform)
        assert last == len(samples) if end == "speech" else last <= len(samples)
        if missing % 40 == 0:
            require_alike(hear(samples, 1600), hear(np.concatenate([samples, SECOND])))


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 192_000])
def test_other_sampling_rates(tone_recogniser: Recogniser, monkeypatch: pytest.MonkeyPatch, rate: int) -> None:
    monkeypatch.setattr(tone_recogniser, "trained_lengths", LENGTHS)
    transcriber = Transcriber(tone_recogniser)
    for length in (1, rate // 20 + 1, rate // 3 + 7, 6 * rate + 11):
        samples = np.resize(np.sin(2 * np.pi * 800 * np.arange(rate) / rate), length)
        if length < MIN_SECONDS * rate:
            with pytest.raises(AudioError, match="too short"):
                transcriber.transcribe(samples, sampling_rate=rate)
            continue
        transcript = transcriber.transcribe(samples, sampling_rate=rate)
        assert transcript.seconds == length / rate and set(transcript.text) <= {"b"}
        assert all(word.end <= transcript.seconds for word in transcript.words)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_audio_with_nan_is_an_error(hear: Hear, value: float) -> None:
    samples = make("speech", 12 * SAMPLING_RATE)
    samples[11 * SAMPLING_RATE] = value
    with pytest.raises(AudioError, match=r"not numbers.*11\.00 s"):
        hear(samples)


@pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:invalid value encountered")
def test_audio_whose_power_overflows_is_an_error(hear: Hear) -> None:
    with pytest.raises(AudioError, match="louder than any sound"):
        hear(np.float32(1e30) * make("noise", 12 * SAMPLING_RATE))


@pytest.mark.parametrize("lengths", [Lengths(0.01, 0.01), Lengths(0.5, 0.5), Lengths(1e9, 1e9)])
def test_windows_have_a_useful_length_whatever_a_model_was_trained_on(lengths: Lengths) -> None:
    samples = make("speech", 50 * SAMPLING_RATE)
    cutter = WindowCutter(build_detector("energy", SAMPLING_RATE), SAMPLING_RATE, STRIDE, lengths)
    windows = [*cutter.cut(samples), *cutter.finish()]
    assert max(len(window.waveform) for window in windows) <= 20.3 * SAMPLING_RATE
    assert 2 < len(windows) < 80
