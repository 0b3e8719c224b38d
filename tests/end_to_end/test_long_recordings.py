"""A trained model hears the same in a recording that ends in speech as with a second of silence behind it."""

from pathlib import Path

import numpy as np
import pytest
from conftest import SAMPLING_RATE, WORDS, speak

from finetune.inference.transcriber import Transcriber

# What is said in the last seconds of a recording may differ: there the model and the detector of speech hear what
# follows, and a word that the end cuts is another one. Measured with models of the quickstart recipe, on its test
# sentences (9 recordings) and on AN4 (14) joined to recordings of 38 to 49 s and one of 12 minutes, each cut at its
# loudest place: at most 1.6 s, and at most 4 words.
END_SECONDS = 2.0


@pytest.mark.parametrize("seed", range(4))
def test_a_second_of_silence_changes_the_end_alone(learned_run: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    transcriber = Transcriber(learned_run / "model", device="cpu", precision="float32")
    said = [" ".join(rng.choice(WORDS, 3)) for _ in range(30)]
    whole = np.concatenate([speak(text, rng) for text in said])
    loud = np.convolve(whole[-SAMPLING_RATE:] ** 2, np.ones(320), "valid")
    samples = whole[: len(whole) - SAMPLING_RATE + int(loud.argmax()) + int(rng.integers(320))]
    plain = transcriber.transcribe(samples, sampling_rate=SAMPLING_RATE)
    padded = np.concatenate([samples, np.zeros(SAMPLING_RATE, np.float32)])
    followed = transcriber.transcribe(padded, sampling_rate=SAMPLING_RATE)
    before = plain.seconds - END_SECONDS
    assert [word.text for word in plain.words if word.end < before] == [
        word.text for word in followed.words if word.end < before
    ]
    assert all(0 <= word.start <= word.end <= plain.seconds for word in plain.words)
    assert len(plain.words) > 50
