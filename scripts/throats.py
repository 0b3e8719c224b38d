"""Other throats for a synthesiser that predicts spectra: pitch, formants, breath and rhythm of a voice that nobody has.

The voice heart of hibari is a small model's copy of one of Kokoro's voices, at some 30 times the speed. It predicts,
for frames of 12.5 ms, the magnitudes of a harmonic source and of noise, and a pitch curve. Here these are moved before
they become sound, so that one voice becomes as many as are wanted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from acoustics import Waveform
from numpy.typing import NDArray

SAMPLING_RATE = 24000
HOP, FFT = 300, 1200  # samples; 601 bins of 20 Hz
MIN_PITCH, TOP_HERTZ = 40.0, 11000.0  # below the one a frame is unvoiced, above the other there are no harmonics
_WINDOW = np.hanning(FFT + 1)[:-1]
# The formants are moved independently at these frequencies, and between them in proportion.
_FORMANT_HERTZ = (0.0, 600.0, 1600.0, 2700.0, 4000.0, 12000.0)

Spectra = NDArray[np.float32]  # (bins, frames), natural logarithms of magnitudes


@dataclass(frozen=True)
class Throat:
    """A way to speak: factors of pitch, of its movement and of each formant, levels in nepers, and a rhythm."""

    pitch: float
    intonation: float
    formants: tuple[float, ...]
    tilt: float
    breath: float
    rhythm: float


def draw_throat(rng: np.random.Generator) -> Throat:
    """Return a man's, a woman's or a child's throat; the model's own voice is a woman's."""
    kind = rng.random()
    low, high, size = (0.42, 0.68, 0.86) if kind < 0.5 else (0.75, 1.15, 1.0) if kind < 0.9 else (1.05, 1.5, 1.12)
    size *= float(rng.uniform(0.94, 1.07))
    formants = tuple(size * float(rng.uniform(0.92, 1.08)) for _ in _FORMANT_HERTZ[1:-1])
    return Throat(
        pitch=float(rng.uniform(low, high)),
        intonation=float(rng.uniform(0.3, 1.3)),
        formants=formants,
        tilt=float(rng.uniform(-0.25, 0.15)),
        breath=float(rng.uniform(-3.0, -1.0)),
        rhythm=float(rng.uniform(0.0, 0.35)),
    )


def render(
    harmonic: Spectra,
    noise: Spectra,
    free: Spectra,
    pitch: NDArray[np.float32],
    throat: Throat,
    rng: np.random.Generator,
) -> Waveform:
    """Return the speech of a throat, (samples,) at SAMPLING_RATE.

    `harmonic`, `noise` and `free` are what hibari calls lh, ln and lr, `pitch` is its f0 in hertz, (frames,). The
    phases of the free part belong to the model's own pitch, so it is noise here, lowered by `throat.breath` under
    harmonics.
    """
    frames = _draw_rhythm(len(pitch), throat.rhythm, rng)
    pitch = pitch[frames]
    voiced = pitch > MIN_PITCH
    warped = [_warp(part[:, frames], throat) for part in (harmonic, noise, free)]
    envelope, hiss, rest = _smooth(warped[0]), warped[1], warped[2]
    # Where harmonics dominate, the free part repeats them with the model's own pitch; where it dominates, it is a hiss.
    repeats = 1 / (1 + np.exp(2 * (_smooth(rest) - envelope)))
    rest = np.where(voiced, rest + throat.breath * repeats, rest)
    magnitude = np.exp(np.minimum(hiss, 7.0)) + np.exp(np.minimum(rest, 7.0))
    random = rng.standard_normal((2, *magnitude.shape)) * math.sqrt(0.5)
    spectrum = magnitude * (random[0] + 1j * random[1])
    if voiced.any():
        mean = math.exp(float(np.mean(np.log(pitch[voiced]))))
        moved = np.where(voiced, mean * throat.pitch * (np.maximum(pitch, 1.0) / mean) ** throat.intonation, 0.0)
        pulses = _make_pulses(np.where(voiced, np.maximum(moved, MIN_PITCH + 5), 0.0))
        spectrum = spectrum + np.exp(np.minimum(envelope, 7.0)) * _analyse(pulses, len(pitch))
    return _overlap_add(spectrum).astype(np.float32)


def _draw_rhythm(num_frames: int, amount: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the frames in order, slow stretches repeated and fast ones thinned out, about as many as there were."""
    knots = max(2, num_frames // 16)  # a new rate every 0.2 s
    rates = np.exp(rng.uniform(-amount, amount, knots))
    steps = np.interp(np.linspace(0, knots - 1, num_frames), np.arange(knots), rates)
    places = np.cumsum(steps) - steps[0]
    return np.clip(np.round(places * (num_frames - 1) / max(1e-6, places[-1])), 0, num_frames - 1).astype(np.int64)


def _warp(spectra: Spectra, throat: Throat) -> NDArray[np.float64]:
    """Move the formants: what was at a frequency appears at its factor times that."""
    hertz = np.arange(len(spectra)) * SAMPLING_RATE / FFT
    known = np.array(_FORMANT_HERTZ)
    moved = known * np.array((1.0, *throat.formants, 1.0))
    sources = np.interp(hertz, moved, known) * FFT / SAMPLING_RATE
    lower = np.minimum(sources.astype(int), len(spectra) - 2)
    share = (sources - lower)[:, None]
    tilt = throat.tilt * np.log2(np.maximum(hertz, 200.0) / 200.0)[:, None]
    return spectra[lower] * (1 - share) + spectra[lower + 1] * share + tilt


def _smooth(spectra: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the envelope without what belongs to the harmonics of one pitch."""
    cepstrum = np.fft.irfft(np.maximum(spectra, -9.0), axis=0)
    cepstrum[60:-59] = 0.0
    return np.fft.rfft(cepstrum, axis=0).real


def _make_pulses(pitch: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return all harmonics of a pitch curve at amplitude 1 with one phase, (frames * HOP,); zero in unvoiced frames."""
    times = (np.arange(len(pitch) * HOP) + 0.5) / HOP - 0.5
    hertz = np.interp(times, np.arange(len(pitch)), pitch)
    voiced = hertz > MIN_PITCH
    hertz = np.maximum(hertz, MIN_PITCH)
    half = np.pi * np.modf(np.cumsum(hertz) / SAMPLING_RATE)[0]
    # The sum of cos(2 h x) for h from 1 to n is sin((2 n + 1) x) / (2 sin x) - 1/2.
    factor = 2 * np.floor(TOP_HERTZ / hertz) + 1
    sine = np.sin(half)
    near = np.abs(sine) < 1e-3
    total = np.where(near, factor, np.sin(factor * half) / np.where(near, 1.0, sine)) / 2 - 0.5
    return total * voiced


def _analyse(samples: NDArray[np.float64], num_frames: int) -> NDArray[np.complex128]:
    padded = np.pad(samples, FFT // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, FFT)[::HOP][:num_frames]
    return np.fft.rfft(frames * _WINDOW / HOP, axis=1).T


def _overlap_add(spectrum: NDArray[np.complex128]) -> NDArray[np.float64]:
    pieces = np.fft.irfft(spectrum.T, FFT, axis=1) * _WINDOW
    padded = np.zeros((len(pieces) + FFT // HOP - 1) * HOP)
    for number, piece in enumerate(pieces):
        padded[number * HOP : number * HOP + FFT] += piece
    # The squares of the windows that overlap sum to 1.5.
    return padded[FFT // 2 : FFT // 2 + len(pieces) * HOP] / 1.5
