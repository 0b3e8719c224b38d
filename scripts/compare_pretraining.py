"""Does pre-training on speech without transcripts help where few are transcribed? AN4, with 5 minutes of transcripts.

    python scripts/compare_pretraining.py AN4 OUTPUT [section.key=value ...] [--minutes 5] [--seeds 3] [--steps 600]

AN4 is a folder with the audio of CMU AN4 and its `metadata.csv`. The tenth of its speakers that `recipes/an4` holds out
is only read to score. Of the other speakers all speech is used without transcripts, by `recipes/pretraining` with the
overrides given; and the speakers whose names' hashes are smallest keep their transcripts, until there are `--minutes`.

The same fine-tuning (`recipes/an4` with `--steps` steps, scored once, at its end) then starts from the base that
pre-training started from, and from its result, with each seed: of the head, the batches, masks and augmentation. Errors
are added up over the seeds; intervals are over speakers (95 %, paired for the difference).

It was not run to its end yet; what was tried is in scripts/docs/how_to/pretraining.md.

Everything is written below OUTPUT, the table as OUTPUT/table.md; the same command goes on after an interruption.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parts import report_machine

if TYPE_CHECKING:
    from finetune.evaluation.results import Result

RECIPES = Path(__file__).parent.parent / "recipes"
VARIANTS = ("base", "pretrained")


def write_tables(an4: Path, folder: Path, minutes: float) -> dict[str, float]:
    """Write unlabelled.csv, train.csv and validation.csv; returns the minutes of each."""
    from finetune.recipe.load import load_recipe
    from finetune.run.preparation import prepare

    preparation = prepare(load_recipe(RECIPES / "an4" / "recipe.yaml", [f"data.root={an4}"]))
    kept, held = preparation.train.utterances, preparation.validation.utterances
    order = sorted({str(u.speaker) for u in kept}, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    chosen: set[str] = set()
    for speaker in order:
        if sum(u.seconds for u in kept if u.speaker in chosen) >= 60 * minutes:
            break
        chosen.add(speaker)
    transcribed = [u for u in kept if u.speaker in chosen]
    folder.mkdir(parents=True, exist_ok=True)
    tables = {"unlabelled": kept, "train": transcribed, "validation": held}
    for name, utterances in tables.items():
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            columns = ("file_name", "speaker") if name == "unlabelled" else ("file_name", "speaker", "text")
            writer.writerow(columns)
            for each in utterances:
                row = (str((an4 / each.name).resolve()), each.speaker, each.raw_transcript)
                writer.writerow(row[: len(columns)])
    return {name: sum(u.seconds for u in utterances) / 60 for name, utterances in tables.items()}


def call(*arguments: object) -> None:
    """Run a command of the package; ends with its code where it fails."""
    from finetune.cli import main

    if code := main([str(each) for each in arguments]):
        sys.exit(code)


def run_once(command: str, recipe: str, output: Path, overrides: Iterable[str]) -> Path:
    """Run a recipe unless it is done; returns its model."""
    if not (output / "report").exists():
        call(command, RECIPES / recipe / "recipe.yaml", *overrides, "--output", output)
    return output / "model"


def fine_tune(base: Path, data: Path, output: Path, seed: int, steps: int) -> list[Result]:
    """Fine-tune a base by the recipe of AN4; returns what it makes of the held-out speakers."""
    from finetune.evaluation.results import read_results

    overrides = [f"model.base={base}", f"data.root={data}", "data.allow_outside=true", f"training.seed={seed}"]
    # One evaluation, at the end: no checkpoint is chosen on the speakers that are scored.
    overrides += [f"training.max_steps={steps}", f"training.eval_steps={steps}"]
    run_once("train", "an4", output, overrides)
    return read_results(output)


def describe(name: str, results: Sequence[Sequence[Result]]) -> str:
    """A row of the table: the WER of each seed, their mean, and an interval."""
    from finetune.evaluation.intervals import bootstrap
    from finetune.evaluation.results import add_up, count_results

    scores = [add_up(each, count_results(each)) for each in results]
    joined = join(results)
    interval = bootstrap(count_results(joined), [result.speaker for result in joined]).wer
    assert interval is not None
    rates = [100 * (each.wer or 0.0) for each in scores]
    errors = [100 * (each.cer or 0.0) for each in scores]
    return (
        f"| {name} | {', '.join(f'{rate:.1f}' for rate in rates)} | {statistics.mean(rates):.1f} % "
        f"({100 * interval.low:.1f} to {100 * interval.high:.1f}) | {statistics.mean(errors):.1f} % |"
    )


def join(results: Sequence[Sequence[Result]]) -> list[Result]:
    """The results of all seeds as one set."""
    return [replace(each, name=f"{seed}/{each.name}") for seed, found in enumerate(results) for each in found]


def main(arguments: Sequence[str]) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("an4", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("overrides", nargs="*", help="of recipes/pretraining")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600)
    options = parser.parse_args(arguments)
    report_machine("auto")
    from finetune.evaluation.comparison import compare
    from finetune.files import write_text

    output, data = options.output, options.output / "data"
    lengths = write_tables(options.an4, data / "transcribed", options.minutes)
    unlabelled = data / "unlabelled.csv"
    (data / "transcribed" / "unlabelled.csv").replace(unlabelled)
    where = [f"data.root={unlabelled}", "data.allow_outside=true"]
    pretrained = run_once("pretrain", "pretraining", output / "pretraining", [*where, *options.overrides])
    bases = {"base": RECIPES / "quickstart" / "base", "pretrained": pretrained}
    found: dict[str, list[Any]] = {variant: [] for variant in VARIANTS}
    for seed in range(options.seeds):
        for variant in VARIANTS:
            folder = output / f"{variant}-{seed}"
            found[variant].append(fine_tune(bases[variant], data / "transcribed", folder, seed, options.steps))
    names = {"base": "without pre-training", "pretrained": "with pre-training"}
    lines = ["| | WER of each seed, % | WER | CER |", "|---|---|---|---|"]
    lines += [describe(names[variant], found[variant]) for variant in VARIANTS]
    minutes = ", ".join(f"{name} {length:.1f} minutes" for name, length in lengths.items())
    lines += ["", compare(*(join(found[variant]) for variant in VARIANTS)).sentence(), f"Speech: {minutes}."]
    write_text(output / "table.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main(sys.argv[1:])
