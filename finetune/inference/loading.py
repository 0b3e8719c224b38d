"""Loading a model from its folder: weights, a LoRA adapter that is merged into its base model, or an ONNX export."""

import warnings
from pathlib import Path
from typing import Any

from finetune.errors import UserError
from finetune.inference.exported import FILE, ExportedModel
from finetune.models.adapter_config import read_lora
from finetune.models.foreign_models import find_inside, require_plain_model
from finetune.models.language_adapters import load_language_adapter, name_file
from finetune.models.processors import get_own_language
from finetune.models.weights import ADAPTER, HEAD, load_ctc_model, match_weights
from finetune.resources.model_json import read_object
from finetune.resources.repositories import fetch_model, fetch_more, name_model
from finetune.resources.storage import find_model_file

_ADAPTER = "adapter_config.json"  # peft's


def load_model(folder: Path, config: Any, precision: str, language: str | None = None) -> Any:
    """Load the model in a folder with its configuration: a `Wav2Vec2ForCTC`, or an `ExportedModel`.

    `language` chooses the adapters and the head of an MMS model, if the folder has a file with them.

    Raises UserError for weights that do not fit the configuration, an adapter that can't be merged and an export with
    another precision, and what Transformers raises.
    """
    if _is_exported(folder):
        if precision == "bfloat16":
            raise UserError(f"{folder} was exported, and computes as it was written: leave out the precision bfloat16.")
        return ExportedModel(folder, config)
    if (file := find_model_file(folder, _ADAPTER)) is not None:
        return _load_merged(folder, config, file)
    if language is not None:
        find_inside(folder, name_file(language), "a language in vocab.json")
    file = None if language is None else fetch_more(folder, name_file(language))
    if language is None or file is None:
        if language not in (None, get_own_language(folder)):
            raise UserError(
                f"{name_model(folder)} has no {name_file(language)}, though its vocab.json has the language."
            )
        return load_ctc_model(folder, name_model(folder), config=config)[0]
    model, _ = load_ctc_model(folder, name_model(folder), new=[HEAD, ADAPTER], config=config)
    load_language_adapter(model, str(file.parent), language)
    return model


def require_head_size(name: str, num_symbols: int, tokenizer: Any) -> None:
    """Raise UserError if an output of a head has no token, or if a letter or the blank has no output.

    Special tokens such as `<s>`, in the vocabulary or added to it, may have outputs or not.
    """
    own = max(tokenizer.encoder.values(), default=-1) + 1
    added = tokenizer.added_tokens_encoder.keys() - tokenizer.encoder.keys()
    special = set(tokenizer.all_special_tokens) - {tokenizer.pad_token}
    written = [number for token, number in tokenizer.encoder.items() if token not in special]
    if not max(written, default=-1) < num_symbols <= own + len(added):
        raise UserError(
            f"The head of {name} has {num_symbols} outputs, and its vocab.json {own} tokens: expected a token for each "
            "output; use the vocabulary that the model was trained with."
        )
    if tokenizer.pad_token_id >= num_symbols:
        raise UserError(
            f"The head of {name} has {num_symbols} outputs, and none is its blank, the token {tokenizer.pad_token}: "
            "use the vocabulary that the model was trained with."
        )


def _is_exported(folder: Path) -> bool:
    """Whether a folder is an export of `finetune export`, not a model with weights and an ONNX file."""
    if not (folder / FILE).is_file() or any(folder.glob("*.safetensors.index.json")):
        return False
    return not any((folder / name).is_file() for name in ("model.safetensors", "pytorch_model.bin", _ADAPTER))


def _load_merged(folder: Path, config: Any, file: Path) -> Any:
    """Load a LoRA adapter, merged into the base model that its configuration names.

    Transformers can't load such an adapter: `load_adapter` of wav2vec2 is for the languages of MMS models.
    """
    try:
        from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
        from peft.utils import load_peft_weights
    except ImportError as error:
        message = f"{name_model(folder)} is an adapter, which needs the package peft: pip install 'finetune[lora]'."
        raise UserError(message) from error
    adapter = read_object(file)
    name, revision = adapter.get("base_model_name_or_path"), adapter.get("revision")
    if adapter.get("peft_type") != "LORA" or not isinstance(name, str) or not name:
        kind = str(adapter.get("peft_type"))[:40]
        raise UserError(f"{name_model(folder)} is an adapter of type {kind}; expected LORA that names its base.")
    if not any((folder / each).is_file() for each in ("adapter_model.safetensors", "adapter_model.bin")):
        raise UserError(f"{name_model(folder)} is an adapter without its weights: expected adapter_model.safetensors.")
    base = fetch_model(name, revision if isinstance(revision, str) else None)
    require_plain_model(base)
    model, _ = load_ctc_model(base, name_model(base), new=[HEAD], config=config)  # The adapter has the head.
    lora = read_lora(adapter, [each for each, _ in model.named_modules()], name_model(folder))
    with warnings.catch_warnings():  # Peft 0.21 uses what Transformers 5 deprecates.
        warnings.simplefilter("ignore", FutureWarning)
        merged = get_peft_model(model, lora)
        expected = get_peft_model_state_dict(merged, save_embedding_layers=False)
        found = load_peft_weights(str(folder), device="cpu")
        set_peft_model_state_dict(merged, match_weights(f"the adapter {name_model(folder)}", found, expected))
        return merged.merge_and_unload()
