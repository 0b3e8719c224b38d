"""The page of a run: scores, curves, examples over time, what was left out, time and memory, and its recipe.

Several runs are shown side by side: the settings in which they differ, and their curves over each other.
`run_report.html` is the template.
"""

import csv
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from finetune.errors import UserError
from finetune.evaluation.scores import percent
from finetune.publishing.record import FILE as RECORD
from finetune.publishing.record import load_json
from finetune.recipe.load import Recipe, load_recipe
from finetune.resources.templates import render_html
from finetune.training.trackers import flatten

_WIDTH, _HEIGHT = 400, 140
_MOST_POINTS = 200  # Of one curve.
_COLOURS = 6  # Of report.css.
_CURVES = (
    ("Training loss, nats for each label or masked frame", "loss", 1.0),
    ("Validation WER, %", "validation_wer", 100.0),
    ("Validation CER, %", "validation_cer", 100.0),
    ("Validation blank ratio, % of frames", "blank_ratio", 100.0),
    ("Validation loss, nats for each masked frame", "validation_loss", 1.0),
    ("Contrastive accuracy, %", "contrastive_accuracy", 100.0),
    ("Validation contrastive accuracy, %", "validation_contrastive_accuracy", 100.0),
    ("Codebook perplexity", "codebook_perplexity", 1.0),
    ("Validation codebook perplexity", "validation_codebook_perplexity", 1.0),
    ("Learning rate", "learning_rate", 1.0),
    ("Seconds of audio a second", "audio_seconds_per_second", 1.0),
)


@dataclass(frozen=True)
class RunRecord:
    """What the folder of a run holds, whether the run is finished or not.

    `history` are the lines of metrics.jsonl, `left_out` the number of utterances by split and reason, and `training`
    the content of the model's training.json, empty before the run is finished.
    """

    name: str
    recipe: Recipe
    history: tuple[dict[str, Any], ...]
    left_out: Mapping[tuple[str, str], int]
    training: Mapping[str, Any]

    @property
    def settings(self) -> dict[str, Any]:
        """The recipe's values that differ from the defaults, by `section.key`."""
        values = self.recipe.without_secrets().model_dump(mode="json", exclude_defaults=True, exclude={"provenance"})
        return flatten(values)

    @property
    def results(self) -> dict[str, str]:
        """Scores, length, time and memory as text, by their names; what is not known is left out."""
        hardware = self.training.get("hardware") or {}
        scores: dict[str, Any] = next(iter(self.training.get("results") or ()), {})
        split = (scores.get("evaluated") or {}).get("split", "test")
        evaluations = [line for line in self.history if "validation_wer" in line]
        memory = max((line["memory_gib"] for line in self.history if "memory_gib" in line), default=None)
        best = min(evaluations, key=lambda line: (line["validation_wer"], line["validation_cer"]), default=None)
        found = {
            f"WER, {split}": scores and _format_rate(scores, "wer"),
            f"CER, {split}": scores and _format_rate(scores, "cer"),
            "best validation WER": best and f"{percent(best['validation_wer'])} at step {best['step']:,}",
            **self._describe_pretraining(),
            "steps": f"{self.history[-1]['step']:,}" if self.history else None,
            "training time": hardware and f"{hardware['training_seconds'] / 60:,.1f} min",
            "memory": memory and f"{memory:.1f} GiB",
            "device": hardware and f"{hardware['device']}, {hardware['precision']}",
            "processes": hardware and str(hardware["processes"]),
        }
        return {name: str(value) for name, value in found.items() if value}

    def _describe_pretraining(self) -> dict[str, str]:
        """The last validation of a run of `finetune pretrain`; {} of other runs."""
        last = next((line for line in reversed(self.history) if "validation_contrastive_accuracy" in line), None)
        if last is None:
            return {}
        return {
            "contrastive accuracy, validation": percent(last["validation_contrastive_accuracy"]),
            "contrastive loss, validation": f"{last['validation_loss']:.3f}",
            "codebook perplexity, validation": f"{last['validation_codebook_perplexity']:.0f}",
        }

    def _repr_html_(self) -> str:
        """For notebooks: the page of the run, in a frame of its own."""
        page = escape(build_run_report([self]))
        return f'<iframe srcdoc="{page}" style="width: 100%; height: 40rem; border: 0"></iframe>'


@dataclass(frozen=True)
class Curve:
    """One value of all runs over their steps, as points of an SVG; `lowest` and `highest` are at its edges."""

    title: str
    lines: tuple[tuple[int, str], ...]
    lowest: str
    highest: str
    last_step: str


def read_run(folder: Path) -> RunRecord:
    """Read the folder of a run; raises UserError if it is none, or if a file of it is damaged."""
    if not (folder / "recipe.yaml").is_file() or not (folder / "metrics.jsonl").is_file():
        raise UserError(
            f"{folder} is no run: expected a folder of `finetune train` or `finetune pretrain`, with recipe.yaml and "
            "metrics.jsonl."
        )
    history = []
    for number, line in enumerate((folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines(), 1):
        try:
            values = json.loads(line)
            float(values["step"])
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise UserError(f"{folder / 'metrics.jsonl'} is damaged in line {number}: {error}.") from error
        history.append(values)
    with (folder / "rejected.csv").open(encoding="utf-8", newline="") as file:
        left_out = Counter((row["split"], row["reason"]) for row in csv.DictReader(file))
    training = load_json(folder / "model" / RECORD) or {}
    record = RunRecord(folder.resolve().name, load_recipe(folder / "recipe.yaml"), tuple(history), left_out, training)
    try:
        list_results([record])
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise UserError(f"{folder} has a damaged metrics.jsonl or {RECORD}: {error!r}.") from error
    return record


def list_differences(runs: Sequence[RunRecord]) -> list[tuple[str, list[str]]]:
    """The settings in which runs differ, with the value of each as text; of a single run all that are not defaults."""
    settings = [run.settings for run in runs]
    names = sorted({name for each in settings for name in each})
    values = [(name, [str(each.get(name, "default")) for each in settings]) for name in names]
    return [(name, texts) for name, texts in values if len(runs) == 1 or len(set(texts)) > 1]


def list_results(runs: Sequence[RunRecord]) -> list[tuple[str, list[str]]]:
    """What came of each run as text, "" where it is not known."""
    results = [run.results for run in runs]
    names = dict.fromkeys(name for each in results for name in each)
    return [(name, [each.get(name, "") for each in results]) for name in names]


def build_run_report(runs: Sequence[RunRecord]) -> str:
    """The page as HTML, which loads nothing; examples and what was left out are shown of a single run."""
    return render_html(
        "run/run_report.html",
        " and ".join(run.name for run in runs) if len(runs) < 3 else f"{len(runs)} runs",
        names=[run.name for run in runs],
        colours=_COLOURS,
        results=list_results(runs),
        settings=list_differences(runs),
        curves=[curve for curve in (_draw_curve(runs, *each) for each in _CURVES) if curve],
        examples=[(f"{line['step']:,}", line["examples"]) for line in runs[0].history if line.get("examples")]
        if len(runs) == 1
        else [],
        left_out=sorted(runs[0].left_out.items()) if len(runs) == 1 else [],
        width=_WIDTH,
        height=_HEIGHT,
    )


def _format_rate(scores: Mapping[str, Any], name: str) -> str:
    interval = (scores.get("intervals") or {}).get(name)
    between = f" ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})" if interval else ""
    return percent(scores.get(name)) + between


def _draw_curve(runs: Sequence[RunRecord], title: str, key: str, scale: float) -> Curve | None:
    """The curve of a value; None where no run has it. Loss over more than a factor of ten has a logarithmic axis."""
    series = [
        _thin([(line["step"], scale * line[key]) for line in run.history if _is_number(line.get(key))]) for run in runs
    ]
    values = [value for points in series for _, value in points]
    if not values:
        return None
    last_step = max(step for points in series for step, _ in points)
    lowest, highest = min(values), max(values)
    logarithmic = key == "loss" and 0 < 10 * lowest < highest
    if not logarithmic:
        lowest = 0.0
        if key.startswith("validation"):  # A first evaluation of several hundred percent would flatten the others.
            highest = min(highest, max(min(values), 100.0))
    measure = math.log if logarithmic else float
    low, high = measure(lowest), measure(highest)

    def place(step: float, value: float) -> str:
        share = (measure(min(value, highest)) - low) / (high - low) if high > low else 0.0
        return f"{_WIDTH * step / max(last_step, 1):.1f},{_HEIGHT * (1 - share):.1f}"

    lines = tuple(
        (number % _COLOURS, " ".join(place(*point) for point in (points * 2 if len(points) == 1 else points)))
        for number, points in enumerate(series)
        if points
    )
    return Curve(title, lines, f"{lowest:.3g}", f"{highest:.3g}", f"{last_step:,}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Means of neighbouring points, if there are many."""
    if len(points) <= _MOST_POINTS:
        return points
    return [(float(each[-1, 0]), float(each[:, 1].mean())) for each in np.array_split(np.array(points), _MOST_POINTS)]
