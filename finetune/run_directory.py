"""A run's folder: whether it may be used, how it begins, its log in a resumed run, and the models in it."""

import json
import math
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from finetune import __version__
from finetune.data.corpus import Rejection, write_rejected
from finetune.data.preprocessing import save_preprocessing
from finetune.data.training_words import save_training_words
from finetune.data.transcripts import describe_steps, save_normalization
from finetune.errors import UserError
from finetune.evaluation.scores import Scores
from finetune.publishing.card import write_card
from finetune.recipe import Recipe, load_recipe


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


def begin_run(output: Path, recipe: Recipe, rejected: Sequence[Rejection], transcripts: Sequence[str] | None) -> None:
    """Make a run's folder with its recipe, what was left out, the words it trains on where known, and an empty log."""
    output.mkdir(parents=True, exist_ok=True)
    write_rejected(output / "rejected.csv", rejected)
    if transcripts is not None:
        save_training_words(output, transcripts)
    (output / "metrics.jsonl").touch()
    # Last: a folder without it is no run, so an interrupted beginning is seen as what it is.
    partial = output / "recipe.yaml.partial"
    partial.write_text(recipe.model_copy(update={"provenance": _provenance()}).to_yaml(), encoding="utf-8")
    partial.rename(output / "recipe.yaml")


def complete_model(
    partial: Path,
    final: Path,
    recipe: Recipe,
    feature_extractor: Any,
    tokenizer: Any,
    scores: dict[str, Scores],
    run: str,
) -> None:
    """Put beside saved weights what they are used with, and rename their folder.

    `scores` are by the split's role, and `run` is the run's name.
    """
    from transformers import Wav2Vec2Processor

    Wav2Vec2Processor(feature_extractor, tokenizer).save_pretrained(partial)
    save_normalization(partial, recipe.text.normalization)
    if recipe.data.preprocessing:
        save_preprocessing(partial, recipe.data.preprocessing)
    write_card(
        partial / "README.md",
        title=recipe.publishing.title or run,
        base_model=recipe.model.base,
        language=recipe.publishing.language,
        license=recipe.publishing.license,
        datasets=[source.root for source in recipe.data.all_sources],
        scores=scores,
        normalization=describe_steps(recipe.text.normalization),
        training_command="finetune train recipe.yaml",
        recipe_yaml=recipe.to_yaml(),
        adapter_alone=(partial / "adapter_config.json").exists(),
    )
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)


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


def cut_metrics(file: Path, step: int) -> None:
    """Drop the lines of steps that will be done again, and one that a full disk or a power cut left half-written."""
    lines = [line for line in file.read_text().splitlines() if _step_of(line) <= step]
    partial = file.with_name(file.name + ".partial")
    partial.write_text("".join(line + "\n" for line in lines))
    partial.rename(file)


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except ValueError:
        return math.inf
