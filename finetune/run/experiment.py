"""One recipe to one run directory: prepare the data, lock and begin the folder, train, and finish."""

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from finetune.errors import UserError
from finetune.evaluation.analysis import Analysis
from finetune.files import lock_folder
from finetune.recipe.load import Recipe
from finetune.resources.machine import Precision
from finetune.run.callbacks import TrainerCallback
from finetune.run.preparation import Preparation, prepare
from finetune.run.revisions import find_commits, pin_revisions
from finetune.run.run_directory import begin_run, check_output, read_beginning, read_precision
from finetune.run.summary import summarize_preparation
from finetune.run.trainer import Trainer
from finetune.run.training_run import TrainingRun
from finetune.training.checkpoints import saving
from finetune.training.interruption import StopSignals
from finetune.training.processes import build_accelerator, describe_sharding, settle_precision
from finetune.training.trackers import flatten

_LOGGER = logging.getLogger(__name__)


def run(recipe: Recipe, output: Path, callback: TrainerCallback | None = None) -> Analysis:
    """Train, evaluate and save one run; an unfinished run of the same recipe is resumed.

    Returns the analysis of the test split, or of the validation split without a test split. Raises UserError before
    anything is written when the recipe, the data or `output` do not allow the run, and Interrupted after a checkpoint
    when SIGINT, SIGTERM or SIGHUP asked to stop.

    >>> from pathlib import Path
    >>> from finetune.recipe.load import load_recipe
    >>> from finetune.run.experiment import run
    >>> analysis = run(load_recipe(Path("recipe.yaml")), Path("runs/new"))
    >>> analysis.scores.utterances, Path("runs/new/model/config.json").is_file()
    (6, True)
    """
    if recipe.pretraining:
        raise UserError("The recipe has a section `pretraining`, which is of `finetune pretrain`: leave it out.")
    analysis: Analysis = carry_out(recipe, output, Trainer, callback)
    return analysis


def carry_out(
    recipe: Recipe, output: Path, build: Callable[..., TrainingRun], callback: TrainerCallback | None = None
) -> Any:
    """Prepare and begin a run, or go on with it, train what `build` builds, and return what its `finish` returns."""
    training = recipe.training
    resumes = check_output(output, recipe)
    precision = settle_precision(training.mixed_precision, read_precision(output) if resumes else None)
    accelerator = _accelerate(recipe, precision, training.trackers, output)
    publisher = _build_publisher(recipe, output) if accelerator.is_main_process else None
    _LOGGER.debug(f"device {accelerator.device}, precision {precision}, processes {accelerator.num_processes}")
    # All processes train on the same commits, even if a branch moves while they start.
    known, resolved = read_beginning(output) if resumes else ({}, {})
    commits = known if resumes else broadcast_object_list([find_commits(recipe)])[0]
    written, recipe = recipe, pin_revisions(recipe, commits)
    preparation = prepare(recipe)
    given = (recipe, output, preparation, accelerator)
    trainer = build(*given, precision=precision, resolved=resolved, publisher=publisher, callback=callback)
    for line in [*describe_sharding(accelerator), *summarize_preparation(preparation, recipe), *trainer.plan()]:
        note = line.removeprefix("note: ")
        _LOGGER.log(logging.INFO if note == line else logging.WARNING, note)
    accelerator.wait_for_everyone()  # Every process has checked the output before one writes to it.
    with ExitStack() as held:
        if accelerator.is_main_process:
            with saving(str(output), "Nothing is there yet"):
                output.mkdir(parents=True, exist_ok=True)
                held.enter_context(lock_folder(output))
                if check_output(output, written) != resumes:
                    raise UserError(f"Another process has just begun a run in {output}: start this one again.")
                if not resumes:
                    begun = (commits, precision, trainer.resolved)
                    begin_run(output, written, preparation.rejected, preparation.training_transcripts, *begun)
        if publisher:
            held.enter_context(closing(publisher))
        accelerator.wait_for_everyone()
        if training.trackers:
            values = recipe.without_secrets().model_dump(mode="json", exclude_none=True)
            accelerator.init_trackers("finetune", config=flatten(values))
        with StopSignals(announce=accelerator.is_main_process) as signals:
            trainer.train(signals.asked)
        result = trainer.finish()
        if publisher:
            publisher.finish(output)
    # `end_training` would also end the process group: see `commands.launch.run`.
    for tracker in accelerator.trackers:
        tracker.finish()
    return result


def preview(recipe: Recipe, output: Path, preparation: Preparation) -> list[str]:
    """The length, time, memory and disk space of a run, measured with random weights: no weights are downloaded.

    Raises UserError where the model or the device do not allow the run. Nothing is written.
    """
    precision = settle_precision(recipe.training.mixed_precision, None)
    accelerator = _accelerate(recipe, precision, (), output)
    untrained = recipe.model_copy(update={"model": recipe.model.model_copy(update={"random_weights": True})})
    return Trainer(untrained, output, preparation, accelerator, precision=precision).plan()


def _build_publisher(recipe: Recipe, output: Path) -> Any:
    if recipe.publishing.repo_id is None:
        return None
    from finetune.run.checkpoint_export import build_publisher

    return build_publisher(recipe.publishing, output)


def _accelerate(recipe: Recipe, precision: Precision, trackers: Sequence[str], output: Path) -> Accelerator:
    training = recipe.training
    return build_accelerator(
        precision=precision,
        trackers=trackers,
        folder=output / "trackers",
        batch_seconds=training.batch_seconds,
        compiled=training.compile,
        max_gradient_norm=training.max_gradient_norm,
        layer_drop=recipe.model.layer_drop,
    )
