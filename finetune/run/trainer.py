"""A prepared recipe to a trained model: build, train, validate, keep the best weights, and finish the run."""

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
from finetune.data.corpus import SkippedUtterance, Split, write_rejected
from finetune.data.fingerprint import list_changes, take_fingerprint
from finetune.errors import UserError
from finetune.evaluation.analysis import Analysis, analyse
from finetune.evaluation.report import write_report
from finetune.evaluation.scores import percent
from finetune.evaluation.scoring import Evaluation, evaluate_split
from finetune.inference.utterance_statistics import UtteranceStatistics
from finetune.models.adapters import save_lora
from finetune.recipe.load import Recipe
from finetune.resources.machine import Precision, describe_device
from finetune.run.best_checkpoints import BestCheckpoints, rank
from finetune.run.callbacks import TrainerCallback
from finetune.run.components import build_components
from finetune.run.planning import plan_run, resolve_length, state_length
from finetune.run.preparation import Preparation
from finetune.run.run_log import RunLog
from finetune.text.training_words import load_training_words, save_training_words
from finetune.training.checkpoints import (
    choose_checkpoint,
    list_checkpoints,
    load_model,
    prune_checkpoints,
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

EXAMPLES = 3  # utterances shown at each validation


class Trainer:
    """One run in steps: the constructor builds it, `train` trains, validates and saves, and `finish` scores the best.

    `plan` says beforehand what training takes.
    """

    def __init__(
        self,
        recipe: Recipe,
        output: Path,
        preparation: Preparation,
        accelerator: Accelerator,
        *,
        precision: Precision = "float32",
        resolved: Mapping[str, Any] | None = None,
        publisher: Publisher | None = None,
        callback: TrainerCallback | None = None,
    ) -> None:
        """Build the model and all that trains it; `resolved` is the property of that name when the run was begun."""
        self.recipe, self.output, self.preparation = recipe, output, preparation
        self.accelerator, self.precision = accelerator, precision
        self.publisher, self.callback = publisher, callback or TrainerCallback()
        self.components = build_components(recipe, preparation, accelerator, precision)
        self.checkpoints = output / "checkpoints"
        self.best = BestCheckpoints(self.checkpoints, recipe.training.keep_best)
        self.log = RunLog(output, accelerator)
        self.begun = dict(resolved or {})
        self.batch_seconds: float = self.begun.get("batch_seconds") or self._find_batch_seconds()
        self.length = resolve_length(recipe, preparation, self.batch_seconds, accelerator.num_processes, resolved)
        self.started = time.monotonic()  # less the seconds that earlier starts of this run trained
        self.rejected: list[SkippedUtterance] = []

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

    def plan(self) -> list[str]:
        """What the run, or the rest of it, takes on this device, as lines for people; changes nothing."""
        checkpoints = list_checkpoints(self.checkpoints)
        return plan_run(
            self.recipe,
            self.preparation,
            self.components,
            accelerator=self.accelerator,
            length=self.length,
            batch_seconds=self.batch_seconds,
            output=self.output,
            precision=self.precision,
            done_steps=step_of(checkpoints[-1]) if checkpoints else 0,
        ).summary()

    def train(self, interrupted: Callable[[], bool] = lambda: False) -> None:
        """Train to the last step, from the newest checkpoint if there is one; raises Interrupted when asked to."""
        training = self.recipe.training
        first_step, results = self._restore()
        max_seconds = math.inf if training.max_minutes is None else 60 * training.max_minutes - self._seconds_trained()
        # A run whose time was over when a signal stopped it, and that has no best weights, makes one more step.
        if self._is_stale(first_step) or (max_seconds <= 0 and self.best.best):
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
            log=self._log, evaluate=self.validate, save=self.save, reject=self.rejected.append, interrupted=interrupted
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

    def validate(self, step: int) -> Validation:
        """Score the validation split, and keep the weights when they are among the best by WER, then CER.

        `published` is the evaluation of these weights where the recipe has them pushed.
        """
        training = self.recipe.training
        self.components.gather()
        evaluation = self._evaluate(self.preparation.validation)
        self.rejected += evaluation.rejected if self.accelerator.is_main_process else []
        scores = evaluation.scores
        wer, cer = rank(scores)
        examples = [(result.reference, result.hypothesis) for result in evaluation.results[:EXAMPLES]]
        self._log(step, {"validation_wer": wer, "validation_cer": cer, "blank_ratio": evaluation.blank_ratio}, examples)
        if self.accelerator.is_main_process:
            with self._saving():
                verdict = self.log.judge(self.length.max_steps)
            done = f"step {step}/{self.length.max_steps}"
            _LOGGER.info(f"{done}: validation WER {percent(scores.wer)}, CER {percent(scores.cer)}; {verdict}")
        for reference, hypothesis in examples:
            _LOGGER.info(f"  {reference}\n  → {hypothesis}")
        if self.best.add(scores, step, evaluation.statistics) and self.accelerator.is_main_process:
            with self._saving():
                self.best.save(step, self.components.model)
        pushed = {"end": False, "best": self.best.best[0].step == step, "every": True}[self.recipe.publishing.push]
        stale = self._is_stale(step)
        if stale:
            _LOGGER.info(f"no better validation WER in {training.patience} evaluations: training ends here")
        return Validation(goes_on=not stale, published=evaluation if pushed else None)

    def save(self, step: int, results: list[StepResult], validation: Validation | None) -> None:
        """Write a checkpoint, and offer its weights to the publisher where their validation is to be published."""
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
                write_rejected(self.output / "rejected.csv", [*self.preparation.rejected, *rejected])
            if self.publisher and validation and validation.published:
                self._offer(self.publisher, step, validation.published)
        self.accelerator.wait_for_everyone()
        self.callback.on_save(step)

    def _offer(self, publisher: Publisher, step: int, evaluation: Evaluation) -> None:
        """Have the weights of the checkpoint that was just written pushed."""
        from finetune.run.checkpoint_export import export_checkpoint

        write = partial(
            export_checkpoint,
            checkpoint=self.checkpoints / f"step-{step:06d}",
            recogniser=self.components.recogniser,
            recipe=self.resolved_recipe,
            run=self.output.name,
            evaluation=evaluation,
            training=self._describe_training([*self.preparation.rejected, *self.rejected], self._seconds_trained()),
        )
        publisher.offer(step, write)

    def finish(self) -> Analysis:
        """Score the best weights, and write the model, the list of rejected utterances and the report."""
        from finetune.run.model_folder import write_models
        from finetune.run.run_report import build_run_report, read_run

        accelerator, preparation, components = self.accelerator, self.preparation, self.components
        seconds = self._seconds_trained()
        statistics = self._load_best()
        if components.lora is not None:
            lora = self.recipe.model.lora
            if lora and lora.save == "adapter" and accelerator.is_main_process:
                with self._saving():
                    save_lora(components.lora, self.output / ".adapter.partial")
            components.lora.merge_and_unload()  # In place: what is scored is what is written.
        role, split = ("test", preparation.test) if preparation.test else ("validation", preparation.validation)
        evaluation = self._evaluate(split, load_training_words(self.output / "model"))
        analysis = analyse(evaluation.results, evaluation.counts)
        found = [*preparation.rejected, *gather_object(self.rejected), *evaluation.rejected]
        rejected = list(dict.fromkeys(found))
        if accelerator.is_main_process:
            title = f"{self.output.name}: {role}"
            evaluated = evaluation.evaluated() | ({"chose_weights": True} if role == "validation" else {})
            with self._saving():
                write_rejected(self.output / "rejected.csv", rejected)
                training = self._describe_training(rejected, seconds)
                keep = self.recipe.training.keep_checkpoints
                prune_checkpoints(self.checkpoints, self.length.max_steps, keep, ended=True)
                results = [{"evaluated": evaluated, **analysis.to_json()}]
                write_models(self.output, components.recogniser, self.resolved_recipe, results, training, statistics)
                # Without audio, which may be large: `finetune evaluate --report DIR --audio` makes a page with players.
                report, pages = self.output / "report", {"training.html": build_run_report([read_run(self.output)])}
                write_report(report, title, analysis, evaluation.details(), evaluated=evaluated, pages=pages)
        accelerator.wait_for_everyone()
        _LOGGER.info(f"model: {self.output / 'model'}   report: {self.output / 'report' / 'index.html'}")
        return analysis

    def _load_best(self) -> UtteranceStatistics | None:
        """Take the best weights, or the average of the best where it is no worse on the validation split.

        Returns the statistics of the validation split with these weights, if they are known.
        """
        model = self.components.model
        chosen = self.best.best[: self.recipe.training.average_best]
        files = [self.best.find_file(best.step) for best in chosen]
        load_model(files[:1], model)
        alone = self.best.find_statistics(chosen[0].step)
        if len(files) == 1:
            return alone
        load_model(files, model)
        averaged = self._evaluate(self.preparation.validation)
        scores = averaged.scores
        better = rank(scores) <= (chosen[0].wer, chosen[0].cer)
        _LOGGER.info(
            f"average of the {len(files)} best checkpoints: validation WER {percent(scores.wer)}, "
            f"CER {percent(scores.cer)}; {'taken' if better else 'the best alone is better, and taken'}"
        )
        if better:
            return averaged.statistics
        load_model(files[:1], model)
        return alone

    def _describe_training(self, rejected: Sequence[SkippedUtterance], seconds: float) -> dict[str, Any]:
        from finetune.publishing.record import describe_training

        return describe_training(
            self.preparation.splits,
            rejected,
            streamed=self.preparation.stream is not None,
            device=describe_device(self.accelerator.device),
            precision=self.precision,
            processes=self.accelerator.num_processes,
            seconds=seconds,
        )

    def _restore(self) -> tuple[int, list[StepResult]]:
        """The step to go on from, and the results of earlier steps that are not logged yet."""
        checkpoint = decide(partial(choose_checkpoint, self.checkpoints))
        step, results, seconds = 0, [], 0.0
        if checkpoint is None:
            self._require_same_data(self.begun)
        else:
            self._require_same_data(read_progress(checkpoint))
            components = self.components
            progress = restore_checkpoint(
                checkpoint, components.model, components.saved_optimizer, self.accelerator.scaler
            )
            components.scatter()
            step, seconds = progress["step"], progress["seconds"]
            self.best.restore(checkpoint, progress["best"], progress.get("statistics", {}))
            self.batch_seconds = progress["batch_seconds"]
            self.rejected = [SkippedUtterance(**rejection) for rejection in progress["rejected"]]
            results = [StepResult(**result) for result in progress["results"]]
            _LOGGER.info(f"going on from step {step}")
            if (processes := progress["processes"]) != self.accelerator.num_processes:
                _LOGGER.warning(f"this run was begun on {processes} processes, so its steps now hold other batches")
        self.started = time.monotonic() - seconds
        self.log.cut(step)
        return step, results

    def _require_same_data(self, before: Mapping[str, Any]) -> None:
        """Raise UserError where the data or the vocabulary have changed, unless the recipe allows it."""
        changes = list_changes(before.get("data") or {}, self.fingerprint)
        if changes and not self.recipe.data.allow_changes:
            raise UserError(
                f"{self.output} can't go on: its data have changed since ({'; '.join(changes)}). Put them back, train "
                "with another --output, or go on with what there is now by data.allow_changes=true."
            )
        for change in changes:
            _LOGGER.warning(f"going on with other data: {change}")
        if changes and self.preparation.stream is None and self.accelerator.is_main_process:
            with self._saving():
                save_training_words(self.output, [each.transcript for each in self.preparation.train.utterances])

    def _log(self, step: int, values: dict[str, float], examples: Sequence[tuple[str, str]] = ()) -> None:
        with self._saving():
            self.log.add(step, values, self.length.max_steps, examples)
        if self.publisher:
            self.publisher.poll()
        self.callback.on_log(step, values)

    def _evaluate(self, split: Split, training_words: frozenset[str] | None = None) -> Evaluation:
        model, recipe = self.components.model, self.recipe
        model.to(self.accelerator.device)
        evaluation = evaluate_split(
            self.components.recogniser,
            split,
            recipe.evaluation.batch_seconds,
            self.accelerator,
            recipe.text.normalization,
            training_words,
        )
        if self.components.is_sharded:
            model.cpu()  # Its memory on the GPU is needed in training.
        return evaluation

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
