"""A wav2vec2 in pre-training: an encoder, a quantizer of its features, and wav2vec 2.0's loss without transcripts.

Source: Baevski et al. 2020, "wav2vec 2.0", arXiv 2006.11477. The weights are those of `Wav2Vec2ForPreTraining`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from finetune.data.batching import Batch
from finetune.errors import UserError
from finetune.models.build import configure_training, loading, mask_as_told, zero_gradient
from finetune.models.replacement import replace_submodule
from finetune.models.weights import CODES, MASK, load_pretraining_model

# What a base may lack, in words.
QUANTIZER = "quantizer"

# More weights than the quantizer of any published model has: 640 codes of 384 values for wav2vec2-large.
_MOST_CODE_WEIGHTS = 10_000_000
# Variance, relative to the largest, that is added to that of all directions of the features: some have next to none.
_LEAST_VARIANCE = 0.01
# Time masks of a checkpoint that has none; without one Transformers would not write the embedding of masked frames.
_MASK_PROBABILITY = 0.05


def require_pretraining(config: Any) -> None:
    """Raise UserError for an architecture that is not pre-trained here, and for a codebook without limit."""
    if config.model_type != "wav2vec2":
        raise UserError(
            f"A {config.model_type} model can't be pre-trained here: its own pre-training has another loss or other "
            "parts than wav2vec 2.0's; expected a wav2vec2 as model.base."
        )
    if config.add_adapter:
        raise UserError("A wav2vec2 with add_adapter has fewer frames than are masked: expected a base without it.")
    groups, entries, width = config.num_codevector_groups, config.num_codevectors_per_group, config.codevector_dim
    if not groups or not entries or width % groups:
        raise UserError(
            f"The configuration has {groups} groups of {entries} codes with {width} values together: expected at least "
            "one of each, and a codevector_dim that num_codevector_groups divides."
        )
    weights = groups * entries * (width // groups + config.conv_dim[-1])
    weights += config.proj_codevector_dim * (width + config.hidden_size)
    if weights > _MOST_CODE_WEIGHTS:
        raise UserError(
            f"The configuration asks for {weights:,} weights of codes: expected {_MOST_CODE_WEIGHTS:,} at most."
        )


def build_pretraining_model(
    config: Any,
    base: str | None,
    *,
    dropout: float,
    feature_gradient_scale: float,
    seed: int,
    revision: str | None = None,
    attention: str | None = None,
    layer_drop: float = 0.0,
    gradient_checkpointing: bool = False,
) -> tuple[Any, tuple[str, ...]]:
    """A `Wav2Vec2ForPreTraining` from a checkpoint (random weights if `base` is None), and which parts of it are new.

    A base without a quantizer and its two projections, or without the embedding of masked frames, gets new ones from
    `seed`. Padding changes nothing (see `ignore_padding`). For the other arguments see `build_model`.

    Raises UserError for another architecture, and if the checkpoint lacks any other weight or has only some of those.
    """
    from transformers import AutoModelForPreTraining

    from finetune.models.layer_drop import drop_layers
    from finetune.models.padding import ignore_padding

    require_pretraining(config)
    configure_training(config, dropout, config.mask_time_prob or _MASK_PROBABILITY)
    config.feat_quantizer_dropout = dropout
    torch.manual_seed(seed)
    with loading(base):
        if base is None:
            options = {"dtype": torch.float32, "attn_implementation": attention}
            model = AutoModelForPreTraining.from_config(config, trust_remote_code=False, **options)
            lacking = set[str]()
        else:
            options = {"config": config, "attn_implementation": attention}
            model, lacking = load_pretraining_model(base, base, revision=revision, **options)
    new = _name_new_parts(str(base), model, lacking)
    ignore_padding(model)
    mask_as_told(model)
    if feature_gradient_scale == 0:
        model.freeze_feature_encoder()
    else:
        encoder: Any = type(model.base_model.feature_extractor)
        kind = type(f"Scaled{encoder.__name__}", (_ScaledGradient, encoder), {})
        replace_submodule(model.base_model, "feature_extractor", kind, gradient_scale=feature_gradient_scale)
    if layer_drop:
        drop_layers(model, layer_drop)
    if gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model, new


def _name_new_parts(base: str, model: Any, lacking: set[str]) -> tuple[str, ...]:
    """What a checkpoint lacks, in words; raises UserError where it has a part of a quantizer."""
    codes = {name for name in model.state_dict() if name.startswith(CODES)}
    missing = codes & lacking
    if missing and missing != codes:
        raise UserError(
            f"{base} has some of the weights of a quantizer, and lacks {', '.join(sorted(missing))}: expected all or "
            "none; save or copy the model again."
        )
    mask = any(name.endswith(f".{MASK}") for name in lacking)
    return (QUANTIZER,) * bool(missing) + ("embedding of masked frames",) * mask


@torch.no_grad()
def spread_codes(model: Any, batches: Iterable[Batch]) -> None:
    """Fit a new quantizer to a checkpoint's features, so that frames of some batches are spread over the codes.

    Its random projection gets features with mean 0 and, but for directions of little variance, covariance 1 (the
    projection of BEST-RQ, Chiu et al. 2022, arXiv 2202.01855, gets features of mean 0 and variance 1). The features of
    a checkpoint that was trained otherwise differ by little but their loudness: of the small base of this repository
    the first batches of AN4 have 39 of 640 codes in use without this, and 238 with it. The loss for diversity has
    nearly no gradient where so few are.
    """
    found = []
    for batch in batches:
        outputs = model.base_model(batch.input_values, attention_mask=batch.attention_mask, mask_time_indices=None)
        found.append(outputs.extract_features[batch.mask_time_indices].double().cpu())
    features, projection = torch.cat(found), model.quantizer.weight_proj
    if len(features) < 2:
        return
    values, directions = torch.linalg.eigh(torch.cov(features.T))
    scales = (values.clamp(min=0) + _LEAST_VARIANCE * values.max()).rsqrt()
    weight = projection.weight.double().cpu() @ (directions * scales) @ directions.T
    projection.weight.copy_(weight)
    projection.bias.sub_((weight @ features.mean(0)).to(projection.bias))


class _ScaledGradient(nn.Module):
    """A feature encoder whose gradient is scaled, for its weights to change less (fairseq's GradMultiply)."""

    gradient_scale: float

    def forward(self, *arguments: Any) -> torch.Tensor:
        """The features as they are."""
        features: torch.Tensor = super().forward(*arguments)
        if features.requires_grad:
            scale = self.gradient_scale
            features.register_hook(lambda gradient: gradient * scale)
        return features


@dataclass(frozen=True)
class CodeCounts:
    """What a model makes of a batch without noise: sums over its masked frames.

    `loss` is the contrastive loss, `correct` are the frames told from all of their negatives, and `codes` (groups,
    entries) is how often each code was chosen. Counts add.
    """

    loss: torch.Tensor
    correct: torch.Tensor
    codes: torch.Tensor


class PretrainingObjective(nn.Module):
    """A model whose forward pass gives wav2vec 2.0's loss, summed, so that it can be divided by a global count."""

    temperature = 2.0
    """Of the Gumbel softmax; set before each step."""

    def __init__(self, model: Any, *, diversity_weight: float) -> None:
        super().__init__()
        self.model = model
        self._diversity_weight = diversity_weight

    def forward(self, batch: Batch, frozen: bool = False) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of the masked frames of a batch of `MaskedBatches`, no mask of utterances without, and other sums.

        The sums are the contrastive loss, the frames that are told from all of their negatives, and the perplexity of
        the codes times the masked frames. `frozen` has no effect.
        """
        predicted, logits = self._encode(batch)
        if not len(logits):
            zero = zero_gradient(self)
            return zero, torch.zeros(len(batch.num_frames), dtype=torch.bool, device=zero.device), _name_sums(zero)
        soft = ((logits + self._draw_noise(batch, logits)) / self.temperature).softmax(-1)
        codes = soft.argmax(-1)
        # One code in the forward pass, and the gradient of the soft choice: the straight-through estimator.
        chosen = nn.functional.one_hot(codes, logits.shape[-1]) + (soft - soft.detach())
        losses, correct = self._contrast(batch, predicted, chosen, codes)
        perplexity = measure_perplexity(logits.softmax(-1).mean(0))
        entries = logits.shape[1] * logits.shape[2]
        loss = losses.sum()
        total = loss + self._diversity_weight * len(logits) * (entries - perplexity) / entries
        sums = _name_sums(loss.detach(), correct.sum().float(), perplexity.detach() * len(logits))
        return total, torch.zeros(len(batch.num_frames), dtype=torch.bool, device=total.device), sums

    @torch.no_grad()
    def measure(self, batch: Batch) -> CodeCounts:
        """The contrastive loss and the codes of a batch, each frame with its most probable code."""
        predicted, logits = self._encode(batch)
        codes = logits.argmax(-1)
        chosen = nn.functional.one_hot(codes, logits.shape[-1]).to(logits.dtype)
        losses, correct = self._contrast(batch, predicted, chosen, codes)
        return CodeCounts(losses.sum(), correct.sum(), chosen.sum(0))

    def _encode(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """What is predicted for each masked frame, (masked, width), and its logits of codes, (masked, groups, entries).

        Only masked frames are quantized: no other frame is a target or a negative.
        """
        model, masks = self.model, batch.mask_time_indices
        outputs = model.base_model(
            batch.input_values, attention_mask=batch.attention_mask, mask_time_indices=(masks, None)
        )
        predicted = model.project_hid(outputs.last_hidden_state[masks])
        logits = model.quantizer.weight_proj(model.dropout_features(outputs.extract_features[masks]))
        config = model.config
        return predicted.float(), logits.float().unflatten(
            -1, (config.num_codevector_groups, config.num_codevectors_per_group)
        )

    def _draw_noise(self, batch: Batch, logits: torch.Tensor) -> torch.Tensor:
        """Gumbel noise of the shape of the logits, which depends on the utterance alone and not on its batch."""
        assert batch.seeds is not None
        noise = torch.empty_like(logits)
        parts = noise.split(batch.label_lengths.tolist())
        for part, seed in zip(parts, batch.seeds.tolist(), strict=True):
            generator = torch.Generator(logits.device).manual_seed(seed)
            part.exponential_(generator=generator)
        return -noise.log()

    def _contrast(
        self, batch: Batch, predicted: torch.Tensor, chosen: torch.Tensor, codes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The contrastive loss of each masked frame, and whether it is told from all of its negatives: (masked,) twice.

        A negative with the code of the frame itself is none, and a frame that has no other is not told from any. The
        similarities of an utterance are one matrix product, from which the negatives are taken.
        """
        model = self.model
        with torch.autocast(predicted.device.type, enabled=False):
            quantized = self._quantize(chosen)
            predicted, quantized = (nn.functional.normalize(each, dim=-1) for each in (predicted, quantized))
            lengths = batch.label_lengths.tolist()
            right, wrong = [], []
            entries = model.config.num_codevectors_per_group
            names = (codes * entries ** torch.arange(codes.shape[1], device=codes.device)).sum(-1)
            rows = zip(*(each.split(lengths) for each in (predicted, quantized, batch.labels, names)), strict=True)
            for own, theirs, negatives, name in rows:
                similar = own @ theirs.T / model.config.contrastive_logits_temperature
                right.append(similar.diagonal())
                same = name[negatives] == name[:, None]
                wrong.append(similar.gather(1, negatives).masked_fill(same, -torch.inf))
            positive, negative = torch.cat(right)[:, None], torch.cat(wrong)
            losses = torch.cat([positive, negative], 1).logsumexp(1) - positive[:, 0]
            best = negative.detach().amax(1)
            return losses, (positive[:, 0] > best) & best.isfinite()

    def _quantize(self, chosen: torch.Tensor) -> torch.Tensor:
        """The projected vectors of chosen codes, (masked, groups, entries) one-hot to (masked, width)."""
        model = self.model
        codebook = model.quantizer.codevectors[0].unflatten(0, chosen.shape[1:])  # (groups, entries, width)
        vectors = torch.einsum("mge,gew->mgw", chosen, codebook).flatten(1)
        projected: torch.Tensor = model.project_q(vectors)
        return projected


def _name_sums(*sums: torch.Tensor) -> dict[str, torch.Tensor]:
    names = ("contrastive_loss", "contrastive_accuracy", "codebook_perplexity")
    given = [each.detach() for each in sums]
    return dict(zip(names, given if len(given) == len(names) else given * len(names), strict=True))


def measure_perplexity(probabilities: torch.Tensor) -> torch.Tensor:
    """The perplexity of (groups, entries) probabilities, summed over groups: from their number to that of all codes."""
    # Where a probability is zero, the logarithm has no gradient without the constant (fairseq's).
    return (-(probabilities * (probabilities + 1e-7).log()).sum(-1)).exp().sum()
