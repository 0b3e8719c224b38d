"""The tokenizer and the feature extractor in the folder of a model, and its languages."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune.errors import UserError
from finetune.files import write_json
from finetune.models.configuration import read_feature_extractor
from finetune.models.foreign_models import read_vocabulary, require_plain_model
from finetune.models.languages import suggest_language
from finetune.models.relatives import get_relative
from finetune.resources.model_json import read_object
from finetune.resources.repositories import name_model

# The classes of Transformers that are accepted, by file and key; others expect other input or output.
_CLASSES = {
    ("tokenizer_config.json", "tokenizer_class"): ("Wav2Vec2CTCTokenizer", "Wav2Vec2PhonemeCTCTokenizer"),
    ("preprocessor_config.json", "feature_extractor_type"): ("Wav2Vec2FeatureExtractor",),
    ("preprocessor_config.json", "processor_class"): ("Wav2Vec2Processor", "Wav2Vec2ProcessorWithLM"),
    ("processor_config.json", "processor_class"): ("Wav2Vec2Processor", "Wav2Vec2ProcessorWithLM"),
}
# Those of models whose input are log-mel energies, where they differ.
_LOG_MEL_CLASSES = {
    ("preprocessor_config.json", "feature_extractor_type"): ("SeamlessM4TFeatureExtractor",),
    ("preprocessor_config.json", "processor_class"): ("Wav2Vec2BertProcessor", "Wav2Vec2Processor"),
    ("processor_config.json", "processor_class"): ("Wav2Vec2BertProcessor", "Wav2Vec2Processor"),
}
_MOST_LANGUAGES = 12


def load_processor(folder: Path, config: Any, language: str | None = None) -> tuple[Any, Any]:
    """The feature extractor and the tokenizer in the folder of a model, for a language if it has several.

    No code of the model runs. Raises UserError for a model with its own code or other classes, and what Transformers
    raises for damaged files.
    """
    from transformers import AutoTokenizer

    require_plain_model(folder)
    _require_known_classes(folder, _CLASSES | (_LOG_MEL_CLASSES if get_relative(config).log_mel else {}))
    if (folder / "vocab.json").is_file():
        read_vocabulary(folder / "vocab.json")
    extractor = read_feature_extractor(str(folder), config)
    target = {} if language is None else {"target_lang": language}
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **target)
    expected = _CLASSES["tokenizer_config.json", "tokenizer_class"]
    if type(tokenizer).__name__ not in expected:
        raise UserError(_format_class(folder, "tokenizer", type(tokenizer).__name__, expected))
    if tokenizer.pad_token_id is None:
        raise UserError(f"{name_model(folder)} has a vocab.json without the pad token, which is the CTC blank.")
    return extractor, tokenizer


def save_processor(folder: Path, feature_extractor: Any, tokenizer: Any) -> None:
    """Write the feature extractor and the tokenizer into the folder of a model, as plain Transformers reads them."""
    from transformers import Wav2Vec2BertProcessor, Wav2Vec2Processor

    from finetune.models.log_mel import LogMelExtractor

    kind = Wav2Vec2BertProcessor if isinstance(feature_extractor, LogMelExtractor) else Wav2Vec2Processor
    kind(feature_extractor, tokenizer).save_pretrained(folder)


def choose_language(folder: Path, language: str | None) -> str | None:
    """The language that is asked for, or the only one of the model; None for a model without languages.

    Raises UserError for a language that the model doesn't have, and if it has several and none is asked for.
    """
    offered = _list_languages(folder)
    if not offered:
        if language is None:
            return None
        raise UserError(f"{name_model(folder)} has no languages to choose from: leave out --language {language}.")
    if language in offered:
        return language
    if language is None and len(offered) == 1:
        return offered[0]
    shown = ", ".join(offered[:_MOST_LANGUAGES]) + (" …" if len(offered) > _MOST_LANGUAGES else "")
    if language is None:
        raise UserError(
            f"{name_model(folder)} writes {len(offered)} languages: say which with --language CODE, one of {shown}."
        )
    close = suggest_language(language, offered)
    meant = f"did you mean {' or '.join(close)}?" if close else f"expected one of {shown}."
    raise UserError(f"{name_model(folder)} has no language {language} among its {len(offered)}: {meant}")


def require_one_language(folder: Path, reason: str) -> None:
    """Raise UserError, with a reason, for a model that writes several languages."""
    if len(offered := _list_languages(folder)) > 1:
        raise UserError(f"{name_model(folder)} writes {len(offered)} languages, and {reason}.")


def keep_language(folder: Path, language: str | None, num_symbols: int) -> None:
    """Reduce the vocabulary in a folder to one language, to which its weights with `num_symbols` outputs belong."""
    if language is None:
        return
    write_json(folder / "vocab.json", _read(folder / "vocab.json")[language])
    for name, key, value in (("tokenizer_config", "target_lang", None), ("config", "vocab_size", num_symbols)):
        write_json(folder / f"{name}.json", {**_read(folder / f"{name}.json"), key: value})


def _list_languages(folder: Path) -> list[str]:
    values = read_vocabulary(folder / "vocab.json") if (folder / "vocab.json").is_file() else {}
    return sorted(name for name, value in values.items() if isinstance(value, dict))


def get_own_language(folder: Path) -> str | None:
    """The language of the weights in the model file itself."""
    return _read(folder / "tokenizer_config.json").get("target_lang")


def _require_known_classes(folder: Path, classes: Mapping[tuple[str, str], tuple[str, ...]]) -> None:
    for (file, key), expected in classes.items():
        named = _read(folder / file).get(key)
        if named is not None and named not in expected:
            raise UserError(_format_class(folder, key.split("_class")[0].split("_type")[0], named, expected))


def _format_class(folder: Path, kind: str, found: Any, expected: tuple[str, ...]) -> str:
    what = kind.replace("_", " ")
    return f"{name_model(folder)} has a {what} of the class {str(found)[:100]}: expected {' or '.join(expected)}."


def _read(file: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is no such file."""
    return read_object(file) if file.is_file() else {}
