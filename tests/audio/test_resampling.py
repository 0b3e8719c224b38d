"""A waveform resampled in pieces equals the waveform resampled at once."""

import math

import numpy as np
import pytest

from finetune.audio.resampling import Resampler, resample

RATES = [(44100, 16000), (48000, 16000), (8000, 16000), (11025, 16000), (22051, 16000), (16000, 8000), (16000, 16000)]


@pytest.mark.parametrize(("from_rate", "to_rate"), RATES)
@pytest.mark.parametrize("samples", [1, 500, 50_003])
def test_pieces_of_any_length_give_the_same_samples(from_rate: int, to_rate: int, samples: int) -> None:
    random = np.random.default_rng(samples)
    waveform = random.normal(size=(2, samples)).astype(np.float32)
    cuts = np.sort(random.integers(0, samples + 1, size=9))
    resampler = Resampler(from_rate, to_rate)
    pieces = [resampler.push(piece) for piece in np.split(waveform, cuts, axis=1)]
    pieces.append(resampler.push(waveform[:, :0], last=True))
    whole = resample(waveform, from_rate, to_rate)
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole, atol=1e-6)


def test_no_sample_is_lost_at_the_end_of_a_long_waveform() -> None:
    samples = 441 * 10_000 + pow(
        160, -1, 441
    )  # The length is 1/441 above a whole number, which float32 cannot represent.
    assert len(resample(np.zeros(samples, np.float32), 44100, 16000)) == math.ceil(samples * 160 / 441)


def test_a_stream_holds_back_little() -> None:
    resampler = Resampler(44100, 16000)
    given = sum(resampler.push(np.zeros(4410, np.float32)).shape[0] for _ in range(100))
    assert 0 < 160_000 - given < 400
