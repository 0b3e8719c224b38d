"""Augmentation is reproducible and has the parameters that were asked for."""

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile

from finetune.audio.augmentation import (
    Augmentation,
    add_noise,
    change_speed,
    clip,
    draw_formant_factors,
    draw_mask,
    generator,
    limit_band,
    list_recordings,
    make_impulse_response,
    make_noise,
    perturb_formants,
    reverberate,
)
from finetune.errors import UserError
from finetune.recipe.schema import AugmentationSection
from finetune.run.preparation import build_augmentation

EVERYTHING = Augmentation(
    speed=(0.9, 1.1),
    formant_perturbation=0.3,
    reverb_probability=0.7,
    reverb_seconds=(0.2, 0.8),
    noise_probability=0.7,
    noise_snr_db=(0, 20),
    gain_db=(-6, 6),
    clipping_probability=0.5,
    telephone_probability=0.5,
)


def make_tone(samples: int = 16000) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * 500 * np.arange(samples) / 16000)).astype(np.float32)


def test_the_same_seed_epoch_and_utterance_give_the_same_waveform() -> None:
    tone = make_tone()
    first, second = (EVERYTHING.apply(tone, generator(1, 2, 3, 0)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.dtype == np.float32


@pytest.mark.parametrize("other", [(0, 2, 3, 0), (1, 0, 3, 0), (1, 2, 0, 0), (1, 2, 3, 1)])
def test_another_seed_epoch_utterance_or_purpose_gives_other_random_numbers(other: tuple[int, int, int, int]) -> None:
    assert generator(1, 2, 3, 0).random() != generator(*other).random()


def test_the_original_is_not_changed() -> None:
    tone = make_tone()
    EVERYTHING.apply(tone, generator(0, 0, 0, 0))
    np.testing.assert_array_equal(tone, make_tone())


def test_without_settings_nothing_changes() -> None:
    tone = make_tone()
    np.testing.assert_array_equal(Augmentation().apply(tone, generator(0, 0, 0, 0)), tone)


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 10.0, 30.0])
@pytest.mark.parametrize("samples", [16000, 15999])
def test_noise_has_the_requested_snr(snr_db: float, samples: int) -> None:
    tone = make_tone(samples)
    noisy = add_noise(tone, make_noise(samples, generator(0, 0, 0, 0)), snr_db)
    noise = noisy.astype(np.float64) - tone
    measured = 10 * math.log10(float(np.mean(tone.astype(np.float64) ** 2)) / float(np.mean(noise**2)))
    assert measured == pytest.approx(snr_db, abs=0.05)


def test_noise_is_added_with_its_probability() -> None:
    tone, augmentation = make_tone(400), Augmentation(noise_probability=0.3, noise_snr_db=(10, 10))
    noisy = sum(not np.array_equal(augmentation.apply(tone, generator(0, 0, i, 0)), tone) for i in range(500))
    assert 0.24 < noisy / 500 < 0.36


def test_silence_stays_finite() -> None:
    silence = np.zeros(1000, dtype=np.float32)
    assert np.isfinite(EVERYTHING.apply(silence, generator(0, 0, 0, 0))).all()


@pytest.mark.parametrize(("factor", "percent"), [(0.9, 90), (1.0, 100), (1.1, 110), (1.254, 125)])
def test_faster_speech_is_shorter_by_the_factor(factor: float, percent: int) -> None:
    assert len(change_speed(make_tone(), factor)) == math.ceil(16000 * 100 / percent)


def test_faster_speech_has_a_higher_pitch() -> None:
    fast = change_speed(make_tone(), 1.1)
    pitch = float(np.argmax(np.abs(np.fft.rfft(fast)))) * 16000 / len(fast)
    assert pitch == pytest.approx(550, abs=3)


def make_vowel(formants: tuple[float, ...], sampling_rate: int = 16000, pitch: int = 100) -> np.ndarray:
    """A second of harmonics of `pitch` under resonances 80 Hz wide."""
    time = np.arange(sampling_rate) / sampling_rate
    harmonics = np.arange(pitch, sampling_rate // 2, pitch)
    heights = sum(1 / (1 + ((harmonics - formant) / 80.0) ** 2) for formant in formants)
    waveform = (heights[:, None] * np.sin(2 * np.pi * harmonics[:, None] * time + harmonics[:, None])).sum(0)
    return (0.3 * waveform / np.abs(waveform).max()).astype(np.float32)


def loudest(waveform: np.ndarray, low: float, high: float) -> float:
    """The loudest frequency within a range in hertz, of a second of sound."""
    spectrum = np.abs(np.fft.rfft(waveform))[round(low) : round(high)]
    return float(low + np.argmax(spectrum))


@pytest.mark.parametrize("sampling_rate", [8000, 16000])
@pytest.mark.parametrize("factors", [(1.0, 1.4, 1.0, 1.0), (1.4, 0.8, 1.0, 1.0), (1.0, 1.0, 0.8, 1.1)])
def test_each_formant_is_shifted_by_its_own_factor_and_the_pitch_stays(
    factors: tuple[float, ...], sampling_rate: int
) -> None:
    formants = (500.0, 1500.0, 2500.0, 3500.0)
    moved = perturb_formants(make_vowel(formants, sampling_rate), np.array(factors), sampling_rate)
    for formant, factor in zip(formants, factors, strict=True):
        expected = formant * factor
        assert loudest(moved, expected - 250, expected + 250) == pytest.approx(expected, abs=100)
    harmonics = np.abs(np.fft.rfft(moved))[:3600]
    assert harmonics[::100].sum() > 10 * harmonics[50::100].sum()


def test_formant_factors_of_one_change_nothing() -> None:
    vowel = make_vowel((700.0, 1200.0))
    np.testing.assert_allclose(perturb_formants(vowel, np.ones(4), 16000), vowel, atol=1e-5)


@pytest.mark.parametrize("samples", [1, 100, 511, 513])
def test_formant_perturbation_changes_the_shortest_speech_too(samples: int) -> None:
    changed = perturb_formants(make_tone(samples), np.array([1.2, 0.8, 1.0, 1.0]), 16000)
    assert changed.shape == (samples,) and changed.dtype == np.float32 and np.isfinite(changed).all()


def test_drawn_formant_factors_fill_their_range_and_differ() -> None:
    drawn = np.log([draw_formant_factors(0.2, generator(0, 0, i, 0)) for i in range(400)])
    assert drawn.shape == (400, 4) and np.abs(drawn).max() < 0.3
    np.testing.assert_allclose(drawn.std(0), 0.2 * math.sqrt(1.25 / 3), rtol=0.1)


def test_gain_is_in_decibels_and_within_its_range() -> None:
    tone = make_tone()
    exact = Augmentation(gain_db=(6, 6)).apply(tone, generator(0, 0, 0, 0))
    np.testing.assert_allclose(exact, tone * 10 ** (6 / 20), rtol=1e-5)
    peaks = [np.abs(Augmentation(gain_db=(-6, 6)).apply(tone, generator(0, 0, i, 0))).max() for i in range(50)]
    assert 0.25 < min(peaks) < 0.4 and 0.7 < max(peaks) < 1.0


@pytest.mark.parametrize("probability", [0.05, 0.2])
@pytest.mark.parametrize("frames", [30, 200])
def test_the_masked_share_is_about_the_requested_one(probability: float, frames: int) -> None:
    masks = [draw_mask(frames, probability, 5, generator(0, 0, i, 0)) for i in range(2000)]
    # Spans overlap, so the share is below the requested one: 1 - exp(-p) for independent spans.
    assert np.mean(masks) == pytest.approx(1 - math.exp(-probability), rel=0.1)


@pytest.mark.parametrize("frames", [0, 1, 9, 10])
def test_a_mask_fits_fewer_frames_than_its_span_length(frames: int) -> None:
    masks = [draw_mask(frames, 0.9, 10, generator(0, 0, i, 0)) for i in range(20)]
    assert all(mask.shape == (frames,) for mask in masks)


@pytest.mark.parametrize("rt60_seconds", [0.2, 0.6])
def test_a_room_decays_by_60_db_in_its_reverberation_time(rt60_seconds: float) -> None:
    response = make_impulse_response(rt60_seconds, -3.0, 16000, generator(0, 0, 0, 0)).astype(np.float64)
    assert response[0] == 1
    assert 10 * math.log10(float(np.sum(response[1:] ** 2))) == pytest.approx(-3.0, abs=0.01)
    # Schroeder's backward integration: the slope between -5 and -25 dB.
    decay = 10 * np.log10(np.cumsum(response[:0:-1] ** 2)[::-1] / np.sum(response[1:] ** 2))
    first, last = (int(np.argmax(decay < level)) for level in (-5, -25))
    assert (last - first) / 16000 * 3 == pytest.approx(rt60_seconds, rel=0.15)


def test_reverberation_keeps_length_level_and_timing() -> None:
    click = np.zeros(8000, dtype=np.float32)
    click[1000] = 0.5
    response = np.concatenate([np.zeros(300), [1.0], 0.5 ** np.arange(1, 200)]).astype(np.float32)
    wet = reverberate(click, response)
    assert wet.shape == click.shape and wet.dtype == np.float32
    assert int(np.argmax(np.abs(wet))) == 1000
    assert float(np.linalg.norm(wet)) == pytest.approx(0.5, rel=1e-4)
    assert wet[1002] / wet[1000] == pytest.approx(0.25, rel=1e-3)


def test_the_telephone_band_is_the_middle_of_the_spectrum() -> None:
    for hertz, low, high in ((100, 0, 0.02), (1000, 0.98, 1.02), (5000, 0, 0.03)):
        tone = np.sin(2 * np.pi * hertz * np.arange(16000) / 16000).astype(np.float32)
        kept = float(np.std(limit_band(tone, 16000)[2000:-2000]) / np.std(tone))
        assert low <= kept <= high, hertz


def test_clipping_affects_the_requested_share() -> None:
    waveform = generator(0, 0, 0, 0).standard_normal(10000).astype(np.float32)
    clipped = clip(waveform, 0.03)
    assert (np.abs(clipped) < np.abs(waveform)).mean() == pytest.approx(0.03, abs=0.001)
    assert np.abs(clipped).max() == np.abs(clipped)[np.abs(waveform).argmax()]


@pytest.fixture
def noise_folder(tmp_path: Path) -> Path:
    (tmp_path / "deep").mkdir()
    soundfile.write(tmp_path / "a.wav", np.full(800, 0.25), 8000)  # 0.1 s, looped
    soundfile.write(tmp_path / "deep" / "b.flac", np.full(16000, -0.25), 16000)
    (tmp_path / "notes.txt").write_text("no audio")
    (tmp_path / "._a.wav").write_text("what macOS writes beside a file")
    return tmp_path


def test_noise_is_taken_from_a_folders_recordings(noise_folder: Path) -> None:
    files = list_recordings(str(noise_folder), "augmentation.noise_folder")
    assert [Path(file).name for file in files] == ["a.wav", "b.flac"]
    augmentation = Augmentation(noise_probability=1, noise_snr_db=(0, 0), noise_files=files)
    tone = make_tone()
    added = [augmentation.apply(tone, generator(0, 0, i, 0)) - tone for i in range(20)]
    assert {float(np.sign(np.median(noise))) for noise in added} == {1.0, -1.0}
    for noise in added:
        assert float(np.mean(noise**2)) == pytest.approx(float(np.mean(tone**2)), rel=1e-3)


def test_rooms_are_taken_from_a_folders_recordings(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "echo.wav", np.array([0.0, 0.5] + [0.0] * 99 + [0.25]), 16000)
    files = list_recordings(str(tmp_path), "augmentation.impulse_response_folder")
    click = np.zeros(1000, dtype=np.float32)
    click[100] = 1.0
    wet = Augmentation(reverb_probability=1, impulse_responses=files).apply(click, generator(0, 0, 0, 0))
    assert np.flatnonzero(np.abs(wet) > 0.01).tolist() == [100, 200]


@pytest.mark.parametrize("content", [None, b"", b"RIFF, but no more"])
def test_a_folder_without_audio_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(UserError, match=r"^augmentation\.noise_folder: .*(holds no audio|can't be used)"):
        list_recordings(str(tmp_path), "augmentation.noise_folder")


def test_an_impulse_response_of_minutes_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.flac", np.zeros(61 * 8000, np.int16), 8000)
    section = AugmentationSection(impulse_response_folder=str(tmp_path))
    with pytest.raises(
        UserError, match=r"augmentation\.impulse_response_folder: .*long\.flac .*too long: 61 s, of up to"
    ):
        build_augmentation(section, 16000)
    assert build_augmentation(AugmentationSection(noise_folder=str(tmp_path), noise_snr_db=(0, 9)), 16000).noise_files
