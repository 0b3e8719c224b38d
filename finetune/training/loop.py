"""The training loop: batches in, optimizer steps out. It knows neither file formats nor WER."""

import contextlib
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from tqdm.auto import tqdm

from finetune.data.batching import Batch
from finetune.data.corpus import SkippedUtterance
from finetune.errors import Interrupted, UserError
from finetune.training.checkpoints import seed_step
from finetune.training.deepspeed import add_zero_gradients, take_zero_step, uses_zero
from finetune.training.optimization import forget_encoder_gradients, set_learning_rate
from finetune.training.sharding import is_sharded

_LOGGER = logging.getLogger(__name__)

# fp16 starts with a loss scale that is too large, and halves it at each of the first dozen steps.
MAX_SKIPPED_STEPS = 30


@dataclass(frozen=True)
class Schedule:
    """How long to train and how fast; all steps are optimizer steps."""

    max_steps: int
    learning_rate: Callable[[int], float]  # of a step, the first being 0
    max_gradient_norm: float
    micro_batches: int  # of one process in one step
    eval_steps: int
    log_steps: int
    seed: int
    sampling_rate: int
    frozen_steps: int = 0  # at the beginning, in which only the head is trained
    max_seconds: float = math.inf


@dataclass(frozen=True)
class StepResult:
    """Counts of one step over all processes: the summed loss, the number of labels, and the gradient's norm.

    `impossible` of the `utterances` had no finite loss. The batches of this process held `samples` of speech and were
    `padded_samples` long. `sums` are what else the objective sums up over the labels, by the names to log them by.
    """

    loss_sum: float
    labels: int
    gradient_norm: float
    utterances: int
    impossible: int
    samples: int
    padded_samples: int
    sums: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Validation:
    """What `Hooks.evaluate` found: whether training goes on, and what `Hooks.save` publishes with these weights."""

    goes_on: bool
    published: Any = None


@dataclass(frozen=True)
class Hooks:
    """What the loop calls: `log(step, values)`, `evaluate(step)`, and `save(step, results, validation)`.

    `results` are those of the steps since the last logged line, and `validation` is that of the same step, if there was
    one. `reject` gets each utterance that is left out, and `interrupted()` says whether training was asked to stop.
    `begin(step)` is called before a step, the first being 0.
    """

    log: Callable[[int, dict[str, float]], None]
    evaluate: Callable[[int], Validation]
    save: Callable[[int, list[StepResult], Validation | None], None]
    reject: Callable[[SkippedUtterance], None]
    interrupted: Callable[[], bool]
    begin: Callable[[int], None] = lambda _: None


class _Window:
    """The steps since the last logged line, and the time they took without validations."""

    def __init__(self, first_step: int, results: Sequence[StepResult]) -> None:
        self.results, self.samples = list(results), 0
        self.first_step, self.started = first_step, time.perf_counter()

    def summarize(self, step: int, rate: float, sampling_rate: int) -> dict[str, float]:
        """The values to log after a step."""
        seconds = time.perf_counter() - self.started
        return {
            **summarize(self.results),
            "learning_rate": rate,
            "step_seconds": seconds / (step - self.first_step),
            "audio_seconds_per_second": self.samples / sampling_rate / seconds,
            "memory_gib": _measure_memory(),
        }


def train(
    accelerator: Accelerator,
    objective: nn.Module,
    optimizer: Any,
    batches: Iterator[Batch],
    schedule: Schedule,
    hooks: Hooks,
    *,
    first_step: int = 0,
    results: Sequence[StepResult] = (),
) -> None:
    """Train from `first_step` to `max_steps`, as long as validations and the time allow.

    `batches` are those of this process from the first step on; `results` are of earlier steps that are not logged yet.
    Raises Interrupted after a step and a checkpoint when asked to stop, and UserError when no step of the last
    `MAX_SKIPPED_STEPS` had a finite gradient.
    """
    disabled = None if accelerator.is_main_process else True
    progress = tqdm(total=schedule.max_steps, initial=first_step, desc="training", unit="step", disable=disabled)
    objective.train()
    window, skipped, began = _Window(first_step, results), 0, time.perf_counter()
    for step in range(first_step, schedule.max_steps):
        done, rate = step + 1, schedule.learning_rate(step)
        set_learning_rate(optimizer, rate)
        seed_step(schedule.seed, step, accelerator.process_index)
        hooks.begin(step)
        result = train_step(
            accelerator,
            objective,
            optimizer,
            list(itertools.islice(batches, schedule.micro_batches)),
            schedule.max_gradient_norm,
            frozen=step < schedule.frozen_steps,
            reject=hooks.reject,
        )
        window.results.append(result)
        window.samples += result.samples * accelerator.num_processes
        progress.update()
        skipped = 0 if math.isfinite(result.gradient_norm) else skipped + 1
        _require_finite_gradients(skipped, done)
        overtime = time.perf_counter() - began > schedule.max_seconds
        interrupted, overtime = _agree(accelerator, hooks.interrupted(), overtime)
        evaluates = done % schedule.eval_steps == 0 or done == schedule.max_steps or overtime
        if evaluates or done % schedule.log_steps == 0:
            values = window.summarize(done, rate, schedule.sampling_rate)
            hooks.log(done, values)
            progress.set_postfix_str(format_values(values))
            window = _Window(done, ())
        paused, validation = time.perf_counter(), None
        if evaluates:
            validation = hooks.evaluate(done)
            objective.train()
        if evaluates or interrupted:
            hooks.save(done, window.results, validation)
        if interrupted:
            raise Interrupted(done)
        if overtime or (validation and not validation.goes_on):
            break
        window.started += time.perf_counter() - paused
    progress.close()


def _require_finite_gradients(skipped: int, step: int) -> None:
    """Raise UserError where too many steps in a row had a gradient that is not finite."""
    if skipped == MAX_SKIPPED_STEPS:
        raise UserError(
            f"The gradient was not finite in {skipped} steps in a row, up to step {step}: lower "
            "training.learning_rate, or try training.mixed_precision=no. The checkpoints are as they were."
        )


def summarize(results: list[StepResult]) -> dict[str, float]:
    """The loss per label over the steps with a finite gradient, the last gradient's norm, and the padding.

    Other steps (see `train_step`) are counted as `skipped_steps`, and utterances without a finite loss as `impossible`.
    When all steps are skipped, there is no loss.
    """
    finite = [result for result in results if math.isfinite(result.gradient_norm)]
    padded = sum(result.padded_samples for result in results)
    values = {"padding": 1 - sum(result.samples for result in results) / max(padded, 1)}
    if finite:
        labels = sum(result.labels for result in finite)
        values["loss"] = sum(result.loss_sum for result in finite) / max(labels, 1)
        values["gradient_norm"] = finite[-1].gradient_norm
        values |= {name: sum(each.sums[name] for each in finite) / max(labels, 1) for name in finite[-1].sums}
    if len(finite) < len(results):
        values["skipped_steps"] = len(results) - len(finite)
    values["utterances"] = sum(result.utterances for result in results)
    if impossible := sum(result.impossible for result in results):
        values["impossible"] = impossible
    return values


def format_values(values: dict[str, float]) -> str:
    """The values of a logged line as text for the console."""
    loss = (
        f"loss {values['loss']:.3f}, gradient {values['gradient_norm']:.2g}" if "loss" in values else "no finite loss"
    )
    if "codebook_perplexity" in values:
        accuracy, perplexity = values["contrastive_accuracy"], values["codebook_perplexity"]
        loss += f", contrastive accuracy {100 * accuracy:.0f} %, codebook perplexity {perplexity:.0f}"
    return (
        f"{loss}, rate {values['learning_rate']:.2g}, {values['audio_seconds_per_second']:.0f} s of audio a second, "
        f"{100 * values['padding']:.1f} % padding, {values['memory_gib']:.1f} GiB"
    )


def train_step(
    accelerator: Accelerator,
    objective: nn.Module,
    optimizer: Any,
    micro_batches: list[Batch],
    max_gradient_norm: float,
    *,
    frozen: bool = False,
    reject: Callable[[SkippedUtterance], None] = lambda _: None,
) -> StepResult:
    """One optimizer step over the micro-batches of all processes; with `frozen` the encoder does not change.

    The loss is the sum over all micro-batches divided by their number of labels, not an average of averages. A step
    whose gradient is not finite changes nothing. `reject` gets each utterance that cannot be read or has no finite
    loss. When memory is too small, the step is repeated in smaller pieces, whose gradients have the same sum. Raises
    UserError when it is too small for single utterances.
    """
    for rejection in itertools.chain.from_iterable(batch.unreadable for batch in micro_batches):
        reject(rejection)
    device = accelerator.device
    # Labels for which there are too few frames have no loss, and count for nothing.
    possible = [batch.label_lengths[batch.label_lengths <= batch.num_frames] for batch in micro_batches]
    own = [(int(lengths.sum()), len(batch.num_frames)) for lengths, batch in zip(possible, micro_batches, strict=True)]
    counts = accelerator.reduce(torch.tensor(own, dtype=torch.float64, device=device).sum(0), "sum")
    labels, utterances = (int(count) for count in counts.tolist())
    batches = micro_batches
    while (done := _accumulate(accelerator, objective, batches, max(labels, 1), frozen)) is None:
        optimizer.zero_grad()
        torch.cuda.empty_cache()
        largest = max(len(batch.num_frames) for batch in batches)
        if largest == 1:
            raise UserError(
                "Memory is too small for a single utterance: lower data.max_seconds, or set "
                "training.gradient_checkpointing=true."
            )
        batches = [piece for batch in batches for piece in batch.halves()]
        _LOGGER.warning(
            f"memory was too small for {largest} utterances at a time: the step is done again in {len(batches)} pieces"
        )
    if uses_zero(accelerator):
        norm = take_zero_step(objective, frozen)
    else:
        norm = _take_step(accelerator, objective, optimizer, max_gradient_norm, frozen)
    loss, without_loss, named = done
    sums = torch.stack([loss, torch.cat(without_loss).sum(), *named.values()])
    loss_sum, impossible, *others = accelerator.reduce(sums, "sum").tolist()
    if impossible:
        for batch, mask in zip(batches, without_loss, strict=True):
            for i in mask.nonzero().flatten().tolist():
                reject(batch.without_loss[i])
    samples = sum(batch.samples for batch in micro_batches)
    padded_samples = sum(batch.input_values.numel() for batch in micro_batches)
    logged = dict(zip(named, others, strict=True))
    return StepResult(loss_sum, labels, norm, utterances, int(impossible), samples, padded_samples, logged)


def _take_step(
    accelerator: Accelerator, objective: nn.Module, optimizer: Any, max_gradient_norm: float, frozen: bool
) -> float:
    """Clip the gradient and make a step, unless it is not finite; returns the norm before clipping."""
    norm = float(accelerator.clip_grad_norm_(objective.parameters(), max_gradient_norm))
    if frozen:
        forget_encoder_gradients(optimizer)
    # With fp16 the scaler skips such a step itself, and must see it to lower its scale.
    if math.isfinite(norm) or accelerator.scaler is not None:
        optimizer.step()
    optimizer.zero_grad()
    return norm


def _accumulate(
    accelerator: Accelerator, objective: nn.Module, batches: Sequence[Batch], labels: int, frozen: bool
) -> tuple[torch.Tensor, list[torch.Tensor], dict[str, torch.Tensor]] | None:
    """Add the gradients of all batches: the summed loss, a mask of utterances without a loss per batch, other sums.

    None when memory was too small; the gradients are then those of some of the batches.
    """
    total, without_loss = torch.zeros((), device=accelerator.device), []
    named: dict[str, torch.Tensor] = {}
    zero = uses_zero(accelerator)
    for i, batch in enumerate(batches):
        last = i == len(batches) - 1
        try:
            with contextlib.nullcontext() if last or zero else accelerator.no_sync(objective):
                loss, mask, *more = objective(batch.to(accelerator.device), frozen)
                # Gradients are averaged over processes; the count is already over all of them.
                scaled = loss * (accelerator.num_processes / labels)
                try:
                    if zero:
                        add_zero_gradients(objective, scaled, last)
                    else:
                        accelerator.backward(scaled)
                except torch.OutOfMemoryError as error:
                    if last and accelerator.num_processes > 1:
                        raise UserError(
                            "Memory was too small while gradients were exchanged, so the step can't be done again: "
                            "lower training.batch_seconds; the same command goes on from the last checkpoint."
                        ) from error
                    raise
        except torch.OutOfMemoryError as error:
            # Each pass exchanges weights or gradients: the other processes would wait for another pass.
            if zero or is_sharded(accelerator):
                raise UserError(
                    f"Memory was too small, and with {'DeepSpeed' if zero else 'FSDP'} the step can't be done again: "
                    "lower training.batch_seconds; the same command goes on from the last checkpoint."
                ) from error
            return None
        total += loss.detach()
        without_loss.append(mask)
        for name, value in (more[0] if more else {}).items():
            named[name] = named.get(name, 0) + value
    return total, without_loss, named


def _agree(accelerator: Accelerator, *flags: bool) -> list[bool]:
    """For each flag, whether any process has set it."""
    if accelerator.num_processes == 1:
        return list(flags)
    raised = torch.tensor([float(flag) for flag in flags], device=accelerator.device)
    return [count > 0 for count in accelerator.reduce(raised, "sum").tolist()]


def _measure_memory() -> float:
    """The peak memory of tensors on the GPU so far, or without a GPU the current memory of the process, in GiB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    import psutil

    return float(psutil.Process().memory_info().rss) / 2**30
