"""Write a model card from a run's record; its text is the template `card.md`."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData
from markupsafe import Markup

from finetune.audio.preprocessing import load_preprocessing
from finetune.decoding.decoder import SETTINGS, format_decoder
from finetune.errors import UserError, format_error
from finetune.evaluation.scores import count, percent
from finetune.files import write_json, write_text
from finetune.models.relatives import is_baseline
from finetune.publishing.licences import describe_licence
from finetune.publishing.markup import escape, quote_code, render_markdown
from finetune.publishing.model_files import CARD
from finetune.publishing.model_index import TASK, build_results, name_data
from finetune.publishing.record import FILE, load_json
from finetune.resources.machine import format_machine
from finetune.resources.repositories import is_on_hub
from finetune.text.transcripts import describe_transforms

RECIPE = "recipe.yaml"
# An ISO 639 code, with or without a region, which the hub does not accept; or the hub's word for several languages.
_LANGUAGE = re.compile(r"([a-z]{2,3})(?:-[A-Za-z0-9]+)*|(multilingual)")
# Slices of one property that are shown if there are more.
_BEST, _WORST = 3, 3
# Below these the card warns: round numbers, not measured.
_FEW_SECONDS, _FEW_SPEAKERS = 36_000, 20
_TELEPHONE_HERTZ = 8000
# What a model without a base is, by its model_type.
_ARCHITECTURES = {
    "finetune_lstm": "a bidirectional LSTM over log-mel energies or MFCC,",
    "finetune_cnn": "residual convolutions over log-mel energies or MFCC,",
}
_HOUSEKEEPING = {"eval_steps", "log_steps", "keep_checkpoints", "keep_best", "num_workers", "trackers", "max_minutes"}
_ERRORS = {
    "substitutions": "Substituted words",
    "deletions": "Deleted words",
    "insertions": "Inserted words",
    "characters": "Characters",
}
_KINDS = {
    "speaker": "Speaker",
    "source": "Source",
    "seconds": "Length",
    "characters_per_second": "Speaking rate",
    "snr_db": "Signal-to-noise ratio, estimated",
    "unseen_words": "Vocabulary",
}


def write_card(folder: Path, record: Mapping[str, Any]) -> None:
    """Write `training.json` and the card into a model's folder, which must contain `recipe.yaml`."""
    text = build_card(folder, record)
    write_text(folder / CARD, text)
    write_json(folder / FILE, {**record, "card_sha256": _fingerprint(text)})


def update_card(folder: Path) -> str | None:
    """Update a model's card after something was saved with the model; returns a note for the user, if any.

    A card that was changed by hand, or of a model from another tool, is not changed.
    """
    record, card = load_json(folder / FILE), folder / CARD
    if record is None or not card.is_file():
        return None
    if _fingerprint(card.read_text(encoding="utf-8", errors="replace")) != record.get("card_sha256"):
        return f"{card} was changed by hand and is not updated: describe there what was saved with the model."
    try:
        write_card(folder, record)
    except (OSError, UserError):
        raise
    except Exception as error:  # The record and the recipe of another's model can contain anything.
        return f"{card} can't be updated from {FILE} and {RECIPE} and is left as it is: {format_error(error)}"
    return None


def build_card(folder: Path, record: Mapping[str, Any]) -> str:
    """The card of the model in a folder, from its record, its recipe and the decoder saved with it."""
    decoder = load_json(folder / SETTINGS)
    tuned = (decoder or {}).get("tuned", {})
    data, results, versions = record["data"], record["results"], record["versions"]
    machine = versions.get("machine")
    body = render_markdown(
        "publishing/card.md",
        record=record,
        results=[_list_scores(scores) for scores in results],
        conditions=list(dict.fromkeys(map(_describe_conditions, results))),
        evaluated=f"{name_data(results[0]['evaluated'])}, {results[0]['evaluated']['split']}" if results else "",
        slices=_list_slices(results[0]["slices"]) if results else [],
        errors=_list_errors(results[0]["errors"]) if results else [],
        train=data["splits"]["train"],
        few_seconds=_FEW_SECONDS,
        few_speakers=_FEW_SPEAKERS,
        telephone=any(0 < int(rate) <= _TELEPHONE_HERTZ for rate in data["splits"]["train"]["sampling_rates"]),
        preprocessing=describe_transforms(load_preprocessing(folder)),
        decoder=decoder,
        gain=tuned if tuned.get("wer") is not None and tuned.get("greedy_wer") is not None else None,
        splits=[_list_split(role, split) for role, split in data["splits"].items()],
        skipped=[
            f"{number} × {reason} ({split})"
            for split, reasons in data["rejected"].items()
            for reason, number in reasons.items()
        ],
        settings=_list_settings(_read_recipe(folder / RECIPE)),
        hardware=record["hardware"],
        machine=format_machine(machine) if machine else None,
        versions=_list_versions(versions),
        command=_build_command(record),
        architecture=_ARCHITECTURES.get(str(record.get("model_type")), "a wav2vec2 model"),
        baseline=is_baseline(record.get("model_type")),
        local=record["local_keys"] or any(source["local"] for source in record["sources"]),
        count=count,
        percent=percent,
        duration=format_duration,
    )
    body = re.sub(r"\n{3,}", "\n\n", body).rstrip() + "\n"  # Where a section is empty.
    return str(ModelCard(f"---\n{_metadata(record).to_yaml()}\n---\n\n{body}"))


def _read_recipe(file: Path) -> Any:
    """The recipe saved with a model; raises ValueError for YAML aliases, which could expand to any size."""
    text = file.read_text(encoding="utf-8")
    if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
        raise ValueError("the recipe has YAML aliases")
    return yaml.safe_load(text)


def _fingerprint(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _metadata(record: Mapping[str, Any]) -> ModelCardData:
    codes = [match[1] or match[2] for code in record["languages"] if (match := _LANGUAGE.fullmatch(code))]
    languages = list(dict.fromkeys(codes))
    hub_base = record["base"] if record["base_on_hub"] else None
    data = [source["root"] for source in record["sources"] if is_on_hub(source["root"]) and not source["local"]]
    alone, licence = record["adapter_alone"], describe_licence(record["license"])
    return ModelCardData(
        language=(languages[0] if len(languages) == 1 else languages) or None,
        license=licence["license"],
        license_name=licence["license_name"],
        base_model=hub_base,
        base_model_relation=("adapter" if alone else "finetune") if hub_base else None,
        datasets=list(dict.fromkeys(data)) or None,
        library_name="peft" if alone else "transformers",
        pipeline_tag=TASK,
        tags=[TASK, "speech", "audio", record.get("model_type", "wav2vec2"), "ctc", *(["lora"] if alone else [])],
        metrics=["wer", "cer"],
        model_name=record["title"],
        eval_results=[result for scores in record["results"] for result in build_results(scores)] or None,
    )


def _list_scores(scores: Mapping[str, Any]) -> list[Any]:
    """A row of the table of results."""
    evaluated = scores["evaluated"]
    rates = [_format_rate(scores, rate) for rate in ("wer", "cer", "ser")]
    counts = [scores[name] for name in ("utterances", "words", "substitutions", "deletions", "insertions")]
    return [name_data(evaluated), evaluated["split"], format_decoder(evaluated["decoder"]), *rates, *counts]


def _describe_conditions(scores: Mapping[str, Any]) -> Markup:
    evaluated, intervals = scores["evaluated"], scores.get("intervals")
    steps = ", ".join(map(quote_code, evaluated["normalization"])) or "none"
    lines = [f"Normalisation of references and hypotheses for scoring: {steps}."]
    if intervals and intervals["wer"]:
        lines.append(f"Intervals are bootstrapped over {intervals['clusters']} {intervals['resampled']}.")
    if step := evaluated.get("step"):
        lines.append(f"These weights are from step {step} of an unfinished training run and were chosen on this split.")
    if evaluated.get("chose_weights"):
        lines.append("The weights were chosen on this split, so its scores are optimistic.")
    return Markup(" ".join(lines))


def _list_slices(kinds: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[tuple[Any, ...]]:
    """Rows of the table of slices: of each kind all, or the best and the worst."""
    rows: list[tuple[Any, ...]] = []
    for kind, slices in kinds.items():
        chosen = scored = [each for each in slices if each["wer"] is not None]
        if len(scored) > _BEST + _WORST:
            ranked = sorted(scored, key=lambda each: each["wer"])
            chosen = ranked[:_BEST] + ranked[-_WORST:]
        of = f" (best and worst of {len(scored)})" if len(chosen) < len(scored) else ""
        for each in chosen:
            rates = _format_rate(each, "wer"), _format_rate(each, "cer")
            rows.append((_KINDS.get(kind, kind) + of, each["value"], *rates, each["utterances"], each["words"]))
    return rows


def _list_errors(errors: Mapping[str, Any]) -> list[tuple[str, list[Any]]]:
    """Kinds of errors, each with its most frequent errors and their counts."""
    found: dict[str, list[Any]] = {
        name: [_format_error(each, kind) for each in errors[kind]] for kind, name in _ERRORS.items()
    }
    worst = [f"{each['errors']} in {count(each['words'], 'word')}" for each in errors["worst"]]
    return [(name, listed) for name, listed in {**found, "Errors in the worst utterances": worst}.items() if listed]


def _format_error(error: Mapping[str, Any], kind: str) -> Markup:
    """An error as "reference → hypothesis × count"; a deletion or an insertion as its word."""
    texts = error["reference"], error["hypothesis"]
    sides = [escape(text) if text.strip() else "␣" if text else "nothing" for text in texts]
    shown = {"deletions": sides[0], "insertions": sides[1]}.get(kind, f"{sides[0]} → {sides[1]}")
    return Markup(f"{shown} × {error['count']}")


def _list_split(role: str, split: Mapping[str, Any]) -> list[Any]:
    """A row of the table of training data."""
    rates = ", ".join(f"{int(rate) / 1000:g} kHz" for rate in split["sampling_rates"] if rate != "0")
    return [
        role,
        split["utterances"],
        f"{split['seconds'] / 3600:.2f}",
        "unknown" if split["speakers"] is None else split["speakers"],
        f"{split['longest_seconds']:.1f} s",
        rates or "unknown",
    ]


def _list_settings(recipe: Mapping[str, Any]) -> list[tuple[Markup, str]]:
    """Keys of the recipe that affect the weights, with their values."""
    return [
        (quote_code(f"{section}.{name}"), _format_value(value))
        for section in ("model", "training", "augmentation")
        for name, value in recipe.get(section, {}).items()
        if name not in _HOUSEKEEPING and value not in (None, [], {}) and not _is_off(name, value, recipe[section])
    ]


def _is_off(name: str, value: Any, section: Mapping[str, Any]) -> bool:
    """Whether a switch is off, or a value is the probability of an augmentation that the recipe does not use."""
    required = {
        "reverb_probability": ("reverb_seconds", "impulse_response_folder"),
        "noise_probability": ("noise_snr_db", "noise_folder"),
        "clipping_probability": ("clipping_probability",),
        "telephone_probability": ("telephone_probability",),
    }
    return value is False or (name in required and not any(section.get(key) for key in required[name]))


def _list_versions(versions: Mapping[str, Any]) -> list[str]:
    commit = f" (commit {versions['commit']})" if versions["commit"] else ""
    packages = [f"{name} {number}" for name, number in versions["packages"].items()]
    return [f"finetune {versions['finetune']}{commit}", f"Python {versions['python']}", *packages]


def _build_command(record: Mapping[str, Any]) -> Markup:
    """The command that trains again; a key whose value was a local path is given as a placeholder."""
    processes, local = record["hardware"]["processes"], record["local_keys"]
    start = f"accelerate launch --num_processes {processes} -m finetune" if processes > 1 else "finetune"
    return Markup(" ".join([start, "train", RECIPE, *(f"{key}={key.rpartition('.')[2].upper()}" for key in local)]))


def _format_rate(scores: Mapping[str, Any], rate: str) -> str:
    interval = scores.get("intervals", {}).get(rate)
    return percent(scores[rate]) + (f" ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})" if interval else "")


def _format_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_format_value(each)}" for name, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(_format_value, value))
    return "yes" if value is True else str(value)


def format_duration(seconds: float) -> str:
    """A duration in seconds, minutes or hours, whichever suits its length."""
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
