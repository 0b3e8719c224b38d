"""Preprocessing has the requested parameters, and is saved with the model for all that reads audio."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from finetune.audio.filters import measure_loudness
from finetune.audio.preprocessing import build_preprocessor, load_preprocessing, save_preprocessing
from finetune.cli import main
from finetune.errors import TransformError, UserError

STEPS: list[Any] = [{"highpass": 80}, {"trim_silence": 30}, "denoise", {"loudness": -20}, {"peak": 0}]


def make_tone(hertz: float, seconds: float = 1.0, peak: float = 0.5) -> np.ndarray:
    return (peak * np.sin(2 * np.pi * hertz * np.arange(round(16000 * seconds)) / 16000)).astype(np.float32)


def apply(step: Any, waveform: np.ndarray) -> np.ndarray:
    processed = build_preprocessor([step], 16000)(waveform)
    assert processed.dtype == np.float32 and np.isfinite(processed).all()
    return processed


def decibels(after: np.ndarray, before: np.ndarray) -> float:
    return float(20 * np.log10(np.std(after) / np.std(before)))


def test_a_highpass_filter_passes_high_frequencies() -> None:
    low, high = make_tone(25), make_tone(1000)
    assert decibels(apply({"highpass": 100}, low), low) == pytest.approx(-24, abs=1.5)
    assert decibels(apply({"highpass": 100}, high), high) == pytest.approx(0, abs=0.1)


def test_silence_is_trimmed_to_a_margin() -> None:
    noise = 0.0001 * np.random.default_rng(0).standard_normal(16000).astype(np.float32)
    speech = np.concatenate([noise, make_tone(300, 0.5), noise])
    assert len(apply({"trim_silence": 40}, speech)) / 16000 == pytest.approx(0.5 + 0.2, abs=0.05)
    assert len(apply({"trim_silence": 100}, speech)) == len(speech)


@pytest.mark.parametrize("samples", [1, 100, 16001])
def test_audio_without_silence_is_not_trimmed(samples: int) -> None:
    assert len(apply({"trim_silence": 30}, np.ones(samples, dtype=np.float32))) == samples


def test_levels_are_the_requested_ones() -> None:
    tone = make_tone(997, 2.0, 0.01)
    assert np.abs(apply({"peak": -6}, tone)).max() == pytest.approx(10 ** (-6 / 20), rel=1e-3)
    assert measure_loudness(apply({"loudness": -23}, tone), 16000) == pytest.approx(-23, abs=0.001)


def test_noise_reduction_reduces_noise() -> None:
    noise = 0.02 * np.random.default_rng(0).standard_normal(48000).astype(np.float32)
    speech = noise.copy()
    speech[24000:25600] += make_tone(500, 0.1)  # Longer sounds count as noise, too.
    cleaned = apply("denoise", speech)
    assert decibels(cleaned[:20000], speech[:20000]) < decibels(cleaned[24000:25600], speech[24000:25600]) - 6


@pytest.mark.parametrize("step", [{"peak": -3}, {"loudness": -23}, {"trim_silence": 40}, {"highpass": 80}])
def test_silence_stays_silent(step: Any) -> None:
    assert not apply(step, np.zeros(16000, dtype=np.float32)).any()


@pytest.mark.parametrize("steps", [[step] for step in STEPS] + [STEPS], ids=str)
@pytest.mark.parametrize("level", [0.0, 1e-45, 1e-38, 1e-3, 1.0, 100.0])
def test_the_shortest_and_the_faintest_audio_stays_finite(steps: list[Any], level: float) -> None:
    for samples in (1, 2, 319, 321, 399, 400, 401, 1023, 6399, 6400, 6401):
        noise = np.random.default_rng(samples).standard_normal(samples)
        for waveform in (noise, np.sign(noise), np.ones(samples), np.eye(1, samples, samples - 1)[0]):
            processed = build_preprocessor(steps, 16000)((level * waveform).astype(np.float32))
            assert len(processed) and np.isfinite(processed).all()


def test_transforms_are_applied_in_their_order() -> None:
    tone = make_tone(25)
    assert np.abs(build_preprocessor([{"highpass": 100}, {"peak": -3}], 16000)(tone)).max() > 0.7
    assert np.abs(build_preprocessor([{"peak": -3}, {"highpass": 100}], 16000)(tone)).max() < 0.3


@pytest.mark.parametrize(
    "step", ["louder", "highpass", {"highpass": 9000}, {"peak": 3}, {"loudness": "x"}, {"trim_silence": 0}, {}]
)
def test_invalid_transforms_are_refused(step: Any) -> None:
    with pytest.raises(TransformError, match="expected"):
        build_preprocessor([step], 16000)


def test_transforms_are_saved_with_a_model(tmp_path: Path) -> None:
    assert load_preprocessing(tmp_path) == ()
    save_preprocessing(tmp_path, [{"highpass": 80.0}, "denoise"])
    assert load_preprocessing(tmp_path) == ({"highpass": 80.0}, "denoise")
    (tmp_path / "audio_preprocessing.json").write_text('{"steps": ["louder"]}')
    with pytest.raises(UserError, match="unknown transform 'louder'"):
        load_preprocessing(tmp_path)


def test_a_recipe_with_an_unknown_transform_is_refused(
    tmp_path: Path, write_recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(write_recipe(tmp_path, data={"preprocessing": [{"highpas": 80}]}))]) == 2
    assert "data.preprocessing" in capsys.readouterr().err


def test_the_same_transforms_in_training_evaluation_and_transcription(
    tmp_path: Path, corpus_folder: Path, write_recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetune.inference.recogniser import Recogniser

    heard: list[float] = []
    original = Recogniser.logits

    def listen(self: Recogniser, waveforms: Any) -> Any:
        heard.extend(float(np.abs(waveform).max()) for waveform in waveforms)
        return original(self, waveforms)

    monkeypatch.setattr(Recogniser, "logits", listen)
    recipe = write_recipe(tmp_path, data={"preprocessing": [{"peak": -12}]}, training={"max_steps": 1})
    assert main(["train", str(recipe), "--output", str(tmp_path / "run")]) == 0
    model = str(tmp_path / "run" / "model")
    assert json.loads((tmp_path / "run" / "model" / "audio_preprocessing.json").read_text()) == {
        "steps": [{"peak": -12}]
    }
    assert main(["evaluate", model, "--data", str(corpus_folder), "--split", "test"]) == 0
    soundfile.write(tmp_path / "quiet.wav", make_tone(300, 0.5, 0.01), 16000)
    assert main(["transcribe", model, str(tmp_path / "quiet.wav")]) == 0
    assert len(heard) >= 13
    np.testing.assert_allclose(heard, 10 ** (-12 / 20), rtol=1e-3)
