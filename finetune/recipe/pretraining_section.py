"""The keys of a recipe's section `pretraining`, and the other keys that have no effect in pre-training."""

from typing import Any

from pydantic import Field, model_validator

from finetune.recipe.schema import Section

# What pre-training has no use for: whole sections, and keys of others. Each must be as it is by default.
_WITHOUT_EFFECT = {
    "model": ("freeze_feature_encoder", "lora", "language_adapter"),
    "data": ("test_split", "text_column"),
    "text": None,
    "publishing": None,
    "training": (
        *("patience", "head_learning_rate", "layer_decay", "freeze_transformer_steps", "right_context_seconds"),
        *("mask_time_probability", "mask_time_length", "mask_feature_probability", "mask_feature_length"),
        *("keep_best", "average_best", "compile"),
    ),
}
_INSTEAD = {
    "model.freeze_feature_encoder": "pretraining.feature_gradient_scale=0 freezes the convolutions",
    "training.mask_time_probability": "pretraining.mask_probability masks frames",
    "training.mask_time_length": "pretraining.mask_length is the length of masks",
}


class PretrainingSection(Section):
    """Pre-training on speech without transcripts by `finetune pretrain`; `finetune train` refuses the section.

    The defaults are those of wav2vec 2.0 (arXiv 2006.11477), as in fairseq's
    examples/wav2vec/config/pretraining/wav2vec2_base_librispeech.yaml. The size of the codebook is that of the base, or
    of `model.architecture`.
    """

    mask_probability: float = Field(0.65, gt=0, lt=1)
    """Share of the frames that masks would cover if none overlapped; about half are masked. Source: `mask_prob` of
    fairseq, arXiv 2006.11477."""
    mask_length: int = Field(10, gt=1)
    """Length of a mask, in frames of 20 ms. Source: `mask_length` of fairseq, arXiv 2006.11477."""
    num_negatives: int = Field(100, gt=0)
    """Other masked frames of the utterance that the right one is told from. Source: arXiv 2006.11477."""
    diversity_weight: float = Field(0.1, ge=0)
    """Weight of the loss for codes that are seldom used. Source: arXiv 2006.11477."""
    feature_gradient_scale: float = Field(0.1, ge=0, le=1)
    """The gradient of the convolutions is scaled by this; 0 leaves them as they are. Source: `feature_grad_mult` of
    fairseq."""
    start_temperature: float = Field(2.0, gt=0)
    """Temperature of the Gumbel softmax that chooses codes, in the first step. Source: arXiv 2006.11477."""
    end_temperature: float = Field(0.5, gt=0)
    """The lowest temperature. Source: arXiv 2006.11477."""
    temperature_decay: float = Field(0.999995, gt=0, le=1)
    """The temperature of each step is that of the step before times this. Source: arXiv 2006.11477."""

    @model_validator(mode="after")
    def _ordered(self) -> "PretrainingSection":
        if self.end_temperature > self.start_temperature:
            raise ValueError("expected pretraining.end_temperature to be at most pretraining.start_temperature")
        return self

    def temperature(self, step: int) -> float:
        """The temperature of a step, the first being 0."""
        return max(self.start_temperature * self.temperature_decay**step, self.end_temperature)


def list_without_effect(recipe: Any) -> list[str]:
    """A sentence for each key of a recipe that is not as it is by default and that pre-training has no use for."""
    found = []
    for name, keys in _WITHOUT_EFFECT.items():
        section = getattr(recipe, name)
        sections = [(name, section)]
        if name == "data":
            sections += [(f"data.sources.{i}", source) for i, source in enumerate(section.sources)]
        for place, each in sections:
            for key, field in type(each).model_fields.items():
                unused = keys is None or key in keys
                if unused and getattr(each, key) != field.get_default(call_default_factory=True):
                    instead = _INSTEAD.get(f"{place}.{key}", "leave it out")
                    found.append(f"{place}.{key}: it has no effect in pre-training: {instead}")
    if recipe.training.batch_seconds == "auto":
        found.append("training.batch_seconds: it can't be found for pre-training: give a number of seconds")
    return found
