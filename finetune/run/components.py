"""The model, objective, optimizer and recogniser of a run, built from its recipe and prepared by Accelerate."""

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from finetune.errors import UserError
from finetune.inference.live import LiveContext
from finetune.inference.recogniser import Recogniser
from finetune.models.adapters import add_lora
from finetune.models.build import CTCObjective, build_model
from finetune.models.configuration import adapter_stride, encoder_convolutions
from finetune.models.cpu_operations import use_cpu_operations
from finetune.models.relatives import get_relative
from finetune.models.windowed_encoder import WindowContext, encode_in_windows
from finetune.recipe.load import Recipe
from finetune.resources.machine import Precision
from finetune.run.preparation import Preparation
from finetune.text.vocabulary import PAD, build_tokenizer
from finetune.training.deepspeed import ZeroState, uses_zero
from finetune.training.optimization import build_optimizer
from finetune.training.sharding import build_autocast, gather_weights, is_sharded, scatter_weights


@dataclass(frozen=True, kw_only=True)
class Components:
    """What is trained, and what trains and scores it.

    `model` is the whole model, which is evaluated and saved. `trained` is the same object, except with FSDP, where it
    is a second model in shards. `objective` and `optimizer` are as Accelerate prepared them; the state of
    `saved_optimizer` is that of AdamW without FSDP or DeepSpeed.
    """

    model: Any
    trained: Any
    objective: nn.Module
    optimizer: Any
    saved_optimizer: Any

    @property
    def is_sharded(self) -> bool:
        """Whether FSDP trains a second model, in shards."""
        return self.trained is not self.model

    def gather(self) -> None:
        """Copy the trained weights into `model`; all processes must call it."""
        if self.is_sharded:
            gather_weights(self.trained, self.model)

    def scatter(self) -> None:
        """Copy the weights of `model` into what is trained."""
        if self.is_sharded:
            scatter_weights(self.model, self.trained)


@dataclass(frozen=True, kw_only=True)
class RecogniserComponents(Components):
    """What trains a recogniser; `lora` is peft's model around `model`, or None."""

    lora: Any
    recogniser: Recogniser


def build_components(
    recipe: Recipe, preparation: Preparation, accelerator: Accelerator, precision: Precision
) -> RecogniserComponents:
    """Build what a run needs on the accelerator's device; raises UserError where the base does not allow it."""
    training, device = recipe.training, accelerator.device
    if is_sharded(accelerator) or uses_zero(accelerator):
        _require_shards(preparation.config)
    model, lora = _build_model(recipe, preparation, device)
    trained = _build_model(recipe, preparation, device)[0] if is_sharded(accelerator) else model
    tokenizer = build_tokenizer(preparation.vocabulary, recipe.model.language_adapter)
    optimizer: Any = build_optimizer(
        trained, training.learning_rate, training.weight_decay, training.head_learning_rate, training.layer_decay
    )
    cast = build_autocast(accelerator, precision)
    objective: Any = CTCObjective(trained, compiled=training.compile, autocast=cast)
    objective, prepared_optimizer = accelerator.prepare(objective, optimizer)
    return RecogniserComponents(
        model=model,
        trained=trained,
        lora=lora,
        objective=objective,
        optimizer=prepared_optimizer,
        saved_optimizer=ZeroState(objective) if uses_zero(accelerator) else optimizer,
        recogniser=Recogniser(model, preparation.feature_extractor, tokenizer, device),
    )


def _require_shards(config: Any) -> None:
    """Raise UserError for an architecture that isn't trained in shards."""
    relative = get_relative(config)
    if relative.baseline:
        raise UserError(
            f"model.architecture: a {config.model_type} model is small enough for each process, and was never tried in "
            "shards; train it without FSDP and DeepSpeed."
        )
    if relative.one_by_one:
        raise UserError(
            f"model.base: a {config.model_type} model encodes utterances one by one, for which processes with shards "
            "of its weights would wait for each other; train it without FSDP and DeepSpeed."
        )
    if getattr(config, "add_adapter", False):
        raise UserError(
            "model.base: its layers of add_adapter compute utterances one by one, for which processes with shards of "
            "its weights would wait for each other; train it without FSDP and DeepSpeed."
        )


def _build_model(recipe: Recipe, preparation: Preparation, device: torch.device) -> tuple[Any, Any]:
    """The model to train, and peft's model around it with LoRA."""
    model, training = recipe.model, recipe.training
    built = build_model(
        copy.deepcopy(preparation.config),  # `build_model` changes it.
        None if model.random_weights else model.base,
        vocabulary=preparation.vocabulary,
        blank=PAD,
        dropout=model.dropout,
        mask_time_probability=training.mask_time_probability,
        seed=training.seed,
        head_rows=preparation.head_rows,
        revision=model.revision,
        freeze_feature_encoder=model.freeze_feature_encoder,
        attention=model.attention,
        layer_drop=model.layer_drop,
        gradient_checkpointing=training.gradient_checkpointing,
        language_adapter=model.language_adapter,
    )
    if device.type == "cpu" and not training.compile:
        use_cpu_operations(built)
    if training.right_context_seconds:
        encode_in_windows(built, _window_context(recipe, preparation))
    if not model.lora:
        return built, None
    lora = model.lora.model_dump(exclude={"save"})
    return built, add_lora(built, **lora, revision=model.revision, seed=training.seed)


def _window_context(recipe: Recipe, preparation: Preparation) -> WindowContext:
    """The left context and hop of a live session, and the right contexts of the recipe, in frames."""
    config = preparation.config
    stride = math.prod(stride for _, stride in encoder_convolutions(config)) // adapter_stride(config)
    rate = preparation.feature_extractor.sampling_rate / stride
    low, high = recipe.training.right_context_seconds or (0.0, 0.0)
    right = max(1, round(low * rate)), max(1, round(high * rate))
    return WindowContext(left=round(LiveContext.left * rate), right=right, chunk=round(LiveContext.hop * rate))
