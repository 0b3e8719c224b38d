"""The run directory: check it, begin a run in it, and cut its log when the run is resumed."""

import json
import math
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from finetune import __version__
from finetune.data.corpus import SkippedUtterance, write_rejected
from finetune.errors import UserError
from finetune.files import LOCK, write_text
from finetune.recipe.load import Recipe, load_recipe
from finetune.resources.machine import describe_machine
from finetune.text.training_words import FILE as TRAINING_WORDS
from finetune.text.training_words import save_training_words

SCORES = ("validation_wer", "validation_cer", "blank_ratio")
"""The values of metrics.jsonl that are measured on the validation split."""


def check_output(output: Path, recipe: Recipe) -> bool:
    """Whether `output` holds an unfinished run of this recipe, which can be resumed; False when it is empty.

    Raises UserError when it holds a finished run, a run of another recipe, or other files.
    """
    if not output.exists():
        parent = next(folder for folder in output.absolute().parents if folder.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise UserError(f"{output} can't be made: {parent} is no folder that you may write into.")
        return False
    if output.is_dir() and not any(output.iterdir()):
        return False
    if not (output / "recipe.yaml").is_file():
        if output.is_dir() and all(_is_of_beginning(file) for file in output.iterdir()):
            return False  # A run that was killed before its recipe was written.
        raise UserError(f"{output} exists and is no run: give another folder with --output, or remove it.")
    if (output / "report").exists():
        raise UserError(f"{output} holds a finished run: give another folder with --output, or remove it.")
    if _identify(load_recipe(output / "recipe.yaml")) != _identify(recipe):
        raise UserError(
            f"{output} holds an unfinished run of another recipe (compare {output / 'recipe.yaml'}): "
            "give another folder with --output, or remove it."
        )
    return True


def _identify(recipe: Recipe) -> Recipe:
    """The part of a recipe that must be the same when its run is resumed; a password may change."""
    recipe = recipe.without_secrets()
    data = recipe.data.model_copy(update={"allow_changes": False})
    return recipe.model_copy(update={"data": data, "provenance": None})


def _is_of_beginning(file: Path) -> bool:
    """Whether `begin_run` may have written a file before the recipe."""
    empty_log = file.name == "metrics.jsonl" and file.stat().st_size == 0
    return empty_log or file.name in ("rejected.csv", TRAINING_WORDS, LOCK) or file.name.endswith(".partial")


def read_beginning(output: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """The commits and the length that an unfinished run was begun with: see `begin_run`."""
    provenance = load_recipe(output / "recipe.yaml").provenance or {}
    return dict(provenance.get("commits") or {}), dict(provenance.get("length") or {})


def read_precision(output: Path) -> str | None:
    """The precision that an unfinished run was begun in; None if it is not known."""
    recipe = load_recipe(output / "recipe.yaml")
    asked = recipe.training.mixed_precision
    named = {"auto": None, "no": "float32"}.get(asked, asked)
    return (recipe.provenance or {}).get("precision") or named


def begin_run(
    output: Path,
    recipe: Recipe,
    rejected: Sequence[SkippedUtterance],
    transcripts: Sequence[str] | None,
    commits: Mapping[str, str],
    precision: str,
    length: Mapping[str, Any],
) -> None:
    """Write a run's folder: the recipe, utterances left out, words of the training split if known, and an empty log.

    `commits` are those of the pretrained checkpoint and the data on a hub. `length` holds what a resumed run must keep,
    on any number of processes: its steps, the seconds of a batch, and the fingerprint of its data.
    """
    output.mkdir(parents=True, exist_ok=True)
    write_rejected(output / "rejected.csv", rejected)
    if transcripts is not None:
        save_training_words(output, transcripts)
    (output / "metrics.jsonl").touch()
    # Written last: a folder without a recipe is not a run, so that an interrupted beginning is recognised.
    provenance = describe_provenance() | {"precision": precision, "length": dict(length)}
    provenance |= {"commits": dict(commits)} if commits else {}
    write_text(output / "recipe.yaml", recipe.model_copy(update={"provenance": provenance}).to_yaml())


@cache
def describe_provenance() -> dict[str, Any]:
    """The versions, the commit and the machine of this run."""
    packages = ("torch", "transformers", "datasets", "accelerate", "jiwer", "numpy", "scipy", "soundfile", "av")
    return {
        "finetune": __version__,
        "commit": _find_commit(),
        "python": platform.python_version(),
        "packages": {package: version(package) for package in packages},
        "machine": describe_machine(),
    }


def _find_commit() -> str | None:
    """The commit of this package's checkout; None without one, and where git is not installed."""
    # A virtual environment may be in another repository, which does not track it.
    return _ask_git("rev-parse", "HEAD") if _ask_git("ls-files", Path(__file__).name) else None


def _ask_git(*arguments: str) -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None
    except OSError:
        return None


def cut_metrics(file: Path, step: int, scored_again: Mapping[int, Mapping[str, float]] | None = None) -> None:
    """Drop the lines of steps that will be repeated, and a line that a full disk or a power cut left incomplete.

    `scored_again` are the values of the steps whose weights were scored on another validation split. What was measured
    on the split before gets names with `earlier_`, since later values do not compare with it.
    """
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    lines = [line for line in text.splitlines() if _step_of(line) <= step]
    if scored_again is not None:
        lines = [_replace_scores(line, scored_again) for line in lines]
    write_text(file, "".join(line + "\n" for line in lines))


def _replace_scores(line: str, scored_again: Mapping[int, Mapping[str, float]]) -> str:
    values = json.loads(line)
    if "validation_wer" not in values:
        return line
    earlier = {f"earlier_{name}": values.pop(name) for name in SCORES if name in values}
    return json.dumps(values | earlier | scored_again.get(values["step"], {}))


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return math.inf
