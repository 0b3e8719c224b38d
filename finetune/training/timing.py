"""Time a few real steps on this device without changing the run."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import psutil
import torch
from torch import nn

from finetune.data.batching import Batch
from finetune.resources.machine import count_cores, measure_memory

# Timing takes at most `_BUDGET_SECONDS`, or on a slow machine a pass over an utterance and one over `_PROBE_SECONDS` of
# audio. A pass that took `_SLOW_SECONDS` is not repeated.
_BUDGET_SECONDS = 8.0
_PROBE_SECONDS = 12.0
_SLOW_SECONDS = 5.0
# This many batches pass through the model; all samples are loaded, because the time to load them varies more.
_PASSES = 3
# The optimizer is timed on this many weights, more than caches hold.
_STAND_IN_WEIGHTS = 2**23


class Sample(NamedTuple):
    """A batch to time: its seconds of audio, padding included, and the function that loads it."""

    seconds: float
    load: Callable[[], Batch]


@dataclass(frozen=True)
class Timing:
    """Seconds that a step of one process takes: forward pass, backward pass, update of the weights, and loading.

    `evaluation_rate` is the seconds to score one second of audio (None: not measured), and `memory` the bytes of a step
    without the optimizer's state: on a CPU with the audio of all its batches, which are loaded before the first pass.
    """

    forward: float
    backward: float
    update: float
    loading: float
    num_workers: int
    device_type: str
    memory: int
    evaluation_rate: float | None = None

    @property
    def step_seconds(self) -> float:
        """The time of a step that trains all weights."""
        return self._with_loading(self.forward + self.backward + self.update)

    @property
    def frozen_step_seconds(self) -> float:
        """The time of a step that trains only the head."""
        return self._with_loading(self.forward + self.update)

    @property
    def waits_for_loading(self) -> bool:
        """Whether a GPU waits for the loader for a fifth of the time or more."""
        compute = self.forward + self.backward + self.update
        return self.device_type != "cpu" and self.step_seconds > 1.25 * compute

    def _with_loading(self, compute: float) -> float:
        """Workers load while a GPU computes; on a CPU they take cores from the model, and both times are added.

        On 2 cores of an AMD EPYC (Zen 4: avx512_bf16, VNNI) the quickstart's steps take 0.20 s in a run; measured here
        are 0.14 s to compute and 0.04 s to load.
        """
        loading = self.loading / max(1.0, min(self.num_workers, count_cores()))
        return max(compute, loading) if self.num_workers and self.device_type != "cpu" else compute + loading


class _Pass(NamedTuple):
    """Seconds of the passes and bytes of activations, of a batch or per second of its audio."""

    forward: float
    backward: float
    memory: float

    def per_second(self, seconds: float) -> "_Pass":
        return _Pass(*(value / seconds for value in self))


def time_step(
    objective: nn.Module,
    samples: Sequence[Sample],
    seconds: float,
    *,
    num_workers: int,
    device: torch.device,
    evaluate: Callable[[], float] | None = None,
) -> Timing | None:
    """Time a step over `seconds` of padded audio on samples of a run's batches, the most typical first.

    Weights, gradients, the optimizer and all random generators are not changed. `evaluate` scores some audio and
    returns its seconds. None where memory is too small for the samples.
    """
    with training_unchanged(objective, device):
        try:
            passes, loading, audio_bytes = _time_passes(objective, samples, device)
            rate = _time_evaluation(evaluate, objective) if evaluate else None
        except torch.OutOfMemoryError:
            return None
        trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
        gradients = sum(parameter.numel() * parameter.element_size() for parameter in trained)
        largest = max(sample.seconds for sample in samples)
        loaded = 0.0 if device.type == "cuda" else seconds * audio_bytes
        return Timing(
            forward=seconds * passes.forward,
            backward=seconds * passes.backward,
            update=_time_update(sum(parameter.numel() for parameter in trained), device),
            loading=seconds * loading,
            num_workers=num_workers,
            device_type=device.type,
            memory=round(_measure_memory(device) + largest * passes.memory + loaded) + gradients,
            evaluation_rate=rate,
        )


def _time_passes(objective: nn.Module, samples: Sequence[Sample], device: torch.device) -> tuple[_Pass, float, float]:
    """The passes per second of padded audio, the seconds to load it, and its bytes.

    Whole batches are timed as time and memory allow, which is estimated from a piece of the first batch.
    """
    began, resident = time.perf_counter(), _measure_memory(device)
    first, seconds = samples[0].load(), samples[0].seconds
    audio_bytes = (first.input_values.nbytes + first.attention_mask.nbytes) / seconds
    while seconds > _PROBE_SECONDS and len(first.num_frames) > 1:
        half = first.halves()[0]
        first, seconds = half, seconds * len(half.num_frames) / len(first.num_frames)
    smallest = first
    while len(smallest.num_frames) > 1:
        smallest = smallest.halves()[0]
    _time_once(objective, smallest, device, resident)  # The first pass loads libraries: seconds from a cold disk.
    loading: list[float] = []
    probe = _time_twice(objective, first, device, resident).per_second(seconds)
    passes: list[_Pass] = []
    for number, sample in enumerate(samples):
        start = time.perf_counter()
        if loading and start - began > _BUDGET_SECONDS:
            break
        batch = sample.load()
        loaded = time.perf_counter()
        loading.append((loaded - start) / sample.seconds)
        ends = loaded - began + 2 * sample.seconds * (probe.forward + probe.backward)
        if number < _PASSES and ends < _BUDGET_SECONDS and sample.seconds * probe.memory < _measure_free(device):
            passes.append(_time_twice(objective, batch, device, resident).per_second(sample.seconds))
    passes = passes or [probe]
    mean = _Pass(*(sum(values) / len(passes) for values in zip(*passes, strict=True)))
    return mean._replace(memory=max(each.memory for each in passes)), sum(loading) / len(loading), audio_bytes


def _time_twice(objective: nn.Module, batch: Batch, device: torch.device, resident: int) -> _Pass:
    """Time the second pass of a batch, as the first one compiles kernels; on a slow device the first."""
    first = _time_once(objective, batch, device, resident)
    slow = first.forward + first.backward > _SLOW_SECONDS
    return first if slow else _time_once(objective, batch, device, resident)


def _time_once(objective: nn.Module, batch: Batch, device: torch.device, resident: int) -> _Pass:
    start = _read_clock(device)
    loss, *_ = objective(batch.to(device), False)
    middle, activations = _read_clock(device), _measure_memory(device) - resident
    (loss / max(len(batch.labels), 1)).backward()
    end = _read_clock(device)
    objective.zero_grad()
    return _Pass(middle - start, end - middle, max(activations, 0))


def _time_update(weights: int, device: torch.device) -> float:
    """Time gradient clipping and the optimizer's step, on tensors that belong to no model."""
    stand_in = nn.Parameter(torch.zeros(min(weights, _STAND_IN_WEIGHTS), device=device))
    stand_in.grad = torch.zeros_like(stand_in)
    optimizer = torch.optim.AdamW([stand_in], fused=True)
    seconds = 0.0
    for _ in range(2):  # The first one creates the optimizer's state.
        start = _read_clock(device)
        nn.utils.clip_grad_norm_([stand_in], 1.0)
        optimizer.step()
        seconds = _read_clock(device) - start
    return seconds * weights / max(stand_in.numel(), 1)


def _time_evaluation(evaluate: Callable[[], float], objective: nn.Module) -> float:
    """The seconds to score one second of audio."""
    objective.eval()
    rate = 0.0
    for _ in range(2):
        start = time.perf_counter()
        audio = evaluate()
        seconds = time.perf_counter() - start
        rate = seconds / audio if audio else 0.0
        if seconds > _SLOW_SECONDS:
            break
    return rate


@contextmanager
def training_unchanged(objective: nn.Module, device: torch.device) -> Iterator[None]:
    """Training mode inside; afterwards the modes of modules and random generators are as before, without gradients."""
    modes = [(module, module.training) for module in objective.modules()]
    python, numpy = random.getstate(), np.random.get_state()
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):
            objective.train()
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        objective.zero_grad()
        for module, training in modes:
            module.training = training
        if devices:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)


def _read_clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _measure_memory(device: torch.device) -> int:
    """The bytes of tensors on a GPU, or without a GPU of the process."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else int(psutil.Process().memory_info().rss)


def _measure_free(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else measure_memory().available
