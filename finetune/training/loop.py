"""The training loop: batches in, steps out; it knows no file formats and no WER."""

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from tqdm.auto import tqdm

from finetune.data.batching import Batch
from finetune.data.corpus import Rejection
from finetune.training.checkpoints import seed_step
from finetune.training.optimization import learning_rate_factor


@dataclass(frozen=True)
class Schedule:
    """How long to train and how fast; all steps are optimizer steps."""

    max_steps: int
    learning_rate: float
    warmup_ratio: float
    max_gradient_norm: float
    micro_batches: int  # of one process in one step
    eval_steps: int
    log_steps: int
    seed: int


@dataclass(frozen=True)
class StepResult:
    """Counts of one step over all processes: the summed loss, the labels it is over, and the gradient's norm.

    `samples` of speech were in this process's batches of `padded_samples`.
    """

    loss_sum: float
    labels: int
    gradient_norm: float
    samples: int
    padded_samples: int


@dataclass(frozen=True)
class Hooks:
    """What the loop calls: `log(step, values)`, `evaluate(step)` and `save(step)` at each `eval_steps`."""

    log: Callable[[int, dict[str, float]], None]
    evaluate: Callable[[int], None]
    save: Callable[[int], None]
    reject: Callable[[Rejection], None]


def train(
    accelerator: Accelerator,
    objective: nn.Module,
    optimizer: Any,
    batches: Iterator[Batch],
    schedule: Schedule,
    hooks: Hooks,
    first_step: int = 0,
) -> None:
    """Train from `first_step` to `max_steps`; `batches` are this process's, beginning with the first step's."""
    progress = tqdm(
        total=schedule.max_steps,
        initial=first_step,
        desc="training",
        unit="step",
        disable=None if accelerator.is_main_process else True,
    )
    objective.train()
    results: list[StepResult] = []
    started, since = time.perf_counter(), first_step
    for step in range(first_step, schedule.max_steps):
        rate = schedule.learning_rate * learning_rate_factor(step, schedule.max_steps, schedule.warmup_ratio)
        for group in optimizer.param_groups:
            group["lr"] = rate
        seed_step(schedule.seed, step, accelerator.process_index)
        micro_batches = list(itertools.islice(batches, schedule.micro_batches))
        for batch in micro_batches:
            for rejection in batch.unreadable:
                hooks.reject(rejection)
        results.append(train_step(accelerator, objective, optimizer, micro_batches, schedule.max_gradient_norm))
        done = step + 1
        progress.update()
        evaluates = done % schedule.eval_steps == 0 or done == schedule.max_steps
        # No line spans a checkpoint, or a resumed run would log other losses than an uninterrupted one.
        if evaluates or done % schedule.log_steps == 0:
            seconds = (time.perf_counter() - started) / (done - since)
            values = {**summarize(results), "learning_rate": rate, "step_seconds": seconds}
            hooks.log(done, values)
            progress.set_postfix(loss=values.get("loss"), padding=f"{100 * values['padding']:.1f} %")
            results, started, since = [], time.perf_counter(), done
        if evaluates:
            pause = time.perf_counter()
            hooks.evaluate(done)
            objective.train()
            hooks.save(done)
            started += time.perf_counter() - pause
    progress.close()


def summarize(results: list[StepResult]) -> dict[str, float]:
    """The loss for each label and the last gradient's norm, over the steps that changed something, and the padding.

    Steps that did not (see `train_step`) are only counted, as `skipped_steps`; when all are, nothing else is said.
    """
    finite = [result for result in results if math.isfinite(result.gradient_norm)]
    padded = sum(result.padded_samples for result in results)
    values = {"padding": 1 - sum(result.samples for result in results) / max(padded, 1)}
    if finite:
        labels = sum(result.labels for result in finite)
        values["loss"] = sum(result.loss_sum for result in finite) / max(labels, 1)
        values["gradient_norm"] = finite[-1].gradient_norm
    if len(finite) < len(results):
        values["skipped_steps"] = len(results) - len(finite)
    return values


def train_step(
    accelerator: Accelerator, objective: nn.Module, optimizer: Any, micro_batches: list[Batch], max_gradient_norm: float
) -> StepResult:
    """One optimizer step over the micro-batches of all processes.

    The loss is the sum over all of them divided by their number of labels: no average of averages.
    A step whose gradient is not finite changes nothing.
    """
    counts = torch.tensor([float(batch.label_lengths.sum()) for batch in micro_batches], device=accelerator.device)
    labels = int(accelerator.reduce(counts.sum(), "sum").item())
    loss_sum = torch.zeros((), device=accelerator.device)
    for i, batch in enumerate(micro_batches):
        last = i == len(micro_batches) - 1
        with contextlib.nullcontext() if last else accelerator.no_sync(objective):
            loss = objective(batch.to(accelerator.device))
            # Accelerate averages gradients over processes; the count is already over all of them.
            accelerator.backward(loss * (accelerator.num_processes / max(labels, 1)))
        loss_sum += loss.detach()
    norm = float(accelerator.clip_grad_norm_(objective.parameters(), max_gradient_norm))
    # With fp16 the scaler itself skips such a step, and must see it to lower its scale.
    if math.isfinite(norm) or accelerator.scaler is not None:
        optimizer.step()
    optimizer.zero_grad()
    samples = sum(batch.samples for batch in micro_batches)
    padded_samples = sum(batch.input_values.numel() for batch in micro_batches)
    return StepResult(float(accelerator.reduce(loss_sum, "sum").item()), labels, norm, samples, padded_samples)
