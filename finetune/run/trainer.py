"""A prepared recipe to a trained model: builds, trains, validates, keeps the best weights, and finishes the run."""

import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object

from finetune.data.batching import begin, deal
from finetune.data.corpus import Rejection, Split, write_rejected
from finetune.data.fingerprint import list_changes, take_fingerprint
from finetune.data.streaming import StreamedBatches
from finetune.errors import UserError
from finetune.evaluation.analysis import Analysis, analyse
from finetune.evaluation.report import write_report
from finetune.evaluation.scores import percent
from finetune.evaluation.scoring import Evaluation, evaluate_split
from finetune.inference.recogniser import Recogniser
from finetune.models.adapters import save_language_adapter, save_lora
from finetune.models.build import CTCObjective
from finetune.publishing.background import Publisher
from finetune.publishing.record import describe_training
from finetune.recipe.load import Recipe
from finetune.resources.machine import Precision, count_workers, describe_device
from finetune.run.best_checkpoints import BestCheckpoints, rank
from finetune.run.checkpoint_export import write_snapshot
from finetune.run.planning import build_trained, plan_run, resolve_length, state_length
from finetune.run.preparation import Preparation
from finetune.run.run_directory import complete_model
from finetune.run.run_log import RunLog
from finetune.text.training_words import load_training_words, save_training_words
from finetune.text.vocabulary import build_tokenizer
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
from finetune.training.deepspeed import ZeroState, uses_zero
from finetune.training.loop import Hooks, Schedule, StepResult, train
from finetune.training.memory import find_batch_seconds
from finetune.training.optimization import build_optimizer, learning_rate_factor
from finetune.training.processes import decide
from finetune.training.sharding import (
    autocast,
    gather_optimizer,
    gather_weights,
    is_sharded,
    scatter_weights,
)

_LOGGER = logging.getLogger(__name__)

EXAMPLES = 3  # utterances shown at each evaluation


class Trainer:
    """One run, built from its recipe: `plan`, then `train`, which validates and saves, then `finish`."""

    def __init__(
        self,
        recipe: Recipe,
        output: Path,
        preparation: Preparation,
        accelerator: Accelerator,
        publisher: Publisher | None = None,
        precision: Precision = "float32",
        resolved: Mapping[str, Any] | None = None,
    ) -> None:
        """`resolved` is what `resolved` was when an unfinished run was begun."""
        self.recipe, self.output, self.preparation = recipe, output, preparation
        self.accelerator, self.publisher = accelerator, publisher
        model, training = recipe.model, recipe.training
        self.model, self.lora = build_trained(recipe, preparation, accelerator.device)
        # The whole model is evaluated and saved; with FSDP another one, in shares, is trained.
        sharded = is_sharded(accelerator)
        self.trained = build_trained(recipe, preparation, accelerator.device)[0] if sharded else self.model
        self.saves_adapter = model.lora is not None and model.lora.save == "adapter"
        self.tokenizer = build_tokenizer(preparation.vocabulary, model.language_adapter)
        self.optimizer: Any = build_optimizer(
            self.trained,
            training.learning_rate,
            training.weight_decay,
            training.head_learning_rate,
            training.layer_decay,
        )
        objective = CTCObjective(self.trained, training.compile)
        autocast(accelerator, objective, precision)
        self.precision = precision
        self.objective, self.prepared_optimizer = accelerator.prepare(objective, self.optimizer)
        if uses_zero(accelerator):
            self.optimizer = ZeroState(self.objective)
        self.recogniser = Recogniser(self.model, preparation.feature_extractor, self.tokenizer, accelerator.device)
        self.checkpoints = output / "checkpoints"
        self.begun = dict(resolved or {})
        self.best = BestCheckpoints(self.checkpoints, training.keep_best)
        self.log = RunLog(output, accelerator)
        self.publishable: Evaluation | None = None  # of the weights that will be saved next
        self.batch_seconds: float = (resolved or {}).get("batch_seconds") or self._find_batch_seconds()
        self.length = resolve_length(recipe, preparation, self.batch_seconds, accelerator.num_processes, resolved)
        self.asked, self.recipe = recipe, state_length(recipe, self.length)
        self.seconds, self.since = 0.0, time.monotonic()  # trained before this start; of this start
        self.rejected: list[Rejection] = []

    def _find_batch_seconds(self) -> float:
        """The recipe's, or as many as fit into memory."""
        seconds, limits = self.recipe.training.batch_seconds, self.preparation.limits
        if seconds != "auto":
            return seconds
        found = find_batch_seconds(
            self.accelerator, self.objective, limits.max_seconds, limits.sampling_rate, limits.num_frames
        )
        _LOGGER.info(f"training.batch_seconds: {found:g} s at a time")
        return found

    @property
    def resolved(self) -> dict[str, Any]:
        """What depends on the data, the device and the number of processes, and must stay when the run goes on."""
        return {**vars(self.length), "batch_seconds": self.batch_seconds, "data": self.fingerprint}

    @cached_property
    def fingerprint(self) -> dict[str, tuple[str, str]]:
        """What is trained and validated on, and written with, in a few figures."""
        preparation = self.preparation
        splits = {"training": preparation.train, "validation": preparation.validation}
        return take_fingerprint(splits, preparation.vocabulary)

    def plan(self) -> list[str]:
        """What the run, or the rest of it, takes on this device, as lines for people; changes nothing."""
        checkpoints = list_checkpoints(self.checkpoints)
        return plan_run(
            self.asked,
            self.preparation,
            self.length,
            self.batch_seconds,
            self.accelerator,
            self.objective,
            self.recogniser,
            self.output,
            self.precision,
            step_of(checkpoints[-1]) if checkpoints else 0,
        ).describe()

    def train(self, interrupted: Callable[[], bool] = lambda: False) -> None:
        """Train to the last step, from the newest checkpoint where there is one; raises Interrupted when asked to."""
        training, accelerator = self.recipe.training, self.accelerator
        first_step, results = self._restore()
        max_seconds = math.inf if training.max_minutes is None else 60 * training.max_minutes - self.seconds
        # Stopped by a signal just when its time was over, a run has no weights to end with: it makes one step more.
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
            sampling_rate=self.preparation.limits.sampling_rate,
            frozen_steps=training.freeze_transformer_steps,
            max_seconds=max_seconds,
        )
        hooks = Hooks(
            log=self._log,
            evaluate=self._validate,
            save=self._save,
            reject=self.rejected.append,
            interrupted=interrupted,
        )
        self.since = time.monotonic()
        # The loader draws a random number when it is begun: not in the first step.
        with closing(begin(self._build_loader(first_step))) as batches:
            train(accelerator, self.objective, self.prepared_optimizer, batches, schedule, hooks, first_step, results)

    def _build_loader(self, first_step: int) -> Any:
        """This process's batches, beginning with those of a step."""
        training, accelerator, preparation = self.recipe.training, self.accelerator, self.preparation
        data = preparation.batches(training)
        share = (first_step, training.accumulation * accelerator.num_processes)
        process = (accelerator.process_index, accelerator.num_processes)
        if preparation.stream:
            return StreamedBatches(preparation.stream, data, self.batch_seconds, *share, *process).loader()
        batches = preparation.order(self.batch_seconds, training.seed)
        workers = count_workers(accelerator.device) if training.num_workers == "auto" else training.num_workers
        return data.loader(deal(batches, *share, *process), workers)

    def _learning_rate(self, step: int) -> float:
        training = self.recipe.training
        return training.learning_rate * learning_rate_factor(
            step, self.length.max_steps, training.warmup_ratio, training.schedule, training.hold_ratio
        )

    def finish(self) -> Analysis:
        """Score the best weights, and write the model, the list of rejected utterances and the report."""
        accelerator, preparation = self.accelerator, self.preparation
        seconds = self._seconds_trained()
        self._load_best()
        if self.lora is not None:
            if self.saves_adapter and accelerator.is_main_process:
                with self._saving():
                    save_lora(self.lora, self.output / ".adapter.partial")
            self.lora.merge_and_unload()  # In place: what is scored is what is written.
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
                self._write_models([{"evaluated": evaluated, **analysis.to_json()}], training)
                # Without audio, which may be large: `finetune evaluate --report DIR --audio` makes a page with players.
                write_report(self.output / "report", title, analysis, evaluation.details(), evaluated=evaluated)
        accelerator.wait_for_everyone()
        _LOGGER.info(f"model: {self.output / 'model'}   report: {self.output / 'report' / 'index.html'}")
        return analysis

    def _describe_training(self, rejected: Sequence[Rejection], seconds: float) -> dict[str, Any]:
        return describe_training(
            self.preparation.splits,
            rejected,
            streamed=self.preparation.stream is not None,
            device=describe_device(self.accelerator.device),
            precision=self.precision,
            processes=self.accelerator.num_processes,
            seconds=seconds,
        )

    def _seconds_trained(self) -> float:
        return self.seconds + time.monotonic() - self.since

    def _load_best(self) -> None:
        """Take the best weights, or the average of the best where it is no worse on the validation split."""
        chosen = self.best.best[: self.recipe.training.average_best]
        files = [self.best.find_file(best.step) for best in chosen]
        load_model(files[:1], self.model)
        if len(files) == 1:
            return
        load_model(files, self.model)
        scores = self._evaluate(self.preparation.validation).scores
        better = rank(scores) <= (chosen[0].wer, chosen[0].cer)
        _LOGGER.info(
            f"average of the {len(files)} best checkpoints: validation WER {percent(scores.wer)}, "
            f"CER {percent(scores.cer)}; {'taken' if better else 'the best alone is better, and taken'}"
        )
        if not better:
            load_model(files[:1], self.model)

    def _restore(self) -> tuple[int, list[StepResult]]:
        """The step to go on from, and the results of those before it that are not logged yet."""
        checkpoint = decide(partial(choose_checkpoint, self.checkpoints))
        step, results = 0, []
        if checkpoint is None:
            self._require_same_data(self.begun)
        else:
            self._require_same_data(read_progress(checkpoint))
            progress = restore_checkpoint(checkpoint, self.model, self.optimizer, self.accelerator.scaler)
            if self.trained is not self.model:
                scatter_weights(self.model, self.trained)
            step, self.seconds = progress["step"], progress["seconds"]
            self.best.restore(checkpoint, progress["best"])
            self.batch_seconds = progress["batch_seconds"]
            self.rejected = [Rejection(**rejection) for rejection in progress["rejected"]]
            results = [StepResult(**result) for result in progress["results"]]
            _LOGGER.info(f"going on from step {step}")
            if (processes := progress["processes"]) != self.accelerator.num_processes:
                _LOGGER.warning(f"this run was begun on {processes} processes, so its steps now hold other batches")
        self.log.cut(step)
        return step, results

    def _require_same_data(self, before: Mapping[str, Any]) -> None:
        """Raise UserError where the data or the vocabulary are not as they were, unless the recipe allows it."""
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

    def _log(self, step: int, values: dict[str, float]) -> None:
        with self._saving():
            self.log.add(step, values, self.length.max_steps)
        if self.publisher:
            self.publisher.poll()

    def _evaluate(self, split: Split, training_words: frozenset[str] | None = None) -> Evaluation:
        recipe = self.recipe
        self.model.to(self.accelerator.device)
        evaluation = evaluate_split(
            self.recogniser,
            split,
            recipe.evaluation.batch_seconds,
            self.accelerator,
            recipe.text.normalization,
            training_words,
        )
        if self.trained is not self.model:
            self.model.cpu()  # Room for training.
        return evaluation

    def _validate(self, step: int) -> bool:
        """Score the validation split, and keep the weights when they are among the best by WER, then CER.

        Returns whether to go on.
        """
        training = self.recipe.training
        self._gather()
        evaluation = self._evaluate(self.preparation.validation)
        self.rejected += evaluation.rejected if self.accelerator.is_main_process else []
        scores = evaluation.scores
        wer, cer = rank(scores)
        self._log(step, {"validation_wer": wer, "validation_cer": cer, "blank_ratio": evaluation.blank_ratio})
        if self.accelerator.is_main_process:
            with self._saving():
                verdict = self.log.judge(self.length.max_steps)
            done = f"step {step}/{self.length.max_steps}"
            _LOGGER.info(f"{done}: validation WER {percent(scores.wer)}, CER {percent(scores.cer)}; {verdict}")
        for result in evaluation.results[:EXAMPLES]:
            _LOGGER.info(f"  {result.reference}\n  → {result.hypothesis}")
        if self.best.add(scores, step) and self.accelerator.is_main_process:
            with self._saving():
                self.best.save(step, self.model)
        wanted = {"end": False, "best": self.best.best[0].step == step, "every": True}[self.recipe.publishing.push]
        self.publishable = evaluation if wanted else None
        if self._is_stale(step):
            _LOGGER.info(f"no better validation WER in {training.patience} evaluations: training ends here")
            return False
        return True

    def _is_stale(self, step: int) -> bool:
        """Whether so many evaluations have brought nothing better that training ends."""
        training = self.recipe.training
        patience = training.patience and training.patience * self.length.eval_steps
        return self.best.is_stale(step, patience)

    def _gather(self) -> None:
        """Let `model` be what is trained."""
        if self.trained is not self.model:
            gather_weights(self.trained, self.model)

    def _save(self, step: int, results: list[StepResult]) -> None:
        self._gather()
        optimizer_state = gather_optimizer(self.optimizer)
        # What is found in training alone (audio that can't be decoded), perhaps not again after an interruption.
        rejected = list(dict.fromkeys(gather_object(self.rejected)))
        if self.accelerator.is_main_process:
            progress = {
                "best": self.best.best,
                "data": self.fingerprint,
                "batch_seconds": self.batch_seconds,
                "seconds": self._seconds_trained(),
                "processes": self.accelerator.num_processes,
                "recipe": self.recipe.to_yaml(),
                "rejected": [vars(rejection) for rejection in rejected],
                "results": [vars(result) for result in results],
            }
            keep, scaler = self.recipe.training.keep_checkpoints, self.accelerator.scaler
            with self._saving():
                save_checkpoint(
                    self.checkpoints,
                    step,
                    self.model,
                    optimizer_state,
                    scaler,
                    progress,
                    keep,
                    self.best.list_digests(),
                )
                write_rejected(self.output / "rejected.csv", [*self.preparation.rejected, *rejected])
            self._offer(step)
        self.accelerator.wait_for_everyone()

    def _offer(self, step: int) -> None:
        """Have the weights that were just evaluated and saved pushed, where the recipe says so."""
        evaluation, self.publishable = self.publishable, None
        if self.publisher and evaluation:
            write = partial(
                write_snapshot,
                checkpoint=self.checkpoints / f"step-{step:06d}",
                recogniser=self.recogniser,
                preparation=self.preparation,
                recipe=self.recipe,
                run=self.output.name,
                evaluation=evaluation,
                training=self._describe_training([*self.preparation.rejected, *self.rejected], self._seconds_trained()),
            )
            self.publisher.offer(step, write)

    def _saving(self) -> AbstractContextManager[None]:
        checkpoints = list_checkpoints(self.checkpoints)
        good = f"The last checkpoint is {checkpoints[-1]}" if checkpoints else "There is no checkpoint yet"
        return saving(str(self.output), good)

    def _write_models(self, results: list[dict[str, Any]], training: dict[str, Any]) -> None:
        model, unfinished = self.recipe.model, self.output / ".model.partial"
        shutil.rmtree(unfinished, ignore_errors=True)
        self.model.save_pretrained(unfinished)
        if model.language_adapter:
            save_language_adapter(self.model, unfinished, model.language_adapter)
        folders = {"model": unfinished}
        if self.saves_adapter:
            folders["adapter"] = self.output / ".adapter.partial"
        recipe, extractor, run = self.recipe, self.preparation.feature_extractor, self.output.name
        for name, folder in folders.items():
            complete_model(folder, self.output / name, recipe, extractor, self.tokenizer, results, training, run)
