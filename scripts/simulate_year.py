"""A simulated year of corrections on real speech: AN4's speakers arrive in batches, and the model improves or not.

    python scripts/simulate_year.py MODEL RECIPE AN4 OUTPUT [section.key=value ...] [--batches 10] [--poison 5]

MODEL is the first champion, RECIPE the quickstart's with its corpus, and AN4 a folder with the audio of CMU AN4 and its
`metadata.csv`. The tenth of AN4 whose speakers `recipes/an4` holds out is only read for the final table; the
others arrive in batches, by speaker. Of each batch one speaker is the snapshot's validation split and
`--test-speakers` are its test split, by a hash of the name. `--wrong` of the corrections have the text of another
utterance, in every split.

After each batch the snapshot has all until then, `improve` makes a candidate of the current champion, and it is
promoted if the gate passes. Beside it: `naive` trains on the newest batch alone, without replay, averaging or a gate,
and goes on from its own last model; `all at once` trains the first champion on the last snapshot, for the steps of all
batches together. `--poison N` shuffles the texts of the first batch by N seeds, and counts how often the gate stops
the candidate. Results are in OUTPUT/year.json and OUTPUT/year.md; the same command goes on after an interruption.

The quickstart's own alphabet lacks j, q and z, and 100 test sentences make wide intervals; so the champion is one of

    python scripts/make_quickstart_corpus.py CORPUS --validation 120 --test 300
    finetune train recipes/quickstart/recipe.yaml data.root=CORPUS "text.characters=abcdefghijklmnopqrstuvwxyz' "

and the simulation gets `data.root=CORPUS` too.

The tables are in scripts/docs/how_to/corrections.md. That of the year was made with `--test-speakers 2
--steps-per-batch 150 --steps-at-once 3000`, those of the naive model and of shares with 300 steps, and the poisoned
batches with `training.max_steps=200 training.eval_steps=100 --poison 20`. Together they take some seven hours of one
core.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.errors import UserError
from finetune.files import link_file, new_folder, write_json, write_text

if TYPE_CHECKING:
    from finetune.recipe.load import Recipe
    from finetune.run.improvement import Improvement, ImproveOptions

# An improvement is shorter and gentler than the recipe's own training; the convolutions learn real voices.
OVERRIDES = (
    "training.max_steps=600",
    "training.eval_steps=300",
    "training.learning_rate=1e-3",
    "model.freeze_feature_encoder=false",
)
SHARES = (0.25, 0.5, 0.75, 1.0)  # Of the candidate in the average.
REPLAY_SHARES = (0.0, 0.3, 0.5, 0.7)  # Of the table.
DOMAIN = "an4"
_AN4_HELD_OUT, _AN4_SEED = 0.1, 0  # As recipes/an4 does.


@dataclass(frozen=True)
class Correction:
    """An utterance's audio, the text that somebody gave for it, and its speaker."""

    audio: Path
    text: str
    speaker: str


def read_corrections(folder: Path) -> list[Correction]:
    """The utterances of a folder with a metadata.csv."""
    with (folder / "metadata.csv").open(encoding="utf-8", newline="") as file:
        return [Correction(folder / row["file_name"], row["text"], row["speaker"]) for row in csv.DictReader(file)]


def hold_out_speakers(folder: Path) -> set[str]:
    """The speakers that the AN4 recipe validates on."""
    from finetune.data.corpus import AudioSpec, hold_out, prepare_split
    from finetune.data.sources import Source, load_splits, select_table
    from finetune.text.transcripts import DEFAULT_TRANSFORMS

    source = Source(str(folder))
    table = select_table(load_splits(source), "train", source)
    split = prepare_split("train", table, DEFAULT_TRANSFORMS, AudioSpec(16000, ()))
    _, held_out = hold_out(split, _AN4_HELD_OUT, _AN4_SEED)
    return {str(utterance.speaker) for utterance in held_out.utterances}


def make_batches(corrections: Sequence[Correction], batches: int, wrong: float) -> list[list[Correction]]:
    """The corrections by speaker, in the order of a hash; a share of `wrong` ones have the text of another."""
    speakers = sorted({each.speaker for each in corrections}, key=hash_name)
    batch_of = {speaker: place * batches // len(speakers) for place, speaker in enumerate(speakers)}
    rng = np.random.default_rng(0)
    texts = [each.text for each in corrections]
    for place in rng.permutation(len(texts))[: round(wrong * len(texts))].tolist():
        texts[place] = corrections[int(rng.integers(len(texts)))].text
    given = [replace(each, text=text) for each, text in zip(corrections, texts, strict=True)]
    return [[each for each in given if batch_of[each.speaker] == batch] for batch in range(batches)]


def hash_name(name: str) -> str:
    """An order of names that says nothing of them."""
    return hashlib.sha256(name.encode()).hexdigest()


def shuffle_texts(batch: Sequence[Correction], seed: int) -> list[Correction]:
    """A batch in which each correction has the text of another one, drawn by `seed`."""
    order = np.random.default_rng(seed).permutation(len(batch)).tolist()
    return [replace(each, text=batch[place].text) for each, place in zip(batch, order, strict=True)]


def write_snapshot(folder: Path, batches: Sequence[Sequence[Correction]], test_speakers: int = 1) -> Path:
    """The folder that a feedback store exports; of each batch a speaker is for validation and some for the test."""
    if folder.exists():
        return folder
    splits: dict[str, list[Correction]] = {"train": [], "validation": [], "test": []}
    for batch in batches:
        validation, *others = sorted({each.speaker for each in batch}, key=hash_name)
        roles = {validation: "validation", **dict.fromkeys(others[:test_speakers], "test")}
        for each in batch:
            splits[roles.get(each.speaker, "train")].append(each)
    with new_folder(folder) as partial:
        for split, corrections in splits.items():
            (partial / split).mkdir()
            with (partial / split / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["file_name", "transcription", "speaker", "domain"])
                for each in corrections:
                    link_file(each.audio, partial / split / each.audio.name)
                    writer.writerow([each.audio.name, each.text, each.speaker, DOMAIN])
        write_json(partial / "snapshot.json", {name: len(each) for name, each in splits.items()})
    return folder


def write_heard(folder: Path, corrections: Sequence[Correction]) -> Path:
    """AN4's held-out speakers as a corpus with a test split, for the final table."""
    if not folder.exists():
        with new_folder(folder) as partial:
            (partial / "test").mkdir()
            with (partial / "test" / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["file_name", "text", "speaker"])
                for each in corrections:
                    link_file(each.audio, partial / "test" / each.audio.name)
                    writer.writerow([each.audio.name, each.text, each.speaker])
    return folder


class Year:
    """The simulation: `results` are written after each measurement, and known ones are not measured again."""

    def __init__(self, options: argparse.Namespace) -> None:
        from finetune.recipe.load import load_recipe
        from finetune.run.gate import GateLimits
        from finetune.run.improvement import ImproveOptions

        self.output, self.first = Path(options.output), Path(options.model)
        self.output.mkdir(parents=True, exist_ok=True)
        self.steps_per_batch, self.test_speakers = options.steps_per_batch, options.test_speakers
        self.steps_at_once: int | None = options.steps_at_once
        self.recipe = load_recipe(Path(options.recipe), [*OVERRIDES, *options.overrides])
        limits = GateLimits(margin=options.margin, min_utterances=options.min_utterances)
        shares = SHARES if options.average else (1.0,)
        self.options = ImproveOptions(replay_share=options.replay_share, shares=shares, limits=limits)
        every, held_out = read_corrections(Path(options.an4)), hold_out_speakers(Path(options.an4))
        self.heard = write_heard(self.output / "an4", [each for each in every if each.speaker in held_out])
        arriving = [each for each in every if each.speaker not in held_out]
        self.batches = make_batches(arriving, options.batches, options.wrong)
        self.file = self.output / "year.json"
        self.results: dict[str, Any] = json.loads(self.file.read_text()) if self.file.is_file() else {}

    def snapshot(self, name: str, batches: Sequence[Sequence[Correction]]) -> Path:
        """A snapshot of batches in the folder of this simulation."""
        return write_snapshot(self.output / "snapshots" / name, batches, self.test_speakers)

    def keep(self, key: str, measure: Callable[[], Any]) -> Any:
        """The result of a name, measured unless it is known."""
        if key not in self.results:
            self.results[key] = measure()
            write_json(self.file, self.results)
        return self.results[key]

    def measure(self, name: str, model: Path) -> None:
        """WERs with 95 % intervals (fractions) of a model on AN4's held-out speakers and on the old test voices."""
        from finetune.data.sources import Source
        from finetune.evaluation.intervals import bootstrap
        from finetune.evaluation.results import add_up, count_results
        from finetune.evaluation.scoring import EvaluationOptions, evaluate

        def score() -> dict[str, Any]:
            sources = [Source(str(self.heard)), *(Source(each.root) for each in self.recipe.data.all_sources)]
            an4, *old = (each.results for each in evaluate(str(model), sources, EvaluationOptions("test")))
            found = {}
            for key, results in (("an4", an4), ("quickstart", list(chain.from_iterable(old)))):
                counts = count_results(results)
                interval = bootstrap(counts, [each.speaker for each in results]).wer
                found[key] = [add_up(results, counts).wer, *([] if interval is None else [interval.low, interval.high])]
            return found

        self.keep(f"WER {name}", score)

    def lengthen(self, batches: int, steps: int | None = None) -> Recipe:
        """The recipe with `steps`, or those for so many batches of corrections; two validations."""
        steps = steps or max(self.recipe.training.max_steps or 1, self.steps_per_batch * batches)
        training = self.recipe.training.model_copy(update={"max_steps": steps, "eval_steps": steps // 2})
        return self.recipe.model_copy(update={"training": training})

    def improve(
        self, name: str, champion: Path, snapshot: Path, options: ImproveOptions, batches: int = 1
    ) -> Improvement:
        """`finetune.run.improvement.improve` in a folder of this simulation, with its time."""
        from finetune.run.improvement import improve

        began = time.monotonic()
        improvement = improve(champion, snapshot, self.lengthen(batches), self.output / name, options)
        self.keep(f"seconds {name}", lambda: round(time.monotonic() - began, 1))
        return improvement

    def gated(self, batches: int) -> None:
        """The year itself: a candidate after each batch, promoted if the gate passes."""
        from finetune.run.improvement import read_version

        champion, options = self.first, self.options
        for batch in range(1, batches + 1):
            name = f"batch-{batch:02d}"
            snapshot = self.snapshot(name, self.batches[:batch])
            improvement = self.improve(name, champion, snapshot, options, batch)
            if improvement.passed:
                champion = improvement.model
                version = read_version(name, self.output / name)
                options = replace(options, history=(*options.history, version))
            verdict = {"passed": improvement.passed, "share": improvement.share, "reasons": improvement.refusals}
            self.keep(f"gate {name}", verdict.copy)
            self.measure(name, champion)

    def naive(self, batches: int) -> None:
        """The newest batch alone, whole weights, no gate."""
        model = self.first
        for batch in range(1, batches + 1):
            name = f"naive-{batch:02d}"
            snapshot = self.snapshot(name, self.batches[batch - 1 : batch])
            model = self.train(name, model, snapshot, self.recipe, 0.0)
            self.measure(name, model)

    def all_at_once(self, batches: int) -> None:
        """All batches in one training of the first champion, with replay."""
        snapshot = self.snapshot(f"batch-{batches:02d}", self.batches[:batches])
        share, recipe = self.options.replay_share, self.lengthen(batches, self.steps_at_once)
        self.measure("all at once", self.train("all-at-once", self.first, snapshot, recipe, share))

    def train(self, name: str, champion: Path, snapshot: Path, recipe: Recipe, replay_share: float) -> Path:
        """A candidate's training alone; a finished one is not trained again."""
        from finetune.run.candidate import build_candidate_recipe, read_speech
        from finetune.run.experiment import run

        output = self.output / name
        if not (output / "report").is_dir():
            speech = read_speech(recipe, champion.resolve(), snapshot.resolve())
            run(
                build_candidate_recipe(recipe, champion.resolve(), snapshot.resolve(), speech, replay_share),
                output,
            )
        return output / "model"

    def compare_shares(self) -> None:
        """Candidates of the first batch by share of replay, each averaged with the first champion by its own share."""
        from finetune.run.averaging import write_average

        snapshot = self.snapshot("batch-01", self.batches[:1])
        for replay in REPLAY_SHARES:
            candidate = self.train(f"replay-{replay:g}", self.first, snapshot, self.recipe, replay)
            for share in SHARES:
                with TemporaryDirectory(dir=self.output) as folder:
                    write_average(self.first, candidate, share, Path(folder))
                    self.measure(f"replay {replay:g} share {share:g}", Path(folder))

    def poison(self, seeds: int) -> None:
        """Candidates of the first batch with shuffled texts: whether the gate stops each."""
        for seed in range(seeds):
            name = f"poison-{seed:02d}"
            snapshot = self.snapshot(name, [shuffle_texts(self.batches[0], seed)])
            improvement = self.improve(name, self.first, snapshot, self.options)
            verdict = {"passed": improvement.passed, "reasons": improvement.refusals}
            self.keep(f"gate {name}", verdict.copy)

    def write_table(self, batches: int, poisoned: int) -> str:
        """The results as Markdown, also written to year.md."""

        def rates(name: str) -> str:
            found = self.results.get(f"WER {name}", {"an4": [], "quickstart": []})
            return " | ".join(map(format_rate, found.values())) + " |"

        lines = [
            "| after batch | gate | share | AN4 | quickstart | naive: AN4 | quickstart | seconds |",
            "|---|---|---|---|---|---|---|---|",
            f"| 0 | | | {rates('first')} {rates('first')} |",
        ]
        for batch in range(1, batches + 1):
            name = f"batch-{batch:02d}"
            gate = self.results[f"gate {name}"]
            verdict = f"{'passed' if gate['passed'] else 'refused'} | {gate['share']:g}"
            seconds = self.results[f"seconds {name}"]
            lines.append(f"| {batch} | {verdict} | {rates(name)} {rates(f'naive-{batch:02d}')} {seconds:g} |")
        lines.append(f"| all at once | | | {rates('all at once')} | | |")
        lines += ["", "| replay | " + " | ".join(f"share {share:g}: AN4 | quickstart" for share in SHARES) + " |"]
        lines.append("|---" * (1 + 2 * len(SHARES)) + "|")
        for replay in REPLAY_SHARES:
            lines.append(f"| {replay:g} | " + " ".join(rates(f"replay {replay:g} share {share:g}") for share in SHARES))
        if poisoned:
            stopped = sum(not self.results[f"gate poison-{seed:02d}"]["passed"] for seed in range(poisoned))
            lines += ["", f"Batches with shuffled texts: the gate stopped {stopped} of {poisoned}."]
        text = "\n".join(lines) + "\n"
        write_text(self.output / "year.md", text)
        return text


def format_rate(rate: Sequence[float]) -> str:
    """A WER with its interval in percent; an empty text for an unknown one."""
    if not rate:
        return ""
    wer, *interval = (f"{100 * each:.1f}" for each in rate)
    return f"{wer} % ({' to '.join(interval)})" if interval else f"{wer} %"


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name in ("model", "recipe", "an4", "output"):
        parser.add_argument(name, metavar=name.upper())
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="after those of this script")
    parser.add_argument("--batches", type=int, default=10, metavar="N", help="batches in all (default: 10)")
    parser.add_argument("--stop-after", type=int, metavar="N", help="simulate the first N batches alone")
    parser.add_argument(
        "--steps-per-batch",
        type=int,
        default=200,
        metavar="N",
        help="of a candidate's training, for each batch until then; at least those of the recipe (default: 200)",
    )
    parser.add_argument("--steps-at-once", type=int, metavar="N", help="of all at once (default: as of the last batch)")
    parser.add_argument("--replay-share", type=float, default=0.7, help="share of old utterances (default: 0.7)")
    parser.add_argument("--average", action=argparse.BooleanOptionalAction, default=True, help="average with champion")
    parser.add_argument("--test-speakers", type=int, default=1, metavar="N", help="of each batch (default: 1)")
    parser.add_argument("--wrong", type=float, default=0.05, help="share of wrong corrections (default: 0.05)")
    parser.add_argument("--margin", type=float, default=0.01, help="the gate's margin on the golden set, a fraction")
    parser.add_argument("--min-utterances", type=int, default=10, help="that the gate requires of each test set")
    parser.add_argument("--poison", type=int, default=0, metavar="N", help="seeds of a batch with shuffled texts")
    return parser.parse_args()


def main() -> None:
    """Run the simulation, and print its table."""
    from finetune.commands.console import log_to_console
    from finetune.commands.launch import keep_kernels, set_training_switches, settle_threads

    options = parse_options()
    settle_threads()
    with log_to_console(argparse.Namespace(quiet=True)):
        try:
            year = Year(options)
            keep_kernels(year.recipe.training.mixed_precision)
            set_training_switches(year.recipe.training.compile)
            batches = min(options.stop_after or options.batches, options.batches)
            year.measure("first", year.first)
            year.gated(batches)
            year.naive(batches)
            year.all_at_once(batches)
            year.compare_shares()
            year.poison(options.poison)
        except UserError as error:
            raise SystemExit(f"simulate_year: {error}") from error
    print(year.write_table(batches, options.poison))


if __name__ == "__main__":
    main()
