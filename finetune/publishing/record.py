"""The data of a model card, saved with the model as training.json; everything in it is safe to publish."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.data.corpus import SkippedUtterance, Split
from finetune.errors import UserError
from finetune.publishing.local_paths import last_part, public_name, scrub_value
from finetune.resources.model_json import read_object

FILE = "training.json"
# Errors of each kind in a card; the report has more.
_MOST_ERRORS = 10
_ERRORS = ("substitutions", "deletions", "insertions", "characters", "worst")


def describe_training(
    splits: Mapping[str, Split],
    rejected: Sequence[SkippedUtterance],
    *,
    streamed: bool,
    device: str,
    precision: str,
    processes: int,
    seconds: float,
) -> dict[str, Any]:
    """The training data and hardware of a run: only counts, no names of speakers or files.

    `splits` are by role; of a `streamed` training split only the first rows are counted. `precision` is that of the
    computation, `seconds` is the training time.
    """
    counts: dict[str, Counter[str]] = {}
    for rejection in rejected:
        counts.setdefault(rejection.split, Counter())[scrub_value(rejection.reason)] += 1
    return {
        "data": {
            "splits": {role: _describe_split(split) for role, split in splits.items()},
            "held_out": "validation" in splits and splits["validation"].table is splits["train"].table,
            "streamed": streamed,
            "rejected": {split: dict(reasons.most_common()) for split, reasons in counts.items()},
        },
        "hardware": {
            "device": device,
            "precision": precision,
            "processes": processes,
            "training_seconds": round(seconds, 1),
        },
    }


def _describe_split(split: Split) -> dict[str, Any]:
    speakers = {utterance.speaker for utterance in split.utterances}
    rates = Counter(utterance.sampling_rate for utterance in split.utterances)
    return {
        "utterances": len(split.utterances),
        "seconds": round(split.seconds, 1),
        "speakers": None if None in speakers else len(speakers),
        "longest_seconds": round(max((utterance.seconds for utterance in split.utterances), default=0.0), 1),
        "sampling_rates": {str(rate): number for rate, number in rates.most_common()},
    }


def describe_scores(scores: Mapping[str, Any]) -> dict[str, Any]:
    """The publishable part of scores.json: speakers are numbered, and utterances are not named."""
    errors = scores.get("errors", {})
    slices = scores.get("slices", {})
    return {
        **{name: value for name, value in scores.items() if name not in ("errors", "slices")},
        "evaluated": _describe_evaluated(scores.get("evaluated", {})),
        "slices": {name: [_describe_slice(name, *each) for each in enumerate(slices[name], 1)] for name in slices},
        "errors": {
            kind: [
                {name: value for name, value in each.items() if name != "utterance"}
                for each in errors.get(kind, [])[:_MOST_ERRORS]
            ]
            for kind in _ERRORS
        },
    }


def _describe_evaluated(evaluated: Mapping[str, Any]) -> dict[str, Any]:
    sources = [
        # A local folder "corpora/mine" would look like a hub name elsewhere.
        {**source, "root": (last_part if source.get("local") else public_name)(source["root"])}
        for source in evaluated.get("sources", ())
    ]
    decoder = dict(evaluated.get("decoder", {}))
    # Hotwords are often names, so only their number is published.
    if hotwords := len(decoder.pop("hotwords", {})):
        decoder["hotwords"] = hotwords
    return {**evaluated, "split": scrub_value(evaluated.get("split", "")), "sources": sources, "decoder": decoder}


def _describe_slice(kind: str, number: int, scores: Mapping[str, Any]) -> dict[str, Any]:
    # Names of speakers are private.
    value = f"speaker {number}" if kind == "speaker" else scrub_value(scores["value"])
    return {**scores, "value": value}


def load_json(file: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None if it is missing or damaged."""
    try:
        return read_object(file)
    except UserError:
        return None
