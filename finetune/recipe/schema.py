"""The sections of a recipe, their keys, and the checks of their values."""

import logging
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from finetune.audio.preprocessing import Transform as AudioTransform
from finetune.audio.preprocessing import build_preprocessor
from finetune.errors import did_you_mean
from finetune.resources.repositories import split_revision
from finetune.text.transcripts import DEFAULT_TRANSFORMS, NAMES, Transform, build_normalizer, expand

_LOGGER = logging.getLogger(__name__)

Range = tuple[float, float]
LoraModule = Literal[
    "q_proj", "k_proj", "v_proj", "out_proj", "intermediate_dense", "output_dense", "feature_projection.projection"
]


class Section(BaseModel):
    """A group of keys; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), use_attribute_docstrings=True)


class LoraSection(Section):
    """Low-rank adaptation (LoRA, Hu et al. 2021, arXiv 2106.09685): small matrices beside frozen ones, and the head."""

    rank: int = Field(16, gt=0)
    """Rank of the matrices beside each frozen layer. Source: `r` of peft's `LoraConfig`."""
    alpha: int = Field(32, gt=0)
    """The update is scaled by alpha / rank. Source: `lora_alpha` of peft."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout before the matrices. Source: `lora_dropout` of peft."""
    target_modules: tuple[LoraModule, ...] = Field(("q_proj", "v_proj"), min_length=1)
    """The linear layers of `Wav2Vec2ForCTC` that get matrices. Source: the default is that of the paper, arXiv
    2106.09685."""
    save: Literal["merged", "adapter"] = "merged"
    """`merged`: into the run's model, which is then an ordinary one; `adapter`: also into the run's folder adapter/."""


class ModelSection(Section):
    """The model to start from: a pretrained checkpoint (`base`), or an `architecture` with random weights.

    All weights are trained except the feature encoder, unless `lora` or `language_adapter` is set.
    """

    base: str | None = None
    """The pretrained checkpoint: a folder, or USER/NAME or USER/NAME@REVISION on a hub."""
    revision: str | None = None
    """A branch, a tag or a commit of the base on its hub."""
    architecture: dict[str, Any] | None = None
    """A model with random weights instead of a base: a wav2vec2, or with `type: lstm` or `type: cnn` a baseline, whose
    keys recipes/baselines lists. Source: the keys of Transformers' `Wav2Vec2Config`."""
    random_weights: bool = False
    """Use the architecture of the base with random weights: shows the effect of pretraining."""
    freeze_feature_encoder: bool = True
    """Do not train the convolutions. Source: wav2vec 2.0, arXiv 2006.11477."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout in the transformer. Source: `hidden_dropout` and its relatives of `Wav2Vec2Config`."""
    layer_drop: float = Field(0.0, ge=0, lt=1)
    """Probability to skip a layer in training. Source: LayerDrop, arXiv 1909.11556."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """The implementation of attention. Source: `attn_implementation` of Transformers."""
    lora: LoraSection | None = None
    """Train small matrices and the head instead of all weights: see model.lora. Source: LoRA, arXiv 2106.09685."""
    language_adapter: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    """ISO 639-3 code: train the adapters and the head of this language of an MMS base only, starting from those of the
    base if it has them. Source: MMS, arXiv 2305.13516."""

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
    """Configuration (subset) of a data set on a hub. Source: `name` of `datasets.load_dataset`."""
    revision: str | None = None
    """A branch, a tag or a commit of a data set on a hub."""
    train_split: str | None = None
    """Name of the training split; without it, it is found under its usual name."""
    validation_split: str | None = None
    """Name of the validation split; without it, it is found under its usual name."""
    test_split: str | None = None
    """Name of the test split; without it, it is found under its usual name."""
    audio_column: str | None = None
    """Column of the audio; without it, it is found under its usual names."""
    text_column: str | None = None
    """Column of the transcript; without it, it is found under its usual names."""
    speaker_column: str | None = None
    """Column of the speaker; without it, it is found under its usual names."""
    allow_outside: bool = False
    """Also read local audio outside the folder of the corpus."""
    weight: float = Field(1.0, gt=0)
    """How often an epoch has each training utterance, on average; with streaming, the share of rows relative to other
    sources."""
    streaming: bool = False
    """Read a hub's data set or Parquet files row by row in training, without a local copy. The other splits are kept in
    memory."""
    columns: tuple[str, ...] = ()
    """Other columns, such as gender or accent, to keep with the results."""


class SourceSection(_SourceKeys):
    """One source of speech: a folder, a manifest or a hub name, with its splits and columns."""

    root: str
    """A folder, a manifest, a URL, or the name of a data set on a hub."""


class DataSection(_SourceKeys):
    """The speech: one source (`root` and the keys of a source), or a list of `sources` that are used together."""

    sources: tuple[SourceSection, ...] = ()
    """Several sources that are used together, each with the keys of data.sources."""
    root: str | None = Field(None, validate_default=True)
    """A folder, a manifest, a URL, or the name of a data set on a hub: the only source."""
    validation_fraction: float = Field(0.1, gt=0, lt=1)
    """Share of the training utterances that is held out if there is no validation split, by speakers if they are known.
    """
    min_seconds: float = Field(0.1, gt=0)
    """Shorter utterances are skipped in training."""
    max_seconds: float = Field(20.0, gt=0)
    """Longer utterances are skipped in training."""
    preprocessing: tuple[AudioTransform, ...] = ()
    """Transforms of all audio, in training and use: highpass, trim_silence, loudness, peak, denoise."""
    allow_changes: bool = False
    """Resume a run even if its data or its vocabulary have changed; not with a vocabulary of another size."""

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
    """Text normalisation of transcripts in training and scoring, and the vocabulary."""

    normalization: tuple[Transform, ...] = DEFAULT_TRANSFORMS
    """Transforms or presets, in order, for transcripts in training and scoring."""
    vocabulary: Literal["training", "base", "extended"] = "training"
    """`training`: the characters of the training transcripts; `base`: those of the base, whose head is kept;
    `extended`: both."""
    characters: str | None = Field(None, min_length=1)
    """The characters of the vocabulary, instead of those of the training transcripts."""
    min_character_count: int = Field(1, gt=0)
    """Rarer characters of the training transcripts are left out of the vocabulary."""

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
    """Augmentation of training waveforms; ranges are [lowest, highest], and what is left out is off."""

    speed: Range | None = None
    """Range of factors of the speed, and with it the pitch. Source: Ko et al. 2015, “Audio augmentation for speech
    recognition”."""
    formant_perturbation: float | None = Field(None, gt=0, le=0.5)
    """Each formant is moved at random by a factor of up to exp(1.5 × this value), as if another speaker had spoken."""
    reverb_probability: float = Field(0.5, ge=0, le=1)
    """Share of the utterances that get reverberation, where it is set."""
    reverb_seconds: Range | None = None
    """Range of reverberation times (RT60) in s of generated room impulse responses."""
    impulse_response_folder: str | None = None
    """Recordings of room impulse responses, used instead of generated ones."""
    noise_probability: float = Field(0.5, ge=0, le=1)
    """Share of the utterances that get noise, where it is set."""
    noise_snr_db: Range | None = None
    """Range of signal-to-noise ratios in dB; turns noise on."""
    noise_folder: str | None = None
    """Recordings of noise, used instead of generated noise."""
    gain_db: Range | None = None
    """Range of gains in dB."""
    clipping_probability: float = Field(0.0, ge=0, le=1)
    """Share of the utterances that are clipped."""
    telephone_probability: float = Field(0.0, ge=0, le=1)
    """Share of the utterances that get the band and the coding of a telephone."""

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


class EvaluationSection(Section):
    """Scoring."""

    batch_seconds: float = Field(80.0, gt=0)
    """Seconds of audio, with padding, in a batch of the evaluation; scores do not depend on it."""


class PublishingSection(Section):
    """The fields of the model card that only you know, and the repository that the model is pushed to.

    A push that fails never fails the run.
    """

    title: str | None = None
    """Title of the model card."""
    language: str | tuple[str, ...] | None = None
    """Codes of ISO 639, such as en, for the model card."""
    license: str | None = None
    """Licence of the model. Source: the identifiers of the hub."""
    intended_use: str | None = None
    """Intended uses, for the model card."""
    limitations: str | None = None
    """Limitations, for the model card."""
    energy_kwh: float | None = Field(None, gt=0)
    """Energy of the whole training, where you measured it."""
    repo_id: str | None = None
    """USER/NAME on the hub to which the finished model is pushed; created if it does not exist."""
    push: Literal["end", "best", "every"] = "end"
    """`end`: the final model; `best`: also the best one so far, during training; `every`: also every evaluated one, to
    the branch training. Models that come faster than they are sent are skipped for newer ones."""
    private: bool = False
    """Create the repository as a private one."""

    @model_validator(mode="after")
    def _has_a_place(self) -> "PublishingSection":
        if self.repo_id is None and (self.push != "end" or self.private):
            raise ValueError("expected publishing.repo_id, a repository on the hub, beside push and private")
        return self
