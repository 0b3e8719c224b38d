"""A model that writes the letters of tones, as a folder of the kind that `finetune export` writes."""

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

TONES, LEAST_POWER = (350.0, 800.0, 1600.0, 3200.0), 0.02


class _Tones(nn.Module):
    """The model of tests/inference/conftest.py in operations that ONNX has: the Fourier transform as products."""

    def __init__(self) -> None:
        super().__init__()
        bins = np.fft.rfftfreq(400, 1 / 16000)
        time_ = np.arange(400)
        used = np.flatnonzero(np.any([np.abs(bins - tone) <= 40 + 0.04 * tone for tone in TONES], axis=0))
        angle = 2 * np.pi * np.outer(used, time_) / 400
        window = np.hanning(401)[:400]
        waves = np.concatenate([np.cos(angle), np.sin(angle)]) * window * np.sqrt(2 / 400 / 150)
        bands = np.array([np.abs(bins[used] - tone) <= 40 + 0.04 * tone for tone in TONES])
        self.register_buffer("waves", torch.tensor(waves[:, None], dtype=torch.float32))
        self.register_buffer("bands", torch.tensor(np.concatenate([bands, bands], axis=1), dtype=torch.float32))

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        spectrum = nn.functional.conv1d(input_values[:, None], self.waves, stride=320).square()
        power = (self.bands @ spectrum).transpose(1, 2)  # (batch, frames, letters)
        loudest = power.amax(-1, keepdim=True)
        loud = (loudest > LEAST_POWER).float()
        near = nn.functional.max_pool1d(loud.transpose(1, 2), 3, 1, 1).transpose(1, 2)
        blank = torch.where((loud == 0) & (near > 0), 10.0, -10.0)
        pause = torch.where(near > 0, -10.0, 10.0)
        letters = torch.where((loud > 0) & (power == loudest), 10.0, -10.0)
        return torch.cat([blank, pause, letters, torch.full_like(blank, -10.0)], -1)


def write_tone_model(folder: Path) -> Path:
    """Write the model into a new folder."""
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor

    from finetune.inference.windows import Lengths
    from finetune.text.vocabulary import build_tokenizer, build_vocabulary

    folder.mkdir()
    Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True).save_pretrained(folder)
    build_tokenizer(build_vocabulary("abcd")).save_pretrained(folder)
    config = Wav2Vec2Config(
        vocab_size=7,
        pad_token_id=0,
        conv_dim=[8],
        conv_kernel=[400],
        conv_stride=[320],
        num_feat_extract_layers=1,
        feat_extract_norm="layer",
        architectures=["Wav2Vec2ForCTC"],
    )
    config.save_pretrained(folder)
    Lengths(2.0, 5.0).save(folder)
    with warnings.catch_warnings():  # The newer exporter takes ten times as long.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Tones().eval(),
            (torch.zeros(1, 16000),),
            str(folder / "model.onnx"),
            dynamo=False,
            input_names=["input_values"],
            output_names=["logits"],
            dynamic_axes={"input_values": {1: "samples"}},
        )
    return folder
