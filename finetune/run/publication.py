"""Push a run's model to a hub: find it, compare it with plain Transformers, search it for leaks, and commit it."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from finetune.audio.waveforms import Waveform
from finetune.data.corpus import Split, Utterance
from finetune.data.sources import Source, load_splits
from finetune.data.split_reader import compute_each, read_batches
from finetune.errors import UserError
from finetune.evaluation.report import SCORES
from finetune.evaluation.scoring import BATCH_SECONDS, EvaluationOptions, open_model
from finetune.files import name_folder
from finetune.inference.recogniser import Recogniser
from finetune.models.processors import require_one_language
from finetune.publishing.card_scores import push_scores
from finetune.publishing.parity import Spoken, full_precision
from finetune.publishing.release import release
from finetune.publishing.upload import Destination, Push
from finetune.recipe.load import load_recipe
from finetune.resources.addresses import public_address
from finetune.resources.machine import choose_device
from finetune.run.preparation import prepare
from finetune.run.revisions import pin_revisions
from finetune.run.run_directory import read_beginning
from finetune.text.transcripts import Transform, load_normalization

_LOGGER = logging.getLogger(__name__)

# Enough utterances to compare a model on.
_MOST_UTTERANCES = 200


def publish(source: Path, destination: Destination, *, data: str | None = None, dry_run: bool = False) -> list[str]:
    """Push the model of a run or of a folder; returns lines that say where it is, or in a dry run what would be done.

    The model and plain Transformers are compared on the speech at `data`, or else on the validation split of the run.
    The scores of a report's folder are added to the card that is on the hub. Raises UserError for any problem that
    prevents the push; nothing is changed here then.
    """
    if (source / SCORES).is_file():
        if destination.tag or destination.private or data or dry_run:
            raise UserError(
                f"{source} is a report, of which the scores go into a card on the hub: --tag, --private, --data and "
                "--dry-run are for models."
            )
        address = push_scores(source, destination.repo_id, destination.revision)
        return [f"on the hub: {public_address(address)}"]
    model, run = find_model(source)
    require_one_language(model, "what is published is held against plain Transformers in one")
    if run is None and data is None:
        raise UserError(
            f"{model} belongs to no run here, so there is nothing to check it on before others load it: name speech "
            "with --data SOURCE."
        )
    message = f"The model of the run {name_folder(run)}" if run else "A fine-tuned model"
    return release(Push(model, destination), lambda: recognise(model, run, data), message, dry_run)


def find_model(source: Path) -> tuple[Path, Path | None]:
    """The model's folder of a run or of a folder, and the run that it belongs to, or None.

    Raises UserError where there is no model, and for a run without an evaluated model.
    """
    if not source.is_dir():
        raise UserError(f"There is no folder {source}: expected a run, a model's folder or a report's.")
    if not _is_run(source):
        above = source.resolve().parents[:2]
        return source, next((folder for folder in above if _is_run(folder)), None)
    if not (source / "model").is_dir() or not (source / "report").is_dir():
        raise UserError(
            f"{source} is a run that isn't finished, so it has no evaluated model: finetune train goes on with it; "
            "push it then."
        )
    return source / "model", source


def recognise(model: Path, run: Path | None, data: str | None) -> list[Spoken]:
    """Utterances to compare a model on, with the texts of the evaluator's greedy decoding.

    They are of the speech at `data`, or else of the run's validation split; of a large split some, evenly spread.
    """
    recogniser, split, _ = open_validation(model, run, data, choose_device())
    return recognise_some(model, recogniser, split)


def recognise_some(model: Path, recogniser: Recogniser, split: Split) -> list[Spoken]:
    """Some utterances of a split, evenly spread, with the greedy texts of the recogniser of the folder `model`.

    The recogniser decodes greedily afterwards. Raises UserError if none can be read.
    """
    recogniser.search = None
    every = len(split.utterances)
    places = np.unique(np.linspace(0, every - 1, min(every, _MOST_UTTERANCES)).round().astype(int))
    chosen = replace(split, utterances=tuple(split.utterances[place] for place in places))

    def decode(read: Sequence[tuple[Utterance, Waveform]]) -> list[str]:
        return recogniser.decode(*recogniser.logits([waveform for _, waveform in read]))

    _LOGGER.info(
        f"plain Transformers must give the same texts: comparing {len(places)} of {every} utterances of {split.name}"
    )
    spoken: list[Spoken] = []
    reason = "its audio can't be decoded"
    with full_precision():
        for read, _ in read_batches(chosen, BATCH_SECONDS, recogniser.sampling_rate):
            recognised, failed = compute_each(chosen, read, decode) if read else ([], [])
            reason = next((f"{each.reason}: {each.detail}" for each in failed), reason)
            spoken += [(utterance.name, waveform, text) for utterance, waveform, text in recognised]
    if not spoken:
        raise UserError(
            f"No utterance of {split.name} can be read to check {model} on ({reason}): name others with --data SOURCE."
        )
    return spoken


def open_validation(
    model: Path, run: Path | None, data: str | None, device: torch.device, language: str | None = None
) -> tuple[Recogniser, Split, tuple[Transform, ...]]:
    """A model, the speech at `data` or else the run's validation split, and the model's text normalisation.

    Raises UserError for a model or speech that cannot be used.
    """
    if data is not None:
        source = Source(data)
        name = "validation" if "validation" in load_splits(source) else None
        recogniser, splits, steps = open_model(model, [source], device, EvaluationOptions(name, language=language))
        return recogniser, next(iter(splits)), steps
    assert run is not None
    try:
        preparation = prepare(pin_revisions(load_recipe(run / "recipe.yaml"), read_beginning(run)[0]))
    except UserError as error:
        raise UserError(f"The validation split of {run} can't be read; --data SOURCE names another. {error}") from error
    recogniser = Recogniser.load(model, str(device), language=language)
    return recogniser, preparation.validation, load_normalization(model) or ()


def _is_run(folder: Path) -> bool:
    return (folder / "recipe.yaml").is_file() and (folder / "metrics.jsonl").is_file()
