"""Augmentation of training speech and SpecAugment masks, reproducible from (seed, epoch, utterance)."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from finetune.audio.resampling import resample
from finetune.audio.waveforms import SUFFIXES, AudioError, Recording, Waveform, read_seconds, read_waveform
from finetune.errors import UserError
from finetune.resources.storage import list_visible

Range = tuple[float, float]

# The telephone band in hertz (ITU-T G.712), and the orders of the Butterworth filters at its edges.
_TELEPHONE_BAND, _TELEPHONE_ORDERS = (300.0, 3400.0), (4, 10)
# The share of samples that are clipped, from hardly audible to clearly distorted.
_CLIPPED_SHARE = (0.001, 0.05)
# The energy of reverberation relative to the direct sound in dB, from beside the speaker to across the room.
_REVERBERANT_DB = (-15.0, 3.0)
# Of a longer noise file this much is read from the drawn place.
_NOISE_SECONDS = 30.0

# The first four formants in hertz of a uniform tube of 17 cm, an adult's vocal tract (Fant 1960).
_FORMANTS = (500.0, 1500.0, 2500.0, 3500.0)


def generator(seed: int, epoch: int, utterance: int, purpose: int, copy: int = 0) -> np.random.Generator:
    """The random generator of an utterance (or a copy of it) in an epoch, independent of worker, process and order."""
    return np.random.default_rng((seed, epoch, utterance, purpose, *([copy] if copy else [])))


@dataclass(frozen=True)
class Augmentation:
    """The augmentation of training waveforms at `sampling_rate` Hz; ranges are (lowest, highest), None is off.

    Without `noise_files` noise is synthesised, without `impulse_responses` rooms of `reverb_seconds` (RT60) are.
    """

    sampling_rate: int = 16000
    speed: Range | None = None
    formant_perturbation: float | None = None
    reverb_probability: float = 0.5
    reverb_seconds: Range | None = None
    impulse_responses: tuple[str, ...] = ()
    noise_probability: float = 0.5
    noise_snr_db: Range | None = None
    noise_files: tuple[str, ...] = ()
    gain_db: Range | None = None
    telephone_probability: float = 0.0
    clipping_probability: float = 0.0

    @property
    def fastest(self) -> float:
        """The largest speed factor, with which an utterance has the fewest frames."""
        return self.speed[1] if self.speed else 1.0

    def apply(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """An augmented copy of (samples,) float32, in the order of a recording: speaker, room, noise, microphone, line.

        Raises AudioError when a noise file or an impulse response can't be read.
        """
        if self.speed:
            waveform = change_speed(waveform, rng.uniform(*self.speed))
        if self.formant_perturbation:
            factors = draw_formant_factors(self.formant_perturbation, rng)
            waveform = perturb_formants(waveform, factors, self.sampling_rate)
        if (self.reverb_seconds or self.impulse_responses) and rng.random() < self.reverb_probability:
            waveform = reverberate(waveform, self._draw_impulse_response(rng))
        if self.noise_snr_db and rng.random() < self.noise_probability:
            snr_db = rng.uniform(*self.noise_snr_db)
            waveform = add_noise(waveform, self._draw_noise(len(waveform), rng), snr_db)
        if self.gain_db:
            waveform = waveform * np.float32(10 ** (rng.uniform(*self.gain_db) / 20))
        # Nothing is drawn for an augmentation that is off, so that recipes without it keep their random numbers.
        if self.clipping_probability and rng.random() < self.clipping_probability:
            waveform = clip(waveform, rng.uniform(*_CLIPPED_SHARE))
        if self.telephone_probability and rng.random() < self.telephone_probability:
            waveform = limit_band(waveform, self.sampling_rate)
        return waveform

    def _draw_impulse_response(self, rng: np.random.Generator) -> Waveform:
        if self.impulse_responses:
            file = self.impulse_responses[int(rng.integers(len(self.impulse_responses)))]
            with _naming(file):
                return read_waveform(Recording(file, None), self.sampling_rate)
        assert self.reverb_seconds is not None
        return make_impulse_response(
            rng.uniform(*self.reverb_seconds), rng.uniform(*_REVERBERANT_DB), self.sampling_rate, rng
        )

    def _draw_noise(self, samples: int, rng: np.random.Generator) -> Waveform:
        if not self.noise_files:
            return make_noise(samples, rng)
        file = Recording(self.noise_files[int(rng.integers(len(self.noise_files)))], None)
        with _naming(str(file.path)):
            seconds = read_seconds(file)
            start = rng.uniform(0, max(0.0, seconds - _NOISE_SECONDS))
            part = replace(file, start=start, end=min(seconds, start + _NOISE_SECONDS))
            noise = read_waveform(part, self.sampling_rate)
        # Shorter noise is repeated, from a random place on.
        first = int(rng.integers(len(noise)))
        return np.resize(np.roll(noise, -first), samples)


@contextmanager
def _naming(file: str) -> Iterator[None]:
    """Add the augmentation's file to the reason for which an utterance is skipped."""
    try:
        yield
    except AudioError as error:
        raise AudioError(f"unusable file of the augmentation: {file}: {error}") from error


def list_recordings(folder: str, key: str, max_seconds: float = math.inf) -> tuple[str, ...]:
    """The audio files under a folder, sorted by path.

    Raises UserError when there are none, and for a file that can't be read or is longer than `max_seconds`.
    """
    root = Path(folder)
    files = [file for file in list_visible(root, "**/*") if file.suffix.lower() in SUFFIXES]
    if not files:
        raise UserError(f"{key}: {folder} holds no audio; expected a folder with {', '.join(sorted(SUFFIXES))} files.")
    for file in files:
        try:
            if (seconds := read_seconds(Recording(str(file), None))) > max_seconds:
                raise AudioError(f"too long: {seconds:.0f} s, of up to {max_seconds:g}")
        except AudioError as error:
            raise UserError(f"{key}: {file} can't be used: {error}; remove it.") from error
    return tuple(str(file) for file in files)


def change_speed(waveform: Waveform, factor: float) -> Waveform:
    """Speed perturbation by a factor, which changes the pitch too (Ko et al. 2015, "Audio augmentation ...")."""
    # Whole percents limit the number of different resampling kernels.
    return resample(waveform, round(100 * factor), 100)


def draw_formant_factors(strength: float, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Random factors for four formants, (4,): exp(u + v), u within ±strength / 2 for all, v within ±strength."""
    return np.exp(rng.uniform(-strength / 2, strength / 2) + rng.uniform(-strength, strength, len(_FORMANTS)))


def perturb_formants(waveform: Waveform, factors: npt.NDArray[np.float64], sampling_rate: int) -> Waveform:
    """Formant perturbation: multiply the frequencies of the first four formants by (4,) factors; pitch and time stay.

    It is vocal tract length perturbation (Jaitly and Hinton 2013) of the waveform instead of its filter banks, with a
    factor for each formant. It warps the spectral envelope, the cepstrum's first 2 ms, which do not include the pitch.
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


def make_impulse_response(
    rt60_seconds: float, reverberant_db: float, sampling_rate: int, rng: np.random.Generator
) -> Waveform:
    """A room impulse response by Polack's model (1988): the direct sound, then noise that decays by 60 dB in RT60 s.

    `reverberant_db` is the energy of the reverberation relative to the direct sound. Returns (samples,) float32.
    """
    samples = max(2, round(rt60_seconds * sampling_rate))
    response = rng.standard_normal(samples, dtype=np.float32)
    response *= np.exp(np.linspace(0, -np.log(1000), samples, dtype=np.float32))
    response[0] = 0
    response *= np.float32(10 ** (reverberant_db / 20)) / max(np.linalg.norm(response), np.float32(1e-6))
    response[0] = 1
    return response


def reverberate(waveform: Waveform, impulse_response: Waveform) -> Waveform:
    """Convolve with an impulse response; length, level and timing stay the same: (samples,) float32."""
    # The part before the direct sound is the delay on the way to the microphone.
    response = impulse_response[int(np.argmax(np.abs(impulse_response))) :]
    length = _fast_length(len(waveform) + len(response) - 1)
    spectrum = np.fft.rfft(waveform, length) * np.fft.rfft(response, length)
    wet: Waveform = np.fft.irfft(spectrum, length)[: len(waveform)].astype(np.float32)
    return wet * np.float32(np.linalg.norm(waveform) / max(float(np.linalg.norm(wet)), 1e-9))


def make_noise(samples: int, rng: np.random.Generator) -> Waveform:
    """Noise with a 1/f^a power spectrum, a drawn from 0 (white) to 2 (brown)."""
    spectrum = np.fft.rfft(rng.standard_normal(samples).astype(np.float32))
    frequency = np.arange(1, len(spectrum) + 1, dtype=np.float32)
    noise = np.fft.irfft(spectrum * frequency ** (-rng.uniform(0.0, 2.0) / 2), n=samples)
    return noise.astype(np.float32, copy=False)


def add_noise(waveform: Waveform, noise: Waveform, snr_db: float) -> Waveform:
    """Add noise of the same length at an SNR in dB."""
    power = float(np.mean(waveform**2)) / max(float(np.mean(noise**2)), 1e-12)
    return (waveform + noise * np.sqrt(power / 10 ** (snr_db / 10))).astype(np.float32)


def clip(waveform: Waveform, share: float) -> Waveform:
    """Clip the loudest `share` of the samples, as too high a microphone gain does."""
    highest = float(np.quantile(np.abs(waveform), 1 - share))
    return np.clip(waveform, -highest, highest)


def limit_band(waveform: Waveform, sampling_rate: int) -> Waveform:
    """Limit speech to the telephone band, 300 to 3400 Hz."""
    (low, high), (low_order, high_order) = _TELEPHONE_BAND, _TELEPHONE_ORDERS
    length = _fast_length(len(waveform))
    hertz = np.fft.rfftfreq(length, 1 / sampling_rate).astype(np.float32)
    with np.errstate(divide="ignore"):
        gain = 1 / np.sqrt((1 + (low / hertz) ** (2 * low_order)) * (1 + (hertz / high) ** (2 * high_order)))
    return np.fft.irfft(np.fft.rfft(waveform, length) * gain, length)[: len(waveform)].astype(np.float32)


def draw_mask(count: int, probability: float, length: int, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """SpecAugment's mask over the encoder's frames or over its features (Park et al. 2019), shape (count,).

    About `probability` of them are masked, in spans of `length` that may overlap, as in wav2vec2.
    """
    mask = np.zeros(count, dtype=np.bool_)
    spans = int(probability * count / length + rng.random())
    for start in rng.integers(0, max(count - length, 0) + 1, size=spans):
        mask[start : start + length] = True
    return mask


def _fast_length(samples: int) -> int:
    """The next length that is a power of two or three times a power of two, for which FFTs are fast."""
    power = 1 << (samples - 1).bit_length()
    return 3 * power // 4 if 3 * power // 4 >= samples else power
