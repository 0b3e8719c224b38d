"""Find how many seconds of audio fit into memory at a time, on a GPU or a CPU."""

import gc
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from finetune.data.batching import Batch
from finetune.errors import UserError
from finetune.resources.machine import count_local_processes, measure_growth, measure_memory
from finetune.training.timing import training_unchanged

# Kept free for fragmentation of the allocator, and for what else is on the GPU.
MARGIN = 0.1
# A step on a CPU may take this share of the free memory. The rest is for what the first step does not need yet: kernels
# and blocks of memory for other lengths, writing a checkpoint, an evaluation, and other programs.
CPU_MEMORY_SHARE = 0.5
# Larger batches are not faster on a CPU.
MAX_CPU_BATCH_SECONDS = 80.0

_CHARACTERS_PER_SECOND = 15


def find_batch_seconds(
    accelerator: Accelerator,
    objective: nn.Module,
    max_seconds: float,
    sampling_rate: int,
    num_frames: Callable[[int], int],
) -> float:
    """The most seconds of padded audio that one process can train on at a time, found by trying; leaves no gradient.

    It is the same on every process. The longest utterances are tried, because attention needs the most memory for them.
    On a CPU, where Linux kills a process that takes too much, the memory of one utterance is measured and multiplied.
    Raises UserError where a single utterance does not fit into a GPU.
    """
    trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    adam = 2 * sum(parameter.numel() * parameter.element_size() for parameter in trained)

    def compute(count: int) -> None:
        batch = _make_batch(count, round(max_seconds * sampling_rate), num_frames)
        try:
            with accelerator.no_sync(objective):
                loss, _ = objective(batch.to(accelerator.device), False)
                accelerator.backward(loss)
        finally:
            for parameter in trained:
                parameter.grad = None
            gc.collect()

    # Loaded models are in evaluation mode, which has no dropout and no gradient checkpointing.
    with training_unchanged(objective, accelerator.device):
        if accelerator.device.type == "cuda":
            count = _least(accelerator, _count_on_gpu(compute, adam))
        else:
            count = _least(accelerator, _count_on_cpu(compute, adam))
            count = max(1, min(count, math.floor(MAX_CPU_BATCH_SECONDS / max_seconds)))
    if count == 0:
        raise UserError(
            f"An utterance of {max_seconds:g} s does not fit into this GPU's memory: lower data.max_seconds, or set "
            "training.gradient_checkpointing=true."
        )
    return count * max_seconds


def _count_on_cpu(compute: Callable[[int], None], adam: int) -> int:
    """The utterances of a step whose memory is the share of the free memory, from what one of them needs."""
    free = measure_memory().available / count_local_processes()
    return math.floor((CPU_MEMORY_SHARE * free - adam) / measure_growth(lambda: compute(1)))


def _count_on_gpu(compute: Callable[[int], None], adam: int) -> int:
    """The most utterances of a step that fit into the GPU's free memory without the margin."""

    def peak_bytes(count: int) -> int | None:
        """The peak memory of a step of so many utterances, or None when memory ran out."""
        torch.cuda.reset_peak_memory_stats()
        try:
            compute(count)
            return adam + torch.cuda.max_memory_allocated()
        except torch.OutOfMemoryError:
            return None
        finally:
            torch.cuda.empty_cache()

    free = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()
    return largest_count(peak_bytes, round((1 - MARGIN) * free))


def largest_count(peak_bytes: Callable[[int], int | None], limit: int) -> int:
    """The largest count whose peak is at most `limit` bytes, or 0; `peak_bytes` returns None when memory ran out.

    A search by doubling, and then by bisection.
    """

    def fits(count: int) -> bool:
        peak = peak_bytes(count)
        return peak is not None and peak <= limit

    if not fits(1):
        return 0
    low, high = 1, 2
    while fits(high):
        low, high = high, 2 * high
    while high - low > max(1, low // 16):  # A sixteenth is less than the margin.
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _least(accelerator: Accelerator, count: int) -> int:
    counts: Any = accelerator.gather(torch.tensor([count], device=accelerator.device))
    return int(counts.min())


def _make_batch(count: int, samples: int, num_frames: Callable[[int], int]) -> Batch:
    frames = num_frames(samples)
    lengths: Sequence[int] = [min(frames // 3, round(_CHARACTERS_PER_SECOND * frames / 50))] * count
    return Batch(
        input_values=torch.randn(count, samples),
        attention_mask=torch.ones(count, samples, dtype=torch.int32),
        samples=count * samples,
        num_frames=torch.full((count,), frames),
        mask_time_indices=torch.zeros(count, frames, dtype=torch.bool),
        mask_feature_indices=None,
        labels=torch.ones(sum(lengths), dtype=torch.long),
        label_lengths=torch.tensor(lengths),
        unreadable=(),
    )
