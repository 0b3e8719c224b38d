"""Language adapters of MMS models: each language has adapters, a head and a vocabulary (Pratap et al. 2023)."""

from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from finetune.errors import UserError, format_error
from finetune.models.weights import HEAD, match_weights
from finetune.resources.storage import find_model_file


def name_file(language: str) -> str:
    """The file with the adapters and the head of a language: WAV2VEC2_ADAPTER_SAFE_FILE of Transformers."""
    return f"adapter.{language}.safetensors"


def load_language_adapter(model: Any, base: str, language: str, revision: str | None = None) -> None:
    """Load the adapters and the head of a language into a `Wav2Vec2ForCTC`, and resize its head.

    Unlike Transformers' `load_adapter` it does not set `target_lang`, with which `tie_weights()` would load the file
    again and overwrite trained weights. Raises UserError if `base` has no such file or it does not fit the model.
    """
    name = name_file(language)
    file = find_model_file(base, name, revision)
    if file is None:
        raise UserError(f"{base} has no {name}: choose a language that the model supports.")
    try:
        found = load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{name} of {base} can't be used: {format_error(error)}") from error
    head = {f"{HEAD}weight", f"{HEAD}bias"}
    weights = match_weights(f"{name} of {base}", found, model._get_adapters(), resized=head)
    tokens = len(weights[f"{HEAD}bias"])
    if weights[f"{HEAD}weight"].shape[0] != tokens:
        raise UserError(
            f"{name} of {base} has a head with {len(weights[f'{HEAD}weight'])} outputs and {tokens} biases."
        )
    old = model.lm_head
    model.lm_head = torch.nn.Linear(old.in_features, tokens, device=old.weight.device, dtype=old.weight.dtype)
    model.load_state_dict(weights, strict=False)
    model.config.vocab_size = tokens
