"""What an encoder expects of audio: its sampling rate, its level and its frames."""

from typing import Any

from finetune.data.repositories import say_model
from finetune.errors import UserError


def load_config(base: str, revision: str | None = None) -> Any:
    """The configuration of a wav2vec2 in a folder or on a hub.

    Raises UserError when there is none or it is another kind of model.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(base, revision=revision, trust_remote_code=False)
    except StrictDataclassError as error:
        raise UserError(f"The config.json of {say_model(base)} is damaged: {_last_line(error)}") from error
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{say_model(base)} is neither a model folder (with a config.json) nor a model that can be loaded from the "
            f"hub: {str(error).strip().splitlines()[0]}"
        ) from error
    if config.model_type != "wav2vec2":
        raise UserError(f"{say_model(base)} is a {config.model_type} model; expected a wav2vec2.")
    return config


def build_config(architecture: dict[str, Any]) -> Any:
    """A `Wav2Vec2Config` with the given values; raises UserError for unknown keys and values that contradict."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import Wav2Vec2Config

    unknown = sorted(set(architecture) - set(vars(Wav2Vec2Config())))
    if unknown:
        raise UserError(f"model.architecture: unknown keys {', '.join(unknown)}; expected those of Wav2Vec2Config.")
    try:
        return Wav2Vec2Config(**architecture)
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise UserError(f"model.architecture: {_last_line(error)}") from error


def load_feature_extractor(base: str | None, config: Any, revision: str | None = None) -> Any:
    """The base's feature extractor, or wav2vec2's usual one (16 kHz, zero mean and unit variance)."""
    from transformers import Wav2Vec2FeatureExtractor

    if base is None:
        extractor = Wav2Vec2FeatureExtractor(do_normalize=True)
    else:
        try:
            extractor = Wav2Vec2FeatureExtractor.from_pretrained(base, revision=revision, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise UserError(f"{base} has no usable preprocessor_config.json, which says how audio is fed.") from error
    # For those who use the saved model with plain Transformers, where no mask helps a model with group norm.
    extractor.return_attention_mask = config.feat_extract_norm == "layer"
    return extractor


def encoder_convolutions(config: Any) -> tuple[tuple[int, int], ...]:
    """(kernel, stride) of each convolution of the feature encoder."""
    return tuple(zip(config.conv_kernel, config.conv_stride, strict=True))


def length_step(samples: int, share: int = 25) -> int:
    """What the length of a batch is a multiple of on a CPU: the power of two up to 1/25 of it, or another share.

    Each new shape costs a CPU the making of its kernels, and the memory to keep them. So there are 25 to 50 lengths
    between one and twice as much, for 1.5 % more padding on average (scripts/bench_shapes.py).
    """
    return 1 << max((samples // share).bit_length() - 1, 0)


def _last_line(error: Exception) -> str:
    # The first line of a StrictDataclassError only names the check.
    return str(error).strip().splitlines()[-1].strip()
