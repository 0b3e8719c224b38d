"""A prepared recipe to a trained model: build, train, validate, keep the best weights, and finish the run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import Accelerator
from accelerate.utils import gather_object

from finetune.data.corpus import SkippedUtterance, Split, write_rejected
from finetune.evaluation.analysis import Analysis, analyse
from finetune.evaluation.report import write_report
from finetune.evaluation.scores import percent
from finetune.evaluation.scoring import Evaluation, evaluate_split
from finetune.files import name_folder
from finetune.inference.utterance_statistics import UtteranceStatistics
from finetune.models.adapters import save_lora
from finetune.recipe.load import Recipe
from finetune.resources.machine import Precision, describe_device
from finetune.run.best_checkpoints import rank
from finetune.run.components import RecogniserComponents, build_components
from finetune.run.planning import score_some
from finetune.run.preparation import Preparation
from finetune.run.run_directory import SCORES
from finetune.run.training_run import TrainingRun
from finetune.text.training_words import load_training_words
from finetune.training.checkpoints import load_model, prune_checkpoints
from finetune.training.loop import Validation

if TYPE_CHECKING:  # The publishing room is imported where a card is written or a model is pushed.
    pass

_LOGGER = logging.getLogger(__name__)

EXAMPLES = 3  # utterances shown at each validation


class Trainer(TrainingRun):
    """One run in steps: the constructor builds it, `train` trains, validates and saves, and `finish` scores the best.

    `plan` says beforehand what training takes.
    """

    components: RecogniserComponents

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
        components = build_components(recipe, preparation, accelerator, precision)
        super().__init__(recipe, output, preparation, accelerator, components, precision=precision, **others)

    def evaluate_some(self) -> float:
        """Score a few validation utterances; returns their seconds."""
        return score_some(self.preparation, self.components.recogniser, self.recipe.evaluation.batch_seconds)

    def validate(self, step: int) -> Validation:
        """Score the validation split, and keep the weights when they are among the best by WER, then CER.

        `published` is the evaluation of these weights where the recipe has them pushed.
        """
        training = self.recipe.training
        self.components.gather()
        evaluation = self._evaluate(self.preparation.validation)
        self.rejected += evaluation.rejected if self.accelerator.is_main_process else []
        scores = evaluation.scores
        examples = [(result.reference, result.hypothesis) for result in evaluation.results[:EXAMPLES]]
        self._log(step, _list_values(evaluation), examples)
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

    def score_best_again(self) -> dict[int, dict[str, float]]:
        """Score the best weights so far on the validation split as it is now, so that later ones compare with them."""
        steps = sorted(best.step for best in self.best.best)
        self.best.best, found = [], {}
        for step in steps:
            load_model([self.best.find_file(step)], self.components.model)
            evaluation = self._evaluate(self.preparation.validation)
            self.best.add(evaluation.scores, step, evaluation.statistics)
            found[step] = _list_values(evaluation)
            wer, cer = percent(evaluation.scores.wer), percent(evaluation.scores.cer)
            _LOGGER.info(f"the weights of step {step} on the data as they are now: validation WER {wer}, CER {cer}")
        return found

    def publish(self, step: int, validation: Validation | None) -> None:
        """Have the weights of the checkpoint that was just written pushed, where `validation` is to be published."""
        if not (self.publisher and validation and validation.published):
            return
        from finetune.run.checkpoint_export import export_checkpoint

        write = partial(
            export_checkpoint,
            checkpoint=self.checkpoints / f"step-{step:06d}",
            recogniser=self.components.recogniser,
            recipe=self.resolved_recipe,
            run=name_folder(self.output),
            evaluation=validation.published,
            training=self._describe_training(self._list_rejected(self.rejected), self._seconds_trained()),
        )
        self.publisher.offer(step, write)

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
        rejected = self._list_rejected([*gather_object(self.rejected), *evaluation.rejected])
        if accelerator.is_main_process:
            title = f"{name_folder(self.output)}: {role}"
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


def _list_values(evaluation: Evaluation) -> dict[str, float]:
    """The values of an evaluation for the log."""
    return dict(zip(SCORES, (*rank(evaluation.scores), evaluation.blank_ratio), strict=True))
