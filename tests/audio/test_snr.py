"""The SNR estimate is accurate for speech-like sound in noise."""

import numpy as np
import pytest

from finetune.audio.snr import estimate_snr


def speak(rng, seconds=6.0, pauses=0.25):
    """Syllables of 0.2 s with levels 20 dB apart, and pauses: (samples,) at 16 kHz of power 0.01."""
    syllables = int(seconds / 0.2)
    levels = np.where(rng.random(syllables) < pauses, 0.0, 10 ** rng.uniform(-1, 0, syllables))
    sound = np.repeat(levels, 3200) * rng.standard_normal(3200 * syllables)
    return (0.1 * sound / np.sqrt((sound**2).mean())).astype(np.float32)


@pytest.mark.parametrize("decibels", [-5, 0, 10, 20, 30, 40])
def test_noise_of_a_known_level_is_estimated(decibels):
    rng = np.random.default_rng(0)
    for offset in (0.0, 0.2):
        speech = speak(rng)
        noise = 0.1 * 10 ** (-decibels / 20) * rng.standard_normal(len(speech)).astype(np.float32)
        assert estimate_snr(speech + noise + np.float32(offset), 16000) == pytest.approx(decibels, abs=1.0)


def test_estimates_are_clipped():
    rng = np.random.default_rng(0)
    assert estimate_snr(speak(rng), 16000) == 60.0  # Digital silence between the syllables.
    assert estimate_snr(rng.standard_normal(16000).astype(np.float32), 16000) < 0


def test_silence_and_clicks_have_no_snr():
    assert estimate_snr(np.zeros(16000, np.float32), 16000) is None
    assert estimate_snr(np.full(16000, 0.5, np.float32), 16000) is None
    assert estimate_snr(np.ones(3000, np.float32), 16000) is None
    assert estimate_snr(np.zeros(0, np.float32), 16000) is None
