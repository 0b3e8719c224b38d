"""The folder of a trained model: weights, processor, text normalisation, recipe and model card."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.audio.preprocessing import save_preprocessing
from finetune.files import name_folder, replace_folder, write_text
from finetune.inference.recogniser import Recogniser
from finetune.inference.utterance_statistics import UtteranceStatistics
from finetune.inference.windows import Lengths
from finetune.models.adapters import save_language_adapter
from finetune.models.processors import save_processor
from finetune.publishing.card import write_card
from finetune.publishing.local_paths import public_name, public_place, scrub_value
from finetune.publishing.record import describe_scores
from finetune.recipe.load import Recipe
from finetune.resources.repositories import is_on_hub
from finetune.run.run_directory import describe_provenance
from finetune.text.transcripts import save_normalization

# Keys of a recipe that name a local folder, or a repository on a hub where there is no such folder.
_PLACES = ("base", "root", "noise_folder", "impulse_response_folder")


def write_models(
    output: Path,
    recogniser: Recogniser,
    recipe: Recipe,
    results: Sequence[Mapping[str, Any]],
    training: Mapping[str, Any],
    statistics: UtteranceStatistics | None,
) -> None:
    """Write a run's `model`, and complete the LoRA `adapter` where it is kept alone too: see `complete_model`."""
    model, lora, unfinished = recogniser.model, recipe.model.lora, output / ".model.partial"
    shutil.rmtree(unfinished, ignore_errors=True)
    model.save_pretrained(unfinished)
    if recipe.model.language_adapter:
        save_language_adapter(model, unfinished, recipe.model.language_adapter)
    folders = {"model": unfinished}
    if lora and lora.save == "adapter":
        folders["adapter"] = output / ".adapter.partial"
    for name, folder in folders.items():
        complete_model(
            folder,
            output / name,
            recipe=recipe,
            recogniser=recogniser,
            results=results,
            training=training,
            statistics=statistics,
            run=name_folder(output),
        )


def complete_model(
    partial: Path,
    final: Path,
    *,
    recipe: Recipe,
    recogniser: Recogniser,
    results: Sequence[Mapping[str, Any]],
    training: Mapping[str, Any],
    statistics: UtteranceStatistics | None,
    run: str,
) -> None:
    """Add processor, normalisation, recipe and card to the weights in `partial`, and rename the folder to `final`.

    `results` are as in scores.json, with the key `evaluated`, but intervals, slices and errors may be missing.
    `training` is the result of `describe_training`, `statistics` are those of the validation split with these weights,
    and `run` is the run's name.
    """
    recipe, feature_extractor, tokenizer = recipe.without_secrets(), recogniser.feature_extractor, recogniser.tokenizer
    save_processor(partial, feature_extractor, tokenizer)
    save_normalization(partial, recipe.text.normalization)
    if recipe.data.preprocessing:
        save_preprocessing(partial, recipe.data.preprocessing)
    train = training["data"]["splits"]["train"]
    Lengths(mean=train["seconds"] / train["utterances"], longest=train["longest_seconds"]).save(partial)
    if statistics:
        statistics.save(partial)
    write_text(partial / "recipe.yaml", publish_recipe(recipe).to_yaml())
    config = json.loads((partial / "config.json").read_text(encoding="utf-8"))
    record = {
        **_describe_author(recipe, run),
        **_describe_origins(recipe),
        **training,
        "adapter_alone": (partial / "adapter_config.json").exists(),
        "characters": [token for token in tokenizer.get_vocab() if len(token) == 1 and token != "|"],
        "sampling_rate": feature_extractor.sampling_rate,
        "model_type": config["model_type"],
        "group_norm": config.get("feat_extract_norm") == "group",
        "versions": describe_provenance(),
        "results": [describe_scores(scores) for scores in results],
    }
    write_card(partial, record)
    replace_folder(partial, final)


def _describe_author(recipe: Recipe, name: str) -> dict[str, Any]:
    """The fields of the card that the recipe sets; the title is the run's name unless it is given."""
    publishing = recipe.publishing
    languages = [publishing.language] if isinstance(publishing.language, str) else publishing.language or ()
    return {
        "title": scrub_value(publishing.title or name),
        "languages": list(languages),
        "license": publishing.license,
        "intended_use": publishing.intended_use and scrub_value(publishing.intended_use),
        "limitations": publishing.limitations and scrub_value(publishing.limitations),
        "energy_kwh": publishing.energy_kwh,
    }


def _describe_origins(recipe: Recipe) -> dict[str, Any]:
    """Pretrained checkpoint and data by their public names, and the recipe's keys that name a local folder."""
    base, sources = recipe.model.base, recipe.data.all_sources
    places = {"model.base": base, "data.root": recipe.data.root}
    return {
        "base": public_name(base) if base else None,
        "base_on_hub": base is not None and is_on_hub(base),
        "base_revision": recipe.model.revision,
        "sources": [
            {
                "root": public_name(source.root),
                "configuration": source.configuration,
                "revision": source.revision,
                "local": public_place(source.root) != source.root,
            }
            for source in sources
        ],
        "local_keys": [key for key, place in places.items() if place and public_place(place) != place],
    }


def publish_recipe(recipe: Recipe) -> Recipe:
    """The recipe as it is published: local folders without their path, and no other absolute path.

    The steps of text normalisation stay as they are. Revisions on a hub are pinned to commits already.
    """
    values = recipe.model_dump(mode="json", exclude_none=True)
    values = {section: each if section == "text" else _scrub(each) for section, each in values.items()}
    return Recipe.model_validate({**values, "provenance": describe_provenance()})


def _scrub(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _scrub(each, name) for name, each in value.items()}
    if isinstance(value, list):
        return [_scrub(each) for each in value]
    if not isinstance(value, str):
        return value
    return public_place(value) if key in _PLACES else scrub_value(value)
