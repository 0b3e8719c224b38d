"""wav2vec2 and its relatives: the architectures that a base may have, and how they differ from wav2vec2."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from finetune.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Relative:
    """An architecture, and what its code can do.

    `packs_frames` says whether only attention of Transformers' common form combines frames after the positional
    convolution, `folds_positions` whether that convolution is wav2vec2's, and `layered_positions` whether it is a stack
    of convolutions, which would see padding from the second on. `squeezes_frames` is for encoders of several frames at
    once (SEW). With `one_by_one` Transformers' encoder lets padding change the valid frames, so that each utterance is
    encoded by itself. `own_attention` is computed by the architecture's own code only. `layers` is the place of the
    transformer layers, and `kept_layers` the reason why none of them can be skipped in training, if there is one.
    `unused` are the prefixes of weights that no output depends on. `exports` says whether torch exports the code to
    ONNX for any length of audio. `linear_names` are the other names of linear layers, and `without_lora` those that
    can't have LoRA, for a `reason`. A `baseline` is treated as a relative: its features are fixed filters, and it has
    no attention (`finetune.models.baselines`). The input of plain Transformers is a waveform, or with `log_mel` its
    energies (`finetune.models.log_mel`).
    """

    packs_frames: bool = False
    folds_positions: bool = False
    layered_positions: bool = False
    squeezes_frames: bool = False
    one_by_one: bool = False
    own_attention: bool = False
    kept_layers: str = ""
    baseline: bool = False
    log_mel: bool = False
    layers: str = "encoder.layers"
    unused: tuple[str, ...] = ()
    exports: bool = True
    linear_names: tuple[tuple[str, str], ...] = ()
    without_lora: tuple[str, ...] = ()
    reason: str = ""

    @property
    def has_fixed_features(self) -> bool:
        """Whether the features of a waveform have no weights."""
        return self.baseline or self.log_mel


_LIKE_WAV2VEC2 = Relative(packs_frames=True, folds_positions=True)
_PROJECTION = ("feature_projection.projection", "feature_projection")
_SHARED = "share their positions"
_CONFORMER_NAMES = (
    ("q_proj", "linear_q"),
    ("k_proj", "linear_k"),
    ("v_proj", "linear_v"),
    ("out_proj", "linear_out"),
)
# The linear layers of wav2vec2, as recipes name them.
_LINEAR = ("q_proj", "k_proj", "v_proj", "out_proj", "intermediate_dense", "output_dense", _PROJECTION[0])
_BASELINE = Relative(baseline=True)

# By the model_type of config.json.
RELATIVES = {
    "wav2vec2": _LIKE_WAV2VEC2,
    "hubert": _LIKE_WAV2VEC2,
    "wavlm": Relative(
        folds_positions=True,
        own_attention=True,
        kept_layers=_SHARED,
        without_lora=("q_proj", "k_proj", "v_proj", "out_proj"),
        reason="whose attention reads their weights without calling them, so that it would have no effect",
    ),
    "data2vec-audio": Relative(packs_frames=True, layered_positions=True),
    "unispeech": _LIKE_WAV2VEC2,
    "unispeech-sat": _LIKE_WAV2VEC2,
    "sew": Relative(squeezes_frames=True, linear_names=(_PROJECTION,)),
    "sew-d": Relative(
        squeezes_frames=True,
        own_attention=True,
        kept_layers=_SHARED,
        layers="encoder.encoder.layer",
        exports=False,
        linear_names=(
            _PROJECTION,
            ("q_proj", "query_proj"),
            ("k_proj", "key_proj"),
            ("v_proj", "value_proj"),
            ("out_proj", "attention.output.dense"),
            ("intermediate_dense", "intermediate.dense"),
        ),
        without_lora=("output_dense",),
        reason="whose layers of that place share their name with others",
    ),
    "wav2vec2-conformer": Relative(
        one_by_one=True,
        unused=("encoder.pos_conv_embed.",),
        exports=False,
        linear_names=_CONFORMER_NAMES,
    ),
    "wav2vec2-bert": Relative(log_mel=True, linear_names=_CONFORMER_NAMES),
    "finetune_lstm": replace(_BASELINE, kept_layers="have no path around them"),
    "finetune_cnn": _BASELINE,
}
# Encoders whose frames are too long for letters.
_SUBWORDS = ("parakeet_ctc", "parakeet_encoder")


def get_relative(config: Any) -> Relative:
    """The architecture of a configuration that `load_config` accepted."""
    return RELATIVES[config.model_type]


def is_baseline(kind: Any) -> bool:
    """Whether a model_type is that of a baseline, which Transformers knows only after `finetune.models.baselines`."""
    return kind in RELATIVES and RELATIVES[kind].baseline


def refuse_kind(label: str, kind: Any) -> UserError:
    """The error for a model of another architecture."""
    shown, others = str(kind)[:100], ", ".join(list(RELATIVES)[1:])
    if kind in _SUBWORDS:
        return UserError(
            f"{label} is a {shown} model, whose frames of 80 ms are for parts of words, and models write letters here, "
            f"of which more are said in a second: expected a wav2vec2 or one of its relatives ({others})."
        )
    return UserError(f"{label} is a {shown} model; expected a wav2vec2 or one of its relatives ({others}).")


def get_norm(config: Any) -> str:
    """The norm of the feature encoder: `layer`, or `group` in its first convolution; data2vec has no key for it."""
    return str(getattr(config, "feat_extract_norm", "layer"))


def list_layers(model: Any) -> nn.ModuleList:
    """The transformer layers of a model with a CTC head."""
    layers: nn.ModuleList = model.base_model.get_submodule(get_relative(model.config).layers)
    return layers


def name_linear_layers(config: Any, names: Sequence[str]) -> list[str]:
    """The names that an architecture gives to wav2vec2's linear layers; raises UserError for those without LoRA."""
    relative = get_relative(config)
    if relative.baseline:
        raise UserError(
            f"model.lora: a {config.model_type} model has none of the layers that LoRA is for, and is small: leave "
            "model.lora out, which trains all of its weights."
        )
    if found := [name for name in names if name in relative.without_lora]:
        others = ", ".join(name for name in _LINEAR if name not in relative.without_lora)
        raise UserError(
            f"model.lora.target_modules: LoRA can't be beside {', '.join(found)} of a {config.model_type} model, "
            f"{relative.reason}: choose from {others}."
        )
    return [dict(relative.linear_names).get(name, name) for name in names]
