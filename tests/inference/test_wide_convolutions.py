"""A model whose first frame needs more audio than wav2vec2's: 65 ms, as Whisper's windows and convolutions do."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from conftest import SAMPLING_RATE, speak, tiny_config, write_corpus

from finetune.audio.waveforms import AudioError
from finetune.cli import main
from finetune.inference.live import LiveTranscriber
from finetune.inference.recogniser import Recogniser
from finetune.inference.transcriber import Transcriber
from finetune.inference.windows import Lengths

SHORTEST = 1040


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with an untrained head, for the letters of the toy corpora."""
    from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC, Wav2Vec2Processor

    from finetune.text.vocabulary import build_tokenizer, build_vocabulary

    folder = tmp_path_factory.mktemp("wide")
    config: Any = tiny_config("layer", vocab_size=7, pad_token_id=0)
    config.conv_kernel, config.conv_stride = [400, 1, 3, 3], [160, 1, 1, 2]
    config.conv_dim, config.num_feat_extract_layers = [16] * 4, 4
    torch.manual_seed(0)
    Wav2Vec2ForCTC(config).save_pretrained(folder)
    tokenizer = build_tokenizer(build_vocabulary("abcd"))
    Wav2Vec2Processor(Wav2Vec2FeatureExtractor(return_attention_mask=True), tokenizer).save_pretrained(folder)
    return folder


def test_recordings_are_transcribed_from_its_first_frame_on(model: Path) -> None:
    recogniser = Recogniser.load(model, "cpu")
    assert recogniser.min_seconds == SHORTEST / SAMPLING_RATE
    assert recogniser.lead_seconds == 0.02  # The middle of 1,040 samples is 320 later than that of 400.
    recogniser.trained_lengths = Lengths(1.0, 2.0)
    transcriber = Transcriber(recogniser)
    samples = speak("abba dad cab", np.random.default_rng(0))
    with pytest.raises(AudioError, match=r"too short: 0\.064 s; expected 0\.065 s or more"):
        transcriber.transcribe(samples[: SHORTEST - 1], sampling_rate=SAMPLING_RATE)
    speech = np.tile(samples, 4)
    for length in (
        SHORTEST,
        SHORTEST + 1,
        2 * SAMPLING_RATE + 7,
        *range(4 * SAMPLING_RATE, 4 * SAMPLING_RATE + 999, 111),
    ):
        transcript = transcriber.transcribe(speech[:length], sampling_rate=SAMPLING_RATE)
        assert transcript.seconds == length / SAMPLING_RATE


@pytest.mark.parametrize("pause", [0.2, 1.0])
def test_live_speech_ends_anywhere(model: Path, pause: float) -> None:
    recogniser = Recogniser.load(model, "cpu")
    recogniser.trained_lengths = Lengths(1.0, 2.0)
    live = LiveTranscriber(recogniser)
    samples = speak("abba dad cab", np.random.default_rng(0))
    quiet = np.zeros(round(pause * SAMPLING_RATE), np.float32)
    whole = np.concatenate([samples, quiet, samples, quiet, samples])
    for length in range(len(whole) - 3000, len(whole), 373):
        session = live.session(SAMPLING_RATE)
        events = [
            event
            for start in range(0, length, 1600)
            for event in session.feed(whole[start : min(start + 1600, length)])
        ]
        assert events + session.finish()


def test_utterances_that_are_too_short_for_it_are_named(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_corpus(tmp_path / "test", ["ab", "ba", "dad"], ["a", "a", "a"], 0)
    [first, *_] = sorted((tmp_path / "test").rglob("*.wav"))
    soundfile.write(first, soundfile.read(first)[0][2000 : 2000 + SHORTEST - 1], SAMPLING_RATE)
    assert main(["evaluate", str(model), "--data", str(tmp_path), "--split", "test"]) == 0
    assert "left out: 00.wav: too short" in capsys.readouterr().err
