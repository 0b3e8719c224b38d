"""Makes clean synthetic speech sound recorded: vocal tract, room, microphone and noise, with numpy alone.

Waveforms are mono float32 arrays of shape (samples,), about -1 to 1.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Waveform: TypeAlias = NDArray[np.float32]

NOISE_KINDS = ("white", "pink", "brown", "hum", "babble")


def resample(waveform: Waveform, ratio: float) -> Waveform:
    """Stretch a waveform to `ratio` times as many samples (band-limited, so any ratio is as cheap)."""
    padding = 512  # keeps the end from wrapping round onto the beginning
    padded = np.pad(waveform, padding)
    num_samples = max(2, round(len(padded) * ratio))
    spectrum = np.fft.rfft(padded)
    resized = np.zeros(num_samples // 2 + 1, dtype=np.complex128)
    kept = min(len(resized), len(spectrum))
    resized[:kept] = spectrum[:kept]
    stretched = np.fft.irfft(resized, num_samples) * (num_samples / len(padded))
    edge = round(padding * ratio)
    return stretched[edge : num_samples - edge].astype(np.float32)


def warp_formants(waveform: Waveform, factor: float, frame: int = 512) -> Waveform:
    """Move the resonances by `factor` (above 1: a shorter vocal tract) and leave pitch and timing alone."""
    hop = frame // 4
    window = np.hanning(frame + 1)[:-1]
    padded = np.pad(waveform, (frame, frame + hop))
    starts = np.arange(0, len(padded) - frame, hop)
    frames = padded[starts[:, None] + np.arange(frame)] * window
    spectrum = np.fft.rfft(frames)  # (frames, bins)
    log_magnitude = np.log(np.abs(spectrum) + 1e-5)
    cepstrum = np.fft.irfft(log_magnitude)
    cepstrum[:, 30:-29] = 0.0  # what stays is the smooth envelope, without the harmonics of the pitch
    envelope = np.fft.rfft(cepstrum).real
    bins = np.arange(envelope.shape[1])
    source = np.minimum(bins / factor, bins[-1])
    lower = np.minimum(source.astype(int), bins[-1] - 1)
    share = source - lower
    warped = envelope[:, lower] * (1 - share) + envelope[:, lower + 1] * share
    gain = np.exp(np.clip(warped - envelope, -3.0, 3.0))
    shaped = np.fft.irfft(spectrum * gain) * window
    output = np.zeros(len(padded))
    for start, piece in zip(starts, shaped, strict=True):
        output[start : start + frame] += piece
    return (output[frame : frame + len(waveform)] / 1.5).astype(np.float32)


def trim_silence(waveform: Waveform, sampling_rate: int, margin_seconds: float = 0.03) -> Waveform:
    """Cut what is quieter than 1 % of the peak from both ends, but for a small margin."""
    loud = np.flatnonzero(np.abs(waveform) > 0.01 * np.max(np.abs(waveform), initial=1e-6))
    if len(loud) == 0:
        return waveform[:0]
    margin = int(margin_seconds * sampling_rate)
    return waveform[max(0, int(loud[0]) - margin) : int(loud[-1]) + margin]


def reverberate(
    waveform: Waveform, sampling_rate: int, rt60_seconds: float, direct_db: float, rng: np.random.Generator
) -> Waveform:
    """Convolve with decaying noise; the direct sound is `direct_db` above the sum of its reflections."""
    times = np.arange(int(rt60_seconds * sampling_rate)) / sampling_rate
    tail = rng.standard_normal(len(times)) * np.exp(-6.9 * times / rt60_seconds)
    tail[: int(0.003 * sampling_rate)] = 0.0
    response = tail * (10 ** (-direct_db / 20) / max(1e-9, math.sqrt(float(np.sum(tail**2)))))
    response[0] = 1.0
    size = len(waveform) + len(response) - 1
    mixed = np.fft.irfft(np.fft.rfft(waveform, size) * np.fft.rfft(response, size), size)
    return mixed[: len(waveform)].astype(np.float32)


def equalize(waveform: Waveform, sampling_rate: int, points: dict[float, float]) -> Waveform:
    """Apply a gain curve given as {hertz: decibels}, straight between its points on a log frequency scale."""
    frequencies = np.fft.rfftfreq(len(waveform), 1 / sampling_rate)
    curve = np.interp(np.log(frequencies + 1.0), np.log(np.array(list(points)) + 1.0), list(points.values()))
    return np.fft.irfft(np.fft.rfft(waveform) * 10 ** (curve / 20), len(waveform)).astype(np.float32)


def limit_band(waveform: Waveform, sampling_rate: int, low_hertz: float, high_hertz: float) -> Waveform:
    """Keep one band, as a telephone does, with soft edges."""
    points = {
        0.0: -60.0,
        low_hertz * 0.5: -30.0,
        low_hertz: 0.0,
        high_hertz: 0.0,
        high_hertz * 1.15: -40.0,
        sampling_rate / 2: -60.0,
    }
    return equalize(waveform, sampling_rate, points)


def make_noise(
    kind: str, num_samples: int, sampling_rate: int, rng: np.random.Generator, babble_clips: list[Waveform]
) -> Waveform:
    """Return noise of one of NOISE_KINDS at a root mean square of 1."""
    if kind == "babble" and babble_clips:
        noise = _mix_babble(num_samples, rng, babble_clips)
    elif kind == "hum":
        noise = _mix_hum(num_samples, sampling_rate, rng)
    else:
        exponent = {"pink": 0.5, "brown": 1.0}.get(kind, 0.0)
        spectrum = np.fft.rfft(rng.standard_normal(num_samples))
        frequencies = np.fft.rfftfreq(num_samples, 1 / sampling_rate)
        noise = np.fft.irfft(spectrum / np.maximum(frequencies, 40.0) ** exponent, num_samples)
    return (noise / max(1e-9, math.sqrt(float(np.mean(noise**2))))).astype(np.float32)


def _mix_babble(num_samples: int, rng: np.random.Generator, clips: list[Waveform]) -> NDArray[np.float64]:
    mixed = np.zeros(num_samples)
    for _ in range(int(rng.integers(3, 8))):
        clip = clips[int(rng.integers(len(clips)))]
        offset = int(rng.integers(len(clip)))
        mixed += rng.uniform(0.3, 1.0) * np.take(clip, np.arange(offset, offset + num_samples), mode="wrap")
    return mixed


def _mix_hum(num_samples: int, sampling_rate: int, rng: np.random.Generator) -> NDArray[np.float64]:
    times = np.arange(num_samples) / sampling_rate
    mains = float(rng.choice([50.0, 60.0]))
    mixed = 0.2 * rng.standard_normal(num_samples)
    for harmonic in range(1, 9):
        phase, level = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 1.0) / harmonic
        mixed += level * np.sin(2 * np.pi * mains * harmonic * times + phase)
    return mixed


def add_noise(waveform: Waveform, noise: Waveform, snr_db: float) -> Waveform:
    """Add unit noise at `snr_db` below the speech; pauses do not count in the speech's level."""
    loud = np.abs(waveform) > 0.05 * np.max(np.abs(waveform), initial=1e-6)
    level = math.sqrt(float(np.mean(waveform[loud] ** 2))) if loud.any() else 1e-4
    return (waveform + noise * level * 10 ** (-snr_db / 20)).astype(np.float32)


def record(speech: Waveform, sampling_rate: int, rng: np.random.Generator, babble_clips: list[Waveform]) -> Waveform:
    """Put speech between stretches of silence and through a random room, microphone, noise and gain."""
    before, after = (int(rng.uniform(0.1, 0.6) * sampling_rate) for _ in range(2))
    waveform = np.pad(speech, (before, after)).astype(np.float32)
    if rng.random() < 0.35:
        waveform = reverberate(waveform, sampling_rate, rng.uniform(0.1, 0.5), rng.uniform(-2, 12), rng)
    if rng.random() < 0.6:
        tilt_db, centers = rng.uniform(-7, 7), (100.0, 250.0, 600.0, 1200.0, 2400.0, 4000.0, 7000.0)
        points = {hertz: tilt_db * (place / 3 - 1) + rng.uniform(-3.5, 3.5) for place, hertz in enumerate(centers)}
        waveform = equalize(waveform, sampling_rate, points)
    noisy = rng.random() < 0.65
    kind = str(rng.choice(NOISE_KINDS, p=(0.15, 0.3, 0.2, 0.1, 0.25))) if noisy else "pink"
    snr_db = rng.uniform(8, 40) if noisy else rng.uniform(40, 60)  # no recording is digitally silent
    noise = make_noise(kind, len(waveform), sampling_rate, rng, babble_clips)
    waveform = add_noise(waveform, noise, snr_db)
    if rng.random() < 0.15:
        low, high = (300.0, 3400.0) if rng.random() < 0.5 else (100.0, 6000.0)
        waveform = limit_band(waveform, sampling_rate, low, high)
    level = 10 ** (rng.uniform(-34, -16) / 20)
    waveform = waveform * (level / max(1e-6, math.sqrt(float(np.mean(waveform**2)))))
    peak = float(np.max(np.abs(waveform)))
    return (waveform * min(1.0, 0.98 / max(peak, 1e-6))).astype(np.float32)
