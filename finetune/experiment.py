"""One recipe to one run directory: the only place that wires the rooms."""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from finetune import __version__
from finetune.data.batching import deal, stream
from finetune.data.corpus import Rejection, write_rejected
from finetune.data.preprocessing import save_preprocessing
from finetune.data.streaming import StreamedBatches
from finetune.data.transcripts import describe_steps, save_normalization
from finetune.data.vocabulary import PAD, build_tokenizer
from finetune.errors import UserError
from finetune.evaluation.report import write_report
from finetune.evaluation.scores import Scores, percent
from finetune.inference.transcriber import Transcriber
from finetune.preparation import Preparation, describe, prepare
from finetune.publishing.card import write_card
from finetune.recipe import Recipe, load_recipe
from finetune.scoring import evaluate_split
from finetune.training import health
from finetune.training.checkpoints import list_checkpoints, load_model, restore_checkpoint, save_checkpoint, save_model
from finetune.training.kernels import use_cpu_kernels
from finetune.training.loop import Hooks, Schedule, train
from finetune.training.model import CTCObjective, build_model
from finetune.training.optimization import build_optimizer


def run(recipe: Recipe, output: Path) -> Scores:
    """Train, score and save one run; goes on where an unfinished run of the same recipe stopped.

    Returns the scores on the test split, or on the validation split where there is no test split.
    Raises UserError before anything is written when the recipe, the data or `output` do not allow the run.
    """
    _require_precision(recipe)  # Accelerate refuses it in other words.
    # Without a GPU, Accelerate forms a group of several processes only when told that it runs on CPUs.
    accelerator = Accelerator(mixed_precision=recipe.training.mixed_precision, cpu=not torch.cuda.is_available())
    resumes = check_output(output, recipe)
    preparation = prepare(recipe)
    say = _speaker(accelerator)
    experiment = Experiment(recipe, output, preparation, accelerator, say)
    for line in describe(preparation, recipe, accelerator.num_processes):
        say(line)
    accelerator.wait_for_everyone()  # Every process has looked at the output before one writes to it.
    if accelerator.is_main_process and not resumes:
        _begin(output, recipe, preparation)
    accelerator.wait_for_everyone()
    experiment.train()
    return experiment.finish()


class Experiment:
    """The parts of one run, built from its recipe."""

    def __init__(
        self,
        recipe: Recipe,
        output: Path,
        preparation: Preparation,
        accelerator: Accelerator,
        say: Callable[[str], None],
    ) -> None:
        self.recipe, self.output, self.preparation = recipe, output, preparation
        self.accelerator, self.say = accelerator, say
        model, training = recipe.model, recipe.training
        self.model: Any = build_model(
            preparation.config,
            None if model.random_weights else model.base,
            vocabulary=preparation.vocabulary,
            blank=PAD,
            dropout=model.dropout,
            mask_time_probability=training.mask_time_probability,
            seed=training.seed,
            head_rows=preparation.head_rows,
            revision=model.revision,
            freeze_feature_encoder=model.freeze_feature_encoder,
        )
        if accelerator.device.type == "cpu":
            use_cpu_kernels(self.model)
        self.tokenizer = build_tokenizer(preparation.vocabulary)
        self.optimizer = build_optimizer(self.model, training.learning_rate, training.weight_decay)
        self.objective, self.prepared_optimizer = accelerator.prepare(CTCObjective(self.model), self.optimizer)
        self.transcriber = Transcriber(self.model, preparation.feature_extractor, self.tokenizer, accelerator.device)
        self.checkpoints = output / "checkpoints"
        self.progress: dict[str, Any] = {"best": None, "best_step": None}
        self.rejected: list[Rejection] = []

    def train(self) -> None:
        """Train to the last step, from the newest checkpoint where there is one."""
        training = self.recipe.training
        first_step = self._restore()
        accelerator, preparation = self.accelerator, self.preparation
        data = preparation.batches((training.mask_time_probability, training.mask_time_length), training.seed)
        per_step = training.accumulation * accelerator.num_processes
        seconds = [utterance.seconds for utterance in preparation.train.utterances]
        weights = [utterance.weight for utterance in preparation.train.utterances]
        weighted = weights if set(weights) != {1.0} else None
        batches = deal(
            stream(seconds, training.batch_seconds, training.seed, weighted),
            first_step,
            per_step,
            accelerator.process_index,
            accelerator.num_processes,
        )
        schedule = Schedule(
            max_steps=training.max_steps,
            learning_rate=training.learning_rate,
            warmup_ratio=training.warmup_ratio,
            max_gradient_norm=training.max_gradient_norm,
            micro_batches=training.accumulation,
            eval_steps=training.eval_steps,
            log_steps=training.log_steps,
            seed=training.seed,
        )
        hooks = Hooks(log=self._log, evaluate=self._validate, save=self._save, reject=self.rejected.append)
        loader = data.loader(batches, training.num_workers)
        if preparation.stream:
            streamed = StreamedBatches(
                preparation.stream,
                data,
                training.batch_seconds,
                first_step,
                per_step,
                accelerator.process_index,
                accelerator.num_processes,
            )
            loader = streamed.loader()
        train(accelerator, self.objective, self.prepared_optimizer, iter(loader), schedule, hooks, first_step)

    def finish(self) -> Scores:
        """Score the best weights, and write the model, the list of rejected utterances and the report."""
        accelerator, preparation = self.accelerator, self.preparation
        load_model(self.checkpoints / "best" / "model.safetensors", self.model)
        role, split = ("test", preparation.test) if preparation.test else ("validation", preparation.validation)
        evaluation = evaluate_split(self.transcriber, split, self.recipe.evaluation.batch_seconds, accelerator)
        rejected = [*preparation.rejected, *gather_object(self.rejected), *evaluation.rejected]
        if accelerator.is_main_process:
            write_rejected(self.output / "rejected.csv", list(dict.fromkeys(rejected)))
            self._write_model(role, evaluation.scores)
            write_report(self.output / "report", f"{self.output.name}: {role}", evaluation.scores, evaluation.results)
        accelerator.wait_for_everyone()
        self.say(f"model: {self.output / 'model'}   report: {self.output / 'report' / 'index.html'}")
        return evaluation.scores

    def _restore(self) -> int:
        checkpoints = list_checkpoints(self.checkpoints)
        step = 0
        if checkpoints:
            progress = restore_checkpoint(checkpoints[-1], self.model, self.optimizer, self.accelerator.scaler)
            step = progress.pop("step")
            self.rejected = [Rejection(**rejection) for rejection in progress.pop("rejected")]
            self.say(f"going on from step {step}")
            processes = progress.pop("processes")
            if processes != self.accelerator.num_processes:
                self.say(f"note: this run was begun on {processes} processes, so its steps now hold other batches")
            self.progress = progress
        if self.accelerator.is_main_process:
            _cut_metrics(self.output / "metrics.jsonl", step)
        return step

    def _log(self, step: int, values: dict[str, float]) -> None:
        if self.accelerator.is_main_process:
            with (self.output / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")

    def _validate(self, step: int) -> None:
        """Score the validation split, and keep the weights when they are the best so far by WER, then CER."""
        split = self.preparation.validation
        evaluation = evaluate_split(self.transcriber, split, self.recipe.evaluation.batch_seconds, self.accelerator)
        self.rejected += evaluation.rejected if self.accelerator.is_main_process else []
        scores = evaluation.scores
        result = [scores.wer if scores.wer is not None else 1.0, scores.cer if scores.cer is not None else 1.0]
        values = {"validation_wer": result[0], "validation_cer": result[1], "blank_ratio": evaluation.blank_ratio}
        self._log(step, values)
        words = health.describe(result[0], evaluation.blank_ratio)
        self.say(
            f"step {step}/{self.recipe.training.max_steps}: validation WER {percent(scores.wer)}, "
            f"CER {percent(scores.cer)}" + (f"; {words}" if words else "")
        )
        if self.progress["best"] is None or result < self.progress["best"]:
            self.progress = {"best": result, "best_step": step}
            if self.accelerator.is_main_process:
                best = self.checkpoints / "best"
                best.mkdir(parents=True, exist_ok=True)
                save_model(best / "model.safetensors", self.model)

    def _save(self, step: int) -> None:
        # Audio that can't be decoded is found in training, perhaps not again after an interruption.
        rejected = [vars(rejection) for rejection in dict.fromkeys(gather_object(self.rejected))]
        if self.accelerator.is_main_process:
            progress = {**self.progress, "rejected": rejected, "processes": self.accelerator.num_processes}
            keep = self.recipe.training.keep_checkpoints
            save_checkpoint(self.checkpoints, step, self.model, self.optimizer, self.accelerator.scaler, progress, keep)
        self.accelerator.wait_for_everyone()

    def _write_model(self, role: str, scores: Scores) -> None:
        from transformers import Wav2Vec2Processor

        recipe, final = self.recipe, self.output / "model"
        partial = self.output / ".model.partial"
        shutil.rmtree(partial, ignore_errors=True)
        self.model.save_pretrained(partial)
        Wav2Vec2Processor(self.preparation.feature_extractor, self.tokenizer).save_pretrained(partial)
        save_normalization(partial, recipe.text.normalization)
        if recipe.data.preprocessing:
            save_preprocessing(partial, recipe.data.preprocessing)
        write_card(
            partial / "README.md",
            title=recipe.publishing.title or self.output.name,
            base_model=recipe.model.base,
            language=recipe.publishing.language,
            license=recipe.publishing.license,
            datasets=[source.root for source in recipe.data.all_sources],
            scores={role: scores},
            normalization=describe_steps(recipe.text.normalization),
            training_command="finetune train recipe.yaml",
            recipe_yaml=recipe.to_yaml(),
        )
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)


def check_output(output: Path, recipe: Recipe) -> bool:
    """Whether `output` holds an unfinished run of this recipe, to go on with; False when there is nothing.

    Raises UserError when it holds a finished run, another recipe's run, or anything else.
    """
    if not output.exists():
        parent = next(folder for folder in output.absolute().parents if folder.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise UserError(f"{output} can't be made: {parent} is no folder that you may write into.")
        return False
    if output.is_dir() and not any(output.iterdir()):
        return False
    if not (output / "recipe.yaml").is_file():
        raise UserError(f"{output} exists and is no run: give another folder with --output, or remove it.")
    if (output / "report").exists():
        raise UserError(f"{output} holds a finished run: give another folder with --output, or remove it.")
    if load_recipe(output / "recipe.yaml").model_copy(update={"provenance": None}) != recipe:
        raise UserError(
            f"{output} holds an unfinished run of another recipe (compare {output / 'recipe.yaml'}): "
            "give another folder with --output, or remove it."
        )
    return True


def _begin(output: Path, recipe: Recipe, preparation: Preparation) -> None:
    output.mkdir(parents=True, exist_ok=True)
    write_rejected(output / "rejected.csv", preparation.rejected)
    (output / "metrics.jsonl").touch()
    # Last: a folder without it is no run, so an interrupted beginning is seen as what it is.
    partial = output / "recipe.yaml.partial"
    partial.write_text(recipe.model_copy(update={"provenance": _provenance()}).to_yaml(), encoding="utf-8")
    partial.rename(output / "recipe.yaml")


def _provenance() -> dict[str, Any]:
    packages = ("torch", "torchaudio", "transformers", "datasets", "accelerate", "jiwer", "numpy", "soundfile")
    folder = Path(__file__).parent
    commit = subprocess.run(
        ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "finetune": __version__,
        "commit": commit.stdout.strip() or None,
        "python": platform.python_version(),
        "packages": {package: version(package) for package in packages},
    }


def _require_precision(recipe: Recipe) -> None:
    if recipe.training.mixed_precision == "fp16" and not torch.cuda.is_available():
        raise UserError("training.mixed_precision: fp16 needs a GPU; expected no or bf16 on a CPU.")


def _cut_metrics(file: Path, step: int) -> None:
    """Drop the lines of steps that will be done again."""
    lines = [line for line in file.read_text().splitlines() if json.loads(line)["step"] <= step]
    partial = file.with_name(file.name + ".partial")
    partial.write_text("".join(line + "\n" for line in lines))
    partial.rename(file)


def _speaker(accelerator: Accelerator) -> Callable[[str], None]:
    def say(line: str) -> None:
        if accelerator.is_main_process:
            tqdm.write(line, file=sys.stderr)

    return say
