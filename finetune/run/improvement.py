"""Learn from corrections: train a candidate from the champion, average the two, and let the gate judge the result."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from accelerate import Accelerator

from finetune.data.corpus import Split
from finetune.decoding.decoder import FOLDER as LANGUAGE_MODEL
from finetune.decoding.decoder import load_language_model
from finetune.errors import UserError
from finetune.evaluation.analysis import analyse
from finetune.evaluation.results import Result
from finetune.evaluation.scores import percent
from finetune.evaluation.scoring import Evaluation, evaluate_split
from finetune.files import lock_folder, name_folder, new_folder, write_json, write_text
from finetune.inference.recogniser import Recogniser
from finetune.inference.utterance_statistics import Distribution, UtteranceStatistics
from finetune.publishing.card import write_card
from finetune.publishing.record import FILE as RECORD
from finetune.publishing.record import describe_scores, load_json
from finetune.recipe.load import Recipe
from finetune.resources.machine import choose_device
from finetune.run.averaging import WEIGHTS, ShareScores, choose_share, score_shares, write_average
from finetune.run.candidate import (
    GOLDEN,
    Speech,
    build_candidate_recipe,
    read_speech,
    require_improvable,
    train_on,
)
from finetune.run.experiment import run
from finetune.run.gate import Check, GateLimits, WerChange, measure_change, measure_domains
from finetune.run.gate_measurements import check_models
from finetune.run.improvement_report import Version, build_improvement_report
from finetune.run.revisions import find_commits, pin_revisions
from finetune.run.tuning import tune_on_split
from finetune.training.manifest import measure_digest

_LOGGER = logging.getLogger(__name__)

GATE, _PLAN, _AVERAGING = "gate.json", "plan.json", "averaging.json"


@dataclass(frozen=True, kw_only=True)
class ImproveOptions:
    """How a candidate is made and judged.

    `replay_share` of the training utterances of an epoch are old ones; 0 trains on the snapshot alone. `shares` are the
    shares of the candidate in the averages that are tried; (1.0,) does not average. `history` are earlier versions, for
    the report alone.
    """

    replay_share: float = 0.3
    shares: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    limits: GateLimits = field(default_factory=GateLimits)
    history: tuple[Version, ...] = ()


@dataclass(frozen=True)
class Improvement:
    """The verdict of the gate on the candidate in the folder `model`.

    `golden` is the change on the old data's test split, `corrections` that on the snapshot's, `domains` its parts.
    `share` is the candidate's share in the average, chosen by `averaging`.
    """

    model: Path
    checks: tuple[Check, ...]
    golden: WerChange
    corrections: WerChange
    domains: tuple[WerChange, ...]
    share: float
    averaging: tuple[ShareScores, ...]
    replay_share: float

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    @property
    def refusals(self) -> list[str]:
        """What each failed check found and expected."""
        return [f"{each.name}: {each.found}; expected: {each.expected}" for each in self.checks if not each.passed]

    def to_json(self) -> dict[str, Any]:
        """The values of gate.json; the model is the folder beside it."""
        return {
            "passed": self.passed,
            "checks": [asdict(check) for check in self.checks],
            "golden": self.golden.to_json(),
            "corrections": self.corrections.to_json(),
            "domains": [each.to_json() for each in self.domains],
            "share": self.share,
            "averaging": [asdict(each) for each in self.averaging],
            "replay_share": self.replay_share,
        }


def improve(
    champion: Path, snapshot: Path, recipe: Recipe, output: Path, options: ImproveOptions = ImproveOptions()
) -> Improvement:
    """Make a candidate in `output` from the corrections of a snapshot, and judge it; the champion is not changed.

    The recipe's data are the old data, some of which are replayed; its test split is the golden set. The same call goes
    on where an interrupted one stopped, and returns the verdict that is there once it is complete. One process does it.
    Raises UserError for a champion, data or options that cannot be used, and for an `output` of another call.
    """
    champion, snapshot = champion.resolve(), snapshot.resolve()
    require_improvable(recipe, champion, options.replay_share)
    if not options.shares or not all(0 < share <= 1 for share in options.shares):
        raise UserError(f"The candidate's shares are {options.shares}: expected some above 0 and up to 1.")
    output.mkdir(parents=True, exist_ok=True)
    with lock_folder(output):
        recipe = _begin(champion, snapshot, recipe, output, options)
        if (output / GATE).is_file():
            return read_improvement(output)
        speech = read_speech(recipe, champion, snapshot)
        training = output / "training"
        if not (training / "report").is_dir():
            run(build_candidate_recipe(recipe, champion, snapshot, speech, options.replay_share), training)
        bench = _Bench(recipe, speech)
        averaging = _average(champion, training / "model", output, bench, options.shares)
        if not (output / "model").is_dir():
            _write_model(champion, training / "model", output / "model", bench, choose_share(averaging))
        improvement = _judge(champion, output, bench, averaging, options)
        write_text(output / "report.html", build_improvement_report(name_folder(output), improvement, options.history))
        write_json(output / GATE, improvement.to_json())
    return improvement


def read_improvement(output: Path) -> Improvement:
    """Read the verdict that `improve` left in a folder; raises UserError if there is none or it is damaged."""
    file = output / GATE
    if not file.is_file():
        raise UserError(f"There is no {GATE} in {output}: expected the folder of a complete improvement.")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        return Improvement(
            model=output / "model",
            checks=tuple(Check(**check) for check in values["checks"]),
            golden=WerChange.parse(values["golden"]),
            corrections=WerChange.parse(values["corrections"]),
            domains=tuple(WerChange.parse(each) for each in values["domains"]),
            share=values["share"],
            averaging=tuple(ShareScores(**each) for each in values["averaging"]),
            replay_share=values["replay_share"],
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(f"{file} is damaged: {error}.") from error


def read_version(name: str, output: Path) -> Version:
    """A version of the model for `ImproveOptions.history`: the WERs that `improve` measured of its candidate."""
    improvement = read_improvement(output)
    return Version(name, {each.name: each.after for each in (improvement.golden, *improvement.domains)})


class _Bench:
    """Evaluates models on an improvement's speech, as the recipe says."""

    def __init__(self, recipe: Recipe, speech: Speech) -> None:
        self.recipe, self.speech, self.device = recipe, speech, choose_device()
        self._accelerator = Accelerator(cpu=self.device.type == "cpu")

    def load(self, model: Path) -> Recogniser:
        """Load a model with the decoder that is saved with it."""
        return Recogniser.load(model, str(self.device))

    def evaluate(self, recogniser: Recogniser, split: Split) -> Evaluation:
        """Evaluate on a split."""
        seconds, steps = self.recipe.evaluation.batch_seconds, self.recipe.text.normalization
        return evaluate_split(recogniser, split, seconds, self._accelerator, steps)


def _begin(champion: Path, snapshot: Path, recipe: Recipe, output: Path, options: ImproveOptions) -> Recipe:
    """The recipe with its repositories pinned; the first call writes down what is asked, later ones compare it."""
    asked = {
        "champion": measure_digest(champion / WEIGHTS),
        "snapshot": str(snapshot),
        "recipe": recipe.model_copy(update={"provenance": None}).to_yaml(),
        "options": {"replay_share": options.replay_share, "shares": options.shares, "limits": asdict(options.limits)},
    }
    asked = json.loads(json.dumps(asked))
    file = output / _PLAN
    if not file.is_file():
        if any(output.iterdir()) and {each.name for each in output.iterdir()} - {".lock"}:
            raise UserError(f"{output} holds other files: give another folder for the improvement, or empty it.")
        commits = find_commits(train_on(recipe, champion, recipe.data.all_sources))
        write_json(file, {**asked, "commits": commits})
    before = load_json(file) or {}
    if changed := [name for name, value in asked.items() if before.get(name) != value]:
        raise UserError(
            f"{output} holds an improvement with another {' and '.join(changed)}: give another folder, or remove it."
        )
    return pin_revisions(recipe, before.get("commits", {}))


def _average(
    champion: Path, candidate: Path, output: Path, bench: _Bench, shares: Sequence[float]
) -> tuple[ShareScores, ...]:
    """The validation WERs of each share of the candidate, decoded greedily; known ones are read."""
    file = output / _AVERAGING
    if file.is_file():
        return tuple(ShareScores(**each) for each in json.loads(file.read_text(encoding="utf-8")))

    def recognise(share: float) -> tuple[list[Result], list[Result]]:
        # A killed process leaves it; `lock_folder` deletes it.
        with TemporaryDirectory(dir=output, prefix=".average", suffix=".partial") as folder:
            write_average(champion, candidate, share, Path(folder))
            recogniser = bench.load(Path(folder))
            splits = bench.speech.old.validation, bench.speech.new.validation
            old, new = (bench.evaluate(recogniser, split) for split in splits)
        wers = percent(old.scores.wer), percent(new.scores.wer)
        _LOGGER.info(f"{share:g} of the candidate: validation WER {wers[0]} old, {wers[1]} new")
        return old.results, new.results

    scored = score_shares(shares, recognise)
    write_json(file, [asdict(each) for each in scored])
    return tuple(scored)


def _write_model(champion: Path, candidate: Path, model: Path, bench: _Bench, share: float) -> None:
    """Write the averaged model, with the champion's language model if it has one, tuned again on validation."""
    speech = bench.speech
    with new_folder(model) as partial_model:
        write_average(champion, candidate, share, partial_model)
        recogniser = bench.load(partial_model)
        validated = [bench.evaluate(recogniser, each.validation) for each in (speech.old, speech.new)]
        results = [result for each in validated for result in each.results]
        statistics = UtteranceStatistics(
            confidence=Distribution.measure(result.confidence for result in results),
            blank_ratio=Distribution.measure(result.blank_ratio for result in results),
        )
        statistics.save(partial_model)
        if (search := bench.load(champion).search) is not None:
            language_model = load_language_model(champion / LANGUAGE_MODEL)
            tuning = tune_on_split(
                partial_model,
                language_model,
                recogniser,
                speech.both.validation,
                bench.recipe.text.normalization,
                beam_width=search.beam_width,
                hotwords=search.hotwords,
            )
            _LOGGER.info("\n".join(tuning.summary()))


def _judge(
    champion: Path, output: Path, bench: _Bench, averaging: tuple[ShareScores, ...], options: ImproveOptions
) -> Improvement:
    """Make all checks of the gate, and write the candidate's scores into its card."""
    speech, model = bench.speech, output / "model"
    before, after = bench.load(champion), bench.load(model)
    golden = [bench.evaluate(recogniser, speech.golden) for recogniser in (before, after)]
    tests = [] if speech.new.test is None else [bench.evaluate(each, speech.new.test) for each in (before, after)]
    corrections = [each.results for each in tests] or [[], []]
    changes = measure_change(GOLDEN, *(each.results for each in golden)), measure_change("corrections", *corrections)
    _write_scores(model, [golden[-1], *tests[1:]])
    checks = check_models(champion, model, before, after, changes, corrections[-1], speech, options.limits)
    improvement = Improvement(
        model=model,
        checks=tuple(checks),
        golden=changes[0],
        corrections=changes[1],
        domains=tuple(measure_domains(*corrections)),
        share=choose_share(averaging),
        averaging=averaging,
        replay_share=options.replay_share,
    )
    for check in checks:
        _LOGGER.info(f"{'passed' if check.passed else 'refused'}: {check.name}: {check.found}")
    return improvement


def _write_scores(model: Path, evaluations: Sequence[Evaluation]) -> None:
    """Replace the scores in a model's card, which are those of the weights before averaging."""
    record: Mapping[str, Any] | None = load_json(model / RECORD)
    assert record is not None  # The run wrote it.
    scores = [{"evaluated": each.evaluated(), **analyse(each.results, each.counts).to_json()} for each in evaluations]
    write_card(model, {**record, "results": [describe_scores(each) for each in scores]})
