"""Loading the weights of a model: each weight must be in the files, so that none is random by accident.

Transformers and peft initialise missing weights at random and skip unknown ones; they only log it.
"""

import logging
import re
import zipfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from finetune.errors import UserError
from finetune.models.foreign_models import find_file, list_shards, require_plain_model
from finetune.models.relatives import get_relative

_LOGGER = logging.getLogger(__name__)

# Prefixes of weights that a pretrained checkpoint may lack: the CTC head, and the language adapters of MMS models.
HEAD, ADAPTER = "lm_head.", "adapter_layer."

# Prefixes of weights that a checkpoint may lack where it is pre-trained further: what chooses and compares codes.
CODES = ("quantizer.", "project_hid.", "project_q.")

# Prefixes that wrappers add to names: DataParallel, torch.compile, and trainers with an attribute `model`.
_WRAPPERS = {r"^((module|model)\.)+(?=\w)": "", r"(^|\.)_orig_mod\.": r"\1"}

# Weights of checkpoints that CTC models do not have. Pretrained ones have the quantizer and the two projections of the
# contrastive loss (Wav2Vec2ForPreTraining in Transformers: facebook/wav2vec2-base, -large, -xls-r-300m); those of
# UniSpeech and UniSpeech-SAT also have the heads of their other losses.
# mask_time_emb_vector is the old name of masked_spec_embed in facebook/wav2vec2-base-100h (transformers issue 27605).
_SPARE = re.compile(
    r"(\w+\.)?(quantizer\.(codevectors|weight_proj\.(weight|bias))|project_(hid|q)\.(weight|bias)"
    r"|(ctc_proj|speaker_proj|layer_norm_for_extract)\.(weight|bias)|label_embeddings_concat"
    r"|masked_spec_embed|mask_time_emb_vector)"
)
# Weights of checkpoints that models in pre-training do not have: a CTC head.
_SPARE_IN_PRETRAINING = re.compile(r"(\w+\.)?(lm_head\.(weight|bias)|masked_spec_embed|mask_time_emb_vector)")
# Weights that checkpoints may lack: the embedding of masked frames, which only training uses. It is missing in
# facebook/wav2vec2-base-960h, and in models without time masks.
MASK = "masked_spec_embed"

_MOST_NAMES = 3
# More than the largest known heads and adapters have: 1920 weights for each of 20,000 tokens.
_MOST_NEW = 100_000_000
# The files from which Transformers loads weights, in its order.
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def load_ctc_model(
    place: Any, label: str, *, new: Sequence[str] = (), revision: str | None = None, **options: Any
) -> tuple[Any, set[str]]:
    """Load a model with a CTC head, whose input are waveforms: see `_load`."""
    from transformers import AutoModelForCTC

    from finetune.models.log_mel import hear_waveforms

    model, lacking = _load(AutoModelForCTC, _SPARE, place, label, new, revision, options)
    hear_waveforms(model)
    return model, lacking


def load_pretraining_model(
    place: Any, label: str, *, revision: str | None = None, **options: Any
) -> tuple[Any, set[str]]:
    """Load a `Wav2Vec2ForPreTraining`, whose `CODES` and mask may be missing: see `_load`."""
    from transformers import AutoModelForPreTraining

    return _load(AutoModelForPreTraining, _SPARE_IN_PRETRAINING, place, label, (*CODES, MASK), revision, options)


def _load(
    kind: Any,
    spare: re.Pattern[str],
    place: Any,
    label: str,
    new: Sequence[str],
    revision: str | None,
    options: Mapping[str, Any],
) -> tuple[Any, set[str]]:
    """Load a model in float32 from a folder or a hub by a class of Transformers; also which `new` weights it lacks.

    Weights of the files whose name matches `spare` are left out. Weights whose name begins with an entry of `new`, or
    contains it after a dot, are replaced later: they may be missing or have any shape. `options` are those of
    `from_pretrained`. The old names of weight norm (`weight_g`, `weight_v`) are read, and prefixes of wrappers are
    removed with a warning.

    Raises UserError, which calls the model `label`, if another weight is missing, unexpected, of another shape or not
    finite, or if the files ask for code or for files elsewhere; ValueError if the configuration in `options` needs more
    weights than the files can hold; and what `from_pretrained` raises.
    """
    require_plain_model(place, revision)
    if find_file(place, "adapter_config.json", revision) is not None:  # Transformers would load its base instead.
        raise UserError(f"{label} is an adapter: expected a model with all of its weights.")
    _require_enough(place, options["config"], new, revision)

    def load(**more: Any) -> tuple[Any, Mapping[str, Any]]:
        return kind.from_pretrained(
            place,
            revision=revision,
            dtype=torch.float32,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # Otherwise the error names the first one only.
            output_loading_info=True,
            **options,
            **more,
        )

    model, loading = load()
    wanted = loading["missing_keys"]
    if any({name, f"{model.base_model_prefix}.{name}"} & wanted for name in map(_unwrap, loading["unexpected_keys"])):
        _note_wrappers(label, loading["unexpected_keys"])
        model, loading = load(key_mapping=_WRAPPERS)
    # Otherwise `save_pretrained` would write the names of the file, or apply the patterns in reverse.
    model._weight_conversions = []
    missing, shapes = set(loading["missing_keys"]), {name: rest for name, *rest in loading["mismatched_keys"]}
    _require_none(
        label,
        missing={name for name in missing if not _is_one_of(name, new) and not name.endswith(f".{MASK}")},
        unexpected={name for name in loading["unexpected_keys"] if not spare.fullmatch(name)},
        shapes={name: each for name, each in shapes.items() if not _is_one_of(name, new)},
        infinite=_find_infinite({n: p for n, p in model.named_parameters() if not _is_one_of(n, new)}),
    )
    return model, {name for name in (*missing, *shapes) if _is_one_of(name, new)}


def _require_enough(place: Any, config: Any, new: Sequence[str], revision: str | None) -> None:
    """Raise ValueError if a configuration needs far more weights than the files can hold, at one byte for each.

    Otherwise memory would be allocated for the missing weights before the error names them.
    """
    held = _measure_weights(place, revision)
    asked, added = _count_weights(config, new)
    if held is not None and asked > held + _MOST_NEW:
        raise ValueError(f"its configuration asks for {asked} weights, and its files of weights have {held} bytes")
    if added > _MOST_NEW:
        raise ValueError(f"its configuration asks for {added} new weights, and up to {_MOST_NEW} are made")


def _measure_weights(place: Any, revision: str | None) -> int | None:
    """The size in bytes of the files from which Transformers loads weights; None without such files.

    Raises ValueError for compressed files.
    """
    for name in _WEIGHTS:
        if (file := find_file(place, name, revision)) is not None:
            shards = list_shards(file) if name.endswith(".json") else [name]
            found = [each for shard in shards if (each := find_file(place, shard, revision)) is not None]
            for each in found if name.startswith("pytorch") else ():
                _require_stored(each)
            return sum(each.stat().st_size for each in found)
    return None


def _require_stored(file: Path) -> None:
    """Raise ValueError for a compressed pytorch_model.bin, which torch.save never writes: its contents may be huge."""
    if not zipfile.is_zipfile(file):  # PyTorch 1.5 and older
        return
    with zipfile.ZipFile(file) as archive:
        if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
            raise ValueError(f"{file.name} is compressed, expected it as torch.save writes it")


def _count_weights(config: Any, new: Sequence[str]) -> tuple[int, int]:
    """The number of weights that a configuration needs without biases and norms, and that of the new weights.

    The shapes are those of Wav2Vec2ForCTC in Transformers' modeling_wav2vec2.py; relatives have no less.
    """
    if get_relative(config).baseline:
        head = (config.vocab_size or 0) * config.output_size
        return (config.num_weights, head) if HEAD in new else (config.num_weights + head, 0)
    width, layers = config.hidden_size, config.num_hidden_layers
    adapted = getattr(config, "add_adapter", False)
    out = config.output_hidden_size if adapted else width
    encoder = layers * (4 * width * width + 2 * width * config.intermediate_size)
    if get_relative(config).log_mel:
        encoder += layers * (3 * width * width + 2 * width * config.intermediate_size)
        encoder += width * config.feature_projection_input_dim
        if adapted:
            weights = 4 * config.adapter_kernel_size * out * out + 4 * out * out + 2 * out * config.intermediate_size
            encoder += config.num_adapter_layers * weights
        head = (config.vocab_size or 0) * out
        return (encoder, head) if HEAD in new else (encoder + head, 0)
    channels = list(config.conv_dim)
    encoder += sum(a * b * k for a, b, k in zip([1, *channels], channels, config.conv_kernel, strict=False))
    encoder += sum(channels[-1:]) * width
    encoder += width * width // max(1, config.num_conv_pos_embedding_groups) * config.num_conv_pos_embeddings
    if adapted:
        encoder += config.num_adapter_layers * 2 * out * out * config.adapter_kernel_size
    parts = {
        HEAD: (config.vocab_size or 0) * out,
        ADAPTER: layers * 2 * width * (getattr(config, "adapter_attn_dim", None) or 0),
    }
    added = sum(size for name, size in parts.items() if name in new)
    return encoder + sum(parts.values()) - added, added


def match_weights(
    label: str, found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], resized: Collection[str] = ()
) -> dict[str, torch.Tensor]:
    """The weights of a file, called `label`, under the expected names, with the expected shapes, all finite.

    Those `resized` may have another size in the first dimension. Prefixes of wrappers are removed with a warning.
    Raises UserError where a weight is missing, unexpected, of another shape or not finite.
    """
    if wrapped := {name for name in found if name not in expected and _unwrap(name) in expected}:
        _note_wrappers(label, wrapped)
        found = {_unwrap(name) if name in wrapped else name: weight for name, weight in found.items()}
    shapes = {name: (found[name].shape, expected[name].shape) for name in expected.keys() & found.keys()}
    _require_none(
        label,
        missing=expected.keys() - found.keys(),
        unexpected=found.keys() - expected.keys(),
        shapes={
            name: (mine, theirs)
            for name, (mine, theirs) in shapes.items()
            if (mine[1:] != theirs[1:] if name in resized else mine != theirs)
        },
        infinite=_find_infinite(found),
    )
    return dict(found)


def _is_one_of(name: str, new: Sequence[str]) -> bool:
    return any(name.startswith(each) or f".{each}" in name for each in new)


def _unwrap(name: str) -> str:
    for pattern, replacement in _WRAPPERS.items():
        name = re.sub(pattern, replacement, name)
    return name


def _note_wrappers(label: str, names: Iterable[str]) -> None:
    example = next(name for name in sorted(names) if _unwrap(name) != name)
    _LOGGER.warning(
        f"the weights of {label} have the names of a wrapped model, such as {example}: read as {_unwrap(example)}",
        extra={"once": True},
    )


def _find_infinite(weights: Mapping[str, torch.Tensor]) -> set[str]:
    return {name for name, weight in weights.items() if not torch.isfinite(weight).all()}


def _require_none(
    label: str, *, missing: Collection[str], unexpected: Collection[str], shapes: Mapping[str, Any], infinite: set[str]
) -> None:
    kinds = {"missing": missing, "unexpected": unexpected, "not finite": infinite}
    problems = [f"{len(names)} {kind} ({_list(sorted(names))})" for kind, names in kinds.items() if names]
    if shapes:
        sizes = [f"{name} {_show(mine)}, not {_show(theirs)}" for name, (mine, theirs) in sorted(shapes.items())]
        problems.append(f"{len(shapes)} of another shape ({_list(sizes)})")
    if problems:
        raise UserError(
            f"The weights of {label} don't fit its configuration: {'; '.join(problems)}. Expected each weight that the "
            "configuration needs and no other, so that none is initialised at random: save or copy the model again."
        )


def _list(names: Sequence[str]) -> str:
    others = f" and {len(names) - _MOST_NAMES} others" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + others


def _show(shape: Iterable[int]) -> str:
    return " × ".join(map(str, shape))
