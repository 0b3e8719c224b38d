"""Which settings in the adapter_config.json of a LoRA adapter are accepted."""

import re
from collections.abc import Sequence
from typing import Any

from finetune.errors import UserError
from finetune.text.expressions import match_all

# Settings for which weights an adapter has and how they are added. Other fields of LoraConfig read files, load modules
# by name, or change the meaning of the weights.
_KEYS = (
    "alpha_pattern",
    "bias",
    "exclude_modules",
    "fan_in_fan_out",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_bias",
    "lora_dropout",
    "modules_to_save",
    "r",
    "rank_pattern",
    "target_modules",
    "use_dora",
    "use_rslora",
)
# Metadata, and settings that do not affect the weights.
_NOTES = (
    "auto_mapping",
    "base_model_name_or_path",
    "peft_type",
    "peft_version",
    "revision",
    "runtime_config",
    "task_type",
)
# Settings that are lists of module names.
_LISTS = ("target_modules", "exclude_modules", "modules_to_save", "layers_pattern")
_HIGHEST_RANK = 1024
_MOST_NAMES = 10_000
# Names of modules, which peft uses as regular expressions; without repetitions they match in linear time.
_NAME = re.compile(r"[^*+?{]{1,500}")
_INITIALISATIONS = re.compile(r"gaussian|orthogonal|olora|pissa(_niter_\d{1,2})?")


def read_lora(values: dict[str, Any], modules: Sequence[str], label: str) -> Any:
    """The `LoraConfig` of an adapter, which errors call `label`, for a model with these module names.

    Regular expressions are replaced by the modules that they match. Raises UserError for settings that would load more
    than the weights of the adapter, and for values out of range.
    """
    from peft import LoraConfig

    defaults = LoraConfig().to_dict()
    for key in sorted(defaults.keys() - {*_KEYS, *_NOTES}):
        value = values.get(key)
        if value and value != defaults[key]:
            raise _refuse(label, key, value, "an adapter of plain LoRA")
    kept = {key: values[key] for key in _KEYS if values.get(key) is not None}
    for key in ("target_modules", "exclude_modules"):
        if isinstance(kept.get(key), str) and kept[key] != "all-linear":
            kept[key] = match_all(kept[key], modules)
    _require_sensible(label, kept)
    try:
        return LoraConfig(**kept)
    except Exception as error:  # Its errors for invalid files have no common class.
        raise UserError(f"The adapter_config.json of {label} can't be used: {str(error)[:300]}") from error


def _require_sensible(label: str, values: dict[str, Any]) -> None:
    ranks, alphas = values.get("rank_pattern", {}), values.get("alpha_pattern", {})
    for key, patterns in (("rank_pattern", ranks), ("alpha_pattern", alphas)):
        if not isinstance(patterns, dict):
            raise _refuse(label, key, patterns, "a number for each module")
    for rank in (values.get("r", 8), *ranks.values()):
        if type(rank) is not int or not 1 <= rank <= _HIGHEST_RANK:
            raise _refuse(label, "r", rank, f"a rank from 1 to {_HIGHEST_RANK}")
    for alpha in (values.get("lora_alpha", 8), *alphas.values()):
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or abs(alpha) > 1e6:
            raise _refuse(label, "lora_alpha", alpha, "a number up to a million")
    lists = {key: values.get(key, []) for key in _LISTS}
    for key, names in {**lists, "rank_pattern": [*ranks], "alpha_pattern": [*alphas]}.items():
        listed = [names] if isinstance(names, str) else names
        named = isinstance(listed, list) and all(isinstance(name, str) and _NAME.fullmatch(name) for name in listed)
        if not named or len(listed) > _MOST_NAMES:
            raise _refuse(label, key, names, "names of modules")
    layers = values.get("layers_to_transform", [])
    if not all(type(layer) is int for layer in (layers if isinstance(layers, list) else [layers])):
        raise _refuse(label, "layers_to_transform", layers, "numbers of layers")
    initialised = values.get("init_lora_weights", True)
    if not isinstance(initialised, bool) and not _INITIALISATIONS.fullmatch(str(initialised)):
        raise _refuse(label, "init_lora_weights", initialised, "true, false, gaussian, orthogonal, olora or pissa")


def _refuse(label: str, key: str, found: Any, expected: str) -> UserError:
    return UserError(f"The adapter_config.json of {label} has {found!r:.100} for {key}: expected {expected}.")
