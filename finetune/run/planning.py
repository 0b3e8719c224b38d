"""A recipe and its data to the length of the run, and what that takes on this device."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from finetune.audio.waveforms import AudioError
from finetune.data.batching import Key, SpeechBatches
from finetune.data.corpus import Split
from finetune.inference.recogniser import Recogniser
from finetune.recipe.load import Recipe
from finetune.resources.machine import (
    Precision,
    count_workers,
    describe_device,
    limit_kernels,
    measure_disk,
    measure_memory,
)
from finetune.run.components import Components
from finetune.run.preparation import Preparation
from finetune.training.deepspeed import uses_zero
from finetune.training.plan import Length, Plan, Room, choose_length
from finetune.training.sharding import is_sharded
from finetune.training.timing import Sample, time_step

# Quantiles of a run's batches, sorted by their longest utterance: the first three (the median, a short and a long one)
# are loaded and computed, and the others only loaded.
_TIMED = (0.5, 0.15, 0.85, 0.25, 0.75, 0.35, 0.65, 0.45, 0.55, 0.05, 0.95)


def resolve_length(
    recipe: Recipe,
    preparation: Preparation,
    batch_seconds: float,
    num_processes: int,
    resolved: Mapping[str, Any] | None = None,
) -> Length:
    """The length of a run: the one that it was begun with (`resolved`), or what its recipe and its data give.

    Raises UserError for epochs of a stream.
    """
    if resolved:
        return Length(resolved["max_steps"], resolved["eval_steps"])
    training = recipe.training
    per_epoch = None
    if preparation.stream is None:
        batches = len(preparation.list_epoch(batch_seconds, training.seed))
        per_epoch = batches / (training.accumulation * num_processes)
    return choose_length(training.max_steps, training.max_epochs, training.eval_steps, per_epoch)


def state_length(recipe: Recipe, length: Length) -> Recipe:
    """The recipe with its length in steps."""
    values = {"max_steps": length.max_steps, "eval_steps": length.eval_steps, "max_epochs": None}
    return recipe.model_copy(update={"training": recipe.training.model_copy(update=values)})


def plan_run(
    recipe: Recipe,
    preparation: Preparation,
    components: Components,
    *,
    accelerator: Accelerator,
    length: Length,
    batch_seconds: float,
    output: Path,
    precision: Precision,
    evaluate: Callable[[], float],
    done_steps: int = 0,
) -> Plan:
    """Estimate what a run, or the rest of it, takes on this device, by timing a few real steps that change nothing.

    `evaluate` computes what an evaluation does with some audio, and returns its seconds. Each process times its own
    steps and waits for no other. Nothing is timed where processes exchange shards of weights or gradients in each pass,
    or where the model has to be compiled first.
    """
    training, processes = recipe.training, accelerator.num_processes
    epoch = preparation.list_epoch(batch_seconds, training.seed)
    per_epoch = None if preparation.stream else len(epoch) / (training.accumulation * processes)
    scored = preparation.test or preparation.validation
    plain = not (is_sharded(accelerator) or uses_zero(accelerator) or training.compile)
    timing = None
    if plain and epoch and done_steps < length.max_steps:
        sizes, chosen = _measure(preparation, epoch)
        data = preparation.batches(training)
        timing = time_step(
            accelerator.unwrap_model(components.objective),
            [Sample(sizes[place], partial(_load, data, epoch[place])) for place in chosen],
            training.accumulation * sum(sizes) / len(sizes),
            num_workers=count_workers(accelerator.device) if training.num_workers == "auto" else training.num_workers,
            device=accelerator.device,
            evaluate=evaluate,
        )
    return Plan(
        length=length,
        key="training.max_epochs" if training.max_epochs is not None else "training.max_steps",
        done_steps=done_steps,
        step_seconds=batch_seconds * training.accumulation * processes,
        steps_per_epoch=per_epoch,
        validation_seconds=preparation.validation.seconds / processes,
        final_seconds=scored.seconds / processes,
        longest_trained=_find_longest(preparation.train),
        longest_scored=max(map(_find_longest, (preparation.validation, scored))),
        frozen_steps=training.freeze_transformer_steps,
        max_minutes=training.max_minutes,
        keep_checkpoints=training.keep_checkpoints,
        keep_best=training.keep_best,
        room=_measure_room(components.model, output, accelerator.device, precision),
        device_type=accelerator.device.type,
        device=f"{describe_device(accelerator.device)} in {precision}",
        timing=timing,
    )


def _measure(preparation: Preparation, epoch: list[list[Key]]) -> tuple[list[float], list[int]]:
    """The seconds of each batch, padding included, and the indices of the batches to time."""
    longest = [max(preparation.train.utterances[index].seconds for _, index, _ in batch) for batch in epoch]
    order = sorted(range(len(epoch)), key=longest.__getitem__)
    chosen = list(dict.fromkeys(order[int(share * len(order))] for share in _TIMED))
    return [seconds * len(batch) for seconds, batch in zip(longest, epoch, strict=True)], chosen


def _find_longest(split: Split) -> float:
    return max((utterance.seconds for utterance in split.utterances), default=0.0)


def _load(data: SpeechBatches, keys: list[Key]) -> Any:
    return data.collate([data[key] for key in keys])


def score_some(preparation: Preparation, recogniser: Recogniser, batch_seconds: float) -> float:
    """Score a median validation utterance, on a GPU a batch of it; returns the seconds, 0 if it cannot be read."""
    split = preparation.validation
    utterance = sorted(split.utterances, key=lambda each: each.seconds)[len(split.utterances) // 2]
    try:
        waveform = split.read(utterance, recogniser.sampling_rate)
    except AudioError:
        return 0.0
    count = 1 if recogniser.device.type == "cpu" else max(1, int(batch_seconds // utterance.seconds))
    recogniser.logits([waveform] * count)
    return count * utterance.seconds


def _measure_room(model: nn.Module, output: Path, device: torch.device, precision: Precision) -> Room:
    """The memory and disk space that there is, and what a run of this model takes."""
    weights = [*model.parameters(), *model.buffers()]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    folder = next(place for place in (output.absolute(), *output.absolute().parents) if place.exists())
    written = sum(file.stat().st_size for file in output.rglob("*") if file.is_file()) if output.is_dir() else 0
    gpu = device.type == "cuda"
    return Room(
        weights=_count_bytes(weights),
        trained=_count_bytes(trained),
        folder=str(folder),
        free=measure_disk(folder),
        written=written,
        memory=torch.cuda.get_device_properties(device).total_memory if gpu else measure_memory().total,
        kernels=limit_kernels(device, precision),
    )


def _count_bytes(tensors: list[Any]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
