"""Bases of each architecture: random weights, and the published configuration except for widths and depths.

The baselines, which nobody published, are among them.
"""

from pathlib import Path
from typing import Any

import torch

NARROW: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "num_conv_pos_embedding_groups": 4,
}
LARGE: dict[str, Any] = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
CONFORMER: dict[str, Any] = {"feat_extract_norm": "layer", "conv_bias": True, "hidden_act": "swish"}
_SEW_CHANNELS = [8, 8, 8, 8, 8, 16, 16, 16, 16, 24, 24, 24, 24]
_SMALL_MODEL: dict[str, Any] = {"conv_dim": [16] * 7}

# For the tones of the tests, a few bins.
_BASELINE: dict[str, Any] = {"num_mel_bins": 32, "num_coefficients": 20}

ADAPTED = "facebook/w2v-bert-2.0 with add_adapter"
# The published checkpoint whose configuration it is, its model_type, and what differs from the class's defaults.
PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "facebook/hubert-base-ls960": ("hubert", _SMALL_MODEL),
    "facebook/hubert-large-ll60k": ("hubert", _SMALL_MODEL | LARGE),
    "microsoft/wavlm-base": ("wavlm", _SMALL_MODEL),
    "microsoft/wavlm-large": ("wavlm", _SMALL_MODEL | LARGE | {"conv_bias": False}),
    "facebook/data2vec-audio-base": ("data2vec-audio", _SMALL_MODEL),
    "microsoft/unispeech-large-1500h-cv": ("unispeech", _SMALL_MODEL | LARGE),
    "microsoft/unispeech-sat-base": ("unispeech-sat", _SMALL_MODEL),
    "asapp/sew-tiny-100k": ("sew", {"conv_dim": _SEW_CHANNELS}),
    "asapp/sew-d-tiny-100k": ("sew-d", {"conv_dim": _SEW_CHANNELS}),
    "facebook/wav2vec2-conformer-rel-pos-large": (
        "wav2vec2-conformer",
        _SMALL_MODEL | CONFORMER | {"position_embeddings_type": "relative"},
    ),
    "facebook/wav2vec2-conformer-rope-large": (
        "wav2vec2-conformer",
        _SMALL_MODEL | CONFORMER | {"position_embeddings_type": "rotary"},
    ),
    "facebook/w2v-bert-2.0": ("wav2vec2-bert", {"hidden_act": "swish", "layerdrop": 0.1}),
    ADAPTED: (
        "wav2vec2-bert",
        {"hidden_act": "swish", "layerdrop": 0.1, "add_adapter": True, "output_hidden_size": 32},
    ),
    "type: lstm": ("finetune_lstm", _BASELINE),
    "type: lstm, features: mfcc": ("finetune_lstm", _BASELINE | {"features": "mfcc"}),
    "type: cnn": ("finetune_cnn", _BASELINE),
}
# One for each architecture.
CHOSEN = {kind: name for name, (kind, _) in reversed(PUBLISHED.items())}


def write_relative(folder: Path, name: str) -> str:
    """Write a base with the configuration of a published checkpoint; returns its folder."""
    from transformers import AutoConfig, AutoModel, SeamlessM4TFeatureExtractor, Wav2Vec2FeatureExtractor

    import finetune.models.baselines  # noqa: F401  # Registers them.

    kind, values = PUBLISHED[name]
    narrow = {key: NARROW[key] for key in ("hidden_size", "num_hidden_layers")} if name.startswith("type") else NARROW
    config = AutoConfig.for_model(kind, **narrow, **values)
    torch.manual_seed(0)
    model = AutoModel.from_config(config)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):  # As pretrained ones: not those of the start.
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    model.save_pretrained(folder)
    if kind == "wav2vec2-bert":
        SeamlessM4TFeatureExtractor(padding_value=1).save_pretrained(folder)
        return str(folder)
    norm = getattr(config, "feat_extract_norm", "layer")
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=norm == "layer").save_pretrained(folder)
    return str(folder)
