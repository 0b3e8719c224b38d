"""The keys of a recipe's section `training`."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from finetune.recipe.schema import Section

RightContext = Annotated[float, Field(gt=0, le=60)]


class TrainingSection(Section):
    """Training; a step is an optimizer step over `batch_seconds` × `accumulation` × processes seconds of audio."""

    max_steps: int | None = Field(None, gt=0)
    """Length of the run in optimizer steps. By default 30 epochs, at least 1,000 and at most 80,000 steps; 1,000 with a
    stream."""
    max_epochs: float | None = Field(None, gt=0, le=1e9)
    """Length of the run in epochs."""
    max_minutes: float | None = Field(None, gt=0)
    """Training ends after this time."""
    patience: int | None = Field(None, gt=0)
    """Training ends after so many evaluations without a better one."""
    batch_seconds: Literal["auto"] | Annotated[float, Field(gt=0)] = 80.0
    """Seconds of audio, with padding, that one process computes at once. `auto`: what fits into the GPU, or into half
    of the CPU's free memory, up to 80 s."""
    accumulation: int = Field(1, gt=0, le=1000)
    """Micro-batches in an optimizer step of each process, which are all in memory."""
    learning_rate: float = Field(3e-4, gt=0)
    """Peak learning rate of AdamW."""
    head_learning_rate: float | None = Field(None, gt=0)
    """Peak learning rate of the head; by default that of the other weights."""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """The rate of each layer is that of the layer above times this. Source: Howard and Ruder 2018, arXiv 1801.06146."""
    schedule: Literal["linear", "cosine", "tri_stage"] = "linear"
    """How the rate falls after the warm-up; `tri_stage` holds it first. Source: tri-stage, Park et al. 2019, arXiv
    1904.08779."""
    warmup_ratio: float = Field(0.1, ge=0, lt=1)
    """Share of the steps in which the rate rises."""
    hold_ratio: float = Field(0.4, ge=0, lt=1)
    """Share of the steps in which `tri_stage` holds the rate."""
    freeze_transformer_steps: int = Field(0, ge=0)
    """In the first steps only the head is trained. Source: fairseq's `freeze_finetune_updates`."""
    weight_decay: float = Field(0.01, ge=0)
    """Weight decay of AdamW."""
    max_gradient_norm: float = Field(1.0, gt=0)
    """Gradients with a larger norm are scaled down to it."""
    mask_time_probability: float = Field(0.05, ge=0, lt=1)
    """Share of the frames that are masked in training. Source: SpecAugment, arXiv 1904.08779, as in wav2vec 2.0."""
    mask_time_length: int = Field(10, gt=0)
    """Length of a mask over time, in frames of 20 ms. Source: `mask_time_length` of `Wav2Vec2Config`."""
    mask_feature_probability: float = Field(0.0, ge=0, lt=1)
    """Share of the features that are masked in training. Source: SpecAugment, arXiv 1904.08779."""
    mask_feature_length: int = Field(10, gt=0)
    """Width of a mask over features. Source: `mask_feature_length` of `Wav2Vec2Config`."""
    right_context_seconds: tuple[RightContext, RightContext] | None = None
    """Bounds of the right context of the windows in which half of the batches are computed, for live transcription."""
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """`auto`: bf16 where the device has instructions for it, fp16 on other GPUs, `no` (float32) on other CPUs; a
    resumed run keeps its precision."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, more time."""
    compile: bool = False
    """Use torch.compile, with few padded lengths."""
    eval_steps: int | None = Field(None, gt=0)
    """Steps between evaluations. By default a tenth of the run, at least 200 and at most 2,000."""
    log_steps: int = Field(20, gt=0)
    """Steps between lines of metrics.jsonl and of the log."""
    keep_checkpoints: int = Field(2, gt=0)
    """The newest checkpoints that are kept, to resume."""
    keep_best: int = Field(1, gt=0)
    """The checkpoints with the lowest validation WER that are kept."""
    average_best: int = Field(1, gt=0)
    """The average of so many best checkpoints becomes the model if it is no worse than the best one."""
    num_workers: Literal["auto"] | Annotated[int, Field(ge=0)] = "auto"
    """Processes that load audio, for each training process. `auto` follows the usable cores; any number gives the same
    batches."""
    seed: int = Field(0, ge=0)
    """Seed of all random numbers."""
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Where metrics are also sent. Source: the trackers of Accelerate."""

    @model_validator(mode="after")
    def _possible(self) -> "TrainingSection":
        if self.max_steps is not None and self.max_epochs is not None:
            raise ValueError("expected either training.max_steps or training.max_epochs, not both")
        if self.right_context_seconds and self.right_context_seconds[0] > self.right_context_seconds[1]:
            raise ValueError("expected training.right_context_seconds as [smallest, largest]")
        if self.right_context_seconds and self.compile:
            raise ValueError(
                "expected either training.right_context_seconds or training.compile: windows vary in length"
            )
        if self.average_best > self.keep_best:
            raise ValueError("expected training.average_best to be at most training.keep_best")
        if self.schedule == "tri_stage" and self.warmup_ratio + self.hold_ratio >= 1:
            raise ValueError("expected training.warmup_ratio and training.hold_ratio to be less than 1 together")
        return self
