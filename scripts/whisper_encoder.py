"""The encoder of a Whisper model, read from CTranslate2's file without CTranslate2, in torch.

Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision" (arXiv 2212.04356). The file's layout
is that of `ModelSpec` in ctranslate2/specs/model_spec.py: names, shapes and arrays one after the other.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from synthesis import SynthesisError
from torch.nn import functional

SAMPLING_RATE = 16000
WINDOW, HOP = 400, 160
_DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
_VERSION = 6

Activations = Callable[[int, torch.Tensor], None]


class _Reader:
    def __init__(self, content: bytes) -> None:
        self._content, self._place = content, 0

    def number(self, code: str) -> int:
        value = struct.unpack_from("<" + code, self._content, self._place)[0]
        self._place += struct.calcsize(code)
        return int(value)

    def text(self) -> str:
        return self._bytes(self.number("H")).rstrip(b"\0").decode()

    def array(self) -> NDArray[Any]:
        shape = [self.number("I") for _ in range(self.number("B"))]
        dtype = np.dtype(_DTYPES[self.number("B")])
        return np.frombuffer(self._bytes(self.number("I")), dtype).reshape(shape)

    def _bytes(self, count: int) -> bytes:
        self._place += count
        return self._content[self._place - count : self._place]


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The encoder's weights in a `model.bin`, in float32; raises SynthesisError for a file that has no such encoder."""
    reader = _Reader(path.read_bytes())
    version, name = reader.number("I"), reader.text()
    if version != _VERSION or name != "WhisperSpec":
        raise SynthesisError(f"{path} is {name} of version {version}; expected WhisperSpec of version {_VERSION}")
    reader.number("I")
    arrays = {}
    for _ in range(reader.number("I")):
        key = reader.text()
        arrays[key] = reader.array()
    weights = {key.removeprefix("encoder/"): array for key, array in arrays.items() if key.startswith("encoder/")}
    if any(array.dtype == np.int8 for array in weights.values()):
        raise SynthesisError(f"{path} is quantised to 8 bits; expected float16 or float32")
    return {key: torch.from_numpy(array.astype(np.float32)) for key, array in weights.items()}


class WhisperEncoder:
    """The encoder: `stem` is its two convolutions, `layers` what follows.

    Transformers' `WhisperEncoder` takes 30 seconds at once, and positions from zero only.
    """

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        from transformers import WhisperFeatureExtractor

        self.weights = weights
        self.num_heads = int(weights["num_heads"])
        self.positions = weights["position_encodings/encodings"]  # (frames, width)
        self.width = self.positions.shape[1]
        self.num_layers = sum(key.endswith("self_attention/layer_norm/gamma") for key in weights)
        self.num_bands = weights["conv1/weight"].shape[1]
        extractor = WhisperFeatureExtractor(feature_size=self.num_bands)
        self._filters = torch.from_numpy(extractor.mel_filters.T.astype(np.float32))  # (mels, WINDOW // 2 + 1)
        self._window = torch.hann_window(WINDOW)

    def spectrum(self, samples: torch.Tensor) -> torch.Tensor:
        """Log-mel spectrum of (batch, samples) at SAMPLING_RATE, (batch, mels, frames)."""
        frames = torch.stft(samples, WINDOW, HOP, window=self._window, return_complex=True)[..., :-1]
        log = (self._filters @ frames.abs().square()).clamp(min=1e-10).log10()
        return (torch.maximum(log, log.amax((1, 2), keepdim=True) - 8) + 4) / 4

    def stem(self, samples: torch.Tensor) -> torch.Tensor:
        """What the layers are given but for positions, (batch, frames, width), 50 frames a second."""
        weights, hidden = self.weights, self.spectrum(samples)
        for name, stride in (("conv1", 1), ("conv2", 2)):
            convolved = functional.conv1d(
                hidden, weights[f"{name}/weight"], weights[f"{name}/bias"], stride=stride, padding=1
            )
            hidden = functional.gelu(convolved)
        return hidden.transpose(1, 2)

    def layers(self, hidden: torch.Tensor, activations: Activations | None = None) -> list[torch.Tensor]:
        """Outputs of each layer and of the last normalisation, each (batch, frames, width).

        `activations` is called with each layer's number and the activations inside its feed-forward part.
        """
        outputs = []
        for layer in range(self.num_layers):
            hidden = hidden + self._attend(hidden, f"layer_{layer}/self_attention")
            part = f"layer_{layer}/ffn"
            inside = functional.gelu(self._linear(self._normalise(hidden, f"{part}/layer_norm"), f"{part}/linear_0"))
            if activations:
                activations(layer, inside)
            hidden = hidden + self._linear(inside, f"{part}/linear_1")
            outputs.append(hidden)
        return [*outputs, self._normalise(hidden, "layer_norm")]

    def _linear(self, hidden: torch.Tensor, name: str) -> torch.Tensor:
        return functional.linear(hidden, self.weights[f"{name}/weight"], self.weights[f"{name}/bias"])

    def _normalise(self, hidden: torch.Tensor, name: str) -> torch.Tensor:
        return functional.layer_norm(
            hidden, (self.width,), self.weights[f"{name}/gamma"], self.weights[f"{name}/beta"], 1e-5
        )

    def _attend(self, hidden: torch.Tensor, name: str) -> torch.Tensor:
        parts = self._linear(self._normalise(hidden, f"{name}/layer_norm"), f"{name}/linear_0").chunk(3, dim=-1)
        heads = [part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts]
        attended = functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        return self._linear(attended, f"{name}/linear_1")


def fit_linear(inputs: torch.Tensor, targets: torch.Tensor, ridge: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (targets, inputs) and bias of the linear map with the least squared error; `ridge` is for each frame."""
    known = torch.cat([inputs, torch.ones(len(inputs), 1)], dim=1)
    penalty = ridge * len(known) * torch.eye(known.shape[1])
    solution = torch.linalg.solve(known.T @ known + penalty, known.T @ targets)
    return solution[:-1].T, solution[-1]


def explained(predicted: Sequence[torch.Tensor], targets: Sequence[torch.Tensor]) -> float:
    """The share of the targets' variance that is predicted; each (frames, dimensions)."""
    target = torch.cat(list(targets))
    error = (torch.cat(list(predicted)) - target).square().sum()
    return 1 - float(error / (target - target.mean(0)).square().sum())
