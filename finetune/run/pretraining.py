"""Pre-training on speech without transcripts: a recipe in, a base for fine-tuning out."""

from __future__ import annotations

import copy
import logging
import shutil
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object

from finetune.audio.augmentation import Augmentation
from finetune.data.batching import BatchOptions, Key, begin
from finetune.data.corpus import write_rejected
from finetune.data.masked_batches import MaskedBatches
from finetune.errors import UserError
from finetune.files import new_folder, replace_folder, write_json, write_text
from finetune.models.cpu_operations import use_cpu_operations
from finetune.models.pretraining import (
    QUANTIZER,
    CodeCounts,
    PretrainingObjective,
    build_pretraining_model,
    measure_perplexity,
    spread_codes,
)
from finetune.recipe.load import Recipe
from finetune.recipe.pretraining_section import PretrainingSection, list_without_effect
from finetune.resources.machine import Precision, count_workers
from finetune.run.callbacks import TrainerCallback
from finetune.run.components import Components
from finetune.run.experiment import carry_out
from finetune.run.model_folder import publish_recipe
from finetune.run.preparation import Preparation
from finetune.run.run_report import build_run_report, read_run
from finetune.run.training_run import TrainingRun
from finetune.training.checkpoints import prune_checkpoints
from finetune.training.deepspeed import uses_zero
from finetune.training.loop import StepResult, Validation
from finetune.training.optimization import build_optimizer
from finetune.training.pretraining_health import Codes, judge_pretraining
from finetune.training.processes import decide
from finetune.training.sharding import is_sharded

_LOGGER = logging.getLogger(__name__)

# The batches whose frames a new quantizer is fitted to.
_FITTED_BATCHES = 10
# The validation split is read, masked and compared as in this epoch each time.
_EPOCH = 0


@dataclass(frozen=True)
class PretrainingResult:
    """What pre-training ended with, on the validation split: the contrastive loss is in nats for each masked frame."""

    steps: int
    contrastive_loss: float
    contrastive_accuracy: float
    codebook_perplexity: float
    codes: int
    verdict: str
    minutes: float

    def summary(self) -> str:
        """One line for the console."""
        return (
            f"pre-trained {self.steps:,} steps in {self.minutes:.1f} minutes: validation loss "
            f"{self.contrastive_loss:.3f}, contrastive accuracy {100 * self.contrastive_accuracy:.1f} %, codebook "
            f"perplexity {self.codebook_perplexity:.0f} of {self.codes}; {self.verdict}"
        )


def pretrain(recipe: Recipe, output: Path, callback: TrainerCallback | None = None) -> PretrainingResult:
    """Pre-train by a recipe, and write OUTPUT/model, a base for fine-tuning; an unfinished run is resumed.

    Raises UserError before anything is written when the recipe, the data or `output` do not allow it, and Interrupted
    after a checkpoint when a signal asked to stop.
    """
    settled = recipe.model_copy(update={"pretraining": recipe.pretraining or PretrainingSection()})
    if unused := list_without_effect(settled):
        raise UserError("\n  ".join(["The recipe has keys that pre-training does not use:", *unused]))
    result: PretrainingResult = carry_out(settled, output, Pretrainer, callback)
    return result


class Pretrainer(TrainingRun):
    """One run of pre-training: `train` trains, validates and saves, and `finish` writes the model of the last step."""

    def __init__(
        self,
        recipe: Recipe,
        output: Path,
        preparation: Preparation,
        accelerator: Accelerator,
        *,
        precision: Precision = "float32",
        **others: Any,
    ) -> None:
        """Build the model and all that trains it; for `others` see `TrainingRun`."""
        components, self.new_parts = build_components(recipe, preparation, accelerator)
        super().__init__(recipe, output, preparation, accelerator, components, precision=precision, **others)
        config = components.model.config
        entries = config.num_codevector_groups * config.num_codevectors_per_group
        self.section = recipe.pretraining or PretrainingSection()
        self.codes = Codes(entries, self.section.num_negatives)
        self._collapsed = False

    @property
    def objective(self) -> PretrainingObjective:
        """The objective without what Accelerate has put around it."""
        objective: PretrainingObjective = self.accelerator.unwrap_model(self.components.objective)
        return objective

    def plan(self) -> list[str]:
        """What is new in the model, and what the run takes on this device, as lines for people; changes nothing."""
        base, seed = self.recipe.model.base, self.recipe.training.seed
        new = [] if self._done_steps else list(self.new_parts)
        return [*(f"{base} has no {part}: a new one is made from seed {seed}" for part in new), *super().plan()]

    def _restore(self) -> tuple[int, list[StepResult]]:
        """Go on from the newest checkpoint; without one spread the frames over the codes of a new quantizer."""
        step, results = super()._restore()
        if step == 0 and QUANTIZER in self.new_parts:
            data = self.preparation.batches(self.recipe.training)
            epoch = self.preparation.list_epoch(self.batch_seconds, self.recipe.training.seed)[:_FITTED_BATCHES]
            model, device = self.components.model.eval(), self.accelerator.device
            spread_codes(model, (data.collate([data[key] for key in keys]).to(device) for keys in epoch))
            for parameter in model.quantizer.weight_proj.parameters():  # The same on every process, bit for bit.
                broadcast(parameter.data)
        return step, results

    def begin_step(self, step: int) -> None:
        """Set the temperature of the choice of codes."""
        self.objective.temperature = self.section.temperature(step)

    def validate(self, step: int) -> Validation:
        """Log what the model makes of the validation split; all weights are kept, and training goes on."""
        measured = self._measure()
        self._log(step, {f"validation_{name}": value for name, value in measured.items()})
        if self.accelerator.is_main_process:
            with self._saving():
                self.log.plot()
                verdict = judge_pretraining(self.log.read(), self.length.max_steps, self.codes)
            level = logging.INFO if verdict == "learning" else logging.WARNING
            _LOGGER.log(
                level,
                f"step {step}/{self.length.max_steps}: validation loss {measured['loss']:.3f}, contrastive accuracy "
                f"{100 * measured['contrastive_accuracy']:.1f} %, codebook perplexity "
                f"{measured['codebook_perplexity']:.0f} of {self.codes.entries}; {verdict}",
            )
        return Validation(goes_on=True)

    def is_validated(self, step: int) -> bool:
        """Whether the weights of this step, which are the result, have been validated."""
        return any(line["step"] == step and "validation_loss" in line for line in self.log.read())

    def finish(self) -> PretrainingResult:
        """Write the model of the last step, the list of rejected utterances and the report."""
        accelerator, output = self.accelerator, self.output
        minutes = self._seconds_trained() / 60
        rejected = self._list_rejected(gather_object(self.rejected))
        history = decide(self.log.read)
        last = [line for line in history if "validation_loss" in line][-1]
        result = PretrainingResult(
            steps=last["step"],
            contrastive_loss=last["validation_loss"],
            contrastive_accuracy=last["validation_contrastive_accuracy"],
            codebook_perplexity=last["validation_codebook_perplexity"],
            codes=self.codes.entries,
            verdict=judge_pretraining(history, self.length.max_steps, self.codes),
            minutes=minutes,
        )
        if accelerator.is_main_process:
            with self._saving():
                write_rejected(output / "rejected.csv", rejected)
                prune_checkpoints(
                    self.checkpoints, self.length.max_steps, self.recipe.training.keep_checkpoints, ended=True
                )
                self._write_model(output / "model")
                with new_folder(output / "report") as unfinished:
                    write_json(unfinished / "pretraining.json", asdict(result))
                    write_text(unfinished / "index.html", build_run_report([read_run(output)]))
        accelerator.wait_for_everyone()
        _LOGGER.info(f"model: {output / 'model'}   report: {output / 'report' / 'index.html'}")
        return result

    def _write_model(self, folder: Path) -> None:
        """Write weights, configuration, feature extractor and recipe, complete or not at all."""
        partial = folder.with_name(".model.partial")
        shutil.rmtree(partial, ignore_errors=True)
        self.components.model.save_pretrained(partial)
        self.preparation.feature_extractor.save_pretrained(partial)
        write_text(partial / "recipe.yaml", publish_recipe(self.resolved_recipe.without_secrets()).to_yaml())
        replace_folder(partial, folder)

    def _measure(self) -> dict[str, float]:
        """Loss, contrastive accuracy and perplexity of the codes on the validation split, over all processes."""
        accelerator, objective = self.accelerator, self.objective
        keys = self._validation_batches()[accelerator.process_index :: accelerator.num_processes]
        workers = self.recipe.training.num_workers
        data = self._validation_data()
        loader = data.loader(iter(keys), count_workers(accelerator.device) if workers == "auto" else workers)
        config = self.components.model.config
        sums = torch.zeros(3 + self.codes.entries, dtype=torch.float64, device=accelerator.device)
        objective.eval()
        with closing(begin(loader)) as batches:
            for batch in batches:
                self.rejected += batch.unreadable
                with accelerator.autocast():
                    counts = objective.measure(batch.to(accelerator.device))
                sums += _flatten(counts, int(batch.label_lengths.sum()))
        loss, correct, frames, *chosen = accelerator.reduce(sums, "sum").tolist()
        shares = torch.tensor(chosen).view(config.num_codevector_groups, -1) / max(frames, 1)
        return {
            "loss": loss / max(frames, 1),
            "contrastive_accuracy": correct / max(frames, 1),
            "codebook_perplexity": float(measure_perplexity(shares)),
            "masked_frames": frames,
        }

    def evaluate_some(self) -> float:
        """Measure a batch of the validation split; returns its seconds."""
        data, keys = self._validation_data(), self._validation_batches()[0]
        batch = data.collate([data[key] for key in keys])
        with self.accelerator.autocast():
            self.objective.measure(batch.to(self.accelerator.device))
        return sum(data.split.utterances[index].seconds for _, index, _ in keys)

    def _validation_data(self) -> MaskedBatches:
        options: BatchOptions = self.preparation.batches(self.recipe.training).options
        plain = Augmentation(self.preparation.audio_spec.sampling_rate)
        return MaskedBatches(self.preparation.validation, replace(options, augmentation=plain))

    def _validation_batches(self) -> list[list[Key]]:
        """The validation split in batches of similar length, the shortest first."""
        utterances, most = self.preparation.validation.utterances, self.recipe.evaluation.batch_seconds
        batches: list[list[Key]] = []
        for index in sorted(range(len(utterances)), key=lambda i: utterances[i].seconds):
            if not batches or utterances[index].seconds * (len(batches[-1]) + 1) > most:
                batches.append([])
            batches[-1].append((_EPOCH, index, 0))
        return batches

    def _log(self, step: int, values: dict[str, float], *examples: Any) -> None:
        super()._log(step, values, *examples)
        if "codebook_perplexity" not in values:
            return
        collapse = self.codes.find_collapse(values["codebook_perplexity"])
        if collapse and not self._collapsed:
            _LOGGER.warning(f"step {step}: {collapse}")
        self._collapsed = collapse is not None


def build_components(
    recipe: Recipe, preparation: Preparation, accelerator: Accelerator
) -> tuple[Components, tuple[str, ...]]:
    """Build what pre-training needs on the accelerator's device, and say which parts of the model are new.

    Raises UserError where the base or the processes do not allow it.
    """
    if is_sharded(accelerator) or uses_zero(accelerator):
        raise UserError("Pre-training has no shards of a model: start it without FSDP and DeepSpeed.")
    model, training, section = recipe.model, recipe.training, preparation.pretraining
    assert section is not None
    built, new_parts = build_pretraining_model(
        copy.deepcopy(preparation.config),  # It is changed.
        None if model.random_weights else model.base,
        dropout=model.dropout,
        feature_gradient_scale=section.feature_gradient_scale,
        seed=training.seed,
        revision=model.revision,
        attention=model.attention,
        layer_drop=model.layer_drop,
        gradient_checkpointing=training.gradient_checkpointing,
    )
    if accelerator.device.type == "cpu":
        use_cpu_operations(built)
    optimizer = build_optimizer(built, training.learning_rate, training.weight_decay)
    objective: Any = PretrainingObjective(built, diversity_weight=section.diversity_weight)
    objective, prepared = accelerator.prepare(objective, optimizer)
    components = Components(
        model=built, trained=built, objective=objective, optimizer=prepared, saved_optimizer=optimizer
    )
    return components, new_parts


def _flatten(counts: CodeCounts, frames: int) -> torch.Tensor:
    head = torch.stack([counts.loss, counts.correct, torch.tensor(frames, device=counts.loss.device)])
    return torch.cat([head, counts.codes.flatten()]).double()
