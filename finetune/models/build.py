"""A pretrained encoder with a new CTC head, and its training loss."""

import contextlib
from collections.abc import Iterator, Sequence
from pickle import UnpicklingError
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from finetune.data.batching import Batch
from finetune.errors import PICKLED, UserError, format_error
from finetune.models.adapters import freeze_all_but_adapters, start_language_adapter
from finetune.models.configuration import adapter_stride
from finetune.models.relatives import get_relative, list_layers
from finetune.models.replacement import replace_submodule
from finetune.models.weights import ADAPTER, HEAD, MASK, load_ctc_model


def build_model(
    config: Any,
    base: str | None,
    *,
    vocabulary: dict[str, int],
    blank: str,
    dropout: float,
    mask_time_probability: float,
    seed: int,
    head_rows: Sequence[int | None] | None = None,
    revision: str | None = None,
    freeze_feature_encoder: bool = True,
    attention: str | None = None,
    layer_drop: float = 0.0,
    gradient_checkpointing: bool = False,
    language_adapter: str | None = None,
) -> nn.Module:
    """A model with the encoder of the checkpoint `base` (random weights if it is None) and a new CTC head.

    The head has one output for each token of the vocabulary and is initialised from `seed`, even if the checkpoint has
    a head of the same size, whose outputs have other meanings. With `head_rows` the output of a token is copied from
    the row of the checkpoint's head that is given for it. Weights are read from safetensors or, if there are none, from
    a pytorch_model.bin by PyTorch's restricted unpickler: no code of a repository runs. Padding changes nothing (see
    `ignore_padding`). `attention` is the name of one of Transformers' implementations, `layer_drop` a probability (see
    `drop_layers`). With `gradient_checkpointing` activations are recomputed instead of stored (Chen et al. 2016). With
    a `language_adapter` only the adapters of that language and the head are trained.

    Raises UserError if the checkpoint lacks any other weight, has weights that do not belong to it, or has no
    head to copy from.
    """
    from finetune.models.layer_drop import drop_layers
    from finetune.models.padding import ignore_padding

    torch.manual_seed(seed)
    # A head whose rows are copied is loaded with its own size: with another size its weights would not be loaded.
    config.vocab_size = config.vocab_size if head_rows else len(vocabulary)
    config.pad_token_id = vocabulary[blank]
    configure_training(config, dropout, mask_time_probability)
    model = _load_encoder(config, base, revision, attention, language_adapter, head_rows or ())
    torch.manual_seed(seed)
    model.lm_head = _build_head(model.lm_head, len(vocabulary), config.initializer_range, head_rows or ())
    config.vocab_size = model.config.vocab_size = len(vocabulary)
    ignore_padding(model)
    for name, parameter in model.base_model.named_parameters():  # Distributed training would wait for their gradients.
        if name.startswith(get_relative(config).unused) or (name == MASK and mask_time_probability == 0):
            parameter.requires_grad_(False)
    if freeze_feature_encoder:
        model.freeze_feature_encoder()
    if language_adapter:
        freeze_all_but_adapters(model)
    if layer_drop:
        drop_layers(model, layer_drop)
    if gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def configure_training(config: Any, dropout: float, mask_time_probability: float) -> None:
    """Set dropout, masking and the loss in a configuration."""
    if config.model_type != "unispeech-sat":  # It takes numbers only.
        config.bos_token_id = config.eos_token_id = None
    config.hidden_dropout = config.final_dropout = dropout
    config.ctc_zero_infinity = True
    config.ctc_loss_reduction = "mean"
    # Batches carry their masks; masks drawn by the model would depend on the order of the batches.
    config.apply_spec_augment = mask_time_probability > 0
    if get_relative(config).baseline:
        return
    config.attention_dropout = config.activation_dropout = config.feat_proj_dropout = dropout
    if hasattr(config, "conformer_conv_dropout"):
        config.conformer_conv_dropout = dropout
    config.layerdrop = 0.0  # `drop_layers` does it.
    config.mask_time_prob = mask_time_probability
    config.mask_feature_prob = 0.0


def _load_encoder(
    config: Any,
    base: str | None,
    revision: str | None,
    attention: str | None,
    language_adapter: str | None,
    head_rows: Sequence[int | None],
) -> Any:
    """The model with a language's adapters; raises UserError if the checkpoint lacks the rows of the head."""
    new = [HEAD, ADAPTER] if language_adapter else [HEAD]
    model, lacking = _load(config, base, new, revision, attention)
    if head_rows and any(name.startswith(HEAD) for name in lacking):
        raise UserError(f"{base} has a vocabulary but no CTC head: set text.vocabulary=training.")
    if language_adapter and base is not None:  # Its file also has the head for its vocabulary.
        start_language_adapter(model, base, language_adapter, revision)
    if max((row for row in head_rows if row is not None), default=-1) >= model.lm_head.out_features:
        raise UserError(
            f"The vocabulary of {base} is larger than its head, which has {model.lm_head.out_features} outputs: set "
            "text.vocabulary=training."
        )
    return model


def _load(
    config: Any, base: str | None, new: Sequence[str], revision: str | None, attention: str | None
) -> tuple[Any, set[str]]:
    """The model of a configuration, and which of its `new` weights the checkpoint lacks."""
    from transformers import AutoModelForCTC

    from finetune.models.log_mel import hear_waveforms

    # Architectures with an attention of their own have no other.
    relative = get_relative(config)
    fixed = attention == "sdpa" and (relative.own_attention or relative.baseline)
    options = {"attn_implementation": None if fixed else attention}
    with loading(base):
        if base is None:
            model = AutoModelForCTC.from_config(config, dtype=torch.float32, trust_remote_code=False, **options)
            hear_waveforms(model)
            return model, set()
        return load_ctc_model(base, base, new=new, revision=revision, config=config, **options)


@contextlib.contextmanager
def loading(base: str | None) -> Iterator[None]:
    """Raise UserError for what libraries raise where a base, or without one an architecture, can't be loaded."""
    try:
        yield
    except UserError:
        raise
    except UnpicklingError as error:
        raise UserError(f"{base} {PICKLED}") from error
    except Exception as error:  # What libraries raise for a foreign file has no class in common.
        raise UserError(f"{base or 'model.architecture'} can't be loaded as a model: {format_error(error)}") from error


def zero_gradient(module: nn.Module) -> torch.Tensor:
    """Zero, with a gradient of zero for each trained parameter, except for those that are sharded at the moment."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    zeros = [0.0 * parameter.sum() for parameter in trained if not isinstance(parameter, DTensor)]
    return torch.stack(zeros).sum() if zeros else torch.zeros(())


def _build_head(old: nn.Linear, tokens: int, deviation: float, rows: Sequence[int | None]) -> nn.Linear:
    head: nn.Linear = nn.utils.skip_init(nn.Linear, old.in_features, tokens)
    nn.init.normal_(head.weight, std=deviation)
    nn.init.zeros_(head.bias)
    with torch.no_grad():
        for token, row in enumerate(rows):
            if row is not None:
                head.weight[token], head.bias[token] = old.weight[row], old.bias[row]
    return head


class CTCObjective(nn.Module):
    """A model whose forward pass gives the summed loss, so that it can be divided by a global count."""

    def __init__(self, model: Any, *, compiled: bool = False, autocast: torch.autocast | None = None) -> None:
        """With `compiled`, `torch.compile` compiles the encoder: a few times, until lengths are dynamic.

        `autocast` is for mixed precision that Accelerate does not set up.
        """
        super().__init__()
        self.model = model
        # FSDP gathers the weights of one such module at a time.
        self._no_split_modules = [type(layer).__name__ for layer in list_layers(model)[:1]]
        self._encode: Any = torch.compile(self._run_encoder) if compiled else self._run_encoder
        self._autocast: Any = autocast or contextlib.nullcontext()
        mask_as_told(model)

    def forward(self, batch: Batch, frozen: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """The negative log likelihood of the labels, summed over the batch, and which utterances have none, (batch,).

        Utterances with more labels than frames have no likelihood and add 0 to the sum; utterances without labels add 0
        and are not marked. With `frozen` the gradient of the encoder is zero.
        """
        with self._autocast:
            return self._compute(batch, frozen)

    def _compute(self, batch: Batch, frozen: bool) -> tuple[torch.Tensor, torch.Tensor]:
        model = self.model
        with torch.no_grad() if frozen else contextlib.nullcontext():
            hidden = self._encode(
                batch.input_values, batch.attention_mask, batch.mask_time_indices, batch.mask_feature_indices
            )
        logits = model.lm_head(model.dropout(hidden))  # (batch, frames, vocabulary)
        losses = nn.functional.ctc_loss(
            logits.float().log_softmax(-1).transpose(0, 1),
            batch.labels,
            batch.num_frames,
            batch.label_lengths,
            blank=model.config.pad_token_id,
            reduction="none",
            zero_infinity=True,
        )
        labelled = batch.label_lengths > 0
        total: torch.Tensor = losses[labelled].sum()
        if frozen:
            total = total + zero_gradient(model.base_model)
        # Zero stands for an infinite loss. The loss of a memorised utterance is zero, too, but it has enough frames.
        crowded = batch.num_frames < 2 * batch.label_lengths
        return total, labelled & (~losses.isfinite() | ((losses == 0) & crowded))

    def _run_encoder(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor,
        mask_time_indices: torch.Tensor | None,
        mask_feature_indices: torch.Tensor | None,
    ) -> torch.Tensor:
        masks = (mask_time_indices, mask_feature_indices if self.training else None)
        return self.model.base_model(
            input_values, attention_mask=attention_mask, mask_time_indices=masks
        ).last_hidden_state


def mask_as_told(model: Any) -> None:
    """Let an encoder apply the masks of a batch, where Transformers draws the mask over features itself."""
    kind = type(model.base_model)
    if not isinstance(model.base_model, _MaskedBase):
        replace_submodule(model, model.base_model_prefix, type(f"Masked{kind.__name__}", (_MaskedBase, kind), {}))


class _MaskedBase(nn.Module):
    config: Any
    masked_spec_embed: nn.Parameter

    def _mask_hidden_states(self, hidden: torch.Tensor, mask_time_indices: Any = None, **_: Any) -> torch.Tensor:
        """Mask (batch, frames, ..., hidden) by the masks over time and over features, each may be None."""
        over_time, over_features = mask_time_indices or (None, None)
        if over_time is not None and self.config.apply_spec_augment:
            if (stride := adapter_stride(self.config)) > 1:
                over_time = over_time.repeat_interleave(stride, 1)[:, : hidden.shape[1]]
            hidden[over_time] = self.masked_spec_embed.to(hidden.dtype)
        if over_features is None:
            return hidden
        return hidden.masked_fill(over_features.reshape(len(hidden), *[1] * (hidden.ndim - 2), -1), 0.0)
