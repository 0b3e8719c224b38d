"""A model that writes the letters of tones, as a folder, and a service around it."""

import os
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from programs import execute
from torch import nn

AXE = "axe-core@4.14.1"
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


@pytest.fixture(scope="session")
def tone_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder as `finetune export` writes it."""
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor

    from finetune.inference.windows import Lengths
    from finetune.text.vocabulary import build_tokenizer, build_vocabulary

    folder = tmp_path_factory.mktemp("models") / "tones"
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


Serve = Callable[..., Any]


@pytest.fixture(scope="session")
def serve(tone_folder: Path) -> Serve:
    """`with serve(option=value) as address` runs a service with these settings in a thread of this process."""
    from finetune.serving.server import serve as run
    from finetune.serving.service import Service
    from finetune.serving.settings import load_settings

    @contextmanager
    def start(**options: Any) -> Iterator[str]:
        settings = load_settings({"models": [str(tone_folder)], "port": 0, **options}, None, {})
        service = Service.load(settings)
        start.services.append(service)
        address: list[str] = []
        thread = threading.Thread(target=run, args=(service, address.append), daemon=True)
        thread.start()
        deadline = time.monotonic() + 30
        while not address and time.monotonic() < deadline:
            time.sleep(0.01)
        try:
            yield address[0]
        finally:
            service.stop()
            thread.join(30)
            assert not thread.is_alive()

    start.services = []  # the last one is that of the last call
    return start


@pytest.fixture(scope="session")
def address(serve: Serve) -> Iterator[str]:
    """The address of a service that tests share."""
    with serve() as where:
        yield where


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The accessibility checker as a script."""
    npm = shutil.which("npm")
    required = os.environ.get("FINETUNE_BROWSER") == "required"
    if npm is None:
        (pytest.fail if required else pytest.skip)("npm is not installed, which fetches axe-core")
    folder = tmp_path_factory.mktemp("axe")
    try:
        execute([npm, "pack", AXE], folder)
    except AssertionError as error:
        (pytest.fail if required else pytest.skip)(f"npm can't fetch {AXE}: {str(error).strip().splitlines()[-1]}")
    shutil.unpack_archive(next(folder.glob("*.tgz")), folder)
    return (folder / "package" / "axe.min.js").read_text(encoding="utf-8")
