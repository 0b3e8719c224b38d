"""Exports of checkpoints during training: complete model folders for the publisher, written at little cost."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from finetune.evaluation.intervals import bootstrap
from finetune.evaluation.scores import percent
from finetune.evaluation.scoring import Evaluation
from finetune.files import link_file
from finetune.inference.recogniser import Recogniser
from finetune.models.adapters import merge_weights, save_language_adapter
from finetune.publishing.background import Publisher, require_hub
from finetune.publishing.checkpoint_export import MODEL, write_export
from finetune.publishing.parity import Spoken, full_precision
from finetune.publishing.upload import Destination
from finetune.recipe.load import Recipe
from finetune.recipe.schema import PublishingSection
from finetune.run.model_folder import complete_model
from finetune.training.checkpoints import save_weights

# How much the parity gate compares for a model that is pushed during training.
_MOST_UTTERANCES, _MOST_SECONDS = 8, 60.0


def build_publisher(section: PublishingSection, output: Path) -> Publisher:
    """What pushes a run's models to the recipe's repository.

    Raises UserError where the repository's name or the token cannot be right.
    """
    assert section.repo_id is not None
    require_hub(Destination(section.repo_id, private=section.private))
    arguments = [section.repo_id, *(["--private"] if section.private else [])]
    return Publisher(output / "publishing", arguments, every=section.push == "every")


def export_checkpoint(
    folder: Path,
    *,
    checkpoint: Path,
    recogniser: Recogniser,
    recipe: Recipe,
    run: str,
    evaluation: Evaluation,
    training: Mapping[str, Any],
) -> None:
    """Export a checkpoint that was just saved (see `finetune.publishing.checkpoint_export`).

    The weights are hard links to the checkpoint's; with LoRA they are merged and written. `run` is the run's name,
    `evaluation` that of the validation split with these weights, and `training` the result of `describe_training`.
    """
    model, step = recogniser.model, int(checkpoint.name.rpartition("-")[2])
    partial = folder / f".{MODEL}.partial"
    partial.mkdir()
    if recipe.model.lora:
        save_weights(partial / "model.safetensors", merge_weights(model))
    else:
        link_file(checkpoint / "model.safetensors", partial / "model.safetensors")
    config = copy.deepcopy(model.config)
    config.architectures, config.dtype = [type(model).__name__], torch.float32
    config.save_pretrained(partial)
    if recipe.model.language_adapter:
        save_language_adapter(model, partial, recipe.model.language_adapter)
    # Slices and worst errors would cost training time: the card of the finished model has them.
    intervals = bootstrap(evaluation.counts, [result.speaker for result in evaluation.results])
    scores = {
        **evaluation.scores.to_json(),
        "intervals": intervals.to_json(),
        "evaluated": {**evaluation.evaluated(), "step": step},
    }
    complete_model(
        partial,
        folder / MODEL,
        recipe=recipe,
        recogniser=recogniser,
        results=[scores],
        training=training,
        statistics=evaluation.statistics,
        run=run,
    )
    wer = percent(evaluation.scores.wer)
    write_export(folder, f"{run}, step {step}: validation WER {wer}", _choose_spoken(recogniser, evaluation))


def _choose_spoken(recogniser: Recogniser, evaluation: Evaluation) -> list[Spoken]:
    """Some utterances, evenly spread over the split, with the text that was recognised."""
    split, results = evaluation.split, evaluation.results
    step = max(1, len(results) // _MOST_UTTERANCES)
    chosen: list[Spoken] = []
    seconds = 0.0
    utterances = {utterance.row: utterance for utterance in split.utterances}
    for row, result in list(zip(evaluation.rows, results, strict=True))[::step][:_MOST_UTTERANCES]:
        seconds += result.seconds
        if chosen and seconds > _MOST_SECONDS:
            break
        waveform = split.read(utterances[row], recogniser.sampling_rate)
        chosen.append((result.name, waveform, result.raw_hypothesis))
    if recogniser.device.type != "cuda":
        return chosen
    model = recogniser.model
    place, training = model.device, model.training  # With FSDP the whole model is on the CPU.
    model.to(recogniser.device).eval()
    with full_precision():
        texts = recogniser.recognise([waveform for _, waveform, _ in chosen])
    model.to(place).train(training)
    return [(name, waveform, text) for (name, waveform, _), text in zip(chosen, texts, strict=True)]
