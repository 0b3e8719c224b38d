"""Speed, vocal tract, noise, gain and SpecAugment masks, each drawn from (seed, epoch, utterance) and nothing else."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from finetune.data.audio import Waveform, resample

# The first four resonances in hertz of a tube of 17 cm, an adult's vocal tract (Fant 1960).
_FORMANTS = (500.0, 1500.0, 2500.0, 3500.0)


def generator(seed: int, epoch: int, utterance: int, purpose: int) -> np.random.Generator:
    """The random numbers of one utterance in one epoch, whatever the worker, process or order."""
    return np.random.default_rng((seed, epoch, utterance, purpose))


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a training waveform at `sampling_rate` Hz; ranges are (lowest, highest), None is off."""

    sampling_rate: int = 16000
    speed: tuple[float, float] | None = None
    vocal_tract: float | None = None
    noise_probability: float = 0.5
    noise_snr_db: tuple[float, float] | None = None
    gain_db: tuple[float, float] | None = None

    @property
    def fastest(self) -> float:
        """The largest speed factor, which leaves an utterance its fewest frames."""
        return self.speed[1] if self.speed else 1.0

    def apply(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """A changed copy of (samples,) float32: speed first, so that the noise stays unstretched."""
        if self.speed:
            waveform = change_speed(waveform, rng.uniform(*self.speed))
        if self.vocal_tract:
            waveform = move_formants(waveform, draw_vocal_tract(self.vocal_tract, rng), self.sampling_rate)
        if self.noise_snr_db and rng.random() < self.noise_probability:
            waveform = add_noise(waveform, rng.uniform(*self.noise_snr_db), rng)
        if self.gain_db:
            waveform = waveform * np.float32(10 ** (rng.uniform(*self.gain_db) / 20))
        return waveform


def change_speed(waveform: Waveform, factor: float) -> Waveform:
    """Play `factor` times as fast, pitch included (Ko et al. 2015, "Audio augmentation for speech recognition")."""
    # Whole percents keep the number of distinct resampling kernels small.
    percent = round(100 * factor)
    return resample(waveform, percent, 100)


def draw_vocal_tract(strength: float, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Factors for the first four formants, (4,): exp of up to ±strength / 2 for all times one of ±strength for each."""
    factors: npt.NDArray[np.float64] = np.exp(
        rng.uniform(-strength / 2, strength / 2) + rng.uniform(-strength, strength, len(_FORMANTS))
    )
    return factors


def move_formants(waveform: Waveform, factors: npt.NDArray[np.float64], sampling_rate: int) -> Waveform:
    """Multiply the frequencies of the first four formants, (4,), as if another throat had spoken; pitch and time stay.

    It is vocal tract length perturbation (Jaitly and Hinton 2013) of the waveform instead of its filter banks, with a
    factor for each formant. What moves is the spectral envelope: the cepstrum's first 2 ms, where the pitch isn't.
    """
    window = torch.hann_window(sampling_rate * 32 // 1000).sqrt()
    size, hop = len(window), len(window) // 2
    spectrum = torch.stft(
        torch.from_numpy(waveform), size, hop, window=window, pad_mode="constant", return_complex=True
    )  # (frequencies, frames)
    cepstrum = torch.fft.irfft(torch.log(spectrum.abs() + 1e-4), n=size, dim=0)
    cepstrum[size // 16 + 1 : -(size // 16)] = 0
    envelope = torch.fft.rfft(cepstrum, dim=0).real
    frequencies = np.fft.rfftfreq(size, 1 / sampling_rate)
    highest = frequencies[-1]
    formants = np.array([f for f in _FORMANTS if f < highest])
    moved = np.minimum(np.maximum.accumulate(formants * factors[: len(formants)]), highest)
    origin = np.interp(frequencies, [0, *moved, highest], [0, *formants, highest]) * size / sampling_rate
    lower = torch.from_numpy(np.minimum(origin.astype(np.int64), size // 2 - 1))
    weight = torch.from_numpy(origin.astype(np.float32))[:, None] - lower[:, None]
    gain = torch.exp(torch.lerp(envelope[lower], envelope[lower + 1], weight) - envelope)
    changed = torch.istft(spectrum * gain, size, hop, window=window, length=len(waveform))
    return np.asarray(changed.numpy(), dtype=np.float32)


def add_noise(waveform: Waveform, snr_db: float, rng: np.random.Generator) -> Waveform:
    """Add noise whose spectrum falls as 1/f^a, a drawn from 0 (white) to 2 (brown), at an SNR in dB."""
    samples = len(waveform)
    spectrum = np.fft.rfft(rng.standard_normal(samples).astype(np.float32))
    frequency = np.arange(1, len(spectrum) + 1, dtype=np.float32)
    noise = np.fft.irfft(spectrum * frequency ** (-rng.uniform(0.0, 2.0) / 2), n=samples)
    power = float(np.mean(waveform**2)) / max(float(np.mean(noise**2)), 1e-12)
    noisy: Waveform = (waveform + noise * np.sqrt(power / 10 ** (snr_db / 10))).astype(np.float32)
    return noisy


def draw_time_mask(num_frames: int, probability: float, length: int, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """SpecAugment's time mask over the encoder's frames (Park et al. 2019), shape (frames,).

    About `probability` of the frames are masked, in spans of `length` frames that may overlap, as in wav2vec2.
    """
    mask = np.zeros(num_frames, dtype=np.bool_)
    spans = int(probability * num_frames / length + rng.random())
    for start in rng.integers(0, max(num_frames - length, 0) + 1, size=spans):
        mask[start : start + length] = True
    return mask
