"""A waveform resampled in pieces equals the waveform resampled at once."""

import math

import numpy as np
import pytest

from finetune.audio import resampling
from finetune.audio.resampling import Resampler, resample

RATES = [(44100, 16000), (48000, 16000), (8000, 16000), (11025, 16000), (16000, 8000), (16000, 16000)]
ODD_RATES = [(8001, 16000), (22051, 16000), (44101, 16000), (191_999, 16000), (16000, 44101)]


@pytest.mark.parametrize(("from_rate", "to_rate"), RATES + ODD_RATES)
@pytest.mark.parametrize("samples", [1, 500, 50_003])
def test_pieces_of_any_length_give_the_same_samples(from_rate: int, to_rate: int, samples: int) -> None:
    random = np.random.default_rng(samples)
    waveform = random.normal(size=(2, samples)).astype(np.float32)
    cuts = np.sort(random.integers(0, samples + 1, size=9))
    resampler = Resampler(from_rate, to_rate)
    pieces = [resampler.push(piece) for piece in np.split(waveform, cuts, axis=1)]
    pieces.append(resampler.push(waveform[:, :0], last=True))
    whole = resample(waveform, from_rate, to_rate)
    assert whole.shape == (2, -(-samples * to_rate // from_rate))
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole, atol=1e-6)


def test_no_sample_is_lost_at_the_end_of_a_long_waveform() -> None:
    samples = 441 * 10_000 + pow(
        160, -1, 441
    )  # The length is 1/441 above a whole number, which float32 cannot represent.
    assert len(resample(np.zeros(samples, np.float32), 44100, 16000)) == math.ceil(samples * 160 / 441)


@pytest.mark.parametrize("rate", [44100, 44101])
def test_a_stream_holds_back_little(rate: int) -> None:
    resampler = Resampler(rate, 16000)
    given = sum(resampler.push(np.zeros(4410, np.float32)).shape[0] for _ in range(100))
    assert 0 < 441_000 * 16000 / rate - given < 400


@pytest.mark.parametrize(("from_rate", "to_rate"), ODD_RATES)
def test_odd_rates_do_not_drift(from_rate: int, to_rate: int) -> None:
    seconds = 25
    waveform, expected = (np.sin(2 * np.pi * 300.0 * np.arange(seconds * rate) / rate) for rate in (from_rate, to_rate))
    resampled = resample(waveform.astype(np.float32), from_rate, to_rate)
    assert len(resampled) == len(expected)
    inside = slice(to_rate // 10, -to_rate // 10)
    np.testing.assert_allclose(resampled[inside], expected[inside], atol=2e-3)


def test_filters_by_phase_are_those_of_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    waveform = np.random.default_rng(0).normal(size=(2, 5003)).astype(np.float32)
    for from_rate, to_rate in ((44100, 16000), (8000, 16000), (11025, 16000)):
        by_group = resample(waveform, from_rate, to_rate)
        with monkeypatch.context() as patched:
            patched.setattr(resampling, "_MOST_FILTERS", 0)
            patched.setattr(resampling, "_build_kernel", resampling._build_kernel.__wrapped__)
            np.testing.assert_allclose(resample(waveform, from_rate, to_rate), by_group, atol=1e-4)
