"""Does speech without transcripts help where few are transcribed? AN4, with 5 minutes of transcripts.

    python scripts/compare_pretraining.py AN4 OUTPUT [section.key=value ...] [--minutes 5] [--seeds 3] [--steps 600]
        [--variants base pretrained student] [--min-score 0.8]

AN4 is a folder with the audio of CMU AN4 and its `metadata.csv`. The tenth of its speakers that `recipes/an4` holds out
is only read to score. Of the other speakers all speech is used without transcripts, by `recipes/pretraining` with the
overrides given; and the speakers whose names' hashes are smallest keep their transcripts, until there are `--minutes`.

The same fine-tuning (`recipes/an4` with `--steps` steps, scored once, at its end) then starts from the base that
pre-training started from, and from its result, with each seed: of the head, the batches, masks and augmentation. Errors
are added up over the seeds; intervals are over speakers (95 %, paired for the difference).

A `student` learns from pseudo-labels: the model of `base` with the same seed transcribes the speech of the others with
a language model of the transcripts that there are, what has a confidence of `--min-score` stays, and the same
fine-tuning starts from the same base with both.

What came out is in scripts/docs/how_to/pretraining.md: 35 minutes for the pre-training and 9 to 12 for each
fine-tuning, on one thread of an Intel Xeon (avx512_bf16, amx_bf16) in bf16 beside other work.

Everything is written below OUTPUT, the table as OUTPUT/table.md; the same command goes on after an interruption.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import itertools
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
VARIANTS = {
    "base": "the transcripts alone",
    "pretrained": "with pre-training on all speech",
    "student": "with pseudo-labels of the rest",
}


def write_tables(an4: Path, folder: Path, minutes: float) -> dict[str, float]:
    """Write unlabelled.csv, rest.csv, train.csv and validation.csv; returns the minutes of each."""
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
    rest = [u for u in kept if u.speaker not in chosen]
    tables = {"unlabelled": kept, "rest": rest, "train": transcribed, "validation": held}
    for name, utterances in tables.items():
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            columns = ("file_name", "speaker", *(["text"] if name in ("train", "validation") else []))
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


def fine_tune(base: Path, sources: str, output: Path, seed: int, steps: int) -> list[Result]:
    """Fine-tune a base by the recipe of AN4 on `data.sources`; returns what it makes of the held-out speakers."""
    from finetune.evaluation.results import read_results

    overrides = [f"model.base={base}", f"data.sources=[{sources}]", f"training.seed={seed}"]
    # One evaluation, at the end: no checkpoint is chosen on the speakers that are scored.
    overrides += [f"training.max_steps={steps}", f"training.eval_steps={steps}"]
    if not (base / "vocab.json").exists():  # Pre-training leaves no head.
        overrides.append("text.vocabulary=training")
    run_once("train", "an4", output, overrides)
    return read_results(output)


def write_pseudo_labels(teacher: Path, data: Path, output: Path, min_score: float) -> Path:
    """A corpus of what a model is sure of in rest.csv; taken up again where it was interrupted."""
    texts = output.parent / "transcripts.txt"
    with (data / "transcribed" / "train.csv").open(encoding="utf-8", newline="") as file:
        texts.write_text("".join(f"{row['text']}\n" for row in csv.DictReader(file)), encoding="utf-8")
    language_model = output.parent / "language_model"
    if not language_model.exists():
        call("lm", "build", texts, "--model", teacher, "-o", language_model)
    options = ("--min-score", min_score, "--language-model", language_model)
    call("segment", teacher, data / "rest.csv", "--transcribe", "--allow-outside", "--resume", *options, "-o", output)
    return output


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
    parser.add_argument(
        "--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="compared with the first"
    )
    parser.add_argument("--min-score", type=float, default=0.8, help="the least confidence of a pseudo-label")
    parser.add_argument("--weight", type=float, default=2, help="of the transcripts, where that of pseudo-labels is 1")
    options = parser.parse_args(arguments)
    report_machine("auto")
    from finetune.evaluation.comparison import compare
    from finetune.files import write_text

    output, data = options.output, options.output / "data"
    transcribed, base = data / "transcribed", RECIPES / "quickstart" / "base"
    lengths = write_tables(options.an4, transcribed, options.minutes)
    for name in ("unlabelled", "rest"):
        (transcribed / f"{name}.csv").replace(data / f"{name}.csv")
    found: dict[str, list[Any]] = {variant: [] for variant in options.variants}
    for seed, variant in itertools.product(range(options.seeds), options.variants):
        start, folder = base, output / f"{variant}-{seed}"
        sources = f"{{root: {transcribed}, allow_outside: true, weight: {options.weight}}}"
        if variant == "pretrained":
            where = [f"data.root={data / 'unlabelled.csv'}", "data.allow_outside=true"]
            start = run_once("pretrain", "pretraining", output / "pretraining", [*where, *options.overrides])
        elif variant == "student" and not (folder / "report").exists():
            teacher = output / f"base-{seed}"
            fine_tune(base, sources, teacher, seed, options.steps)  # Done already where `base` is compared.
            labels = write_pseudo_labels(teacher / "model", data, output / f"pseudo_labels-{seed}", options.min_score)
            sources += f", {labels}"
        found[variant].append(fine_tune(start, sources, folder, seed, options.steps))
    lines = ["| | WER of each seed, % | WER | CER |", "|---|---|---|---|"]
    lines += [describe(VARIANTS[variant], results) for variant, results in found.items()]
    first, *others = options.variants
    for variant in others:
        difference = compare(join(found[first]), join(found[variant])).sentence()
        lines += ["", f"{VARIANTS[variant].capitalize()}: {difference}"]
    minutes = ", ".join(f"{name} {length:.1f} minutes" for name, length in lengths.items())
    lines += ["", f"Speech: {minutes}."]
    write_text(output / "table.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main(sys.argv[1:])
