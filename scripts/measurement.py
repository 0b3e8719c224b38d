"""What a training's speed is measured with: a meter on the model, its operations, and the device's peak."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

_SAMPLING_RATE = 16000


class Meter:
    """Counts a model's padded samples, time and memory from the forward pass after `warm_up` others."""

    def __init__(self, model: Any, warm_up: int) -> None:
        self.warm_up, self.forwards, self.padded_samples, self.started = warm_up, 0, 0, 0.0
        self.peak_memory = watch_memory()
        # Before all other hooks: the one for group norm takes the arguments apart.
        model.base_model.register_forward_pre_hook(self._count, prepend=True)

    def _count(self, module: object, arguments: tuple[Any, ...]) -> None:
        if self.forwards == self.warm_up:
            self.padded_samples, self.started = 0, now()
        self.forwards += 1
        self.padded_samples += arguments[0].numel()

    def read(self, seconds: float) -> dict[str, float]:
        """Speed, padding and peak memory (bytes) since the warm-up, which `seconds` of speech were trained on."""
        speed = seconds / (now() - self.started)
        padding = 1 - seconds * _SAMPLING_RATE / self.padded_samples
        return {"speed": speed, "padding": padding, "memory": self.peak_memory()}


def now() -> float:
    """The time when all that the device was given is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def watch_memory() -> Callable[[], float]:
    """What tells the most memory used since, in bytes: torch's on a GPU, else this process's own pages."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated
    return watch_pages()


def watch_pages() -> Callable[[], float]:
    """What tells the most pages of its own that this process had since, in bytes: not those of files it has mapped."""
    peak = 0

    def watch() -> None:
        nonlocal peak
        while True:
            status = Path("/proc/self/status").read_text()
            peak = max(peak, 1024 * int(status.partition("RssAnon:")[2].split()[0]))
            time.sleep(0.02)

    threading.Thread(target=watch, daemon=True).start()
    return lambda: float(peak)


def count_operations(config: Any, samples: int, vocabulary: int, training: bool = True) -> float:
    """Floating-point operations of a wav2vec2 on an utterance, to train it with its convolutions frozen or to use it.

    A forward pass over T frames needs, in multiplications and additions (convolution i makes T_i frames):

        convolutions   2 × T_i × channels in × channels out × kernel, for each
        projection     2 × T × channels × hidden
        positions      2 × T × hidden × (hidden / groups) × kernel
        each layer     2 × T × (4 × hidden² + 2 × hidden × intermediate) + 4 × T² × hidden
        head           2 × T × hidden × vocabulary

    and training three times that, but once for the convolutions.
    """
    convolutions, frames, channels = 0, samples, 1
    for width, kernel, stride in zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True):
        frames = (frames - kernel) // stride + 1
        convolutions += 2 * frames * channels * width * kernel
        channels = width
    hidden = config.hidden_size
    kernel, groups = config.num_conv_pos_embeddings, config.num_conv_pos_embedding_groups
    layer = 2 * frames * (4 * hidden**2 + 2 * hidden * config.intermediate_size) + 4 * frames**2 * hidden
    rest = 2 * frames * hidden * (channels + hidden // groups * kernel + vocabulary)
    return convolutions + (3 if training else 1) * (rest + config.num_hidden_layers * layer)


def measure_matrix_peak(dtype: torch.dtype) -> float:
    """FLOP/s of the product of two large matrices of a precision, the best of twenty."""
    device, size = ("cuda", 8192) if torch.cuda.is_available() else ("cpu", 2048)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(20):
        started = now()
        a @ b
        times.append(now() - started)
    return 2 * size**3 / min(times)
