"""Both detectors find speech in the quickstart's sentences, between pauses and in noise, and none in noise alone."""

import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from finetune.audio.speech_activity import FRAME_SECONDS, SpeechDetector, build_detector
from finetune.audio.waveforms import Recording, read_waveform
from finetune.errors import UserError

FRAME = 320
NAMES: tuple[Literal["energy", "silero"], ...] = ("energy", "silero")
CORPUS = Path(__file__).parents[2] / "recipes" / "quickstart" / "corpus" / "test"


def detect(detector: SpeechDetector, samples: np.ndarray, size: int = 160_000) -> np.ndarray:
    state = detector.start()
    pieces = [state.detect(samples[first : first + size]) for first in range(0, len(samples), size)]
    return np.concatenate([*pieces, state.finish()])


def make_noise(kind: str, samples: int) -> np.ndarray:
    """White or brown noise of power 1."""
    noise = np.random.default_rng(3).normal(size=samples)
    if kind == "brown":
        spectrum = np.fft.rfft(noise, 2**21)
        noise = np.fft.irfft(spectrum / np.maximum(np.fft.rfftfreq(2**21, 1 / 16000), 30))[:samples]
    return (noise / noise.std()).astype(np.float32)


@pytest.fixture(scope="module")
def speech() -> tuple[np.ndarray, np.ndarray]:
    """Eight sentences with three seconds after each, and whether each frame is in a sentence."""
    samples, inside = [], []
    for file in sorted(CORPUS.glob("00*"))[:8]:
        sentence = read_waveform(Recording(str(file), None), 16000)
        loud = np.flatnonzero(np.abs(sentence) > 0.05 * np.abs(sentence).max())
        sentence = sentence[loud[0] : loud[-1]] / np.abs(sentence).max()
        sentence = sentence[: len(sentence) // FRAME * FRAME]
        samples += [sentence, np.zeros(150 * FRAME, np.float32)]
        inside += [np.ones(len(sentence) // FRAME, bool), np.zeros(150, bool)]
    return np.concatenate(samples), np.concatenate(inside)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("noise", "snr"), [("white", 40), ("white", 10), ("brown", 10)])
def test_speech_is_found_and_pauses_are_not(
    speech: tuple[np.ndarray, np.ndarray], name: Literal["energy", "silero"], noise: str, snr: int
) -> None:
    samples, inside = speech
    power = (samples[np.repeat(inside, FRAME)] ** 2).mean() * 10 ** (-snr / 10)
    found = detect(build_detector(name, 16000), samples + make_noise(noise, len(samples)) * np.float32(power**0.5))
    assert found.dtype == np.float32 and found.min() >= 0 and found.max() <= 1
    kept = np.convolve(found > 0.5, np.ones(21), "same") > 0  # With 0.2 s before and after.
    assert (~kept[inside]).mean() < 0.02
    far = np.convolve(inside, np.ones(51), "same") == 0  # Half a second from speech.
    assert kept[far].mean() < 0.02


def test_speech_that_never_pauses_is_found_from_its_first_word(speech: tuple[np.ndarray, np.ndarray]) -> None:
    samples, inside = speech
    noisy = samples + 1e-2 * make_noise("white", len(samples))
    found = detect(build_detector("energy", 16000), noisy[np.repeat(inside, FRAME)])
    kept = np.convolve(found > 0.5, np.ones(21), "same") > 0  # With 0.2 s before and after.
    assert kept.mean() > 0.98
    second_sentence = np.flatnonzero(np.diff(inside.astype(int)) == 1)[0] + 1
    found = detect(build_detector("energy", 16000), noisy[second_sentence * FRAME :])
    assert np.convolve(found > 0.5, np.ones(21), "same")[:50].all()


def test_a_short_pause_is_detected() -> None:
    samples = 1e-3 * make_noise("white", 16000 * 10)
    tone = 0.1 * np.sin(2 * np.pi * 400 * np.arange(8 * FRAME) / 16000)
    for first in (250, 266):  # 160 ms each, and as long between them.
        samples[first * FRAME : (first + 8) * FRAME] += tone.astype(np.float32)
    found = detect(build_detector("energy", 16000), samples) > 0.5
    assert found[250:258].all() and found[266:274].all() and not found[261]
    assert not found[:240].any() and not found[290:].any()


@pytest.mark.parametrize("kind", ["white", "brown", "silence", "then noise"])
@pytest.mark.parametrize("level", [1e-4, 0.1])
def test_no_speech_is_found_in_noise(kind: str, level: float) -> None:
    samples = make_noise("white" if kind == "then noise" else kind, 16000 * 120 + 17) * np.float32(level)
    if kind == "silence":
        samples[:] = 0
    elif kind == "then noise":
        samples[: 16000 * 60] = 0
    found = detect(build_detector("energy", 16000), samples)
    assert len(found) == 6001
    # Noise with a sudden onset may count as speech for the first 2 s.
    assert (found > 0.5).sum() <= (120 if kind == "then noise" else 0)


def test_a_changing_background_is_not_speech(speech: tuple[np.ndarray, np.ndarray]) -> None:
    samples, inside = speech
    swell = 2 + np.sin(2 * np.pi * np.arange(len(samples)) / 16000)  # By 9.5 dB each second.
    found = detect(build_detector("energy", 16000), samples + 3e-3 * swell * make_noise("white", len(samples)))
    far = np.convolve(inside, np.ones(51), "same") == 0
    assert (found[far] > 0.5).mean() < 0.25


def test_room_noise_before_a_fade_out_is_not_speech(speech: tuple[np.ndarray, np.ndarray]) -> None:
    samples, inside = speech
    audible = np.convolve(inside, np.ones(101), "same") > 0  # A second on both sides, then digital silence.
    room = 3e-4 * make_noise("white", len(samples)) * np.repeat(audible, FRAME)
    found = detect(build_detector("energy", 16000), samples + room.astype(np.float32))
    far = np.convolve(inside, np.ones(51), "same") == 0
    assert (found[far] > 0.5).mean() < 0.1


def test_a_short_word_between_digital_silences_is_found() -> None:
    samples = np.zeros(16000 * 10, np.float32)
    samples[80_000:84_000] = 0.1 * np.sin(2 * np.pi * 400 * np.arange(4000) / 16000)
    found = detect(build_detector("energy", 16000), samples) > 0.5
    assert found[250:262].all() and found.sum() < 30


def test_a_quiet_recording_gives_the_same_as_a_loud_one(speech: tuple[np.ndarray, np.ndarray]) -> None:
    samples = speech[0] + 3e-3 * make_noise("white", len(speech[0]))
    loud, quiet = (detect(build_detector("energy", 16000), samples * np.float32(level)) for level in (1, 0.03))
    assert ((loud > 0.5) == (quiet > 0.5)).mean() > 0.998


@pytest.mark.parametrize("name", NAMES)
# Of 1024 samples the last frame's middle lies behind the last of Silero's windows.
@pytest.mark.parametrize("samples", [0, 1, 319, 320, 321, 1024, 3584, 5000, 100_003])
def test_the_division_into_blocks_changes_nothing(
    speech: tuple[np.ndarray, np.ndarray], name: Literal["energy", "silero"], samples: int
) -> None:
    detector = build_detector(name, 16000)
    audio = speech[0][20_000 : 20_000 + samples]
    whole = detect(detector, audio)
    assert len(whole) == -(-samples // FRAME)
    for size in (100, 7777):
        np.testing.assert_allclose(detect(detector, audio, size), whole, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_latency_and_memory_are_limited(
    speech: tuple[np.ndarray, np.ndarray], name: Literal["energy", "silero"]
) -> None:
    state, given = build_detector(name, 16000).start(), 0
    for second in range(30):
        given += len(state.detect(speech[0][second * 16000 : (second + 1) * 16000]))
        assert second + 1 - given * FRAME_SECONDS < 2.2
    held = [value for value in vars(state).values() if isinstance(value, np.ndarray)]
    assert sum(value.nbytes for value in held) < 100_000


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rate", [8000, 44100])
def test_another_sampling_rate_gives_the_same(
    speech: tuple[np.ndarray, np.ndarray], name: Literal["energy", "silero"], rate: int
) -> None:
    from finetune.audio.resampling import resample

    samples = speech[0][: 16000 * 12] + 3e-3 * make_noise("white", 16000 * 12)
    expected = detect(build_detector(name, 16000), samples)
    found = detect(build_detector(name, rate), resample(samples, 16000, rate), size=rate)
    assert len(found) == len(expected) and ((found > 0.5) == (expected > 0.5)).mean() > 0.9


@pytest.mark.parametrize("name", NAMES)
def test_music_and_clipped_audio_are_processed(name: Literal["energy", "silero"]) -> None:
    time = np.arange(16000 * 10) / 16000
    chords: Any = sum(np.sin(2 * np.pi * hertz * time) for hertz in (220, 277.2, 329.6)) * (
        1 + np.sin(4 * np.pi * time)
    )
    for samples in (chords, np.sign(chords), 1e4 * chords):
        found = detect(build_detector(name, 16000), samples.astype(np.float32))
        assert len(found) == 500 and np.isfinite(found).all()


def test_a_detector_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "silero_vad", None)  # Python's mark of modules that cannot be imported.
    with pytest.raises(UserError, match=r"pip install 'finetune\[silero\]'"):
        build_detector("silero", 16000)
