"""A hand-built recogniser of the tones that `speak` in tests/conftest.py makes, with a short receptive field."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

# The tones of a, b, c and d in hertz, and what a frame must have of one of them to be that letter.
TONES, LEAST_POWER = (350.0, 800.0, 1600.0, 3200.0), 0.02


class ToneModel(nn.Module):
    """Its logits say the letter whose tone is in a frame, a word delimiter in silence, and a blank between letters."""

    dtype = torch.float32

    def __init__(self) -> None:
        super().__init__()
        self.wav2vec2 = nn.Module()
        self.wav2vec2.feature_extractor = nn.Identity()
        self.config = SimpleNamespace(
            model_type="wav2vec2",
            feat_extract_norm="layer",
            vocab_size=7,
            conv_kernel=(400,),
            conv_stride=(320,),
            pad_token_id=0,
        )

    @property
    def base_model(self) -> nn.Module:
        return self.wav2vec2

    def _get_feat_extract_output_lengths(self, lengths: torch.Tensor) -> torch.Tensor:
        return (lengths - 400) // 320 + 1

    def forward(self, input_values: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        frames = input_values.unfold(1, 400, 320)  # (batch, frames, samples)
        spectrum = torch.fft.rfft(frames * torch.hann_window(400)).abs() ** 2 * (2 / 400 / 150)
        bins = torch.fft.rfftfreq(400, 1 / 16000)
        bands = [(bins - tone).abs() <= 40 + 0.04 * tone for tone in TONES]
        power = torch.stack([spectrum[..., band].sum(-1) for band in bands], -1)  # (batch, frames, letters)
        loud = power.amax(-1) > LEAST_POWER
        near = torch.nn.functional.max_pool1d(loud[:, None].float(), 3, 1, 1)[:, 0] > 0
        logits = torch.full((*loud.shape, 7), -10.0)
        logits[..., 0] = torch.where(loud | ~near, -10.0, 10.0)
        logits[..., 1] = torch.where(near, -10.0, 10.0)
        logits[..., 2:6][loud[..., None] & (power == power.amax(-1, keepdim=True))] = 10.0
        return SimpleNamespace(logits=logits)


@pytest.fixture(scope="session")
def tone_recogniser() -> Any:
    from transformers import Wav2Vec2FeatureExtractor

    from finetune.inference.recogniser import Recogniser
    from finetune.text.vocabulary import build_tokenizer, build_vocabulary

    extractor = Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True)
    return Recogniser(ToneModel().eval(), extractor, build_tokenizer(build_vocabulary("abcd")), torch.device("cpu"))
