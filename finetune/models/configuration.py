"""The configuration and the feature extractor of a wav2vec2 or a relative, read and checked."""

from typing import Any

from finetune.errors import UserError, did_you_mean, format_error
from finetune.models.foreign_models import find_file, require_no_override, require_plain_model
from finetune.models.relatives import RELATIVES, get_norm, get_relative, refuse_kind
from finetune.resources.model_json import read_object
from finetune.resources.repositories import name_model

# Accepted ranges of values; facebook/wav2vec2-xls-r-2b, the largest published wav2vec2, has 48 layers of width 1920,
# and seven convolutions with kernels up to 10.
_RANGES = {
    "num_hidden_layers": (0, 1000),
    "num_adapter_layers": (0, 100),
    "num_labels": (0, 100_000),
    "conv_kernel": (1, 10_000),
    "conv_stride": (1, 10_000),
    "initializer_range": (0, 1),
}
_MOST_OTHERWISE, _MOST_LISTED = 10_000_000, 100
# Shorter recordings are not accepted, even where the convolutions would find a frame in them.
_MIN_SECONDS = 0.05
_RECEPTIVE_FIELD = 400  # in samples, of the published models
# Telephone speech has 8 kHz, and no audio interface records above 768 kHz.
_SAMPLING_RATES = (1000, 768_000)


def load_config(base: str, revision: str | None = None) -> Any:
    """The configuration of a wav2vec2 or a relative in a folder or on a hub.

    Raises UserError if there is none, and if it is of another kind of model, asks for code or has values out of range.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    import finetune.models.baselines  # noqa: F401  # Registers its model types.

    try:
        require_plain_model(base, revision)
        _require_sensible(base, revision)
        config = AutoConfig.from_pretrained(base, revision=revision, trust_remote_code=False)
    except UserError:
        raise
    except StrictDataclassError as error:
        raise UserError(f"The config.json of {name_model(base)} is damaged: {_last_line(error)}") from error
    except Exception as error:  # What libraries raise for a foreign file has no class in common.
        raise UserError(
            f"{name_model(base)} is neither a model folder (with a config.json) nor a model that can be loaded from "
            f"the hub: {format_error(error)}"
        ) from error
    if config.model_type not in RELATIVES:
        raise refuse_kind(name_model(base), config.model_type)
    _require_usable_adapter(base, config)
    _take_defaults(config)
    return config


def _take_defaults(config: Any) -> None:
    """Undo the keys of a config.json that change what a model returns or computes twice, which is up to its user.

    facebook/wav2vec2-base has `gradient_checkpointing`, which Transformers obeys: 1.6 times the time of a step.
    """
    config.output_attentions = config.output_hidden_states = False
    config.return_dict = True
    if hasattr(config, "gradient_checkpointing"):
        del config.gradient_checkpointing


def _require_usable_adapter(base: str, config: Any) -> None:
    """Raise UserError for layers of `add_adapter` that would give other frames, or other ones in a batch."""
    if not getattr(config, "add_adapter", False):
        return
    if not get_relative(config).log_mel:
        raise UserError(
            f"{name_model(base)} has add_adapter in its config.json, layers whose convolutions see the padding of a "
            f"batch in a {config.model_type} model: expected a model without them, or a wav2vec2-bert."
        )
    kernel, stride, layers = config.adapter_kernel_size, config.adapter_stride, config.num_adapter_layers
    if not 1 <= stride <= 3 or kernel % 2 == 0 or kernel // 2 != stride // 2 or not 1 <= layers <= 3:
        raise UserError(
            f"{name_model(base)} has add_adapter with num_adapter_layers {layers}, adapter_kernel_size {kernel} and "
            f"adapter_stride {stride}: expected 1 to 3 layers with 3 and 2, as in published models."
        )


def _require_sensible(base: str, revision: str | None) -> None:
    """Raise UserError for a config.json of another kind of model, or with values out of range."""
    from transformers import CONFIG_MAPPING

    file = find_file(base, "config.json", revision)
    if file is None:
        return
    values = read_object(file)
    kind = str(values.get("model_type", "wav2vec2"))
    if kind not in RELATIVES and kind in CONFIG_MAPPING:
        raise refuse_kind(name_model(base), kind)
    expected = CONFIG_MAPPING[kind if kind in RELATIVES else "wav2vec2"]
    require_no_override(base, "config.json", values, expected)
    architectures = values.get("architectures") or []
    if not isinstance(architectures, list) or not all(isinstance(name, str) for name in architectures):
        raise UserError(
            f"The config.json of {name_model(base)} is damaged: expected names of classes as architectures."
        )
    for key in sorted((vars(expected()).keys() | _RANGES.keys()) & values.keys()):
        listed = values[key] if isinstance(values[key], list) else [values[key]]
        numbers = [number for number in listed if isinstance(number, int | float) and not isinstance(number, bool)]
        least, most = _RANGES.get(key, (-1 if key.endswith("_id") else 0, _MOST_OTHERWISE))
        wrong = [number for number in numbers if not least <= number <= most]
        if wrong or len(listed) > _MOST_LISTED:
            found = str(wrong[0])[:20] if wrong else f"{len(listed)} numbers"
            raise UserError(
                f"The config.json of {name_model(base)} is damaged: found {found} for {key}, expected numbers from "
                f"{least} to {most}, and at most {_MOST_LISTED} of them."
            )


def build_config(architecture: dict[str, Any]) -> Any:
    """A `Wav2Vec2Config`, or the configuration of a baseline if there is a `type`, with the given values.

    Raises UserError for unknown keys and inconsistent values.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import Wav2Vec2Config

    from finetune.models.baselines import CONFIGS
    from finetune.models.baselines.configuration import list_keys

    values = dict(architecture)
    kind: Any = Wav2Vec2Config
    known = list(vars(Wav2Vec2Config()))
    if "type" in values:
        name = str(values.pop("type"))
        if name not in CONFIGS:
            raise UserError(
                f"model.architecture: unknown type {name[:40]}{did_you_mean(name, CONFIGS)} expected "
                f"{' or '.join(CONFIGS)}, or no type for a wav2vec2."
            )
        kind, known = CONFIGS[name], list_keys(CONFIGS[name])
    if unknown := sorted(set(values) - set(known)):
        shown = ", ".join(known) if kind in CONFIGS.values() else f"those of {kind.__name__}"
        raise UserError(
            f"model.architecture: unknown keys {', '.join(unknown)}{did_you_mean(unknown[0], known)} expected {shown}."
        )
    try:
        return kind(**values)
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise UserError(f"model.architecture: {_last_line(error)}") from error


def load_feature_extractor(base: str | None, config: Any, revision: str | None = None) -> Any:
    """The feature extractor of a checkpoint, or wav2vec2's default (zero mean and unit variance).

    The default sampling rate is 16 kHz, or that of a baseline's configuration. Raises UserError as
    `read_feature_extractor` does.
    """
    from transformers import Wav2Vec2FeatureExtractor

    if base is None:
        rate = getattr(config, "sampling_rate", 16000)
        extractor = Wav2Vec2FeatureExtractor(do_normalize=True, sampling_rate=rate)
    else:
        extractor = read_feature_extractor(base, config, revision)
    # For plain Transformers, where a mask does not help a model with group norm.
    extractor.return_attention_mask = get_norm(config) == "layer"
    return extractor


def read_feature_extractor(base: str, config: Any, revision: str | None = None) -> Any:
    """The feature extractor of a model in a folder or on a hub, for waveforms.

    Raises UserError for a model without one, for one that asks for code, and for values out of range.
    """
    from transformers import Wav2Vec2FeatureExtractor

    if config is not None and get_relative(config).log_mel:
        return _read_log_mel(base, config, revision)
    try:
        require_plain_model(base, revision)
        extractor = Wav2Vec2FeatureExtractor.from_pretrained(base, revision=revision, trust_remote_code=False)
        require_no_override(base, "preprocessor_config.json", vars(extractor), Wav2Vec2FeatureExtractor)
        rate, size = extractor.sampling_rate, extractor.feature_size
        problems = {
            f"a sampling_rate of {rate}": type(rate) is int and _SAMPLING_RATES[0] <= rate <= _SAMPLING_RATES[1],
            f"a feature_size of {size}": size == 1,
            f"a padding_value of {extractor.padding_value}": isinstance(extractor.padding_value, int | float),
        }
    except UserError:
        raise
    except Exception as error:  # What libraries raise for a foreign file has no class in common.
        raise _refuse_extractor(base, error) from error
    if wrong := [problem[:100] for problem, right in problems.items() if not right]:
        raise UserError(
            f"The preprocessor_config.json of {name_model(base)} has {' and '.join(wrong)}: expected waveforms, a "
            f"feature_size of 1, of {_SAMPLING_RATES[0]} to {_SAMPLING_RATES[1]} Hz."
        )
    return extractor


def _read_log_mel(base: str, config: Any, revision: str | None) -> Any:
    """What pads waveforms for a model of log-mel energies; raises UserError as `read_feature_extractor` does."""
    from transformers import SeamlessM4TFeatureExtractor

    from finetune.models.log_mel import MOST_MEL_BINS, STACKED, LogMelExtractor

    bins = config.feature_projection_input_dim // STACKED
    if not 1 <= bins <= MOST_MEL_BINS:
        raise UserError(
            f"The config.json of {name_model(base)} has a feature_projection_input_dim of "
            f"{config.feature_projection_input_dim}: expected {STACKED} to {STACKED * MOST_MEL_BINS}, as 160 of the "
            "published model."
        )
    extractor = LogMelExtractor(bins)
    try:
        require_plain_model(base, revision)
        found, _ = SeamlessM4TFeatureExtractor.get_feature_extractor_dict(base, revision=revision)
    except UserError:
        raise
    except Exception as error:  # What libraries raise for a foreign file has no class in common.
        raise _refuse_extractor(base, error) from error
    own = extractor.to_dict()
    needed = ("feature_extractor_type", "sampling_rate", "num_mel_bins", "stride")
    if wrong := [f"{key} {str(found.get(key))[:40]}, not {own[key]}" for key in needed if found.get(key) != own[key]]:
        raise UserError(
            f"The preprocessor_config.json of {name_model(base)} has {'; '.join(wrong)}: expected the one that belongs "
            "to its config.json."
        )
    return extractor


def _refuse_extractor(base: str, error: Exception) -> UserError:
    return UserError(
        f"{name_model(base)} has no usable preprocessor_config.json, which says how audio is fed: {format_error(error)}"
    )


def count_features(config: Any) -> int:
    """The features of a frame, over which masks are drawn: a baseline's mel bins or coefficients, or the width."""
    return int(config.num_features if get_relative(config).baseline else config.hidden_size)


def encoder_convolutions(config: Any) -> tuple[tuple[int, int], ...]:
    """(kernel, stride) of each convolution from samples to frames of the output, or of what has as many frames."""
    if get_relative(config).log_mel:
        from finetune.models.log_mel import HOP_SAMPLES, STACKED, WINDOW_SAMPLES

        return (WINDOW_SAMPLES, HOP_SAMPLES), (1, STACKED), (1, adapter_stride(config))
    return tuple(zip(config.conv_kernel, config.conv_stride, strict=True))


def receptive_field(convolutions: tuple[tuple[int, int], ...]) -> int:
    """How many samples a frame of convolutions, (kernel, stride) each, hears."""
    samples = 1
    for kernel, stride in reversed(convolutions):
        samples = (samples - 1) * stride + kernel
    return samples


def shortest_seconds(convolutions: tuple[tuple[int, int], ...], sampling_rate: int) -> float:
    """The shortest audio in which convolutions find a frame, and at least 0.05 s."""
    return max(_MIN_SECONDS, receptive_field(convolutions) / sampling_rate)


def lead_seconds(convolutions: tuple[tuple[int, int], ...], sampling_rate: int) -> float:
    """How much later than in wav2vec2 the middle of what a frame hears is."""
    return (receptive_field(convolutions) - _RECEPTIVE_FIELD) / 2 / sampling_rate


def adapter_stride(config: Any) -> int:
    """How many frames of the transformer are one of the output: 1 without `add_adapter`."""
    return int(config.adapter_stride**config.num_adapter_layers) if getattr(config, "add_adapter", False) else 1


def _last_line(error: Exception) -> str:
    # The first line of a StrictDataclassError only names the check.
    return str(error).strip().splitlines()[-1].strip()
