"""What every training run does: its steps, its checkpoints, its log, and going on after an interruption."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import Accelerator
from accelerate.utils import gather_object

from finetune.data.batching import begin
from finetune.data.corpus import SkippedUtterance, write_rejected
from finetune.data.fingerprint import list_changes, take_fingerprint
from finetune.errors import UserError
from finetune.recipe.load import Recipe
from finetune.resources.machine import Precision
from finetune.run.best_checkpoints import BestCheckpoints
from finetune.run.callbacks import TrainerCallback
from finetune.run.components import Components
from finetune.run.planning import plan_run, resolve_length, state_length
from finetune.run.preparation import Preparation
from finetune.run.run_log import RunLog
from finetune.text.training_words import save_training_words
from finetune.training.checkpoints import (
    choose_checkpoint,
    has_shapes_of,
    list_checkpoints,
    read_progress,
    restore_checkpoint,
    save_checkpoint,
    saving,
    step_of,
)
from finetune.training.loop import Hooks, Schedule, StepResult, Validation, train
from finetune.training.memory import find_batch_seconds
from finetune.training.optimization import learning_rate_factor
from finetune.training.processes import decide
from finetune.training.sharding import gather_optimizer

if TYPE_CHECKING:  # The publishing room is imported where a card is written or a model is pushed.
    from finetune.publishing.background import Publisher

_LOGGER = logging.getLogger(__name__)

# The parts of the fingerprint that a validation WER depends on.
_SCORED = ("validation split", "vocabulary")


class TrainingRun:
    """One run in steps: `train` trains, validates and saves; what is built, validated and written is the subclass's."""

    def __init__(
        self,
        recipe: Recipe,
        output: Path,
        preparation: Preparation,
        accelerator: Accelerator,
        components: Components,
        *,
        precision: Precision = "float32",
        resolved: Mapping[str, Any] | None = None,
        publisher: Publisher | None = None,
        callback: TrainerCallback | None = None,
    ) -> None:
        """Take what was built; `resolved` is the property of that name when the run was begun."""
        self.recipe, self.output, self.preparation = recipe, output, preparation
        self.accelerator, self.precision = accelerator, precision
        self.publisher, self.callback = publisher, callback or TrainerCallback()
        self.components = components
        self.checkpoints = output / "checkpoints"
        self.best = BestCheckpoints(self.checkpoints, recipe.training.keep_best)
        self.log = RunLog(output, accelerator)
        self.begun = dict(resolved or {})
        self.batch_seconds: float = self.begun.get("batch_seconds") or self._find_batch_seconds()
        self.length = resolve_length(recipe, preparation, self.batch_seconds, accelerator.num_processes, resolved)
        self.started = time.monotonic()  # less the seconds that earlier starts of this run trained
        self.rejected: list[SkippedUtterance] = []

    def plan(self) -> list[str]:
        """What the run, or the rest of it, takes on this device, as lines for people; changes nothing."""
        return plan_run(
            self.recipe,
            self.preparation,
            self.components,
            accelerator=self.accelerator,
            length=self.length,
            batch_seconds=self.batch_seconds,
            output=self.output,
            precision=self.precision,
            done_steps=self._done_steps,
            evaluate=self.evaluate_some,
        ).summary()

    def evaluate_some(self) -> float:
        """Do with some of the validation split what an evaluation does; returns its seconds of audio."""
        raise NotImplementedError

    def finish(self) -> Any:
        """Write the model and its report; returns what there is to say of it."""
        raise NotImplementedError

    def begin_step(self, step: int) -> None:
        """Called before each step, the first being 0."""

    def validate(self, step: int) -> Validation:
        """Validate the weights after a step; called on every process."""
        raise NotImplementedError

    def is_validated(self, step: int) -> bool:
        """Whether there is a validation to finish with after a step; called on the main process."""
        return bool(self.best.best)

    def score_best_again(self) -> dict[int, dict[str, float]] | None:
        """Score the best weights so far where what they are scored on has changed; called on every process.

        Returns their values for the log by step; None where nothing is scored.
        """
        return None

    def publish(self, step: int, validation: Validation | None) -> None:
        """Called when the checkpoint of a step is complete, on the main process."""

    def _find_batch_seconds(self) -> float:
        """The recipe's value, or as many seconds as fit into memory."""
        seconds, spec = self.recipe.training.batch_seconds, self.preparation.audio_spec
        if seconds != "auto":
            return seconds
        found = find_batch_seconds(
            self.accelerator, self.components.objective, spec.max_seconds, spec.sampling_rate, spec.num_frames
        )
        _LOGGER.info(f"training.batch_seconds: {found:g} s at a time")
        return found

    @property
    def _done_steps(self) -> int:
        """The step of the newest checkpoint; 0 without one."""
        checkpoints = list_checkpoints(self.checkpoints)
        return step_of(checkpoints[-1]) if checkpoints else 0

    @property
    def resolved(self) -> dict[str, Any]:
        """What depends on the data, the device and the number of processes; a resumed run must keep it."""
        return {**vars(self.length), "batch_seconds": self.batch_seconds, "data": self.fingerprint}

    @property
    def resolved_recipe(self) -> Recipe:
        """The recipe with the run's length in steps, as it is saved with checkpoints and models."""
        return state_length(self.recipe, self.length)

    @cached_property
    def fingerprint(self) -> dict[str, tuple[str, str]]:
        """A few figures that identify the training split, the validation split and the vocabulary."""
        preparation = self.preparation
        splits = {"training": preparation.train, "validation": preparation.validation}
        return take_fingerprint(splits, preparation.vocabulary)

    def train(self, interrupted: Callable[[], bool] = lambda: False) -> None:
        """Train to the last step, from the newest checkpoint if there is one; raises Interrupted when asked to."""
        training = self.recipe.training
        first_step, results = self._restore()
        max_seconds = math.inf if training.max_minutes is None else 60 * training.max_minutes - self._seconds_trained()
        # A run whose time was over when a signal stopped it may lack a validation: it makes one more step.
        if self._is_stale(first_step) or decide(lambda: max_seconds <= 0 and self.is_validated(first_step)):
            return
        schedule = Schedule(
            max_steps=self.length.max_steps,
            learning_rate=self._learning_rate,
            max_gradient_norm=training.max_gradient_norm,
            micro_batches=training.accumulation,
            eval_steps=self.length.eval_steps,
            log_steps=training.log_steps,
            seed=training.seed,
            sampling_rate=self.preparation.audio_spec.sampling_rate,
            frozen_steps=training.freeze_transformer_steps,
            max_seconds=max_seconds,
        )
        hooks = Hooks(
            log=self._log,
            evaluate=self.validate,
            save=self.save,
            reject=self.rejected.append,
            interrupted=interrupted,
            begin=self.begin_step,
        )
        objective, optimizer = self.components.objective, self.components.optimizer
        self.callback.on_train_begin(first_step)
        # The loader draws a random number when it is begun: not in the first step.
        loader = self.preparation.loader(training, self.batch_seconds, self.accelerator, first_step)
        with closing(begin(loader)) as batches:
            train(
                self.accelerator, objective, optimizer, batches, schedule, hooks, first_step=first_step, results=results
            )
        self.callback.on_train_end()

    def _learning_rate(self, step: int) -> float:
        training = self.recipe.training
        return training.learning_rate * learning_rate_factor(
            step, self.length.max_steps, training.warmup_ratio, training.schedule, training.hold_ratio
        )

    def save(self, step: int, results: list[StepResult], validation: Validation | None) -> None:
        """Write a checkpoint, and have its weights published where their validation says so."""
        self.components.gather()
        optimizer_state = gather_optimizer(self.components.saved_optimizer)
        # What is found in training alone (audio that can't be decoded), perhaps not again after an interruption.
        rejected = list(dict.fromkeys(gather_object(self.rejected)))
        if self.accelerator.is_main_process:
            progress = {
                "best": self.best.best,
                "statistics": self.best.describe_statistics(),
                "data": self.fingerprint,
                "batch_seconds": self.batch_seconds,
                "seconds": self._seconds_trained(),
                "processes": self.accelerator.num_processes,
                "recipe": self.resolved_recipe.to_yaml(),
                "rejected": [vars(rejection) for rejection in rejected],
                "results": [vars(result) for result in results],
            }
            with self._saving():
                save_checkpoint(
                    self.checkpoints,
                    step,
                    self.components.model,
                    optimizer_state=optimizer_state,
                    scaler=self.accelerator.scaler,
                    progress=progress,
                    keep=self.recipe.training.keep_checkpoints,
                    best=self.best.list_digests(),
                )
                write_rejected(self.output / "rejected.csv", self._list_rejected(rejected))
            self.publish(step, validation)
        self.accelerator.wait_for_everyone()
        self.callback.on_save(step)

    def _restore(self) -> tuple[int, list[StepResult]]:
        """The step to go on from, and the results of earlier steps that are not logged yet."""
        checkpoint = decide(partial(choose_checkpoint, self.checkpoints))
        step, results, seconds, scored_again = 0, [], 0.0, None
        if checkpoint is None:
            self._require_same_data(self.begun, None)
        else:
            progress = read_progress(checkpoint)
            self._require_same_data(progress, checkpoint)
            self.best.restore(checkpoint, progress["best"], progress.get("statistics", {}))
            scored = {name: each for name, each in (progress.get("data") or {}).items() if name in _SCORED}
            if list_changes(scored, {name: self.fingerprint[name] for name in _SCORED}):
                scored_again = self.score_best_again()
            components = self.components
            restore_checkpoint(checkpoint, components.model, components.saved_optimizer, self.accelerator.scaler)
            components.scatter()
            step, seconds = progress["step"], progress["seconds"]
            self.batch_seconds = progress["batch_seconds"]
            self.rejected = [SkippedUtterance(**rejection) for rejection in progress["rejected"]]
            results = [StepResult(**result) for result in progress["results"]]
            _LOGGER.info(f"going on from step {step}")
            if (processes := progress["processes"]) != self.accelerator.num_processes:
                _LOGGER.warning(f"this run was begun on {processes} processes, so its steps now hold other batches")
        self.started = time.monotonic() - seconds
        self.log.cut(step, scored_again)
        return step, results

    def _require_same_data(self, before: Mapping[str, Any], checkpoint: Path | None) -> None:
        """Raise UserError where the data or the vocabulary have changed, unless the recipe allows it.

        Weights of a checkpoint can't go on with a vocabulary of another size.
        """
        changes = list_changes(before.get("data") or {}, self.fingerprint)
        if changes and checkpoint and not has_shapes_of(checkpoint, self.components.model):
            raise UserError(
                f"{self.output} can't go on: its data have changed since ({'; '.join(changes)}), and the weights of "
                f"{checkpoint.name} do not fit the vocabulary that they have now. Put them back, or train with another "
                "--output."
            )
        if changes and not self.recipe.data.allow_changes:
            raise UserError(
                f"{self.output} can't go on: its data have changed since ({'; '.join(changes)}). Put them back, train "
                "with another --output, or go on with what there is now by data.allow_changes=true."
            )
        for change in changes:
            _LOGGER.warning(f"going on with other data: {change}")
        known = self.preparation.training_transcripts
        if changes and known is not None and self.accelerator.is_main_process:
            with self._saving():
                save_training_words(self.output, known)

    def _log(self, step: int, values: dict[str, float], examples: Sequence[tuple[str, str]] = ()) -> None:
        with self._saving():
            self.log.add(step, values, self.length.max_steps, examples)
        if self.publisher:
            self.publisher.poll()
        self.callback.on_log(step, values)

    def _list_rejected(self, found: Sequence[SkippedUtterance]) -> list[SkippedUtterance]:
        """All utterances left out: those of the preparation, and once each those that training found."""
        return [*self.preparation.rejected, *dict.fromkeys(found)]

    def _is_stale(self, step: int) -> bool:
        """Whether so many evaluations have brought nothing better that training ends."""
        training = self.recipe.training
        return self.best.is_stale(step, training.patience and training.patience * self.length.eval_steps)

    def _seconds_trained(self) -> float:
        return time.monotonic() - self.started

    def _saving(self) -> AbstractContextManager[None]:
        checkpoints = list_checkpoints(self.checkpoints)
        good = f"The last checkpoint is {checkpoints[-1]}" if checkpoints else "There is no checkpoint yet"
        return saving(str(self.output), good)
