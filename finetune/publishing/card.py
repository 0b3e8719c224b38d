"""Write a model card from a run's record: what the model is, how well it does, how it was made and how to use it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData

from finetune.audio.preprocessing import load_preprocessing
from finetune.decoding.decoder import SETTINGS, say_decoder
from finetune.errors import UserError, say_error
from finetune.evaluation.scores import count, percent
from finetune.files import write_text
from finetune.publishing.licences import describe_licence
from finetune.publishing.markup import escape, format_table, quote_code
from finetune.publishing.model_files import CARD
from finetune.publishing.model_index import TASK, build_results, name_data
from finetune.publishing.record import FILE, load_json, load_record, save_record
from finetune.publishing.uses import describe_purpose, describe_use, say_time
from finetune.resources.machine import say_machine
from finetune.resources.repositories import is_on_hub
from finetune.text.transcripts import describe_transforms

RECIPE = "recipe.yaml"
# A language as ISO 639 has it, with or without a region, which the hub does not take; or the hub's word for several.
_LANGUAGE = re.compile(r"([a-z]{2,3})(?:-[A-Za-z0-9]+)*|(multilingual)")
# Of what a report lists under one heading, so many of the best and of the worst.
_BEST, _WORST = 3, 3
_HOUSEKEEPING = {"eval_steps", "log_steps", "keep_checkpoints", "keep_best", "num_workers", "trackers", "max_minutes"}
_ERRORS = {
    "substitutions": "Confused words",
    "deletions": "Missed words",
    "insertions": "Added words",
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
    """Write `training.json` and the card made of it into a model's folder that holds `recipe.yaml` already."""
    text = build_card(folder, record)
    write_text(folder / CARD, text)
    save_record(folder, {**record, "card_sha256": _fingerprint(text)})


def update_card(folder: Path) -> str | None:
    """Make a model's card anew after something was saved with the model; returns what people must know, if anything.

    A card that was changed by hand stays as it is, and so does that of a model that this toolkit did not make.
    """
    record, card = load_record(folder), folder / CARD
    if record is None or not card.is_file():
        return None
    if _fingerprint(card.read_text(encoding="utf-8", errors="replace")) != record.get("card_sha256"):
        return f"{card} was changed by hand and is left as it is: say there what was saved with the model."
    try:
        write_card(folder, record)
    except (OSError, UserError):
        raise
    except Exception as error:  # The record and the recipe of a model of somebody else may be anything.
        return f"{card} can't be made anew of {FILE} and {RECIPE} beside it, and is left as it is: {say_error(error)}"
    return None


def build_card(folder: Path, record: Mapping[str, Any]) -> str:
    """The card of the model in a folder, from its record and from the files that are used with it."""
    recipe = _read_recipe(folder / RECIPE)
    preprocessing = describe_transforms(load_preprocessing(folder))
    decoder = load_json(folder / SETTINGS)
    template = Template((Path(__file__).parent / "card.md").read_text(encoding="utf-8"))
    body = template.substitute(
        title=escape(record["title"]),
        summary=_summary(record),
        results=_results(record),
        purpose=describe_purpose(record),
        use=describe_use(record, preprocessing, decoder),
        slices=_slices(record["results"]),
        errors=_errors(record["results"]),
        data=_data(record),
        training=_training(record, recipe),
        again=_again(record),
    )
    body = re.sub(r"\n{3,}", "\n\n", body)  # Where a part has nothing to say.
    card = ModelCard(f"---\n{_metadata(record).to_yaml()}\n---\n\n{body}")
    return str(card)


def _read_recipe(file: Path) -> Any:
    """The recipe beside a model; raises ValueError for one whose values refer to others, which could be any size."""
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
        tags=[TASK, "speech", "audio", "wav2vec2", "ctc", *(["lora"] if alone else [])],
        metrics=["wer", "cer"],
        model_name=record["title"],
        eval_results=[result for scores in record["results"] for result in build_results(scores)] or None,
    )


def _summary(record: Mapping[str, Any]) -> str:
    base = "a wav2vec2 trained with CTC"
    if record["base"]:
        base = f"{_name_source({'root': record['base'], 'revision': record['base_revision']})}, fine-tuned with CTC"
    data = ", ".join(_name_source(source) for source in record["sources"])
    language = f" Language: {', '.join(map(escape, record['languages']))}." if record["languages"] else ""
    licence = f" Licence: {escape(record['license'])}." if record["license"] else " Its author states no licence."
    return f"This model turns speech into text. It is {base} on {data}.{language}{licence}"


def _results(record: Mapping[str, Any]) -> str:
    if not record["results"]:
        return "Not evaluated yet."
    head = ("Data", "Split", "Decoder", "WER", "CER", "SER", "Utterances", "Words", "Sub.", "Del.", "Ins.")
    rows, notes = [], []
    for scores in record["results"]:
        evaluated = scores["evaluated"]
        names = (escape(name_data(evaluated)), escape(evaluated["split"]), escape(say_decoder(evaluated["decoder"])))
        rates = [_rate(scores, rate) for rate in ("wer", "cer", "ser")]
        counts = [scores[name] for name in ("utterances", "words", "substitutions", "deletions", "insertions")]
        rows.append((*names, *rates, *counts))
        notes.append(_describe_conditions(scores))
    explained = (
        "WER, CER and SER (sentence error rate) are errors counted over the whole set, divided by its reference words, "
        "its reference characters (spaces included) and its utterances. In brackets stands the 95 % bootstrap interval."
    )
    return "\n\n".join([format_table(head, rows, left=3), explained, *dict.fromkeys(notes)])


def _describe_conditions(scores: Mapping[str, Any]) -> str:
    evaluated, intervals = scores["evaluated"], scores.get("intervals")
    steps = ", ".join(quote_code(step) for step in evaluated["normalization"]) or "none"
    lines = [f"Both texts were normalised for scoring: {steps}."]
    if intervals and intervals["wer"]:
        lines.append(f"The intervals are over {intervals['clusters']} {intervals['resampled']}.")
    if step := evaluated.get("step"):
        lines.append(f"These are the weights of step {step} of a training that goes on, chosen on this split.")
    if evaluated.get("chose_weights"):
        lines.append("The weights were chosen on this split, so its figures flatter.")
    return " ".join(lines)


def _slices(results: Sequence[Mapping[str, Any]]) -> str:
    rows: list[tuple[Any, ...]] = []
    for scores in results[:1]:
        for kind, slices in scores["slices"].items():
            scored = [each for each in slices if each["wer"] is not None]
            if len(scored) > _BEST + _WORST:
                ranked = sorted(scored, key=lambda each: each["wer"])
                chosen, of = ranked[:_BEST] + ranked[-_WORST:], f" (best and worst of {len(scored)})"
            else:
                chosen, of = scored, ""
            for each in chosen:
                name = (escape(_KINDS.get(kind, kind)) + of, escape(each["value"]))
                rows.append((*name, _rate(each, "wer"), _rate(each, "cer"), each["utterances"], each["words"]))
    if not rows:
        return ""
    about = f"On {escape(name_data(results[0]['evaluated']))}, {escape(results[0]['evaluated']['split'])}:"
    return f"{about}\n\n" + format_table(("By", "Slice", "WER", "CER", "Utterances", "Words"), rows, left=2)


def _errors(results: Sequence[Mapping[str, Any]]) -> str:
    if not results:
        return ""
    errors, scores = results[0]["errors"], results[0]
    lines = []
    for kind, name in _ERRORS.items():
        found = [f"{_pair(each['reference'], each['hypothesis'], kind)} × {each['count']}" for each in errors[kind]]
        lines += [f"- {name}: {', '.join(found)}"] if found else []
    worst = ", ".join(f"{each['errors']} in {count(each['words'], 'word')}" for each in errors["worst"])
    lines += [f"- Errors in the worst utterances: {worst}"] if worst else []
    wrong = f"{scores['wrong_utterances']} of {count(scores['utterances'], 'utterance')} have a word error."
    if not lines:
        return wrong
    return f"{wrong} What was said → what was written, the most frequent first:\n\n" + "\n".join(lines)


def _pair(said: str, heard: str, kind: str) -> str:
    """What was said and what was recognised, of missed and added words these alone."""
    sides = [escape(text) if text.strip() else "␣" if text else "nothing" for text in (said, heard)]
    return {"deletions": sides[0], "insertions": sides[1]}.get(kind, " → ".join(sides))


def _data(record: Mapping[str, Any]) -> str:
    data = record["data"]
    rows = [
        (
            escape(role),
            split["utterances"],
            f"{split['seconds'] / 3600:.2f}",
            "unknown" if split["speakers"] is None else split["speakers"],
            f"{split['longest_seconds']:.1f} s",
            ", ".join(f"{int(rate) / 1000:g} kHz" for rate in split["sampling_rates"] if rate != "0") or "unknown",
        )
        for role, split in data["splits"].items()
    ]
    head = ("Split", "Utterances", "Hours", "Speakers", "Longest", "Recorded at")
    parts = [
        f"Data: {', '.join(_name_source(source) for source in record['sources'])}.",
        format_table(head, rows, left=1),
    ]
    if data["streamed"]:
        parts.append("The training split was streamed: of it only the first rows were counted.")
    if data["held_out"]:
        parts.append("The validation utterances were held out of the training split, by speakers where they are known.")
    left = [
        f"{number} × {escape(reason)} ({escape(split)})"
        for split, reasons in data["rejected"].items()
        for reason, number in reasons.items()
    ]
    parts.append("Left out: " + ", ".join(left) + "." if left else "No utterance was left out.")
    return "\n\n".join(parts)


def _training(record: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    rows = []
    for section in ("model", "training", "augmentation"):
        for name, value in recipe.get(section, {}).items():
            if name not in _HOUSEKEEPING and value not in (None, [], {}) and not _is_off(name, value, recipe[section]):
                rows.append((quote_code(f"{section}.{name}"), escape(_say(value))))
    hardware, energy = record["hardware"], record["energy_kwh"]
    processes = "1 process" if hardware["processes"] == 1 else f"{hardware['processes']} processes, each"
    machine, precision = record["versions"].get("machine"), hardware.get("precision")
    facts = [
        f"Hardware: {processes} on {escape(hardware['device'])}.",
        *([f"Machine: {escape(say_machine(machine))}."] if machine else []),
        *([f"Precision: {escape(precision)}."] if precision else []),
        f"Training took {say_time(hardware['training_seconds'])}, evaluations in between included.",
        f"Energy: {energy:g} kWh, as its author says." if energy else "Energy: not measured.",
        f"Software: {', '.join(_name_versions(record['versions']))}.",
    ]
    return "\n\n".join([format_table(("Recipe key", "Value"), rows, left=2), "\n".join(f"- {fact}" for fact in facts)])


def _name_versions(versions: Mapping[str, Any]) -> list[str]:
    commit = f" (commit {versions['commit']})" if versions["commit"] else ""
    packages = [f"{name} {number}" for name, number in versions["packages"].items()]
    return [f"finetune {versions['finetune']}{commit}", f"Python {versions['python']}", *packages]


def _is_off(name: str, value: Any, section: Mapping[str, Any]) -> bool:
    """Whether it is a switch that is off, or the probability of something that the recipe does not ask for."""
    asked = {
        "reverb_probability": ("reverb_seconds", "impulse_response_folder"),
        "noise_probability": ("noise_snr_db", "noise_folder"),
        "clipping_probability": ("clipping_probability",),
        "telephone_probability": ("telephone_probability",),
    }
    return value is False or (name in asked and not any(section.get(key) for key in asked[name]))


def _again(record: Mapping[str, Any]) -> str:
    processes, local = record["hardware"]["processes"], record["local_keys"]
    start = f"accelerate launch --num_processes {processes} -m finetune" if processes > 1 else "finetune"
    command = " ".join([start, "train", RECIPE, *(f"{key}={key.rpartition('.')[2].upper()}" for key in local)])
    lines = [f"The recipe, with every value, is [{RECIPE}]({RECIPE}) in this repository:", f"```bash\n{command}\n```"]
    if local or any(source["local"] for source in record["sources"]):
        lines.append(
            "What stands in it as `./NAME` was a local folder: put your copy beside it, or name it in the command."
        )
    return "\n\n".join(lines)


def _name_source(source: Mapping[str, Any]) -> str:
    others = [source.get("configuration"), source.get("revision") and f"revision {source['revision']}"]
    told = [escape(str(each)) for each in others if each]
    return quote_code(source["root"]) + (f" ({', '.join(told)})" if told else "")


def _rate(scores: Mapping[str, Any], rate: str) -> str:
    interval = scores.get("intervals", {}).get(rate)
    return percent(scores[rate]) + (f" ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})" if interval else "")


def _say(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_say(each)}" for name, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(_say, value))
    return "yes" if value is True else str(value)
