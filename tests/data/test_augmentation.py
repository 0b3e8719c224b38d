"""Augmentation is reproducible and does what its numbers say."""

import math

import numpy as np
import pytest

from finetune.data.augmentation import (
    Augmentation,
    add_noise,
    change_speed,
    draw_time_mask,
    draw_vocal_tract,
    generator,
    move_formants,
)

EVERYTHING = Augmentation(
    speed=(0.9, 1.1), vocal_tract=0.3, noise_probability=0.7, noise_snr_db=(0, 20), gain_db=(-6, 6)
)


def make_tone(samples: int = 16000) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * 500 * np.arange(samples) / 16000)).astype(np.float32)


def test_the_same_seed_epoch_and_utterance_give_the_same_waveform() -> None:
    tone = make_tone()
    first, second = (EVERYTHING.apply(tone, generator(1, 2, 3, 0)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.dtype == np.float32


@pytest.mark.parametrize("other", [(0, 2, 3, 0), (1, 0, 3, 0), (1, 2, 0, 0), (1, 2, 3, 1)])
def test_another_seed_epoch_utterance_or_purpose_gives_other_numbers(other: tuple[int, int, int, int]) -> None:
    assert generator(1, 2, 3, 0).random() != generator(*other).random()


def test_the_original_is_not_changed() -> None:
    tone = make_tone()
    EVERYTHING.apply(tone, generator(0, 0, 0, 0))
    np.testing.assert_array_equal(tone, make_tone())


def test_nothing_asked_for_is_nothing_done() -> None:
    tone = make_tone()
    np.testing.assert_array_equal(Augmentation().apply(tone, generator(0, 0, 0, 0)), tone)


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 10.0, 30.0])
@pytest.mark.parametrize("samples", [16000, 15999])
def test_noise_has_the_ratio_that_was_asked_for(snr_db: float, samples: int) -> None:
    tone = make_tone(samples)
    noisy = add_noise(tone, snr_db, generator(0, 0, 0, 0))
    noise = noisy.astype(np.float64) - tone
    measured = 10 * math.log10(float(np.mean(tone.astype(np.float64) ** 2)) / float(np.mean(noise**2)))
    assert measured == pytest.approx(snr_db, abs=0.05)


def test_noise_comes_as_often_as_its_probability_says() -> None:
    tone, augmentation = make_tone(400), Augmentation(noise_probability=0.3, noise_snr_db=(10, 10))
    noisy = sum(not np.array_equal(augmentation.apply(tone, generator(0, 0, i, 0)), tone) for i in range(500))
    assert 0.24 < noisy / 500 < 0.36


def test_silence_stays_finite() -> None:
    silence = np.zeros(1000, dtype=np.float32)
    assert np.isfinite(EVERYTHING.apply(silence, generator(0, 0, 0, 0))).all()


@pytest.mark.parametrize(("factor", "percent"), [(0.9, 90), (1.0, 100), (1.1, 110), (1.254, 125)])
def test_faster_speech_is_shorter_by_the_factor(factor: float, percent: int) -> None:
    assert len(change_speed(make_tone(), factor)) == math.ceil(16000 * 100 / percent)


def test_faster_speech_is_higher() -> None:
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
    """The loudest frequency between two of them, in hertz, of a second of sound."""
    spectrum = np.abs(np.fft.rfft(waveform))[round(low) : round(high)]
    return float(low + np.argmax(spectrum))


@pytest.mark.parametrize("sampling_rate", [8000, 16000])
@pytest.mark.parametrize("factors", [(1.0, 1.4, 1.0, 1.0), (1.4, 0.8, 1.0, 1.0), (1.0, 1.0, 0.8, 1.1)])
def test_each_formant_moves_by_its_own_factor_and_the_pitch_stays(
    factors: tuple[float, ...], sampling_rate: int
) -> None:
    formants = (500.0, 1500.0, 2500.0, 3500.0)
    moved = move_formants(make_vowel(formants, sampling_rate), np.array(factors), sampling_rate)
    for formant, factor in zip(formants, factors, strict=True):
        expected = formant * factor
        assert loudest(moved, expected - 250, expected + 250) == pytest.approx(expected, abs=100)
    harmonics = np.abs(np.fft.rfft(moved))[:3600]
    assert harmonics[::100].sum() > 10 * harmonics[50::100].sum()


def test_a_vocal_tract_of_the_same_shape_changes_nothing() -> None:
    vowel = make_vowel((700.0, 1200.0))
    np.testing.assert_allclose(move_formants(vowel, np.ones(4), 16000), vowel, atol=1e-5)


@pytest.mark.parametrize("samples", [1, 100, 511, 513])
def test_a_vocal_tract_changes_the_shortest_speech_too(samples: int) -> None:
    changed = move_formants(make_tone(samples), np.array([1.2, 0.8, 1.0, 1.0]), 16000)
    assert changed.shape == (samples,) and changed.dtype == np.float32 and np.isfinite(changed).all()


def test_drawn_vocal_tracts_fill_their_range_and_differ() -> None:
    drawn = np.log([draw_vocal_tract(0.2, generator(0, 0, i, 0)) for i in range(400)])
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
def test_the_masked_share_is_about_the_one_asked_for(probability: float, frames: int) -> None:
    masks = [draw_time_mask(frames, probability, 5, generator(0, 0, i, 0)) for i in range(2000)]
    # Spans overlap, so the share stays below the asked one: 1 - exp(-p) where they are thrown independently.
    assert np.mean(masks) == pytest.approx(1 - math.exp(-probability), rel=0.1)


@pytest.mark.parametrize("frames", [0, 1, 9, 10])
def test_a_mask_fits_where_there_are_fewer_frames_than_its_spans(frames: int) -> None:
    masks = [draw_time_mask(frames, 0.9, 10, generator(0, 0, i, 0)) for i in range(20)]
    assert all(mask.shape == (frames,) for mask in masks)
