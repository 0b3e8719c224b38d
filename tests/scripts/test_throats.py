"""Other throats for one neural voice: what is asked of pitch, formants, breath and rhythm is what comes out."""

from __future__ import annotations

from dataclasses import replace

import neural_voices
import numpy as np
import pytest
from neural_voices import NeuralVoice, draw_hibari_voice
from throats import FFT, HOP, SAMPLING_RATE, Throat, draw_throat, render

OWN = Throat(pitch=1.0, intonation=1.0, formants=(1.0,) * 4, tilt=0.0, breath=-2.0, rhythm=0.0)
FRAMES, RESONANCE = 80, 1500.0
HERTZ = np.arange(FFT // 2 + 1) * SAMPLING_RATE / FFT


def make_spectra(voiced: bool = True) -> tuple[np.ndarray, ...]:
    """A second with one resonance at RESONANCE and a pitch that falls from 220 to 180 Hz, or a hiss there."""
    shape = (-(((HERTZ - RESONANCE) / 500) ** 2) / 2)[:, None].repeat(FRAMES, 1)
    quiet = np.full_like(shape, -15.0)
    pitch = np.linspace(220, 180, FRAMES) if voiced else np.zeros(FRAMES)
    harmonic, free = (shape, quiet) if voiced else (quiet, shape)
    return tuple(each.astype(np.float32) for each in (harmonic, quiet, free, pitch))


def measure_pitch(speech: np.ndarray) -> float:
    """Hertz, by the first peak of the autocorrelation of a stretch of 0.1 s."""
    stretch = speech - speech.mean()
    correlation = np.correlate(stretch, stretch, "full")[len(stretch) - 1 :]
    lags = np.arange(SAMPLING_RATE // 500, SAMPLING_RATE // 60)
    best = correlation[lags].max()
    return SAMPLING_RATE / next(
        lag
        for lag in lags[1:-1]
        if correlation[lag] > 0.9 * best and correlation[lag] >= max(correlation[lag - 1], correlation[lag + 1])
    )


def measure_resonance(speech: np.ndarray) -> float:
    """Hertz, by the mean of the power spectrum."""
    power = np.abs(np.fft.rfft(speech)) ** 2
    return float((np.fft.rfftfreq(len(speech), 1 / SAMPLING_RATE) * power).sum() / power.sum())


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.4])
def test_pitch_moves_and_the_resonance_stays(factor: float) -> None:
    speech = render(*make_spectra(), replace(OWN, pitch=factor), np.random.default_rng(0))
    assert speech.dtype == np.float32 and len(speech) == FRAMES * HOP and np.isfinite(speech).all()
    for start, hertz in ((1200, 217.5), (20400, 183.0)):
        assert measure_pitch(speech[start : start + 2400]) == pytest.approx(factor * hertz, rel=0.03)
    assert measure_resonance(speech) == pytest.approx(RESONANCE, rel=0.05)


def test_a_flat_intonation_keeps_the_mean() -> None:
    speech = render(*make_spectra(), replace(OWN, intonation=0.0), np.random.default_rng(0))
    pitches = [measure_pitch(speech[start : start + 2400]) for start in (1200, 10000, 20400)]
    assert pitches == pytest.approx([199.6] * 3, rel=0.02)


@pytest.mark.parametrize("voiced", [True, False])
@pytest.mark.parametrize("factor", [0.85, 1.15])
def test_formants_move(voiced: bool, factor: float) -> None:
    speech = render(*make_spectra(voiced), replace(OWN, formants=(factor,) * 4), np.random.default_rng(0))
    assert measure_resonance(speech) == pytest.approx(factor * RESONANCE, rel=0.06)


def test_each_formant_moves_by_itself() -> None:
    harmonic, noise, free, pitch = make_spectra()
    second = (-(((HERTZ - 3500) / 300) ** 2) / 2)[:, None].astype(np.float32)
    both = np.logaddexp(harmonic, second)
    speech = render(both, noise, free, pitch, replace(OWN, formants=(1, 1, 1, 1.2)), np.random.default_rng(0))
    power = np.abs(np.fft.rfft(speech)) ** 2
    hertz = np.fft.rfftfreq(len(speech), 1 / SAMPLING_RATE)
    inside = [(low <= hertz) & (hertz < high) for low, high in ((0, 2500), (2500, 6000))]
    peaks = [hertz[band][np.argmax(power[band])] for band in inside]
    assert peaks[0] == pytest.approx(RESONANCE, abs=200), "a harmonic near it"
    assert peaks[1] == pytest.approx(4000, rel=0.08), (
        "between 2,700 Hz, which stays, and 4,000 Hz, which moves by a fifth"
    )


def test_a_hiss_keeps_its_power_and_repeats_of_harmonics_are_lowered() -> None:
    harmonic, noise, free, pitch = make_spectra(voiced=False)
    hiss = float(np.std(render(harmonic, noise, free, pitch, OWN, np.random.default_rng(0))))
    voiced = np.full(FRAMES, 200, dtype=np.float32)
    beside = float(np.std(render(harmonic, noise, free, voiced, OWN, np.random.default_rng(0))))
    assert beside == pytest.approx(hiss, rel=0.1), "a hiss in a voiced frame is no repeat of harmonics"
    clear = render(free, noise, noise, voiced, OWN, np.random.default_rng(0))
    breathy = render(free, noise, free - 1, voiced, replace(OWN, breath=0.0), np.random.default_rng(0)) - clear
    quiet = render(free, noise, free - 1, voiced, replace(OWN, breath=-3.0), np.random.default_rng(0)) - clear
    assert np.std(quiet) < 0.3 * np.std(breathy)


def test_a_rhythm_moves_sounds_and_keeps_the_length() -> None:
    harmonic, noise, free, pitch = make_spectra()
    harmonic[:, 40:] = -15.0
    lengths = []
    for seed in range(20):
        speech = render(harmonic, noise, free, pitch, replace(OWN, rhythm=0.35), np.random.default_rng(seed))
        assert len(speech) == FRAMES * HOP
        lengths.append(int(np.flatnonzero(np.abs(speech) > 0.01 * np.abs(speech).max())[-1]))
    assert 0.02 < np.std(lengths) / SAMPLING_RATE < 0.2 and np.mean(lengths) == pytest.approx(12000, rel=0.15)


def test_throats_are_many_and_follow_from_the_seed() -> None:
    rng = np.random.default_rng(0)
    throats = [draw_throat(rng) for _ in range(300)]
    assert len(set(throats)) == 300 and throats[0] == draw_throat(np.random.default_rng(0))
    low = [throat for throat in throats if throat.pitch < 0.7]
    assert 100 < len(low) < 200, "half of them are men"
    assert np.mean([np.mean(throat.formants) for throat in low]) < 0.9, "with longer vocal tracts"


def test_a_foreign_speaker_says_other_sounds(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    voices = [draw_hibari_voice(rng) for _ in range(200)]
    assert 40 < sum(bool(voice.foreign) for voice in voices) < 100
    known = set(neural_voices.KOKORO_TOKENS)
    assert {sound for voice in voices for pair in voice.foreign for sound in pair} <= known
    monkeypatch.setattr(neural_voices, "read_phonemes", lambda *_, **__: "ðə θˈɪŋ")
    plain = NeuralVoice("hibari", "x", {}, 1.0, british=False, throat=OWN)
    foreign = replace(plain, foreign=(("ð", "d"), ("θ", "t")))
    tokens = {
        name: [neural_voices.KOKORO_TOKENS[each] for each in text]
        for name, text in (("plain", "ðə θˈɪŋ."), ("foreign", "də tˈɪŋ."))
    }
    assert neural_voices._read_tokens("the thing", plain) == tokens["plain"]
    assert neural_voices._read_tokens("the thing", foreign) == tokens["foreign"]
