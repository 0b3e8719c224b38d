"""Speed, noise, gain and SpecAugment masks, each drawn from (seed, epoch, utterance) and nothing else."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finetune.data.audio import Waveform, resample


def generator(seed: int, epoch: int, utterance: int, purpose: int) -> np.random.Generator:
    """The random numbers of one utterance in one epoch, whatever the worker, process or order."""
    return np.random.default_rng((seed, epoch, utterance, purpose))


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a training waveform; ranges are (lowest, highest), None switches a step off."""

    speed: tuple[float, float] | None = None
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
