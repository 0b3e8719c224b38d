"""The beam search that is saved in a model's folder: alphabet, language model, weights and hotwords."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from finetune.decoding.alphabet import get_delimiter, read_alphabet
from finetune.decoding.beam import BeamSearch, Weights
from finetune.errors import UserError
from finetune.files import new_folder, partial_folder, restore_folder, write_json, write_text
from finetune.resources.model_json import read_object
from finetune.resources.storage import find_model_file, list_visible

if TYPE_CHECKING:
    from finetune.decoding.greedy import GreedySearch
    from finetune.decoding.hashed_ngram import HashedModel
    from finetune.decoding.ngram import NGramModel

# The files that Transformers' `Wav2Vec2ProcessorWithLM`, that is pyctcdecode 0.5, reads; it reads no others.
ALPHABET, FOLDER = "alphabet.json", "language_model"
ATTRIBUTES, UNIGRAMS, ARPA = "attrs.json", "unigrams.txt", "lm.arpa"
BINARY = "lm.bin"  # In place of the ARPA file, where the language model is in KenLM's hash tables.
# Our own files: the settings that pyctcdecode does not save, and the language model in a format that loads faster.
SETTINGS, COMPILED = "decoder.json", "language_model.safetensors"
_BESIDE = (COMPILED, SETTINGS, ALPHABET)
_UNKNOWN = "⁇"  # pyctcdecode's.

# Limits for settings in a model's files; the command line has none.
_WIDEST_BEAM, _MOST_HOTWORDS, _MOST_CHARACTERS, _LARGEST_NUMBER = 10_000, 10_000, 200_000, 1e6


def build_search(
    tokenizer: Any, num_symbols: int, language_model: NGramModel | HashedModel | None = None, **options: Any
) -> BeamSearch:
    """A beam search over the `num_symbols` columns of a CTC tokenizer's head; options are those of `BeamSearch`.

    Raises UserError as `BeamSearch` does.
    """
    return BeamSearch(**_name_columns(tokenizer, num_symbols), language_model=language_model, **options)


def build_greedy_search(tokenizer: Any, num_symbols: int) -> GreedySearch:
    """A greedy search over the symbols of a CTC tokenizer; its texts are those of the tokenizer's own `decode`."""
    from finetune.decoding.greedy import GreedySearch

    return GreedySearch(**_name_columns(tokenizer, num_symbols))


def _name_columns(tokenizer: Any, num_symbols: int) -> dict[str, Any]:
    """The arguments of both searches that describe the alphabet."""
    alphabet = read_alphabet(tokenizer, num_symbols)
    return {
        "symbols": alphabet.symbols,
        "blank_id": alphabet.blank_id,
        "delimiter_id": alphabet.delimiter_id,
        "special_ids": alphabet.silent_ids,
        "symbols_are_words": alphabet.symbols_are_words,
        "clean_up": alphabet.clean_up,
    }


def choose_search(
    saved: BeamSearch | None,
    tokenizer: Any,
    num_symbols: int,
    decoder: str | None = None,
    beam_width: int | None = None,
    hotwords: Mapping[str, float] | None = None,
) -> BeamSearch | None:
    """The search to decode with: the one `saved` with the model, with the given changes; None is greedy decoding.

    `decoder` is "greedy", "beam", or None for the saved one, or greedy without one; hotwords are added to the saved
    ones. A beam width or hotwords select the beam search, too. Raises UserError for arguments that contradict each
    other.
    """
    if decoder == "greedy":
        if beam_width is not None or hotwords:
            raise UserError("A greedy decoder has no beam and no hotwords: leave them out, or choose the beam search.")
        return None
    if decoder is None and beam_width is None and not hotwords:
        return saved
    search = saved or build_search(tokenizer, num_symbols)
    return search.adjust(beam_width=beam_width, hotwords={**search.hotwords, **(hotwords or {})})


def load_language_model(folder: Path) -> NGramModel | HashedModel:
    """The language model in a folder: of `finetune lm build`, or in the layout of Transformers.

    Raises UserError for a folder without one, and for a file that can't be used.
    """
    from finetune.decoding.arpa import read_arpa
    from finetune.decoding.kenlm_binary import read_kenlm
    from finetune.decoding.ngram import NGramModel

    files = [file for file in list_visible(folder) if file.is_file()] if folder.is_dir() else []
    readers: dict[str, Callable[[Path], NGramModel | HashedModel]] = {
        ".safetensors": NGramModel.load,
        ".arpa": read_arpa,
        ".arpa.gz": read_arpa,
        ".bin": read_kenlm,
        ".binary": read_kenlm,
    }
    for suffix, read in readers.items():
        for file in files:
            if file.name.endswith(suffix):
                return read(file)
    raise UserError(f"There is no language model in {folder}: expected a folder of `finetune lm build`.")


def load_decoder(model: str | Path, tokenizer: Any, num_symbols: int) -> BeamSearch | None:
    """The beam search that is saved in a model's folder; None for one without a language model.

    Raises UserError for a language model of another alphabet, and for files that can't be used.
    """
    root = Path(model)
    attributes = find_model_file(root, f"{FOLDER}/{ATTRIBUTES}")
    if attributes is None:
        if (partial := partial_folder(root / FOLDER)).exists():
            raise UserError(
                f"A finetune lm tune of {root} was interrupted, so its language model is incomplete: tune again, or "
                f"delete {partial} to decode without one."
            )
        return None
    _require_alphabet(root / ALPHABET, tokenizer, num_symbols)
    values = read_object(attributes)
    settings = read_object(root / SETTINGS) if (root / SETTINGS).is_file() else {}
    weights = {name: values[name] for name in asdict(Weights()) if name in values}
    options = {name: settings[name] for name in ("beam_width", "hotwords") if name in settings}
    if wrong := _find_wrong(**weights, **options):
        raise UserError(f"{attributes} or {SETTINGS} beside it is damaged: found {wrong}.")
    language_model = _load_compiled(root) or load_language_model(root / FOLDER)
    return build_search(tokenizer, num_symbols, language_model, weights=Weights(**weights), **options)


def save_decoder(model: Path, tokenizer: Any, search: BeamSearch, about: Mapping[str, Any]) -> None:
    """Write a search with its language model into a model's folder; an existing one is replaced.

    Transformers' `Wav2Vec2ProcessorWithLM` reads it as well. Hotwords and beam width, which it has no place for, are in
    `decoder.json`, with the values of `about`. It reads the weights as we do, except for unknown words, see `Weights`.
    """
    from finetune.decoding.arpa import write_arpa
    from finetune.decoding.hashed_ngram import HashedModel
    from finetune.decoding.ngram import END, START, UNKNOWN

    language_model = search.language_model
    assert language_model is not None
    with new_folder(model / FOLDER, _BESIDE) as partial:
        if isinstance(language_model, HashedModel):
            shutil.copyfile(language_model.path, partial / BINARY)
        else:
            write_arpa(language_model, partial / ARPA)
            language_model.save(partial / COMPILED)
        words = sorted(word for word in language_model.words if word not in (UNKNOWN, START, END))
        write_text(partial / UNIGRAMS, "".join(f"{word}\n" for word in words))
        write_json(partial / ATTRIBUTES, asdict(search.weights))
        write_json(partial / SETTINGS, {"beam_width": search.beam_width, "hotwords": search.hotwords, **about})
        write_json(partial / ALPHABET, {"labels": _list_labels(tokenizer, len(search.symbols)), "is_bpe": False})


def restore_decoder(model: Path) -> None:
    """Restore the language model that an interrupted `save_decoder` had moved away."""
    restore_folder(model / FOLDER, _BESIDE)


def describe_decoder(search: BeamSearch | None) -> dict[str, Any]:
    """The decoder's name and settings, for reports and model cards."""
    if search is None:
        return {"name": "greedy"}
    described = {"name": "beam search", "beam_width": search.beam_width, "hotwords": search.hotwords}
    if search.language_model is not None:
        described |= {"language_model": f"word {search.language_model.order}-gram", **asdict(search.weights)}
    return described


def format_decoder(described: Mapping[str, Any]) -> str:
    """The result of `describe_decoder` as one line of text."""
    name, *others = described.items()
    return ", ".join([str(name[1]), *(f"{key.replace('_', ' ')} {value}" for key, value in others if value != {})])


def _list_labels(tokenizer: Any, num_symbols: int) -> list[str]:
    """The symbols as pyctcdecode names them."""
    ours = {tokenizer.pad_token: "", get_delimiter(tokenizer): " ", tokenizer.unk_token: _UNKNOWN}
    return [ours.get(symbol, symbol) for symbol in tokenizer.convert_ids_to_tokens(list(range(num_symbols)))]


def _require_alphabet(file: Path, tokenizer: Any, num_symbols: int) -> None:
    if not file.is_file():
        return
    labels = read_object(file).get("labels")
    expected = _list_labels(tokenizer, num_symbols)
    # Files of pyctcdecode may have more symbols than the head, such as <s>.
    if not isinstance(labels, list) or [str(label) for label in labels[:num_symbols]] != expected:
        raise UserError(
            f"{file} belongs to another model: expected the symbols {' '.join(expected)}; run finetune lm tune again."
        )


def _load_compiled(root: Path) -> NGramModel | None:
    from finetune.decoding.ngram import NGramModel

    return NGramModel.load(root / COMPILED) if (root / COMPILED).is_file() else None


def _find_wrong(
    *, score_boundary: Any = True, beam_width: Any = 1, hotwords: Any = MappingProxyType({}), **numbers: Any
) -> str | None:
    """The first setting from a model's files that is out of range, as a message; None where all are fine."""
    if not isinstance(score_boundary, bool):
        return f"{score_boundary!r:.40} for score_boundary, expected true or false"
    if type(beam_width) is not int or not 1 <= beam_width <= _WIDEST_BEAM:
        return f"{beam_width!r:.40} for beam_width, expected a whole number from 1 to {_WIDEST_BEAM}"
    if not isinstance(hotwords, Mapping):
        return f"{hotwords!r:.40} for hotwords, expected words with their boosts"
    if len(hotwords) > _MOST_HOTWORDS or sum(map(len, hotwords)) > _MOST_CHARACTERS:
        return (
            f"{len(hotwords)} hotwords of {sum(map(len, hotwords))} characters, expected up to {_MOST_HOTWORDS} of "
            f"{_MOST_CHARACTERS}"
        )
    for name, number in (numbers | dict(hotwords)).items():
        if isinstance(number, bool) or not isinstance(number, int | float) or abs(number) > _LARGEST_NUMBER:
            return f"{number!r:.40} for {name[:40]}, expected a number from {-_LARGEST_NUMBER:g} to {_LARGEST_NUMBER:g}"
    return None
