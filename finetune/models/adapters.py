"""Parameter-efficient training: LoRA, or the adapter of one language in an MMS model."""

import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from finetune.errors import UserError
from finetune.models.language_adapters import load_language_adapter, name_file
from finetune.models.languages import suggest_language
from finetune.models.relatives import name_linear_layers
from finetune.resources.storage import find_model_file


def require_peft() -> None:
    """Raise UserError if peft, which LoRA needs, is not installed."""
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise UserError("model.lora needs the package peft: pip install 'finetune[lora]'.") from error


def add_lora(
    model: Any, *, rank: int, alpha: int, dropout: float, target_modules: Sequence[str], revision: str | None, seed: int
) -> Any:
    """Add LoRA (Hu et al. 2021, arXiv 2106.09685) to the named linear layers; only LoRA and the head are trained.

    The model is changed in place. Returns the model of peft that contains it: `save_lora` saves the adapter, and
    `merge_and_unload()` returns an ordinary model. Raises UserError where LoRA would have no effect.
    """
    from peft import LoraConfig, get_peft_model

    names = name_linear_layers(model.config, target_modules)
    torch.manual_seed(seed)
    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=names, modules_to_save=["lm_head"]
    )
    with warnings.catch_warnings():  # Peft 0.21 uses what Transformers 5 deprecates.
        warnings.simplefilter("ignore", FutureWarning)
        return get_peft_model(model, config, revision=revision)


def save_lora(lora: Any, folder: Path) -> None:
    """Write the adapter and the head in peft's format, with the configuration to load the base model with."""
    shutil.rmtree(folder, ignore_errors=True)
    # By default peft takes the new size of the head for new embeddings, which wav2vec2 does not have.
    lora.save_pretrained(folder, save_embedding_layers=False)
    model = lora.get_base_model()
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)


def merge_weights(model: Any) -> dict[str, torch.Tensor]:
    """The weights of the model with LoRA merged into it; the model itself does not change."""
    from peft.tuners.lora import LoraLayer

    merged = {}
    for name, weight in model.state_dict().items():
        if ".lora_" not in name and ".original_module." not in name:
            merged[name.replace(".base_layer.", ".").replace(".modules_to_save.default.", ".")] = weight
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer):
            merged[f"{name}.weight"] = merged[f"{name}.weight"] + layer.get_delta_weight("default")
    return merged


def find_language_adapter(base: str, config: Any, language: str, revision: str | None = None) -> bool:
    """Whether `base` has `adapter.LANGUAGE.safetensors`, as facebook/mms-1b-all has for over a thousand languages.

    Raises UserError for a model without language adapters, and if the hub can't be reached.
    """
    if getattr(config, "adapter_attn_dim", None) is None:
        raise UserError(
            f"model.language_adapter: {base} has no adapters (its adapter_attn_dim is null); expected a base such as "
            "facebook/mms-1b-all, or use model.lora."
        )
    if len(language) == 2:  # Otherwise new adapters would be initialised for a language that has some.
        meant = " or ".join(suggest_language(language, ())) or "its three-letter code of ISO 639-3"
        raise UserError(f"model.language_adapter: {language} has two letters, where {base} has three: set {meant}.")
    return find_model_file(base, name_file(language), revision) is not None


def start_language_adapter(model: Any, base: str, language: str, revision: str | None = None) -> None:
    """Load the adapters and the head of a language from `base`, or initialise new adapters if it has none.

    Raises UserError for a file that does not fit the model.
    """
    from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2AttnAdapterLayer

    if find_language_adapter(base, model.config, language, revision):
        load_language_adapter(model, base, language, revision)
        return
    # Transformers' init_adapter_layers() initialises the containers only, not their weights (seen in 5.23).
    for layer in model.modules():
        if isinstance(layer, Wav2Vec2AttnAdapterLayer):
            layer.norm.reset_parameters()
            for linear in (layer.linear_1, layer.linear_2):
                torch.nn.init.normal_(linear.weight, std=model.config.initializer_range)
                torch.nn.init.zeros_(linear.bias)


def freeze_all_but_adapters(model: Any) -> None:
    """Freeze all but the adapters of the language and the head (Pratap et al. 2023, arXiv 2305.13516)."""
    model.requires_grad_(False)
    for parameter in model._get_adapters().values():
        parameter.requires_grad_(True)


def save_language_adapter(model: Any, folder: Path, language: str) -> None:
    """Write `adapter.LANGUAGE.safetensors` for `Wav2Vec2ForCTC.load_adapter` of this model or of its base."""
    weights = {name: weight.detach().cpu().contiguous() for name, weight in model._get_adapters().items()}
    save_file(weights, folder / name_file(language), metadata={"format": "pt"})
