"""Checks of models from others before libraries load them: no code, no kernels from a hub, no files elsewhere."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.errors import UserError
from finetune.resources.model_json import read_object
from finetune.resources.repositories import name_model
from finetune.resources.storage import find_model_file

# The files of a model that Transformers and peft read, without weights and vocab.json.
FILES = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.json",
    "adapter_config.json",
)
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")

# Keys that name other files for other versions of Transformers, which would be read instead of the checked ones.
_OTHER_FILES = ("configuration_files", "fast_tokenizer_files")
# Implementations of attention and experts in Transformers and torch. For others, such as flash_attention_2,
# Transformers loads a kernel from a hub if the package is missing.
_IMPLEMENTATION = re.compile(r"_?\w*_implementation(_internal)?")
_OWN_IMPLEMENTATIONS = (None, "eager", "sdpa")
# Keys whose values are names of files, by configuration file.
_NAMED_FILES = {"config.json": ("transformers_weights",), "tokenizer_config.json": ("vocab_file",)}

_SNAPSHOT = re.compile(r".*/models--[^/]+/snapshots/[0-9a-f]{40}")
# The largest accepted number of tokens of a language, and of languages.
_MOST_TOKENS, _MOST_LANGUAGES = 1 << 17, 1 << 14
# The largest accepted number of tokens with several characters: Transformers' Wav2Vec2CTCTokenizer takes 17 seconds for
# them, and the time grows faster than quadratically. The same holds for special tokens in its other files.
_MOST_LONG_TOKENS, _MOST_SPECIAL_TOKENS = 5000, 1000
_TOKEN_FILES = ("tokenizer_config.json", "special_tokens_map.json")


def require_plain_model(model: str | Path, revision: str | None = None) -> None:
    """Check the JSON files of a model in a folder or on a hub before a library reads them.

    Raises UserError for a model that has its own code (auto_map), asks for a kernel from a hub or for quantisation, or
    names files elsewhere, and for a file that is not a JSON object, too large or nested too deeply.
    """
    for name in FILES:
        file = find_file(model, name, revision)
        if file is not None:
            values = read_object(file)
            _require_plain(model, name, values)
            sizes = [len(values), *(len(each) for each in values.values() if isinstance(each, list))]
            if name in _TOKEN_FILES and max(sizes) > _MOST_SPECIAL_TOKENS:
                raise UserError(
                    f"{name} of {name_model(model)} lists {max(sizes)} tokens: expected up to {_MOST_SPECIAL_TOKENS}."
                )
            for key in _NAMED_FILES.get(name, ()):
                if values.get(key) is not None:
                    find_inside(file.parent, values[key], f"{key} in {name}")
    for name in _INDEXES:
        file = find_file(model, name, revision)
        if file is not None:
            list_shards(file)


def require_no_override(model: str | Path, name: str, values: dict[str, Any], kind: type) -> None:
    """Raise UserError if a key in a JSON file would replace a method or a constant of its class.

    Transformers sets each key as an attribute of the object that it creates.
    """
    fields = getattr(kind, "__dataclass_fields__", {})
    own = {key for key in dir(kind) if not isinstance(getattr(kind, key, None), property)} - _settable(fields)
    if found := [key for key in values if key in own or key.startswith("__")]:
        raise UserError(
            f"{name} of {name_model(model)} has {found[0]!r}, which would replace a part of {kind.__name__}: remove it."
        )


def find_inside(folder: Path, name: Any, where: str) -> Path:
    """The path of a file, which may be missing, that a file of a model names; links are resolved.

    Blobs in the cache of a hub count as inside the folder of the model. Raises UserError for a file elsewhere; `where`
    is the place that names it.
    """
    if isinstance(name, str) and _is_inside(folder, folder / name):
        return folder / name
    raise UserError(
        f"{where} of {name_model(folder)} names {str(name)[:200]!r}, which is not in the model's folder: expected a "
        "file in it, by its name."
    )


def require_inside(folder: Path, file: Path) -> None:
    """Raise UserError for a link in the folder of a model to a file outside, which would be copied or uploaded."""
    if not _is_inside(folder, file):
        raise UserError(
            f"{file} is a link to a file outside of the model's folder, which is not copied or sent: replace it by the "
            "file, or remove the link."
        )


def _is_inside(folder: Path, file: Path) -> bool:
    """Whether a file, with links resolved, is below the folder of a model, or among its blobs in the cache of a hub."""
    try:
        own, real = folder.resolve(), file.resolve()
    except (OSError, ValueError, RuntimeError):  # A name with a NUL, one that is too long, a loop of links.
        return False
    places = [own]
    if _SNAPSHOT.fullmatch(own.as_posix()):
        repository = own.parents[1]
        # Blobs of the repository, and blobs that repositories share (huggingface_hub 2).
        places += [repository / "blobs", repository.parent / "blobs"]
    return real != own and any(real.is_relative_to(place) for place in places)


def list_shards(index: Path) -> list[str]:
    """The files that an index of weights names; raises UserError if one of them is not in its folder."""
    weights = read_object(index).get("weight_map")
    if not isinstance(weights, dict):
        raise UserError(f"{index} is damaged: expected a weight_map that says which file each weight is in.")
    names = dict.fromkeys(str(name) for name in weights.values())
    for name in names:
        find_inside(index.parent, name, f"the weight_map in {index.name}")
    return list(names)


def read_vocabulary(file: Path) -> dict[str, Any]:
    """The contents of a vocab.json: a column for each token, or for each token of each language.

    Raises UserError for anything else, and for too many tokens or columns out of range.
    """
    values = read_object(file)
    languages = {name: value for name, value in values.items() if isinstance(value, dict)}
    if languages and len(languages) < len(values):
        raise UserError(f"{file} is damaged: expected a column for each token, or for each token of each language.")
    for tokens in languages.values() or [values]:
        wrong = [token for token, column in tokens.items() if not _is_column(column)]
        long = sum(len(token) > 1 for token in tokens)
        if wrong or long > _MOST_LONG_TOKENS or len(tokens) > _MOST_TOKENS or len(languages) > _MOST_LANGUAGES:
            found = f"{tokens[wrong[0]]!r}"[:40] + f" for {wrong[0][:40]!r}" if wrong else f"{len(tokens)} tokens"
            raise UserError(
                f"{file} is damaged: found {found}; expected up to {_MOST_TOKENS} tokens, {_MOST_LONG_TOKENS} of them "
                "with several characters, and for each its column, a number from 0 on."
            )
    return values


def _is_column(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST_TOKENS


def find_file(model: str | Path, name: str, revision: str | None = None) -> Path | None:
    """A file of a model in a folder or on a hub; None if there is none, or if the hub can't be reached."""
    try:
        return find_model_file(model, name, revision)
    except UserError:
        return None


def _settable(fields: dict[str, Any]) -> set[str]:
    """The names that configurations set: the fields of a dataclass that are not class constants, and two others."""
    constants = {name for name, field in fields.items() if "ClassVar" in str(field.type)}
    return {*(fields.keys() - constants), "model_type", "model_input_names"}


def _require_plain(model: str | Path, name: str, values: dict[str, Any]) -> None:
    label = name_model(model)
    for key, value in _walk(values):
        if key == "auto_map":
            raise UserError(
                f"{label} brings its own code (auto_map in {name}), which is never run: expected a model for the "
                "classes of Transformers, without auto_map."
            )
        if _IMPLEMENTATION.fullmatch(key):
            asked = value.values() if isinstance(value, dict) else [value]
            if other := [each for each in asked if each not in _OWN_IMPLEMENTATIONS]:
                raise UserError(
                    f"{label} asks for {str(other[0])[:100]!r} ({key} in {name}), for which Transformers may load code "
                    "from a hub: expected eager, sdpa or nothing."
                )
        if key in ("use_kernels", "kernel_config") and value:
            raise UserError(f"{label} asks for kernels of a hub ({key} in {name}), which are not loaded: remove it.")
        if key == "quantization_config" and value is not None:
            raise UserError(
                f"{label} is quantised (quantization_config in {name}): expected weights that are float32, float16 or "
                "bfloat16."
            )
        if key in _OTHER_FILES:
            raise UserError(f"{label} names other files to read ({key} in {name}): remove it.")
        if key == "auto_mapping" and value is not None:
            library = value.get("parent_library") if isinstance(value, dict) else value
            if library is not None and not str(library).startswith("transformers."):
                raise UserError(
                    f"{label} names code of {str(library)[:100]!r} (auto_mapping in {name}), which is not loaded: "
                    "expected a class of transformers."
                )


def _walk(values: Any) -> Iterator[tuple[str, Any]]:
    """Each key and value of an object and of the objects in it."""
    waiting = [values]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield from value.items()
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
