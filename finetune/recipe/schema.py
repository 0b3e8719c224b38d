"""The sections of a recipe, their keys, and the checks of their values."""

import difflib
import logging
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from finetune.audio.preprocessing import Transform as AudioTransform
from finetune.audio.preprocessing import build_preprocessor
from finetune.resources.repositories import split_revision
from finetune.text.transcripts import DEFAULT_TRANSFORMS, NAMES, Transform, build_normalizer, expand

_LOGGER = logging.getLogger(__name__)

Range = tuple[float, float]
RightContext = Annotated[float, Field(gt=0, le=60)]
LoraModule = Literal[
    "q_proj", "k_proj", "v_proj", "out_proj", "intermediate_dense", "output_dense", "feature_projection.projection"
]


class Section(BaseModel):
    """A group of keys; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class LoraSection(Section):
    """Low-rank adaptation (LoRA, Hu et al. 2021, arXiv 2106.09685): small matrices beside frozen ones, and the head.

    `rank`, `alpha`, `dropout` and `target_modules` are r, lora_alpha, lora_dropout and target_modules of peft's
    `LoraConfig`; the modules are linear layers of `Wav2Vec2ForCTC`, by default those of the paper. The adapter is
    `merged` into the run's model, which is then an ordinary one; `adapter` also saves it in the run's folder adapter/.
    """

    rank: int = Field(16, gt=0)
    alpha: int = Field(32, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: tuple[LoraModule, ...] = Field(("q_proj", "v_proj"), min_length=1)
    save: Literal["merged", "adapter"] = "merged"


class ModelSection(Section):
    """The model to start from: a pretrained checkpoint (`base`), or an `architecture` with random weights.

    A base on a hub may have a `revision` (a branch, a tag or a commit), also written as `base: USER/NAME@REVISION`; the
    keys of `architecture` are those of `Wav2Vec2Config`. All weights are trained except the feature encoder, unless
    `lora` or `language_adapter` is set. The latter is the name of a language (ISO 639-3, as in adapter.deu.safetensors)
    for a base with adapters such as facebook/mms-1b-all (Pratap et al. 2023, arXiv 2305.13516): only the adapters and
    the head of that language are trained, starting from those of the base if it has them. `layer_drop` is the
    probability to skip a layer in training (LayerDrop, Fan et al. 2020); `attention` is the name of an implementation
    in Transformers.
    """

    base: str | None = None
    revision: str | None = None
    architecture: dict[str, Any] | None = None
    random_weights: bool = False  # the architecture of the base with random weights: shows the effect of pretraining
    freeze_feature_encoder: bool = True
    dropout: float = Field(0.1, ge=0, lt=1)
    layer_drop: float = Field(0.0, ge=0, lt=1)
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    lora: LoraSection | None = None
    language_adapter: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")

    @model_validator(mode="before")
    @classmethod
    def _split_revision(cls, values: Any) -> Any:
        base = values.get("base") if isinstance(values, dict) else None
        name, named = split_revision(base) if isinstance(base, str) else (base, None)
        if named is None:
            return values
        if (revision := values.get("revision")) not in (None, named):
            raise ValueError(f"expected one revision, found {named} in model.base and {revision} in model.revision")
        return {**values, "base": name, "revision": named}

    @model_validator(mode="after")
    def _consistent(self) -> "ModelSection":
        if (self.base is None) == (self.architecture is None):
            raise ValueError("expected either model.base (a folder or a hub name) or model.architecture")
        if self.lora and self.language_adapter:
            raise ValueError("expected either model.lora or model.language_adapter, not both")
        name = "model.lora" if self.lora else "model.language_adapter"
        if self.lora or self.language_adapter:
            if self.base is None or self.random_weights:
                raise ValueError(f"expected a model.base with its own weights beside {name}, which leaves them frozen")
            if not self.freeze_feature_encoder:
                raise ValueError(f"expected model.freeze_feature_encoder=true beside {name}, which trains little else")
        return self


class _SourceKeys(Section):
    configuration: str | None = None
    revision: str | None = None
    train_split: str | None = None
    validation_split: str | None = None
    test_split: str | None = None
    audio_column: str | None = None
    text_column: str | None = None
    speaker_column: str | None = None
    allow_outside: bool = False
    weight: float = Field(1.0, gt=0)
    streaming: bool = False
    columns: tuple[str, ...] = ()


class SourceSection(_SourceKeys):
    """One source of speech: a folder, a manifest or a hub name, with its splits and columns.

    A split that is not named is found under its usual name. An epoch has each training utterance `weight` times on
    average. Local audio outside the corpus' folder is read only with `allow_outside`. With `streaming` training reads a
    hub's data set or Parquet files row by row without a local copy, and the other splits are kept in memory. Because a
    stream has no known length, `weight` is then relative to the rows of the other sources: with 3 and 1, three rows in
    four are of the first source. `columns` names other columns (gender, accent) to keep with the results.
    """

    root: str


class DataSection(_SourceKeys):
    """The speech: one source (the keys of `SourceSection`), or a list of `sources` that are used together.

    Without a validation split, `validation_fraction` of the training utterances is held out, by speakers if they are
    known. `preprocessing` is applied to all audio, also when the model is used. With `allow_changes` a run is resumed
    even if its data or its vocabulary have changed.
    """

    sources: tuple[SourceSection, ...] = ()
    root: str | None = Field(None, validate_default=True)
    validation_fraction: float = Field(0.1, gt=0, lt=1)
    min_seconds: float = Field(0.1, gt=0)
    max_seconds: float = Field(20.0, gt=0)
    preprocessing: tuple[AudioTransform, ...] = ()
    allow_changes: bool = False

    @field_validator("preprocessing")
    @classmethod
    def _known_steps(cls, steps: tuple[AudioTransform, ...]) -> tuple[AudioTransform, ...]:
        build_preprocessor(steps, 16000)
        return steps

    @field_validator("sources", mode="before")
    @classmethod
    def _names_are_roots(cls, sources: Any) -> Any:
        return [{"root": s} if isinstance(s, str) else s for s in sources] if isinstance(sources, list) else sources

    @field_validator("root")
    @classmethod
    def _some_source(cls, root: str | None, info: ValidationInfo) -> str | None:
        if root is None and not info.data.get("sources", True):
            raise PydanticCustomError("missing", "Field required")
        return root

    @model_validator(mode="after")
    def _one_or_many(self) -> "DataSection":
        fields = {"root": None, **{name: field.default for name, field in _SourceKeys.model_fields.items()}}
        single = [name for name, default in fields.items() if getattr(self, name) != default]
        if self.sources and single:
            raise ValueError(f"expected either data.sources or data.{single[0]}: with sources it is a key of each")
        return self

    @property
    def all_sources(self) -> tuple[SourceSection, ...]:
        """The list, or the single source as one."""
        if self.sources:
            return self.sources
        return (SourceSection(**{key: getattr(self, key) for key in SourceSection.model_fields}),)


class TextSection(Section):
    """Text normalisation of transcripts in training and scoring (named steps or presets in order), and the vocabulary.

    With `vocabulary: training` it has the characters of the training transcripts that occur at least
    `min_character_count` times, or the given `characters`. With `base` it is the vocabulary of the pretrained
    checkpoint, whose head is kept, and with `extended` also has the characters of the training transcripts.
    """

    normalization: tuple[Transform, ...] = DEFAULT_TRANSFORMS
    vocabulary: Literal["training", "base", "extended"] = "training"
    characters: str | None = Field(None, min_length=1)
    min_character_count: int = Field(1, gt=0)

    @field_validator("normalization", mode="before")
    @classmethod
    def _one_or_many(cls, steps: Any) -> Any:
        return (steps,) if isinstance(steps, str | dict) else steps

    @field_validator("normalization")
    @classmethod
    def _known_steps(cls, steps: tuple[Transform, ...]) -> tuple[Transform, ...]:
        for step in steps:
            name = step if isinstance(step, str) else next(iter(step), "")
            if name not in NAMES:
                raise ValueError(f"unknown transform '{name}'{did_you_mean(name, NAMES)} known are {', '.join(NAMES)}")
        build_normalizer(steps)
        return expand(steps)

    @model_validator(mode="after")
    def _one_vocabulary(self) -> "TextSection":
        if self.characters is not None and self.vocabulary != "training":
            raise ValueError("expected either text.characters or text.vocabulary, not both")
        return self


class AugmentationSection(Section):
    """Augmentation of training waveforms; ranges are [lowest, highest], and what is left out is off.

    `formant_perturbation` moves each formant at random by a factor of up to exp(1.5 × its value), as if another speaker
    had spoken.
    Noise is generated, or taken from the recordings in `noise_folder`. Room impulse responses are generated with a
    reverberation time (RT60) in `reverb_seconds`, or taken from the recordings in `impulse_response_folder`.
    """

    speed: Range | None = None
    formant_perturbation: float | None = Field(None, gt=0, le=0.5)
    reverb_probability: float = Field(0.5, ge=0, le=1)
    reverb_seconds: Range | None = None
    impulse_response_folder: str | None = None
    noise_probability: float = Field(0.5, ge=0, le=1)
    noise_snr_db: Range | None = None
    noise_folder: str | None = None
    gain_db: Range | None = None
    clipping_probability: float = Field(0.0, ge=0, le=1)
    telephone_probability: float = Field(0.0, ge=0, le=1)

    @model_validator(mode="before")
    @classmethod
    def _rename(cls, values: Any) -> Any:
        """Accept the old name of `formant_perturbation`."""
        if not isinstance(values, dict) or "vocal_tract" not in values:
            return values
        if "formant_perturbation" in values:
            raise ValueError("expected augmentation.formant_perturbation alone: vocal_tract is its old name")
        _LOGGER.warning("augmentation.vocal_tract is read as augmentation.formant_perturbation, which is its new name")
        return {"formant_perturbation" if key == "vocal_tract" else key: value for key, value in values.items()}

    @field_validator("reverb_seconds")
    @classmethod
    def _rooms(cls, seconds: Range | None) -> Range | None:
        if seconds and not 0 < seconds[0] <= seconds[1] <= 10:
            raise ValueError("expected two times in seconds, above 0 and up to 10, the lower one first")
        return seconds

    @field_validator("noise_snr_db", "gain_db")
    @classmethod
    def _ordered(cls, decibels: Range | None) -> Range | None:
        if decibels and decibels[0] > decibels[1]:
            raise ValueError("expected two numbers, the lower one first")
        return decibels

    @model_validator(mode="after")
    def _noise_has_a_level(self) -> "AugmentationSection":
        if self.noise_folder and not self.noise_snr_db:
            raise ValueError("expected augmentation.noise_snr_db=[LOWEST, HIGHEST] beside augmentation.noise_folder")
        return self

    @field_validator("speed")
    @classmethod
    def _positive(cls, speed: Range | None) -> Range | None:
        if speed and not 0.5 <= speed[0] <= speed[1] <= 2:
            raise ValueError("expected two factors between 0.5 and 2, the lower one first")
        return speed


class TrainingSection(Section):
    """Training; a step is an optimizer step over `batch_seconds` × `accumulation` × processes seconds of audio.

    `batch_seconds: auto` is as much as fits into the GPU, or into half of the CPU's free memory, up to 80 s. The
    learning rate rises for `warmup_ratio` of the steps and then decays by its `schedule`, with `tri_stage` (Park et al.
    2019) after a hold for `hold_ratio` of the steps. The head may have a rate of its own; with `layer_decay` the rate
    of each layer is that of the layer above times the decay (Howard and Ruder 2018). In the first
    `freeze_transformer_steps` only the head is trained (fairseq's freeze_finetune_updates). Masks are those of
    SpecAugment (Park et al. 2019), over time and over features, as in wav2vec 2.0.

    A run has `max_steps`, or `max_epochs`, or by default 30 epochs, but at least 1,000 and at most 80,000 steps; with a
    stream, whose length is unknown, 1,000. It is evaluated every `eval_steps`: by default a tenth of the run, at least
    200 and at most 2,000.

    The newest `keep_checkpoints` are kept, and the `keep_best` by validation WER; the average of the `average_best`
    becomes the model if it is no worse than the best. Training ends early after `patience` evaluations without a better
    one, and after `max_minutes`. `num_workers` processes load audio for each training process; `auto` follows the
    usable cores, and any number gives the same batches. `compile` uses torch.compile, with few padded lengths.

    With `right_context_seconds: [0.3, 4]` half of the batches are computed in windows with a right context drawn
    between these bounds, for live transcription (see finetune/models/windowed_encoder.py).

    `mixed_precision: auto` is bf16 where the device has instructions for it, fp16 on other GPUs, and `no` (float32) on
    other CPUs; a resumed run keeps its precision.
    """

    max_steps: int | None = Field(None, gt=0)
    max_epochs: float | None = Field(None, gt=0)
    max_minutes: float | None = Field(None, gt=0)
    patience: int | None = Field(None, gt=0)
    batch_seconds: Literal["auto"] | Annotated[float, Field(gt=0)] = 80.0
    accumulation: int = Field(1, gt=0)
    learning_rate: float = Field(3e-4, gt=0)
    head_learning_rate: float | None = Field(None, gt=0)
    layer_decay: float = Field(1.0, gt=0, le=1)
    schedule: Literal["linear", "cosine", "tri_stage"] = "linear"
    warmup_ratio: float = Field(0.1, ge=0, lt=1)
    hold_ratio: float = Field(0.4, ge=0, lt=1)
    freeze_transformer_steps: int = Field(0, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    max_gradient_norm: float = Field(1.0, gt=0)
    mask_time_probability: float = Field(0.05, ge=0, lt=1)
    mask_time_length: int = Field(10, gt=0)
    mask_feature_probability: float = Field(0.0, ge=0, lt=1)
    mask_feature_length: int = Field(10, gt=0)
    right_context_seconds: tuple[RightContext, RightContext] | None = None
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    gradient_checkpointing: bool = False
    compile: bool = False
    eval_steps: int | None = Field(None, gt=0)
    log_steps: int = Field(20, gt=0)
    keep_checkpoints: int = Field(2, gt=0)
    keep_best: int = Field(1, gt=0)
    average_best: int = Field(1, gt=0)
    num_workers: Literal["auto"] | Annotated[int, Field(ge=0)] = "auto"
    seed: int = Field(0, ge=0)
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()

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


class EvaluationSection(Section):
    """Scoring."""

    batch_seconds: float = Field(80.0, gt=0)


class PublishingSection(Section):
    """The fields of the model card that only you know, and the repository that the model is pushed to.

    The finished model is pushed to `repo_id` (USER/NAME) on the hub, which is created, `private` or not, if it does not
    exist. With `push: best` the best model so far is also pushed during training, to main, and with `every` the model
    of every evaluation, to the branch `training`; models that come faster than they are sent are skipped for newer
    ones. A push that fails never fails the run.
    """

    title: str | None = None
    language: str | tuple[str, ...] | None = None  # codes of ISO 639, as en
    license: str | None = None
    intended_use: str | None = None
    limitations: str | None = None
    energy_kwh: float | None = Field(None, gt=0)  # for the whole training, where you measured it
    repo_id: str | None = None
    push: Literal["end", "best", "every"] = "end"
    private: bool = False

    @model_validator(mode="after")
    def _has_a_place(self) -> "PublishingSection":
        if self.repo_id is None and (self.push != "end" or self.private):
            raise ValueError("expected publishing.repo_id, a repository on the hub, beside push and private")
        return self


def did_you_mean(name: str, known: Any) -> str:
    """The text after "unknown NAME" in an error, with the most similar of the known names if one is similar."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ";"
