"""Resampling, high-pass and loudness equal torchaudio's: recorded values, and torchaudio itself where it is installed.

Resampling agrees within 1e-6 of full scale, the high-pass (coefficients in single precision there) within 1e-4, and
loudness within 0.001 LU.
"""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from finetune.audio.filters import filter_highpass, measure_loudness
from finetune.audio.resampling import resample

# Of torchaudio 2.11.0 with torch 2.12.1: five samples of the processed `make_chirp`, from the 100th on, 500 apart.
RESAMPLED = {
    (44100, 16000): [0.33503, 0.129696, 0.107822, 0.283998, 0.397227],
    (8000, 16000): [0.285401, -0.307626, -0.447993, -0.500003, 0.328899],
    (16000, 8000): [-0.478659, 0.461726, -0.235718, 0.000006, 0.235328],
    (11025, 16000): [0.406478, -0.397785, -0.473378, -0.011392, 0.19474],
}
HIGHPASSED_80_HERTZ = [-0.034928, -0.500092, -0.14231, 0.07809, -0.192865]
LOUDNESS = -7.287856


@pytest.fixture(scope="module")
def torchaudio() -> Any:
    try:
        import torchaudio
    except (ImportError, OSError, RuntimeError) as error:  # Not installed, or not built for this torch.
        pytest.skip(f"torchaudio can't be imported: {error}")
    return torchaudio


def make_chirp() -> np.ndarray:
    """Half a second at 16 kHz, from 20 Hz to 3.5 kHz, at half of full scale."""
    seconds = np.arange(8000) / 16000
    return (0.5 * np.sin(2 * np.pi * (20 + 3500 * seconds) * seconds)).astype(np.float32)


def make_speechlike(samples: int = 80_000) -> np.ndarray:
    """Noise of changing level, some of it below the gates of BS.1770 and some above full scale."""
    random = np.random.default_rng(0)
    level = np.repeat(10 ** random.uniform(-5, 0.3, -(-samples // 1600)), 1600)[:samples]
    return (0.4 * level * random.standard_normal(samples)).astype(np.float32)


@pytest.mark.parametrize("rates", RESAMPLED)
def test_resampling_gives_the_recorded_samples(rates: tuple[int, int]) -> None:
    np.testing.assert_allclose(resample(make_chirp(), *rates)[100::500][:5], RESAMPLED[rates], atol=2e-6)


def test_filters_give_the_recorded_samples() -> None:
    np.testing.assert_allclose(filter_highpass(make_chirp(), 80, 16000)[100::500][:5], HIGHPASSED_80_HERTZ, atol=2e-5)
    assert measure_loudness(make_chirp(), 16000) == pytest.approx(LOUDNESS, abs=0.001)


@pytest.mark.parametrize("rates", [*RESAMPLED, (48000, 16000), (96000, 16000), (16000, 44100), (16000, 15200)])
@pytest.mark.parametrize("samples", [1, 500, 50_003])
def test_resampling_equals_torchaudio(torchaudio: Any, rates: tuple[int, int], samples: int) -> None:
    import torch

    waveform = np.stack([make_speechlike(samples), make_speechlike(samples)[::-1]])
    expected = torchaudio.transforms.Resample(*rates)(torch.from_numpy(waveform)).numpy()
    np.testing.assert_allclose(resample(waveform, *rates), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("sampling_rate", [8000, 16000])
def test_filters_equal_torchaudio(torchaudio: Any, sampling_rate: int) -> None:
    import torch
    from torchaudio.functional import highpass_biquad, loudness

    waveform = make_speechlike()
    for hertz in (38, 80, 300, 3000):
        expected = highpass_biquad(torch.from_numpy(waveform), sampling_rate, float(hertz)).numpy()
        np.testing.assert_allclose(filter_highpass(waveform, hertz, sampling_rate), expected, rtol=0, atol=1e-4)
    for gain in (0.01, 0.1, 1.0):
        measured = measure_loudness(waveform * np.float32(gain), sampling_rate)
        there = float(loudness(torch.from_numpy(waveform * np.float32(gain))[None], sampling_rate))
        assert measured == pytest.approx(there, abs=0.001)


# Without a loader torchaudio counts as not installed, for this package and for Transformers.
WITHOUT = """
import sys

class Hider:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torchaudio":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hider())
import numpy as np
from finetune.audio.preprocessing import build_preprocessor
from finetune.audio.resampling import resample

waveform = np.sin(np.arange(44100, dtype=np.float32) / 20) / 2
heard = build_preprocessor([{"highpass": 80}, {"loudness": -23}], 16000)(resample(waveform, 44100, 16000))
assert len(heard) == 16000 and 0.05 < np.abs(heard).max() < 0.5, np.abs(heard).max()
assert "torchaudio" not in sys.modules
"""


@pytest.mark.long
def test_nothing_needs_torchaudio() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
